"""`aape demo`: pre-train, probe, look inside and search, on the recordings that come with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape.commands.options import Device, parse
from aape.commands.plot import PlotClipConfig, PlotRunConfig, plot_clip, plot_run
from aape.commands.pretrain import PretrainConfig, pretrain
from aape.commands.probe import ProbeConfig, probe
from aape.commands.stats import StatsConfig, stats
from aape.errors import MAX_STEPS, ConfigError, require_at_most, require_positive

if TYPE_CHECKING:
    from rich.console import Console

    from aape.data.clips import Clip
    from aape.inference import AudioModel

MARKER = "aape-demo"  # in a folder that this demo made, and may make again
NUM_QUERIES, NUM_NEIGHBOURS = 4, 3
FILES = {
    "stats.json": "mean and standard deviation of the recordings' log-mel values, for aape pretrain --stats",
    "pretraining/metrics.jsonl": "losses and variances of the short run",
    "pretraining.png": "the same, drawn",
    "pretraining/model": "the encoder of the short run, for --model and --checkpoint",
    "probe/result.json": "the probe of the shipped encoder (or --checkpoint), with both yardsticks",
    "probe/results.csv": "the same as a table",
    "probe-short/result.json": "the probe of the short run, with both yardsticks",
    "kernels.png": "frequencies and decays that the stem chose for one note",
    "neighbours.json": "nearest neighbours of a few notes",
    "result.json": "every row of the table, with the files named here",
}
MADE = {Path(name).parts[0] for name in FILES} | {
    "config.yaml", "environment.json", "kernels.json", "kernels.svg", "pretraining.svg"
}  # fmt: skip


@dataclass(frozen=True)
class DemoConfig:
    """`aape demo`: the whole pipeline on the recordings that come with the package.

    Args:
        out: folder of all results.
        seed: random seed for weights, crops and masks.
        steps: steps of the short pre-training run.
        probe_steps: steps of each probe.
        checkpoint: the encoder to show, a name or a saved folder.
        device: where to run.
    """

    out: str = "runs/demo"
    seed: int = 0
    steps: int = 200
    probe_steps: int = 1000
    checkpoint: str = "tiny"
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "steps", "probe_steps")
        require_at_most(self, steps=MAX_STEPS, probe_steps=MAX_STEPS)


def demo(config: DemoConfig) -> None:
    """Run the whole pipeline once, and leave everything in `config.out`.

    Raises:
        AapeError: matplotlib is missing.
        CheckpointError: there is no such checkpoint.
        ConfigError: the folder holds something that is not an earlier demo, or the checkpoint's stem has no kernels.
    """
    from aape.analysis.kernels import load_with_kernels
    from aape.runs.lock import locked

    # All that can be refused is refused before an earlier demo makes way.
    model = load_with_kernels("checkpoint", config.checkpoint, config.device)
    with locked(config.out):
        _clear(Path(config.out))
        _demo(config, model)


def _demo(config: DemoConfig, model: AudioModel) -> None:
    """Show everything, in a folder that is this process's."""
    from rich.console import Console

    from aape.data.demo import AUDIO
    from aape.data.manifest import read_manifest
    from aape.runs.files import write_json
    from aape.runs.folder import write_result, write_run_header

    console, out = Console(highlight=False), Path(config.out)
    write_run_header(out, config, device=model.device)
    (out / MARKER).touch()
    table = str(AUDIO / "metadata.csv")
    clips = read_manifest(table, label="label", split="split")
    short_run = _short_run(config, table, out)
    console.rule(f"1  Statistics of {len(clips)} notes")
    stats(StatsConfig(data=table, out=str(out / "stats.json")))

    console.rule(f"2  Pre-training from scratch: {short_run.steps} steps of {short_run.clips} crops")
    pretrain(short_run)
    plot_run(PlotRunConfig(runs=[short_run.out], out=short_run.out))

    console.rule("3  Linear probe: instrument families, on programs never trained on")
    probed = _probe_both(config, short_run, console, _clips_seen(model))

    console.rule("4  Inside the stem")
    console.print(f"Frequencies and decays chosen for {clips[0].name}")
    plot_clip(PlotClipConfig(clips[0].path, config.checkpoint, str(out / "kernels"), device=config.device))

    console.rule("5  Nearest neighbours, by the cosine of standardised embeddings")
    neighbours = _neighbours(model, clips)
    write_json(out / "neighbours.json", neighbours)
    for note, near in neighbours.items():
        console.print(f"{note}:", ", ".join(f"{item['file']} ({item['cosine']:.2f})" for item in near))

    write_result(out, {"num_clips": len(clips), **probed, "files": FILES})
    console.rule("What is where")
    for name, meaning in FILES.items():
        console.print(f"{out / name}  {meaning}", soft_wrap=True)
    console.print("Next, on your own sounds: aape embed, aape pretrain, aape probe; each with --help.")


def _short_run(config: DemoConfig, data: str, out: Path) -> PretrainConfig:
    options = {"data": data, "out": out / "pretraining", "stats": out / "stats.json", "device": config.device,
               "steps": config.steps, "save-every": config.steps, "log-every": max(1, config.steps // 40),
               "seed": config.seed}  # fmt: skip
    return parse(PretrainConfig, ["--config=demo", *(f"--{name}={value}" for name, value in options.items())])


def _probe_both(
    config: DemoConfig, short_run: PretrainConfig, console: Console, clips_seen: int | None
) -> dict[str, Any]:
    """Probe --checkpoint and the encoder of the short run; return the rows of the table, and what they say."""
    from aape.downstream.scores import score_table
    from aape.downstream.yardsticks import ENCODER, STATISTICS, UNTRAINED

    def scores_of(checkpoint: str, folder: str) -> dict[str, Any]:
        return probe(ProbeConfig(data=short_run.data, checkpoint=checkpoint, out=str(Path(config.out, folder)),
                                 split="split", steps=config.probe_steps, batch=32, device=config.device))  # fmt: skip

    console.print(f"{config.probe_steps} steps each, where the protocol has 8000")
    chosen = scores_of(config.checkpoint, "probe")
    short = scores_of(short_run.out, "probe-short")
    rows = {
        config.checkpoint: chosen["rows"][ENCODER],
        "the same, untrained": chosen["rows"][UNTRAINED],
        "short run": short["rows"][ENCODER],
        "short run, untrained": short["rows"][UNTRAINED],
        STATISTICS: chosen["rows"][STATISTICS],
    }
    console.print(score_table(rows, f"{config.probe_steps} probe steps, {chosen['config']['seeds']} seeds"))
    seen = "" if clips_seen is None else f"; it was pre-trained on {clips_seen:,} clips"
    verdict = [
        f"{config.checkpoint} is {_against(chosen, UNTRAINED)} the same encoder untrained, and "
        f"{_against(chosen, STATISTICS)} plain log-mel statistics{seen}.",
        f"The short run is {_against(short, UNTRAINED)} the same encoder untrained; it saw "
        f"{short_run.steps * short_run.clips:,} clips. Minutes from scratch teach little: it is there to show the way.",
        "Last accuracy, in points; in brackets the 95 % bootstrap interval over the test notes. Where 0 lies inside "
        "it, these few notes do not tell which is better. The README has larger sets.",
    ]
    console.print("\n".join(verdict))
    return {"rows": rows, "verdict": verdict}


def _clear(out: Path) -> None:
    """Remove what an earlier demo left, and nothing that was put beside it."""
    import shutil

    from aape.runs.lock import LOCK_NAME

    if any(path.name != LOCK_NAME for path in out.iterdir()) and not (out / MARKER).exists():
        raise ConfigError(f"{out} holds something else than a demo: choose another --out")
    for path in (out / name for name in sorted(MADE)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _against(result: dict[str, Any], yardstick: str) -> str:
    margin = result["margins_of_the_encoder"][yardstick]["accuracy"]
    points, low, high = (100 * value for value in (margin["mean"], *margin["interval"]))
    side = "level with" if abs(points) < 0.05 else f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"
    return f"{side} ({low:.1f} to {high:.1f})"


def _clips_seen(model: AudioModel) -> int | None:
    """Return how many crops a model was pre-trained on, where it says so."""
    try:
        stages = [model.training, *model.training.get("stages_before", [])]
        return sum(int(stage["steps"]) * int(stage["clips"]) for stage in stages)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _neighbours(model: AudioModel, clips: list[Clip]) -> dict[str, list[dict[str, Any]]]:
    from aape.analysis.neighbours import nearest_neighbours

    vectors, _ = model.embed_clips(clips)
    queries = list(range(0, len(clips), max(1, len(clips) // NUM_QUERIES)))[:NUM_QUERIES]
    return {
        clips[query].name: [{"file": clips[row].name, "cosine": cosine} for row, cosine in near]
        for query, near in zip(queries, nearest_neighbours(vectors, queries, NUM_NEIGHBOURS), strict=True)
    }

"""`aape demo`: pre-train, probe, look inside and search, on the recordings that come with the package."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aape.analysis.numbers import chosen_kernels, nearest_neighbours, read_metrics
from aape.analysis.plots import plot_kernels, plot_pretraining, require_matplotlib
from aape.commands.demo import DemoConfig
from aape.commands.pretrain import OptimConfig, PretrainConfig
from aape.commands.probe import ProbeConfig, probe
from aape.commands.stats import StatsConfig, stats
from aape.data.audio.decoding import read_audio
from aape.data.clips import Clip, read_manifest
from aape.data.demo import AUDIO
from aape.downstream.scores import score_table
from aape.downstream.yardsticks import ENCODER, STATISTICS, UNTRAINED
from aape.errors import ConfigError
from aape.inference import AudioModel, load_model
from aape.layers.aape import AaPE
from aape.pretraining.config import LossConfig, MaskingConfig
from aape.pretraining.run import pretrain
from aape.runs.files import write_json
from aape.runs.folder import write_result, write_run_header

if TYPE_CHECKING:
    from rich.table import Table

MARKER = "aape-demo"  # in a folder that this demo made, and may make again
NUM_QUERIES, NUM_NEIGHBOURS = 4, 3
CLIPS_PER_STEP = 8
FILES = {
    "stats.json": "mean and standard deviation of the recordings' log-mel values, for aape pretrain --stats",
    "pretraining/metrics.jsonl": "losses and variances of the short run",
    "pretraining.png": "the same, drawn",
    "pretraining/model": "the encoder of the short run, for --model and --checkpoint",
    "probe/result.json": "the probe of the encoder shown, with both yardsticks",
    "probe/results.csv": "the same as a table",
    "probe-short/result.json": "the probe of the short run, with its own yardsticks",
    "kernels.png": "frequencies and decays that the stem chose for one note",
    "neighbours.json": "nearest neighbours of a few notes",
    "result.json": "every row of the table, with the files named here",
}
MADE = {Path(name).parts[0] for name in FILES} | {"config.yaml", "environment.json"}


def demo(config: DemoConfig) -> None:
    """Go the whole way once, and leave everything in `config.out`.

    Raises:
        AapeError: matplotlib is missing.
        CheckpointError: there is no such checkpoint.
        ConfigError: the folder holds something that is not an earlier demo, or the checkpoint's stem has no kernels.
    """
    from rich.console import Console

    console = Console()
    # All that can be refused is refused before an earlier demo makes way and minutes are spent.
    require_matplotlib()
    model = load_model(config.checkpoint, device=config.device)
    if not isinstance(model.encoder.stem, AaPE):
        raise ConfigError(f"checkpoint: {config.checkpoint} has the standard stem, which chooses no kernels to show")
    out = Path(config.out)
    _clear(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()
    write_run_header(out, config, device=model.device)
    table = str(AUDIO / "metadata.csv")
    clips = read_manifest(table, label="label", split="split")
    console.rule(f"1  Statistics of {len(clips)} notes")
    stats(StatsConfig(data=table, out=str(out / "stats.json")))

    console.rule(f"2  Pre-training from scratch: {config.steps} steps of {CLIPS_PER_STEP} crops")
    pretrain(_short_run(config, table, out))
    _save(plot_pretraining(read_metrics(out / "pretraining" / "metrics.jsonl")), out / "pretraining.png")

    console.rule("3  Linear probe: instrument families, on programs never trained on")
    console.print(f"{config.probe_steps} steps each, where the protocol has 8000", highlight=False)
    shown = probe(_probe(config, table, config.checkpoint, out / "probe"))
    short = probe(_probe(config, table, str(out / "pretraining"), out / "probe-short"))
    rows = {
        config.checkpoint: shown["rows"][ENCODER],
        "the same, untrained": shown["rows"][UNTRAINED],
        "short run": short["rows"][ENCODER],
        "short run, untrained": short["rows"][UNTRAINED],
        STATISTICS: shown["rows"][STATISTICS],
    }
    console.print(
        score_table(rows, f"{len(clips)} notes, {config.probe_steps} probe steps, {shown['config']['seeds']} seeds")
    )
    verdict = _verdict(config, shown, short, _clips_seen(model))
    for line in verdict:
        console.print(line, highlight=False)

    console.rule("4  Inside the stem")
    _draw_kernels(model, clips[0], out / "kernels.png")
    console.print(f"frequencies and decays chosen for {clips[0].name}: {out / 'kernels.png'}", highlight=False)

    console.rule("5  Nearest neighbours, by the cosine of standardised embeddings")
    found = _neighbours(model, clips)
    write_json(out / "neighbours.json", found)
    console.print(_neighbour_table(found))

    write_result(out, {"num_clips": len(clips), "rows": rows, "verdict": verdict, "files": FILES})
    console.rule("What is where")
    for name, meaning in FILES.items():
        console.print(f"{out / name}  {meaning}", highlight=False, soft_wrap=True)
    console.print("Next, on your own sounds: aape embed, aape pretrain, aape probe; each with --help.", highlight=False)


def _clear(out: Path) -> None:
    """Remove what an earlier demo left, and nothing that was put beside it."""
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).exists()):
        raise ConfigError(f"{out} holds something else than a demo: choose another --out")
    for path in (out / name for name in sorted(MADE)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _short_run(config: DemoConfig, data: str, out: Path) -> PretrainConfig:
    return PretrainConfig(
        data=data,
        out=str(out / "pretraining"),
        stats=str(out / "stats.json"),
        model="tiny",
        steps=config.steps,
        clips=CLIPS_PER_STEP,
        seed=config.seed,
        workers=0,
        save_every=config.steps,
        log_every=max(1, config.steps // 40),
        device=config.device,
        crop_seconds=3.0,
        short_clips="repeat",
        encoder={"depth": 4},
        masking=MaskingConfig(num_views=2),
        loss=LossConfig(target_norm="channel"),
        optim=OptimConfig(learning_rate=1e-3, momentum_start=0.99, warmup_ratio=0.1),
    )


def _probe(config: DemoConfig, data: str, checkpoint: str, out: Path) -> ProbeConfig:
    return ProbeConfig(
        data=data,
        checkpoint=checkpoint,
        out=str(out),
        split="split",
        steps=config.probe_steps,
        batch=32,
        device=config.device,
    )


def _verdict(config: DemoConfig, shown: dict[str, Any], short: dict[str, Any], clips_seen: int | None) -> list[str]:
    """Say what the numbers say, whichever way they fell; each encoder is held against its own untrained self."""
    seen = "" if clips_seen is None else f"; it was pre-trained on {clips_seen:,} clips"
    return [
        f"{config.checkpoint} is {_against(shown, UNTRAINED)} the same encoder untrained, and "
        f"{_against(shown, STATISTICS)} plain log-mel statistics{seen}.",
        f"The short run is {_against(short, UNTRAINED)} the same encoder untrained; it saw "
        f"{config.steps * CLIPS_PER_STEP:,} clips. Minutes from scratch teach little: it is there to show the way.",
        "Last accuracy, in points; in brackets the 95 % bootstrap interval over the test notes. Where 0 lies inside "
        "it, these few notes do not tell which is better. The README has larger sets.",
    ]


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


def _draw_kernels(model: AudioModel, clip: Clip, path: Path) -> None:
    wave = torch.from_numpy(read_audio(clip.path, sample_rate=model.front_end.sample_rate))
    spectrogram = model.log_mel(wave[None].to(model.device))
    kernels = chosen_kernels(model.encoder, spectrogram)
    _save(plot_kernels(spectrogram[0, 0].cpu().numpy(), kernels, clip.name), path)


def _neighbours(model: AudioModel, clips: list[Clip]) -> dict[str, list[dict[str, Any]]]:
    vectors, _ = model.embed_clips(clips)
    queries = list(range(0, len(clips), max(1, len(clips) // NUM_QUERIES)))[:NUM_QUERIES]
    found = nearest_neighbours(vectors, queries, NUM_NEIGHBOURS)
    return {
        clips[query].name: [{"file": clips[row].name, "cosine": cosine} for row, cosine in near]
        for query, near in zip(queries, found, strict=True)
    }


def _neighbour_table(found: dict[str, list[dict[str, Any]]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("note", "nearest", "cosine", box=SIMPLE_HEAD, pad_edge=False)
    for query, near in found.items():
        for row, item in enumerate(near):
            name = "" if row else query.removesuffix(".opus")
            table.add_row(
                name, item["file"].removesuffix(".opus"), f"{item['cosine']:.2f}", end_section=item is near[-1]
            )
    return table


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path)

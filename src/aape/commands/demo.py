"""`aape demo`: pre-train, probe, see and hear, on the recordings that come with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aape.commands.explore import ExploreConfig, explore
from aape.commands.options import Device, parse
from aape.commands.pretrain import PretrainConfig, pretrain
from aape.commands.probe import ProbeConfig, probe
from aape.commands.stats import StatsConfig, stats
from aape.errors import MAX_STEPS, ConfigError, one_line, require_at_most, require_positive

MARKER = "aape-demo"  # in a folder that this demo made, and may make again
RATE = 1e-3  # of the probe: the middle of the sweep, which 150 notes are too few for
FILES = {
    "index.html": "all of it on one page",
    "sounds.html": "the notes on a map, to see and hear",
    "stats.json": "mean and standard deviation of the recordings' log-mel values, for aape pretrain --stats",
    "pretraining/metrics.jsonl": "losses and variances of the short run, for aape plot run",
    "pretraining/model": "the encoder of the short run, for --model and --checkpoint",
    "probe/result.json": "the probe of the shipped encoder (or --checkpoint), with both yardsticks",
    "probe/results.csv": "the same as a table",
    "result.json": "the table and what it says, with the files named here",
}
MADE = {Path(name).parts[0] for name in FILES} | {"config.yaml", "environment.json"}


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
        CheckpointError: there is no such checkpoint.
        ConfigError: the folder holds something that is not an earlier demo.
    """
    import warnings

    from aape.inference import load_model
    from aape.runs.lock import locked

    # All that can be refused is refused before an earlier demo makes way.
    device = load_model(config.checkpoint, config.device).device
    with locked(config.out), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*columns that are not used")  # each step has its own of the table's
        _clear(Path(config.out))
        _demo(config, device)


def _demo(config: DemoConfig, device: Any) -> None:
    """Show everything, in a folder that is this process's."""
    from rich.console import Console

    from aape.analysis.demo_page import make_demo_page
    from aape.analysis.run_page import read_run
    from aape.data.demo import AUDIO
    from aape.runs.files import write_atomically
    from aape.runs.folder import write_result, write_run_header

    console, out, table = Console(highlight=False), Path(config.out), str(AUDIO / "metadata.csv")
    write_run_header(out, config, device=device)
    (out / MARKER).touch()
    short_run = _short_run(config, table, out)
    console.rule("1  Statistics of the bundled notes")
    stats(StatsConfig(data=table, out=str(out / "stats.json")))

    console.rule(f"2  Pre-training from scratch: {short_run.steps} steps of {short_run.clips} crops, to show the way")
    pretrain(short_run)

    console.rule(f"3  Linear probe of {config.checkpoint}: instrument families, on programs never trained on")
    result = _probe(config, table)
    verdict = _verdict(config, result)
    console.print("\n".join(verdict))

    console.rule("4  A map to see and hear them by")
    explore(ExploreConfig([table], config.checkpoint, str(out / "sounds.html"), color="label", device=config.device))

    count, folds = result["num_clips"], len(result["partitions"])
    page = make_demo_page(
        read_run(short_run.out),
        {_called(config, row): scores for row, scores in result["rows"].items()},
        summary=f"{count} notes of {len(result['classes'])} families of instruments, by {one_line(config.checkpoint)}",
        protocol=f"A linear layer on frozen vectors names the family. {folds} folds, each tested once; no program of a "
        f"fold is in another. {config.probe_steps} steps at one learning rate, where the protocol has 8000 and five.",
        verdict=verdict,
        aape=_program(),
    )
    write_atomically(out / "index.html", page)
    write_result(out, {"num_clips": count, "rows": result["rows"], "verdict": verdict, "files": FILES})
    console.rule("What is where")
    for name, meaning in FILES.items():
        console.print(f"{out / name}  {meaning}", soft_wrap=True)
    print(f"Open it in a browser:\n{(out / 'index.html').absolute()}")


def _short_run(config: DemoConfig, data: str, out: Path) -> PretrainConfig:
    options = {"data": data, "out": out / "pretraining", "stats": out / "stats.json", "device": config.device,
               "steps": config.steps, "save-every": config.steps, "log-every": max(1, config.steps // 40),
               "seed": config.seed}  # fmt: skip
    return parse(PretrainConfig, ["--config=demo", *(f"--{name}={value}" for name, value in options.items())])


def _probe(config: DemoConfig, table: str) -> dict[str, Any]:
    return probe(ProbeConfig(data=table, checkpoint=config.checkpoint, out=str(Path(config.out, "probe")), fold="fold",
                             group="program", steps=config.probe_steps, batch=32, learning_rates=(RATE,),
                             device=config.device))  # fmt: skip


def _called(config: DemoConfig, row: str) -> str:
    """Return what a row of the probe's table is called on the page."""
    from aape.downstream.yardsticks import ENCODER, UNTRAINED

    return {ENCODER: one_line(config.checkpoint), UNTRAINED: "the same encoder, untrained"}.get(row, row)


def _verdict(config: DemoConfig, result: dict[str, Any]) -> list[str]:
    """Say in sentences what the encoder is better than, and whether these notes can tell."""
    from aape.downstream.yardsticks import ENCODER

    lines = []
    for row, margins in result["margins_of_the_encoder"].items():
        points, low, high = (100 * value for value in (margins["accuracy"]["mean"], *margins["accuracy"]["interval"]))
        side = "level with" if abs(points) < 0.05 else f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"
        tells = "these notes cannot tell which is better" if low <= 0 <= high else "beyond chance"
        lines.append(f"{_called(config, ENCODER)} is {side} {_called(config, row)} ({low:.1f} to {high:.1f}): {tells}.")
    how = "Accuracy at the last step, in points; in brackets the 95 % bootstrap interval over programs."
    return [*lines, f"{how} The README has larger sets."]


def _program() -> str:
    """Return how the command line is called from here: the environment that `make demo` sets up is not on the path."""
    import sys

    program = Path(sys.executable).with_name("aape")
    return str(program.relative_to(Path.cwd())) if program.is_relative_to(Path.cwd()) else "aape"


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

"""`aape classify`."""

from __future__ import annotations

from dataclasses import dataclass, field

from aape.commands.options import Device


@dataclass(frozen=True)
class ClassifyConfig:
    """`aape classify`: sound files in, names of what is heard in them out.

    Args:
        inputs: sound files, and folders of them.
        model: the folder of a model with a classifier, or of the run that trained it.
        top: labels per file, at most.
        threshold: leave out labels with a lower score (0 to 1).
        out: file to write, .json (with times, window by window) or .csv.
        batch: clips per forward pass, at most; a CPU takes 4.
        device: where to run.
    """

    inputs: list[str] = field(metadata={"positional": True})
    model: str
    top: int = 5
    threshold: float | None = None
    out: str | None = None
    batch: int = 16
    device: Device = "auto"


def classify(config: ClassifyConfig) -> None:
    """Run the verb."""
    from aape.commands.classify_run import classify_command as run

    run(config)

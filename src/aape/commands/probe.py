"""`aape probe`."""

from __future__ import annotations

from dataclasses import dataclass

from aape.commands.options import Device, Task
from aape.errors import ConfigError, require_positive


@dataclass(frozen=True)
class ProbeConfig:
    """`aape probe`: a linear probe on frozen features, beside both yardsticks (method 9).

    Args:
        data: folder of the task; for csv, a CSV of clips with labels, or a folder with a folder for each class.
        checkpoint: the model, a name or a saved folder.
        out: folder of the run.
        task: csv for your own data, or a public data set with its protocol.
        label: column of the labels.
        split: column that says train, valid or test.
        fold: column of the fold; every fold is left out once.
        where: COLUMN=VALUE, to use those rows only.
        group: column of what clips have in common (an instrument, a speaker), for intervals and held-out clips.
        min_fold_clips: smaller folds are trained on and never tested.
        num_folds: bring the folds together to this many of about equal size; 0 keeps them.
        steps: optimiser steps of each probe; the task's own where not given, 8000 for csv.
        batch: clips per optimiser step; the task's own where not given, 128 for csv.
        seeds: how often each probe is trained.
        learning_rates: peak rates, of which validation data choose one [ours].
        validate_every: steps between looks at the validation and test data.
        device: where to run.
        loop_to: length in seconds that shorter sounds are looped to; 0 takes them as they are. The model's own where
            not stated.
        yardsticks: also score the untrained encoder and log-mel statistics.
        max_bad_fraction: share of unreadable clips above which to stop.
    """

    data: str
    checkpoint: str
    out: str
    task: Task = "csv"
    label: str = "label"
    split: str | None = None
    fold: str | None = None
    where: str | None = None
    group: str | None = None
    min_fold_clips: int = 1
    num_folds: int = 0
    steps: int | None = None
    batch: int | None = None
    seeds: int = 3
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    validate_every: int = 100
    device: Device = "auto"
    loop_to: float | None = None
    yardsticks: bool = True
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        require_positive(self, "steps", "batch", "seeds", "validate_every", "min_fold_clips")
        if not self.learning_rates or not min(self.learning_rates) > 0:
            raise ConfigError(f"learning_rates must be one number or more, above 0, got {list(self.learning_rates)}")


def probe(config: ProbeConfig) -> None:
    """Run the verb."""
    from aape.downstream.probing_run import probe as run

    run(config)

"""`aape finetune`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from aape.commands.options import Device, Task
from aape.errors import require, require_positive


def _is_share(value: float) -> bool:
    return 0 <= value < 1


@dataclass(frozen=True)
class FinetuneOptimConfig:
    """AdamW with layer decay, a cosine to 0 after a linear warm-up, and an average of the weights (method 8).

    Args:
        learning_rate: peak of the schedule, behind the last block [ours]; the task's own where not given, 5e-4 for csv.
        layer_decay: factor from layer to layer, the stem being layer 0; the task's own where not given, 0.75 for csv.
        warmup_ratio: share of the steps that is warm-up.
        weight_decay: decay of matrices; vectors, positions and tokens have none.
        betas: of AdamW.
        ema: decay of the weights' moving average, which is what is scored and saved; 0 for the weights themselves; the
            task's own where not given, 0.995 for csv.
        precision: arithmetic; auto is bfloat16 where the device has it.
    """

    learning_rate: float | None = None
    layer_decay: float | None = None
    warmup_ratio: float = 0.1
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    ema: float | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "layer_decay")
        require(self, "in [0, 1)", _is_share, "betas", "ema")
        require(self, "in [0, 1]", lambda value: 0 <= value <= 1, "warmup_ratio")


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to training clips only (method 8).

    Args:
        mixup: both parameters of the Beta distribution; 0 for none; the task's own where not given, 0.8 for csv.
        spec_augment: largest share of frequencies, and of frames, that is hidden; 0 for none; the task's own where not
            given, 0.2 for csv.
        drop_path: share of clips that the last block is left out for, less before it in proportion.
    """

    mixup: float | None = None
    spec_augment: float | None = None
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        require(self, "in [0, 1)", _is_share, "spec_augment", "drop_path")
        require(self, "0 or more", lambda value: 0 <= value < math.inf, "mixup")


@dataclass(frozen=True)
class FinetuneConfig:
    """`aape finetune`: train encoder and classification head on labelled audio (method 8).

    Args:
        data: folder of the task; for csv, a CSV of clips with labels, or a folder with a folder for each class.
        checkpoint: the model to start from, a name or a saved folder.
        out: folder of the run.
        task: csv for your own data, or a public data set with its protocol.
        label: column of the labels.
        multi_label: labels are several per clip, separated by commas or semicolons.
        split: column that says train, valid or test.
        fold: column of the fold; every fold is left out once.
        where: COLUMN=VALUE, to use those rows only.
        min_fold_clips: smaller folds are trained on and never tested.
        num_folds: bring the folds together to this many of about equal size; 0 keeps them.
        steps: optimiser steps; the task's own where not given, 2000 for csv.
        batch: clips per optimiser step; the task's own where not given, 32 for csv.
        clips_at_once: largest forward pass, for less memory and the same result; 0 for the whole batch.
        num_frames: frames that clips are cut or padded to; the task's own where not given; for csv every clip keeps its
            own, and more than 1024 are scored in windows of 608.
        crop_frames: of clips that keep their own length, longer ones are cut in training, to a random part of so many
            frames; less is faster, and another part every time. Scored is the whole clip.
        balanced_draws: class-balanced draws per epoch, 0 for every clip once; the task's own where not given.
        seeds: how often everything is trained.
        first_seed: the first of them, to share them out among machines.
        evaluations: how often test and validation data are scored on the way.
        selection_runs: of fold sets, let a second run without the next fold choose the step.
        save_every: steps between checkpoints.
        resume: go on with what is in the run folder.
        workers: processes that read audio.
        device: where to run.
        max_bad_fraction: share of unreadable clips above which to stop.
        optim: optimiser and schedule.
        augment: what is done to training clips only.
    """

    data: str
    checkpoint: str
    out: str
    task: Task = "csv"
    label: str = "label"
    multi_label: bool = False
    split: str | None = None
    fold: str | None = None
    where: str | None = None
    min_fold_clips: int = 1
    num_folds: int = 0
    steps: int | None = None
    batch: int | None = None
    clips_at_once: int = 0
    num_frames: int | None = None
    crop_frames: int = 1008
    balanced_draws: int | None = None
    seeds: int = 3
    first_seed: int = 0
    evaluations: int = 20
    selection_runs: bool = True
    save_every: int = 1000
    resume: bool = False
    workers: int = 2
    device: Device = "auto"
    max_bad_fraction: float = 0.01
    optim: FinetuneOptimConfig = FinetuneOptimConfig()
    augment: AugmentConfig = AugmentConfig()

    def __post_init__(self) -> None:
        require_positive(self, "steps", "batch", "num_frames", "crop_frames", "seeds", "evaluations", "save_every")
        require_positive(self, "min_fold_clips")


def finetune(config: FinetuneConfig) -> None:
    """Run the verb."""
    from aape.downstream.finetuning_run import finetune as run

    run(config)

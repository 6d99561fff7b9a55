"""`aape finetune`: a labelled set and a pre-trained encoder in, a classifier and its scores out (docs/method.md 8)."""

from __future__ import annotations

import dataclasses
import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aape.commands.options import Device, Task
from aape.errors import (
    MAX_CLIPS,
    MAX_RATE,
    MAX_SEEDS,
    MAX_STEPS,
    MAX_WORKERS,
    require,
    require_at_most,
    require_positive,
)
from aape.models.config import Pool

if TYPE_CHECKING:
    from accelerate import Accelerator

    from aape.data.labelled import LabelledSet
    from aape.downstream.jobs import Run
    from aape.models.saved import SavedModel


MAX_FRAMES = 60_000  # ten minutes
LOCAL_PATHS = ("data", "out", "checkpoint")  # not saved with the model
# What may differ when a run is resumed.
MAY_CHANGE = {"resume", "workers", "device", "data", "out", "save_every", "clips_at_once", "max_bad_fraction"}


@dataclass(frozen=True)
class FinetuneOptimConfig:
    """AdamW with layer decay, a cosine to 0 after a linear warm-up, and an average of the weights (docs/method.md 8).

    Args:
        learning_rate: peak learning rate (after the last block) [ours]; by default the task's, 5e-4 for csv.
        layer_decay: factor from each layer to the one before it; the stem is layer 0. By default the task's, 0.75 for
            csv.
        ema: decay of the weights' moving average, which is scored and saved; 0 for the weights themselves. By default
            the task's, 0.995 for csv.
        precision: arithmetic; auto is bfloat16 where the device has it.
    """

    learning_rate: float | None = None
    layer_decay: float | None = None
    ema: float | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "layer_decay")
        require_at_most(self, learning_rate=MAX_RATE, layer_decay=1)
        require(self, "in [0, 1)", lambda value: 0 <= value < 1, "ema")


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to training clips only (docs/method.md 8).

    Args:
        mixup: both parameters of mixup's Beta distribution; 0 for none. By default the task's, 0.8 for csv.
        spec_augment: largest share of mel bins, and of frames, that SpecAugment hides; 0 for none. By default the
            task's, 0.2 for csv.
    """

    mixup: float | None = None
    spec_augment: float | None = None

    def __post_init__(self) -> None:
        require(self, "in [0, 1)", lambda value: 0 <= value < 1, "spec_augment")
        require(self, "0 or more", lambda value: 0 <= value < math.inf, "mixup")


@dataclass(frozen=True)
class FinetuneConfig:
    """`aape finetune`: train encoder and classification head on labelled audio.

    Args:
        data: folder of the task; for csv, a CSV of clips with labels, or a folder with a folder for each class.
        checkpoint: the model to start from, a name or a saved folder.
        out: folder of the run.
        task: csv for your data, or a public data set with its protocol.
        label: column of the labels.
        multi_label: labels are several per clip, or none; how they are written is found out, and reported.
            --multi-label=";" says what stands between them.
        split: column that says train, valid or test.
        fold: column of the folds; each fold is held out once.
        where: COLUMN=VALUE: use only rows where COLUMN equals VALUE.
        num_folds: merge folds into this many of similar size; 0 keeps them.
        steps: optimiser steps; by default the task's, 2000 for csv.
        batch: clips per optimiser step, over all processes; by default the task's, 32 for csv.
        clips_at_once: clips per forward pass, at most: less memory, the same result; 0 for the whole batch.
        num_frames: frames that clips are cut or padded to; by default the task's. For csv clips keep their length, and
            those of more than 1024 frames are scored in windows of 608.
        crop_frames: in training, random crops of this many frames from longer clips; scoring uses the whole clip.
        loop_to: length in seconds that shorter clips are looped to, in training, scoring and use; 0 takes them as they
            are. By default the model's, and 0 with `num_frames`.
        pool: what vector of the last block the head reads: cls, the paper's class token, or another, see `aape embed`.
        seeds: number of seeds.
        evaluations: number of evaluations during training.
        selection_runs: for fold sets, choose the step with a second run that holds out the next fold.
        save_every: steps between checkpoints.
        resume: continue the run in this folder.
        workers: processes that read audio.
        device: where to run.
        max_bad_fraction: stop when more than this share of the files cannot be read.
        optim: optimiser and schedule.
        augment: what is done to training clips only.
    """

    data: str
    checkpoint: str
    out: str
    task: Task = "csv"
    label: str = "label"
    multi_label: bool | str = False
    split: str | None = None
    fold: str | None = None
    where: str | None = None
    num_folds: int = 0
    steps: int | None = None
    batch: int | None = None
    clips_at_once: int = 0
    num_frames: int | None = None
    crop_frames: int = 1008
    loop_to: float | None = None
    pool: Pool = "cls"
    seeds: int = 3
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
        require_at_most(self, steps=MAX_STEPS, batch=MAX_CLIPS, seeds=MAX_SEEDS, workers=MAX_WORKERS)
        require_at_most(self, num_frames=MAX_FRAMES, crop_frames=MAX_FRAMES, evaluations=MAX_STEPS)
        require_at_most(self, max_bad_fraction=1)
        require(self, "0 to 600", lambda value: 0 <= value <= 600, "loop_to")


def finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Fine-tune on every fold with every seed; torchrun's processes divide each step's clips. Returns the result.

    Leaves in `config.out`: `model/` (of the first seed and fold), `result.json`, `metrics.jsonl`, `per_class.csv`,
    `confusion.csv`, `config.yaml`, `environment.json`, and `jobs/` with what each training has measured.

    Raises:
        ConfigError: options that exclude each other, or the run that is resumed.
        DataError: a set that cannot be learnt from, or too many bad files.
        CheckpointError: the encoder or a checkpoint cannot be read.
        TrainingError: loss or probabilities are no longer finite.
        SystemExit: 128 + the signal, after a checkpoint, when SIGTERM or SIGHUP asked to stop.
    """
    from aape.runs.lock import locked

    with locked(config.out):
        return _finetune(config)


def _finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Fine-tune in a folder that is this process's."""
    from aape.downstream.jobs import make_jobs
    from aape.downstream.partitions import partitions, read_set
    from aape.downstream.scores import report
    from aape.models.saved import read_model
    from aape.runs.devices import close_ranks, start_ranks
    from aape.runs.folder import claim, write_run_header

    saved, config, accelerator = read_model(config.checkpoint), resolve(config), start_ranks(config.device)
    claim(config.out, config, may_change=MAY_CHANGE, resume=config.resume)
    labelled = read_set(config)  # what is wrong with the set is said before hours of reading
    accelerator.wait_for_everyone()  # the first one writes only when all have looked
    environment = write_run_header(config.out, config, device=accelerator.device) if accelerator.is_main_process else {}
    run = _make_run(config, labelled, saved, accelerator)
    parts = partitions(run.labelled, config)
    run.work_through(make_jobs(parts, config.seeds, selection_runs=config.selection_runs))
    result: dict[str, Any] = {}
    if accelerator.is_main_process:
        result = run.summarise(parts, config.seeds)
        result |= {"pretraining": saved.training, "environment": environment}
        result = report(config, result, {"fine-tuned": result}, run.labelled)
        run.write_card(result, parts[0])
    close_ranks(accelerator)
    return result


def resolve(config: FinetuneConfig) -> FinetuneConfig:
    """Fill in what the task sets (docs/method.md 8) and the options leave open."""
    from aape.data.corpora import protocol

    settings = protocol(config.task, "finetuning")
    names = ("steps", "batch", "num_frames")
    changes: dict[str, Any] = {name: settings.get(name) for name in names if getattr(config, name) is None}
    for section in ("optim", "augment"):
        options = getattr(config, section)
        missing = [field.name for field in dataclasses.fields(options) if getattr(options, field.name) is None]
        changes[section] = dataclasses.replace(options, **{name: settings[f"{section}.{name}"] for name in missing})
    return dataclasses.replace(config, **changes)


def loop_length(config: FinetuneConfig, recommended: float) -> float:
    """Return the seconds that shorter clips are looped to: the model's, but for a task that cuts and pads."""
    return config.loop_to if config.loop_to is not None else 0.0 if config.num_frames else recommended


def _make_run(config: FinetuneConfig, labelled: LabelledSet, saved: SavedModel, accelerator: Accelerator) -> Run:
    """Read the sounds, list and leave out those that cannot be read, and return what the trainings share."""
    from aape.data.corpora import protocol
    from aape.downstream.finetuning import Settings
    from aape.downstream.jobs import Run
    from aape.downstream.spectrograms import Spectrograms
    from aape.runs.folder import claim_data
    from aape.runs.progress import progress_bar

    names = ("steps", "batch", "num_frames", "crop_frames", "clips_at_once", "pool", "evaluations", "save_every")
    options = {name: getattr(config, name) for name in names} | vars(config.optim) | vars(config.augment)
    balanced_draws = protocol(config.task, "finetuning")["balanced_draws"]
    loop_to = loop_length(config, saved.loop_to)
    spectrograms = Spectrograms(
        labelled.clips,
        saved.front_end,
        device=accelerator.device,
        workers=config.workers,
        loop_to=loop_to,
        max_bad_fraction=config.max_bad_fraction,
    )
    with progress_bar("reading", len(labelled.clips)) if accelerator.is_main_process else nullcontext() as progress:
        spectrograms.check(progress)
    if accelerator.is_main_process:
        spectrograms.bad.print_new()
    readable = labelled.without(set(spectrograms.bad.reasons))
    what = f"the readable clips of {config.data}, their labels, splits or folds"
    claim_data(config.out, readable.digest(), what, is_main=accelerator.is_main_process)
    return Run(
        Path(config.out),
        readable,
        spectrograms.of(readable.clips),
        saved,
        Settings(**options, balanced_draws=balanced_draws),
        accelerator,
        resume=config.resume,
        loop_to=loop_to,
        options={key: value for key, value in dataclasses.asdict(config).items() if key not in LOCAL_PATHS},
    )

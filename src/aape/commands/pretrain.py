"""`aape pretrain`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from aape.commands.options import Device
from aape.errors import ConfigError, require_positive
from aape.models.config import EncoderConfig, PredictorConfig
from aape.pretraining.config import LossConfig, MaskingConfig


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a cosine to 0 after a linear warm-up, and the teacher's momentum (method 7).

    Args:
        learning_rate: peak of the schedule [ours].
        weight_decay: decay of matrices; vectors, positions and tokens have none.
        betas: of AdamW [ours].
        warmup_ratio: share of the steps that is warm-up.
        clip_grad: largest norm of the gradient [ours].
        momentum_start: the teacher's momentum at the first step.
        momentum_end: the teacher's momentum at the last step.
        accumulate: forward passes that one optimiser step is made of.
        precision: arithmetic; auto is bfloat16 where the device has it.
        compile: compile teacher, student and losses with torch.compile.
    """

    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_ratio: float = 80 / 600
    clip_grad: float = 4.0
    momentum_start: float = 0.994
    momentum_end: float = 1.0
    accumulate: int = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "clip_grad", "accumulate")


@dataclass(frozen=True)
class WatchConfig:
    """A linear probe of the encoder while it trains, on a small labelled set.

    Args:
        every: steps between probes; 0 for none.
        data: CSV of the labelled set.
        label: column of the labels.
        split: column that says train, valid or test.
        fold: column of the fold.
        where: COLUMN=VALUE, to use those rows only.
        steps: optimiser steps of the probe.
    """

    every: int = 0
    data: str | None = None
    label: str = "label"
    split: str | None = None
    fold: str | None = None
    where: str | None = None
    steps: int = 1000

    def __post_init__(self) -> None:
        if self.every and (self.data is None or (self.split is None) == (self.fold is None)):
            raise ConfigError("watch.every needs watch.data, and either watch.split or watch.fold")


@dataclass(frozen=True)
class PretrainConfig:
    """`aape pretrain`: masked teacher-student pre-training on unlabelled audio.

    Args:
        data: folder, CSV or tar shards.
        out: folder of the run.
        model: size of the encoder.
        steps: optimiser steps.
        clips: clips per optimiser step, over all ranks and accumulated passes.
        seed: of the weights, the crops and the masks.
        workers: processes that read audio.
        save_every: steps between checkpoints.
        keep_checkpoints: how many checkpoints stay on disk.
        keep_every: checkpoints of every so many steps stay too; 0 for none.
        log_every: steps between lines of metrics.jsonl.
        tensorboard: log for TensorBoard as well, which has to be installed.
        stats: JSON file of `aape stats`; measured at the start where none is given.
        init: model to start from, a name or a saved folder.
        resume: go on from the last checkpoint in the run folder.
        device: where to run.
        crop_seconds: length of the random crop of each clip, in seconds.
        short_clips: fill shorter clips with zeros, or by repeating them [ours].
        max_bad_fraction: stop when more than this share of the files cannot be read.
        export: whose weights are saved for use.
        encoder: fields of the encoder that differ from its size.
        masking: which patches the student sees.
        predictor: what the student predicts with.
        loss: what is minimised.
        optim: optimiser and schedules.
        watch: a probe on the way.
    """

    data: str
    out: str
    model: Literal["nano", "tiny", "small", "base"] = "base"
    steps: int = 600_000
    clips: int = 32
    seed: int = 0
    workers: int = 2
    save_every: int = 5000
    keep_checkpoints: int = 2
    keep_every: int = 0
    log_every: int = 50
    tensorboard: bool = False
    stats: str | None = None
    init: str | None = None
    resume: bool = False
    device: Device = "auto"
    crop_seconds: float = 6.0
    short_clips: Literal["pad", "repeat"] = "pad"
    max_bad_fraction: float = 0.01
    export: Literal["student", "teacher"] = "student"
    encoder: dict[str, Any] = field(default_factory=dict, metadata={"fields_of": EncoderConfig})
    masking: MaskingConfig = MaskingConfig()
    predictor: PredictorConfig = PredictorConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    watch: WatchConfig = WatchConfig()

    def __post_init__(self) -> None:
        require_positive(self, "steps", "clips", "save_every", "keep_checkpoints", "log_every", "crop_seconds")


def pretrain(config: PretrainConfig) -> None:
    """Run the verb."""
    from aape.pretraining.run import pretrain as run

    run(config)

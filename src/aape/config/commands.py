"""The options of every verb of the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from aape.config.model import EncoderConfig
from aape.errors import ConfigError

Task = Literal["csv", "as2m", "as20k", "esc50", "scv2", "us8k", "nsynth", "cremad"]


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True)
class MaskingConfig:
    """Inverse block masking (method 7).

    Args:
        num_views: masked views per clip.
        mask_ratio: share of the tokens that are hidden.
        block_sizes: visible blocks, frequency x time patches [ours].
        query_ratio: share of the hidden tokens that are predicted.
    """

    num_views: int = 16
    mask_ratio: float = 0.8
    block_sizes: tuple[tuple[int, int], ...] = ((4, 6), (5, 5), (3, 8))
    query_ratio: float = 0.75

    def __post_init__(self) -> None:
        _require_positive(self, "num_views", "mask_ratio", "query_ratio")


@dataclass(frozen=True)
class PredictorConfig:
    """What the student predicts with; 0 means the value that method 7 gives for the encoder's width.

    Args:
        kind: cross-attention, or the convolutions of EAT.
        depth: number of layers; 0 for the encoder's own.
        width: width of the layers; 0 for the encoder's own.
        num_heads: attention heads per layer; 0 for the encoder's own.
    """

    kind: Literal["cross_attention", "cnn"] = "cross_attention"
    depth: int = 0
    width: int = 0
    num_heads: int = 0


@dataclass(frozen=True)
class LossConfig:
    """L = L_mask + L_utt + contrastive_weight * L_con (method 7) + statistics_weight * L_stat [ours].

    Args:
        contrastive_weight: weight of the contrastive loss.
        statistics_weight: weight of telling the clip's log-mel statistics from the class token; the paper has none.
        statistics_components: principal components of the statistics that are told.
        statistics_min_patches: tell them from the first part of the crop, at least so many time patches and another
            number at each step, so that the class token knows short clips too; 0 for the whole crop.
        temperature: temperature of the contrastive loss [ours].
        reduction: mean over elements [ours], or EAT's sum over elements / sqrt(D).
        target: what the teacher gives of each block, its output or its MLP's.
        target_norm: normalise targets per token over D, or EAT's per channel over tokens.
        ignore_padding: leave patches that lie wholly in padding out of queries and targets [ours].
    """

    contrastive_weight: float = 0.1
    statistics_weight: float = 0.0
    statistics_components: int = 64
    statistics_min_patches: int = 0
    temperature: float = 0.1
    reduction: Literal["mean", "eat"] = "mean"
    target: Literal["block", "ffn"] = "block"
    target_norm: Literal["token", "channel"] = "token"
    ignore_padding: bool = True

    def __post_init__(self) -> None:
        _require_positive(self, "temperature")


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
        _require_positive(self, "learning_rate", "clip_grad", "accumulate")


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
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
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
        _require_positive(self, "steps", "clips", "save_every", "keep_checkpoints", "log_every", "crop_seconds")


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
        repeat_to: the encoders hear shorter sounds repeated to so many seconds; 0 as they are.
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
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    repeat_to: float = 0.0
    yardsticks: bool = True
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        _require_positive(self, "steps", "batch", "seeds", "validate_every", "min_fold_clips")
        if not self.learning_rates or not min(self.learning_rates) > 0:
            raise ConfigError(f"learning_rates must be one number or more, above 0, got {list(self.learning_rates)}")


@dataclass(frozen=True)
class EmbedConfig:
    """`aape embed`: sound files in, one vector per file out.

    Args:
        inputs: sound files, and folders of them.
        model: a name (tiny is part of the package) or a saved folder.
        out: NPZ file to write: `embedding` (n, 2D) and `file` (n,); a run that was killed goes on where it was.
        repeat_to: repeat shorter sounds to so many seconds; 0 takes them as they are.
        batch: clips per forward pass, at most; a CPU takes 4.
        device: where to run.
    """

    inputs: list[str] = field(metadata={"positional": True})
    model: str
    out: str
    repeat_to: float = 0.0
    batch: int = 16
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    def __post_init__(self) -> None:
        _require_positive(self, "batch")


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
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


@dataclass(frozen=True)
class DemoConfig:
    """`aape demo`: the whole way on the recordings that come with the package.

    Args:
        out: folder that everything is left in.
        seed: of the weights, the crops and the masks.
        steps: of the short pre-training run.
        probe_steps: of each probe.
        checkpoint: the encoder to show, a name or a saved folder.
        device: where to run.
    """

    out: str = "runs/demo"
    seed: int = 0
    steps: int = 200
    probe_steps: int = 1000
    checkpoint: str = "tiny"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    def __post_init__(self) -> None:
        _require_positive(self, "steps", "probe_steps")

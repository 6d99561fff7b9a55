"""`aape pretrain`: from a folder of sound to an encoder, in one run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aape.commands.options import Device, parse
from aape.errors import MAX_CLIPS, MAX_STEPS, MAX_WORKERS, ConfigError, require, require_at_most, require_positive
from aape.models.config import MAX_LOOP_TO, EncoderConfig, FrontEndConfig, PredictorConfig, encoder_config
from aape.pretraining.config import LossConfig, MaskingConfig, OptimConfig

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from aape.commands.probe import ProbeConfig
    from aape.pretraining.clip_statistics import ClipStatistics
    from aape.pretraining.teacher_student import TeacherStudent
    from aape.runs.loop import Loop, StepPart

BAD_NAME, PROBES_NAME = "bad_files.jsonl", "probes.jsonl"
MAX_CROPS_TO_FIT, CROPS_PER_COMPONENT = 2000, 4
MAY_CHANGE = ("resume", "workers", "device", "data", "out", "stats", "log_every", "keep_checkpoints", "keep_every",
              "watch", "watch_every", "tensorboard", "track", "max_bad_fraction")  # fmt: skip
# The fields of each section that are options; the others keep their defaults
ENCODER_OPTIONS = ("embed_dim", "depth", "num_heads", "n_mels", "patch_size", "stem", "adaptive", "phase",
                   "kernel_size", "stride", "mask_context", "decay_start")  # fmt: skip
LOSS_OPTIONS = ("contrastive_weight", "statistics_weight", "statistics_pool", "statistics_components",
                "label_weight", "min_prefix", "reduction", "target", "target_norm")  # fmt: skip
OPTIM_OPTIONS = ("learning_rate", "warmup_ratio", "momentum_start", "accumulate", "precision", "compile", "muon")


@dataclass(frozen=True)
class PretrainConfig:
    """`aape pretrain`: masked teacher-student pre-training on unlabelled audio.

    Args:
        data: folder, CSV or tar shards.
        out: folder of the run.
        model: size of the encoder (a saved model is given as --init).
        steps: optimiser steps.
        clips: clips per optimiser step, over all ranks and accumulated passes.
        seed: random seed for weights, crops and masks.
        workers: processes that read audio.
        save_every: steps between checkpoints.
        keep_checkpoints: how many checkpoints stay on disk (at least 2).
        keep_every: also keep a checkpoint every so many steps; 0 for none.
        log_every: steps between lines of metrics.jsonl.
        tensorboard: also log to TensorBoard (must be installed).
        track: also log to this service (must be installed).
        watch: recipe of `aape probe` that is run on the encoder while it trains.
        watch_every: steps between those probes.
        stats: JSON file of `aape stats`; by default measured at the start.
        init: model to start from, a name or a saved folder.
        resume: continue from the last checkpoint in the run folder.
        device: where to run.
        crop_seconds: length of the random crop of each clip, in seconds.
        loop_to_crop: loop clips shorter than the crop to its length instead of padding them with zeros [ours].
        augment: share of the crops that the student hears mixed, filtered and so on (docs/method.md 7) [ours].
        label: column of labels that vectors learn too, `;` between them, empty for none (docs/method.md 7) [ours].
        max_bad_fraction: stop when more than this share of the files cannot be read.
        export: whose weights are saved as the model.
        encoder: fields that override those of the size.
        masking: which patches the student sees.
        predictor: the network that predicts the hidden tokens.
        loss: training loss.
        optim: optimiser and schedules.
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
    track: Literal["wandb", "trackio"] | None = None
    watch: str | None = None
    watch_every: int = 0
    stats: str | None = None
    init: str | None = None
    resume: bool = False
    device: Device = "auto"
    crop_seconds: float = 6.0
    loop_to_crop: bool = False
    augment: float = 0.0
    label: str | None = None
    max_bad_fraction: float = 0.01
    export: Literal["student", "teacher"] = "student"
    encoder: dict[str, Any] = field(
        default_factory=dict, metadata={"fields_of": EncoderConfig, "only": ENCODER_OPTIONS}
    )
    masking: MaskingConfig = field(default=MaskingConfig(), metadata={"only": ("num_views", "mask_ratio")})
    predictor: PredictorConfig = field(default=PredictorConfig(), metadata={"only": ("kind",)})
    loss: LossConfig = field(default=LossConfig(), metadata={"only": LOSS_OPTIONS})
    optim: OptimConfig = field(default=OptimConfig(), metadata={"only": OPTIM_OPTIONS})

    def __post_init__(self) -> None:
        require_positive(self, "steps", "clips", "save_every", "keep_checkpoints", "log_every", "crop_seconds")
        require_at_most(self, steps=MAX_STEPS, clips=MAX_CLIPS, workers=MAX_WORKERS, crop_seconds=MAX_LOOP_TO)
        require_at_most(self, max_bad_fraction=1)
        require(self, "0 to 1", lambda share: 0 <= share <= 1, "augment")
        if (self.watch is None) != (self.watch_every == 0):
            raise ConfigError("watch (recipe of `aape probe`) and watch_every (steps between probes) belong together")
        if self.label is not None and not self.loss.statistics_weight:
            raise ConfigError("label needs loss.statistics_weight above 0: both are read off one vector of the clip")
        if not 0 < self.masking.mask_ratio < 1:
            raise ConfigError(f"masking.mask_ratio must be between 0 and 1, got {self.masking.mask_ratio}")


def pretrain(config: PretrainConfig) -> None:
    """Pre-train an encoder and leave everything in the run folder: configuration, metrics, checkpoints, `model/`.

    Raises:
        ConfigError: options that do not fit each other, or the run that is resumed.
        DataError: no audio, or too much of it is bad.
        CheckpointError: `init` does not fit the model, or a checkpoint cannot be written, or be read to resume.
        TrainingError: loss or gradient stay NaN.
        SystemExit: 128 + the signal, after a checkpoint, when SIGTERM or SIGHUP asked to stop.
    """
    from aape.runs.devices import close_ranks
    from aape.runs.lock import locked

    with locked(config.out):
        run = Pretraining(config)
        if not run.train():
            run.loop.stop.exit()
        if run.is_main:
            run.finish()
        close_ranks(run.accelerator)


class Pretraining:
    """A run, ready to train; `forward` is the method, from batch to loss. Raises as `pretrain`."""

    def __init__(self, config: PretrainConfig) -> None:
        import torch

        from aape.commands.probe import read_probe_set
        from aape.data.label_cells import LabelCells
        from aape.data.log_mel import LogMel
        from aape.data.manifest import read_manifest
        from aape.models.stats import claim_stats
        from aape.pretraining.clip_labels import ClipLabels
        from aape.pretraining.draws import ClipDraws
        from aape.runs.checkpoints import find_checkpoint
        from aape.runs.files import Records
        from aape.runs.folder import claim_data, write_run_header

        self.config, self.out = config, Path(config.out)
        watched = None
        if config.watch is not None:  # what is wrong with the set is said now
            watched = read_probe_set(self._probe_config(self.out))
        self.accelerator = _start_and_claim(config)
        self.is_main, self.device = self.accelerator.is_main_process, self.accelerator.device
        checkpoint = find_checkpoint(self.out, is_main=self.is_main) if config.resume else None
        clips = read_manifest(config.data, label=config.label, needs_labels=False)
        if watched is not None and self.is_main:
            for text in watched.shared_with(clips):
                warnings.warn(text, stacklevel=2)
        self.front_end, self.encoder_config = _front_end_and_encoder(config)
        torch.manual_seed(config.seed)
        self.method, self.clip_statistics = _build_method(config, self.encoder_config)
        names = hashlib.sha256(
            "\n".join(clip.name + (clip.label or "") for clip in clips).encode(errors="surrogateescape")
        ).hexdigest()
        claim_data(self.out, names, f"the clips of {config.data}", is_main=self.is_main, is_new=checkpoint is None)
        if self.is_main:
            write_run_header(self.out, config, device=self.device)
        self.front_end = claim_stats(self.out, config.stats, config.data, self.front_end, is_main=self.is_main,
                                     is_new=checkpoint is None, max_bad_fraction=config.max_bad_fraction)  # fmt: skip
        self.log_mel = LogMel(**dataclasses.asdict(self.front_end))
        self.draws = ClipDraws(
            clips, num_draws=config.steps * config.clips, seed=config.seed, sample_rate=self.front_end.sample_rate,
            crop_samples=round(config.crop_seconds * self.front_end.sample_rate), loop_to_crop=config.loop_to_crop,
            grid=self.method.student.stem.grid_size, masking=config.masking, augment=config.augment,
        )  # fmt: skip
        if self.clip_statistics is not None and checkpoint is None:  # else the checkpoint has its components
            num_crops = min(MAX_CROPS_TO_FIT, max(len(clips), CROPS_PER_COMPONENT * config.loss.statistics_components))
            crops = map(self.draws.__getitem__, range(num_crops))
            inputs = (self.spectrograms(crop["waveform"][-1:], [crop["num_samples"]]) for crop in crops)
            examples = [self.clip_statistics.example(self.method.student.to(self.device), *each) for each in inputs]
            self.clip_statistics.fit(*map(torch.cat, zip(*examples, strict=True)))
        self.clip_labels = None
        if config.label is not None and self.clip_statistics is not None:
            labels = LabelCells(config.data, [clip.label or "" for clip in clips], ";").labels
            self.clip_labels = ClipLabels(labels, self.clip_statistics.centre, self.clip_statistics.scale**0.5)
        self.loop = self._make_loop(len(clips))
        torch.manual_seed(config.seed)
        self.loop.resume(checkpoint)
        self.probes = Records(self.out / PROBES_NAME)
        if config.watch is not None and self.is_main:
            self.probes.cut_after(self.loop.step)

    def train(self) -> bool:
        """Run the loop. Returns whether it reached the last step."""
        with self.bar:
            return self.loop.train(self.batches())

    def batches(self) -> Iterator[Iterator[dict[str, Any]]]:
        """Read this rank's batches of every step, from the loop's on."""
        from aape.pretraining.draws import StepBatches, load_steps

        accelerator, config = self.accelerator, self.config
        share = {"rank": accelerator.process_index, "num_ranks": accelerator.num_processes}
        order = StepBatches(num_draws=len(self.draws), clips=config.clips, accumulate=config.optim.accumulate,
                            first_step=self.loop.step, **share)  # fmt: skip
        return load_steps(self.draws, order, workers=config.workers, pin_memory=self.device.type == "cuda")

    def forward(self, step: int, batch: dict[str, Any]) -> StepPart:
        """Batch to loss: waveforms to log-mels, one or one each for student and teacher, and the clip's statistics."""
        from aape.pretraining.clip_statistics import cut_prefix
        from aape.pretraining.draws import draw_prefix
        from aape.runs.loop import StepPart

        self.bad.note(batch["bad"])
        options = self.config.loss
        x, visible, queries = (batch[k].to(self.device, non_blocking=True) for k in ("waveform", "visible", "queries"))
        pairs = [self.spectrograms(waveform, batch["num_samples"]) for waveform in x.unbind(1)]
        (clean, in_clip), (spectrogram, _) = pairs[0], pairs[-1]
        valid = in_clip if options.ignore_padding else None
        outputs = self.method(spectrogram, visible, queries, valid, clean)
        if self.clip_statistics is not None:
            prefix = draw_prefix(self.config.seed, step, options.min_prefix, self.method.student.stem.grid_size[1])
            heard = cut_prefix(spectrogram, valid, prefix, self.encoder_config.patch_size)
            vectors = self.clip_statistics.vectors(self.method.student, heard[0])
            outputs["loss_statistics"] = self.clip_statistics(vectors, *heard)
            outputs["loss"] = outputs["loss"] + options.statistics_weight * outputs["loss_statistics"]
            if self.clip_labels is not None:
                outputs["loss_labels"] = self.clip_labels(vectors, batch["clip"])
                outputs["loss"] = outputs["loss"] + options.label_weight * outputs["loss_labels"]
        weight = 1 / (self.config.optim.accumulate * self.accelerator.num_processes)
        names = [self.draws.clips[index].name for index in batch["clip"]]
        return StepPart(outputs["loss"], weight, names, {name: value.detach() for name, value in outputs.items()})

    def spectrograms(self, waveform: Tensor, num_samples: list[int]) -> tuple[Tensor, Tensor]:
        """Return log-mels (B, 1, F, T) and valid patches (B, N) on the device, as `crop_spectrograms`."""
        from aape.pretraining.draws import crop_spectrograms

        waveform, encoder = waveform.to(self.device, non_blocking=True), self.encoder_config
        return crop_spectrograms(waveform, num_samples, self.log_mel, encoder.num_frames, encoder.patch_size)

    def _make_loop(self, num_clips: int) -> Loop:
        from aape.runs.devices import autocast, require_compiler
        from aape.runs.files import Records
        from aape.runs.guards import BadFiles, CollapseAlarm
        from aape.runs.loop import Loop
        from aape.runs.optim import adamw, cosine_between, warmup_cosine
        from aape.runs.progress import TrainingBar

        config, optim = self.config, self.config.optim
        parts = {"method": self.method, "statistics": self.clip_statistics, "labels": self.clip_labels}
        modules = {name: part.to(self.device) for name, part in parts.items() if part is not None}
        if optim.compile:
            require_compiler(self.device)
            self.method.compile(dynamic=False)
        self.bad = BadFiles(num_clips, config.max_bad_fraction, Records(self.out / BAD_NAME))
        self.alarm = CollapseAlarm(config.clips // (self.accelerator.num_processes * optim.accumulate))
        self.bar = TrainingBar("pre-training", config.steps, is_shown=self.is_main)
        warmup = round(optim.warmup_ratio * config.steps)

        def momentum(step: int) -> float:
            return cosine_between(step, start=optim.momentum_start, end=optim.momentum_end, total=config.steps)

        def on_log(step: int, values: dict[str, float]) -> None:
            values |= {"momentum": momentum(step - 1), "epoch": step / (num_clips / config.clips)}
            self.alarm.check(step, values, is_main=self.is_main)
            variance = f"target variance {values['target_variance_tokens']:.3f}"
            self.bar.note(step, f"loss {values['loss']:.3f}  {variance}  {values['clips_per_second']:.1f} clips/s")

        return Loop(
            self.accelerator, self.out, self.forward,
            adamw(modules, learning_rate=optim.learning_rate, weight_decay=optim.weight_decay, betas=optim.betas,
                  muon=optim.muon),
            modules, config.steps,
            rate=lambda step: warmup_cosine(step, warmup=warmup, total=config.steps),
            autocast=lambda: autocast(self.device, optim.precision),
            clip_grad=optim.clip_grad,
            after_step=lambda step, is_skipped: self.method.update_teacher(momentum(step), is_skipped),
            log_every=config.log_every, on_log=on_log,
            every=[(config.watch_every, self.probe)] if config.watch is not None else [],
            save_every=config.save_every, keep_last=config.keep_checkpoints, keep_every=config.keep_every,
            bad_files=self.bad, progress=self.bar.advance,
        )  # fmt: skip

    def probe(self, step: int) -> None:
        """Save the encoder aside and probe it; the run's random numbers stay as they are."""
        import torch

        from aape.commands.probe import run_probe
        from aape.downstream.yardsticks import ENCODER

        if not self.is_main:
            return
        folder = self.out / "probes" / f"step-{step}"
        self.save_model(folder / "model")
        with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
            scores = run_probe(self._probe_config(folder))["rows"][ENCODER]["scores"]
        self.method.train()
        self.probes.append(step, scores=scores)

    def _probe_config(self, folder: Path) -> ProbeConfig:
        from aape.commands.probe import ProbeConfig

        options = ["--config", str(self.config.watch), "--seeds", "1", "--no-yardsticks", "--checkpoint",
                   str(folder / "model"), "--out", str(folder), "--device", self.config.device]  # fmt: skip
        return parse(ProbeConfig, options, verb="probe")

    def save_model(self, folder: Path) -> None:
        """Write the encoder for use."""
        from aape.models.saved import model_name, save_model

        config = self.config
        encoder = self.method.student if config.export == "student" else self.method.teacher
        paths = ("data", "out", "stats", "watch")  # on this machine
        training = {key: value for key, value in dataclasses.asdict(config).items() if key not in paths}
        training |= {"init": config.init and model_name(config.init), "num_clips": len(self.draws.clips)}
        loop_to = config.crop_seconds if config.loop_to_crop else 0.0
        pool = config.loss.statistics_pool if self.clip_statistics is not None else None  # the vector that it trains
        save_model(folder, encoder, self.front_end, training=training, loop_to=loop_to, pool=pool)

    def finish(self) -> None:
        """Write `model/` and `result.json`."""
        from aape.runs.folder import write_result

        self.save_model(self.out / "model")
        result = {
            "num_clips": len(self.draws.clips),
            "clips_seen": self.config.steps * self.config.clips,
            "last": self.loop.records.read()[-1],
            "bad": [{"name": name, "reason": reason} for name, reason in self.bad.reasons.items()],
            "skipped_steps": sorted({record["step"] for record in self.loop.skipped.read()}),
            "collapse_alarms": self.alarm.raised,
        }
        write_result(self.out, result)
        print(f"{self.config.steps} steps done -> {self.out / 'model'}")


def _start_and_claim(config: PretrainConfig) -> Accelerator:
    """Start this rank, and refuse to mix two runs in one folder."""
    from aape.runs.devices import start_ranks
    from aape.runs.folder import claim

    trackers = [name for name in ("tensorboard" if config.tensorboard else None, config.track) if name]
    options = {key: str(value) for key, value in dataclasses.asdict(config).items()}
    accelerator = start_ranks(config.device, out=config.out, trackers=trackers, config=options)
    parts = accelerator.num_processes * config.optim.accumulate
    if config.clips % parts:
        raise ConfigError(f"clips ({config.clips}) must be a multiple of ranks times accumulation steps ({parts})")
    if accelerator.is_main_process:
        claim(config.out, config, may_change=MAY_CHANGE, resume=config.resume)
    accelerator.wait_for_everyone()
    return accelerator


def _front_end_and_encoder(config: PretrainConfig) -> tuple[FrontEndConfig, EncoderConfig]:
    """Return front end and encoder that fit each other; the encoder's position table covers the crop."""
    from aape.models.stats import front_end_for

    encoder = encoder_config(config.model, **config.encoder)
    front_end = front_end_for(encoder, config.stats)
    num_frames = 1 + round(config.crop_seconds * front_end.sample_rate) // front_end.hop_length
    if num_frames < 2:
        raise ConfigError(f"crop_seconds = {config.crop_seconds:g} is shorter than a frame")
    num_time = -(-num_frames // encoder.patch_size)  # 601 frames in 6 s, 38 patches of 16
    return front_end, dataclasses.replace(encoder, num_frames=num_time * encoder.patch_size)


def _build_method(config: PretrainConfig, encoder: EncoderConfig) -> tuple[TeacherStudent, ClipStatistics | None]:
    """Build student, teacher, predictor, and the statistics' head if they are part of the loss."""
    from aape.models.encoder import AudioEncoder
    from aape.models.saved import load_weights
    from aape.pretraining.clip_statistics import ClipStatistics
    from aape.pretraining.teacher_student import TeacherStudent

    loss, num_time = config.loss, encoder.num_frames // encoder.patch_size
    if not 0 <= loss.min_prefix <= num_time:
        raise ConfigError(f"loss.min_prefix must be 0 to {num_time}, the time patches of a crop")
    try:
        student = AudioEncoder(encoder)
        if config.init is not None:
            load_weights(student, config.init)
        method = TeacherStudent(student, student.stem.grid_size, config.predictor, loss)
        sizes = (encoder.embed_dim, encoder.n_mels, encoder.patch_size, loss.statistics_components)
        return method, ClipStatistics(*sizes, loss.statistics_pool) if loss.statistics_weight else None
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"encoder, predictor or loss: {error}") from error

"""`aape pretrain`: from a folder of sound to an encoder, in one run folder."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import json
import os
import pickle
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aape.commands.pretrain import PretrainConfig
from aape.data.clips import Clip, read_manifest
from aape.data.log_mel import LogMel
from aape.errors import CheckpointError, ConfigError, one_line
from aape.models.config import EncoderConfig, FrontEndConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.models.saved import load_weights, model_name, save_model
from aape.models.stats import read_stats, write_stats
from aape.pretraining.clip_statistics import ClipStatistics
from aape.pretraining.draws import ClipDraws
from aape.pretraining.teacher_student import TeacherStudent
from aape.runs import checkpoints
from aape.runs.devices import has_fast_bfloat16, resolve_device
from aape.runs.files import Records
from aape.runs.folder import write_result, write_run_header

if TYPE_CHECKING:  # it imports transformers
    from aape.pretraining.trainer import PretrainTrainer, WaveformToLoss

METRICS_NAME = "metrics.jsonl"
CLIPS_FOR_STATISTICS = 2000
MAY_CHANGE = {
    "resume",
    "workers",
    "device",
    "data",
    "out",
    "stats",
    "log_every",
    "keep_checkpoints",
    "keep_every",
    "watch",
    "tensorboard",
    "max_bad_fraction",
}


def pretrain(config: PretrainConfig) -> None:
    """Pre-train an encoder and leave everything in the run folder: configuration, metrics, checkpoints, `model/`.

    Args:
        config: see `PretrainConfig`; one process per device, started by torchrun where there are several.

    Raises:
        ConfigError: options that do not fit each other, or the run that is resumed.
        DataError: no audio, or too much of it is bad.
        CheckpointError: `init` does not fit the model, a checkpoint could not be written, or the one to resume from
            cannot be read.
        TrainingError: loss or gradient stay NaN.
        SystemExit: 143, after a checkpoint, when SIGTERM asked to stop.
    """
    from safetensors import SafetensorError

    trainer, checkpoint = build_trainer(config)
    try:
        with trainer.stop.caught():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except (pickle.UnpicklingError, SafetensorError) as error:  # transformers unpickles weights only: no code runs
        raise _damaged(checkpoint, error) from error
    if trainer.stop.is_obeyed:
        if trainer.is_world_process_zero():
            print(f"SIGTERM: saved at step {trainer.state.global_step}; go on with --resume", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM)
    if trainer.is_world_process_zero():
        _finish(config, trainer)
    close_ranks(trainer)


def close_ranks(trainer: PretrainTrainer) -> None:
    """End the process group in order: gloo's threads abort a process that exits under them."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        trainer.model_wrapped = trainer.model  # DistributedDataParallel would keep the group alive
        trainer.accelerator.free_memory()
        gc.collect()
        torch.distributed.destroy_process_group()


def build_trainer(config: PretrainConfig) -> tuple[PretrainTrainer, Path | None]:
    """Make a run ready to train: folder, statistics, model, draws, callbacks.

    Returns:
        The trainer, and the checkpoint to go on from, if the run is resumed and has one.

    Raises:
        ConfigError, DataError, CheckpointError: as `pretrain`.
    """
    from transformers.trainer_callback import PrinterCallback

    from aape.pretraining import trainer as training
    from aape.pretraining.watch import MetricsFile, Progress

    device = resolve_device(config.device)
    out = Path(config.out)
    checkpoint = _find_checkpoint(config)
    clips_per_rank = _clips_per_rank(config)
    clips = read_manifest(config.data)
    write_run_header(out, config, device=device)
    front_end = _front_end(config, out)

    torch.manual_seed(config.seed)
    num_frames = _num_frames(config, front_end)
    method = _build_method(config, num_frames)
    if config.optim.compile:
        method.compile(dynamic=False)
    step = training.StepByStep(method, config.optim)
    model = training.WaveformToLoss(method, LogMel(**dataclasses.asdict(front_end)), num_frames)
    draws = _build_draws(config, clips, front_end, num_frames)
    if method.statistics is not None and checkpoint is None:  # else the checkpoint has them
        _fit_statistics(method.statistics, model, draws)
    trainer = training.PretrainTrainer(
        model=model,
        args=_trainer_arguments(config, device, clips_per_rank),
        train_dataset=draws,
        optim=config.optim,
        clips=config.clips,
        max_bad_fraction=config.max_bad_fraction,
        keep_every=config.keep_every,
        first_step=0 if checkpoint is None else checkpoints.step_of(checkpoint),
        fewest_patches=config.loss.statistics_min_patches if config.loss.statistics_weight else 0,
        callbacks=[step],
    )
    step.trainer = trainer
    metrics = MetricsFile(trainer.bad, trainer.skipped, len(clips) / config.clips)
    for callback in (metrics, trainer.alarm, Progress()):
        trainer.add_callback(callback)
    if config.watch.every:
        from aape.pretraining.probe import ProbeOnTheWay

        trainer.add_callback(ProbeOnTheWay(method.student, front_end, config.watch))
    trainer.remove_callback(PrinterCallback)
    return trainer, checkpoint


def _find_checkpoint(config: PretrainConfig) -> Path | None:
    """Return the checkpoint to resume from; refuse to mix two runs in one folder."""
    out, is_main = Path(config.out), int(os.environ.get("RANK", 0)) == 0
    if not config.resume:
        if is_main and (checkpoints.list_checkpoints(out) or (out / "model").exists()):
            raise ConfigError(f"{config.out} already holds a run: continue it with --resume, or choose another --out")
        return None
    checkpoint, damaged = checkpoints.newest_intact(out)
    if is_main:
        checkpoints.clear_debris(out)
        for name, fault in damaged.items():
            print(f"{name} is passed over: {fault}", file=sys.stderr)
        print(f"resuming from {checkpoint}" if checkpoint else f"{out} has no intact checkpoint: starting anew")
    if checkpoint is not None:
        import yaml

        before = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
        now = json.loads(json.dumps(dataclasses.asdict(config)))
        for key in now:
            if key not in MAY_CHANGE and before.get(key) != now[key]:
                raise ConfigError(f"cannot resume {config.out}: {key} was {before.get(key)}, and now is {now[key]}")
    return checkpoint


def _damaged(path: Path | None, error: object) -> CheckpointError:
    reason = one_line(str(error))[:200]
    return CheckpointError(f"{path}: damaged, or not written by `aape pretrain`: start again elsewhere ({reason})")


def _clips_per_rank(config: PretrainConfig) -> int:
    """Divide the batch, given in clips per step, by ranks and accumulation steps."""
    parts = int(os.environ.get("WORLD_SIZE", 1)) * config.optim.accumulate
    if config.steps < 1 or config.clips < 1 or config.clips % parts:
        raise ConfigError(
            f"clips ({config.clips}) must be a multiple of ranks times accumulation steps ({parts}), and steps positive"
        )
    return config.clips // parts


def _front_end(config: PretrainConfig, out: Path) -> FrontEndConfig:
    """Read the statistics, or measure them once: a resumed run finds them in its folder."""
    if config.stats is not None:
        return read_stats(config.stats)
    path = out / "stats.json"
    if not path.exists():
        write_stats(path, config.data, FrontEndConfig(), max_bad_fraction=config.max_bad_fraction)
    return read_stats(path)


def _num_frames(config: PretrainConfig, front_end: FrontEndConfig) -> int:
    """Return T of a crop: its frames (601 for 6 s), rounded up to whole patches (608)."""
    samples = round(config.crop_seconds * front_end.sample_rate)
    if samples < front_end.hop_length:
        raise ConfigError(f"crop_seconds = {config.crop_seconds:g} is shorter than a frame")
    patch = EncoderConfig().patch_size
    return -(-(1 + samples // front_end.hop_length) // patch) * patch


def _build_method(config: PretrainConfig, num_frames: int) -> TeacherStudent:
    """Build student, teacher and predictor; the encoder's position table covers at least the crop."""
    if not config.masking.num_views >= 1 or not 0 < config.masking.mask_ratio < 1:
        raise ConfigError("masking needs at least one view and a mask_ratio between 0 and 1")
    try:
        shape = encoder_config(config.model, **{"num_frames": num_frames, **config.encoder})
        encoder = AudioEncoder(shape)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"encoder: {error}") from error
    if config.init is not None:
        load_weights(encoder, config.init)
    grid = (shape.n_mels // shape.patch_size, num_frames // shape.patch_size)
    if not 0 <= config.loss.statistics_min_patches <= grid[1]:
        raise ConfigError(f"loss.statistics_min_patches must be 0 to {grid[1]}, the time patches of a crop")
    try:
        return TeacherStudent(encoder, grid, config.predictor, config.loss)
    except ValueError as error:
        raise ConfigError(f"predictor or loss: {error}") from error


def _fit_statistics(statistics: ClipStatistics, model: WaveformToLoss, draws: ClipDraws) -> None:
    """Measure the components of the clips' statistics on crops of the first epoch."""
    measured = []
    for draw in range(min(CLIPS_FOR_STATISTICS, len(draws.clips))):
        crop = draws[draw]
        with torch.no_grad():
            measured.append(statistics.measure(*model.spectrograms(crop["waveform"][None], [crop["num_samples"]])))
    statistics.fit(torch.cat(measured))


def _build_draws(config: PretrainConfig, clips: list[Clip], front_end: FrontEndConfig, num_frames: int) -> ClipDraws:
    patch = EncoderConfig().patch_size
    return ClipDraws(
        clips,
        num_draws=config.steps * config.clips,
        seed=config.seed,
        crop_samples=round(config.crop_seconds * front_end.sample_rate),
        sample_rate=front_end.sample_rate,
        grid=(front_end.n_mels // patch, num_frames // patch),
        masking=config.masking,
        repeat_short=config.short_clips == "repeat",
    )


def _trainer_arguments(config: PretrainConfig, device: torch.device, clips_per_rank: int) -> Any:
    from transformers import TrainingArguments

    precision = config.optim.precision
    is_bf16 = has_fast_bfloat16(device) if precision == "auto" else precision == "bfloat16"
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("--tensorboard needs TensorBoard: pip install 'aape[train]'")
    return TrainingArguments(
        output_dir=config.out,
        max_steps=config.steps,
        per_device_train_batch_size=clips_per_rank,
        gradient_accumulation_steps=config.optim.accumulate,
        max_grad_norm=config.optim.clip_grad,
        bf16=is_bf16,
        use_cpu=device.type == "cpu",
        seed=config.seed,
        save_strategy="steps",
        save_steps=min(config.save_every, config.steps),
        save_total_limit=max(2, config.keep_checkpoints),  # the one before stays until the new one is complete
        logging_strategy="steps",
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,  # it would read the loss back at every step
        dataloader_num_workers=config.workers,
        dataloader_pin_memory=device.type == "cuda",
        ignore_data_skip=True,  # the draws begin where the run does
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="tensorboard" if config.tensorboard else "none",
    )


def _finish(config: PretrainConfig, trainer: PretrainTrainer) -> None:
    """Write `model/` and `result.json`."""
    out = Path(config.out)
    method = trainer.model.method
    encoder = method.student if config.export == "student" else method.teacher
    num_clips = len(trainer.train_dataset.clips)
    places = ("data", "out", "stats")  # on this machine
    training = {key: value for key, value in dataclasses.asdict(config).items() if key not in places}
    training |= {"init": None if config.init is None else model_name(config.init), "num_clips": num_clips}
    loop_to = config.crop_seconds if config.short_clips == "repeat" else 0.0
    save_model(out / "model", encoder, _front_end(config, out), training=training, loop_to=loop_to)
    result = {
        "num_clips": num_clips,
        "clips_seen": config.steps * config.clips,
        "last": Records(out / METRICS_NAME).read()[-1],
        "bad": [{"name": name, "reason": reason} for name, reason in trainer.bad.reasons.items()],
        "skipped_steps": sorted({record["step"] for record in trainer.skipped.read()}),
        "collapse_alarms": trainer.alarm.raised,
    }
    write_result(out, result)
    print(f"{config.steps} steps done -> {out / 'model'}")

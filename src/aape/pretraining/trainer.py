"""The Hugging Face Trainer with what this method adds to it: a teacher, guards, and checkpoints that are whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from aape.commands.pretrain import OptimConfig
from aape.data.log_mel import LogMel
from aape.errors import TrainingError
from aape.pretraining.draws import StepBatches, collate, draw_stretch
from aape.pretraining.teacher_student import TeacherStudent
from aape.pretraining.watch import BadFiles, CollapseAlarm, Measurements
from aape.runs import checkpoints
from aape.runs.files import Records
from aape.runs.guards import Flags, StopSignal, ignore_sigterm
from aape.runs.optim import adamw, cosine_between, warmup_cosine

SKIPPED_NAME = "skipped_steps.jsonl"
MAX_SKIPPED = 5  # steps in a row


class WaveformToLoss(nn.Module):
    """Log-mel on the device, then the method: waveforms (B, samples) and masks in, loss and measurements out.

    Args:
        method: teacher and student.
        log_mel: the front end; it has no parameters.
        num_frames: T of a crop, a multiple of the patch.
    """

    def __init__(self, method: TeacherStudent, log_mel: LogMel, num_frames: int) -> None:
        super().__init__()
        self.method, self.log_mel, self.num_frames = method, log_mel, num_frames

    def forward(
        self, waveform: Tensor, num_samples: list[int], visible: Tensor, queries: Tensor, stretch: int | None = None
    ) -> dict[str, Tensor]:
        """Compute `TeacherStudent`'s outputs.

        Args:
            waveform: (B, samples), zero behind the clip's own.
            num_samples: how many are the clip's own, for each of B.
            visible: (B, M, V).
            queries: (B, M, Q).
            stretch: time patches that the statistics are told from; None for all.
        """
        spectrogram, is_audio = self.spectrograms(waveform, num_samples)
        outputs: dict[str, Tensor] = self.method(
            spectrogram, visible, queries, is_audio if self.method.loss.ignore_padding else None, stretch
        )
        return outputs

    def spectrograms(self, waveform: Tensor, num_samples: list[int]) -> tuple[Tensor, Tensor]:
        """Compute log-mels cut or zero-padded, after standardisation, to T frames; and which tokens hold audio.

        Returns:
            Spectrograms (B, 1, F, T) and a mask (B, N).
        """
        patch = self.method.student.patch_size
        out = waveform.new_zeros(len(waveform), 1, self.log_mel.n_mels, self.num_frames)
        is_audio = torch.zeros(len(waveform), self.log_mel.n_mels // patch, self.num_frames // patch, dtype=torch.bool)
        for length in sorted(
            set(num_samples)
        ):  # clips of one length at a time: what is reflected at the end is the clip itself
            rows = [i for i, n in enumerate(num_samples) if n == length]
            frames = self.log_mel(waveform[rows, :length])[..., : self.num_frames]
            out[rows, ..., : frames.shape[-1]] = frames.to(out.dtype)
            is_audio[rows, :, : -(-frames.shape[-1] // patch)] = True
        return out, is_audio.flatten(1).to(waveform.device)


class PretrainTrainer(Trainer):
    """Draws in sequence, AdamW with the method's groups, guards, and checkpoints that appear whole.

    A step whose loss or gradient is not finite is skipped on the device, before optimiser and teacher: what happened
    is read back one step later, so that the host never waits for the step it has just queued.

    Args:
        optim: optimiser and momentum settings.
        clips: clips per step, over all ranks and accumulated passes.
        max_bad_fraction: stop when more than this share of the clips cannot be read.
        keep_every: checkpoints of every so many steps stay; 0 for none.
        first_step: the step to go on from.
        fewest_patches: of the parts that statistics are told from; 0 for whole crops.
        trainer_options: of `transformers.Trainer`.
    """

    def __init__(
        self,
        *,
        optim: OptimConfig,
        clips: int,
        max_bad_fraction: float,
        keep_every: int = 0,
        first_step: int = 0,
        fewest_patches: int = 0,
        **trainer_options: Any,
    ) -> None:
        self.optim, self.clips, self.keep_every, self.first_step = optim, clips, keep_every, first_step
        self.fewest_patches = fewest_patches
        super().__init__(data_collator=collate, **trainer_options)
        out = Path(self.args.output_dir)
        self.measured = Measurements()
        self.bad = BadFiles(out, len(self.train_dataset.clips), max_bad_fraction)
        self.skipped = Records(out / SKIPPED_NAME)
        self.alarm = CollapseAlarm()
        self.stop = StopSignal()
        self.flags = Flags(self.args.device, self.args.world_size)
        self.drawn: list[int] = []  # clips of the step under way
        self.is_bad_loss = torch.zeros((), dtype=torch.bool, device=self.args.device)
        self.num_skipped_in_row = 0

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Deal the run's draws out to ranks and passes, from the first step on: no replay."""
        args = self.args
        batches = StepBatches(
            num_draws=len(self.train_dataset),
            clips=self.clips,
            passes=args.gradient_accumulation_steps,
            rank=args.process_index,
            world_size=args.world_size,
            first_step=self.first_step,
        )
        return DataLoader(
            self.train_dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=4 if args.dataloader_num_workers else None,
            worker_init_fn=ignore_sigterm,
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimiser of method 7."""
        self.optimizer = adamw(
            self.model,
            learning_rate=self.optim.learning_rate,
            weight_decay=self.optim.weight_decay,
            betas=self.optim.betas,
        )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Build the warm-up and cosine of method 7."""
        warmup = round(self.optim.warmup_ratio * num_training_steps)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: warmup_cosine(step, warmup=warmup, total=num_training_steps)
        )
        return self.lr_scheduler

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
        """Run the method on a batch, and remember what it measured."""
        self.bad.note(inputs.pop("bad"))
        clips = inputs.pop("clip")
        self.drawn += clips
        self.measured.num_draws += len(clips)
        if self.fewest_patches:
            most = self.train_dataset.grid[1]
            inputs["stretch"] = draw_stretch(self.args.seed, self.state.global_step, self.fewest_patches, most)
        outputs = model(**inputs)
        self.measured.add({name: value.detach() for name, value in outputs.items()})
        self.is_bad_loss = self.is_bad_loss | ~torch.isfinite(outputs["loss"].detach())
        return outputs["loss"]

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip, and tell the optimiser, on the device, whether to leave this step out."""
        norm = super()._clip_grad_norm(model)
        self.measured.add({"grad_norm": norm.detach()})
        is_skipped = self.is_bad_loss | ~torch.isfinite(norm.detach())
        self.found_inf = self.flags.raise_(is_skipped, self.stop.is_set, about=(self.state.global_step, self.drawn))
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        optimizer.found_inf = self.found_inf  # as torch.amp tells a fused optimiser
        self.drawn, self.is_bad_loss = [], torch.zeros_like(self.is_bad_loss)
        return norm

    def settle(self, *, leave: int = 0) -> bool:
        """Act on the flags of the steps that are through, but for the last `leave`. Returns whether to stop."""
        is_stopping = False
        for is_skipped, is_stop, (step, drawn) in self.flags.read(leave=leave):
            is_stopping |= is_stop
            self.num_skipped_in_row = self.num_skipped_in_row + 1 if is_skipped else 0
            if is_skipped:
                names = [self.train_dataset.clips[clip].name for clip in drawn]
                self.skipped.append(step + 1, rank=self.args.process_index, clips=names)
            if self.num_skipped_in_row >= MAX_SKIPPED:
                raise TrainingError(
                    f"{self.args.output_dir}: loss or gradient was not finite {MAX_SKIPPED} steps in a row, up to step "
                    f"{step + 1}; the weights are those of before, the clips are in {SKIPPED_NAME}: lower "
                    "--optim.learning-rate, or use --optim.precision float32, and go on with --resume"
                )
        return is_stopping

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Replace the Trainer's own loss by the averages of all that was measured since the last log."""
        if "learning_rate" in logs:  # not the summary at the end
            self.settle()
            self.bad.gather(self.state.global_step, self.accelerator)
            logs.pop("grad_norm", None)
            logs |= self.measured.averages(self.accelerator, self.args.world_size)
            logs["momentum"] = momentum_at(self.state.global_step - 1, self.state.max_steps, self.optim)
        super().log(logs, start_time)
        self.state.log_history.clear()  # metrics.jsonl has it; every checkpoint would carry all of it

    def _get_output_dir(self, trial: Any) -> str:
        return os.path.join(self.args.output_dir, checkpoints.STAGING_NAME)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint aside, flush it, and name it; an error leaves the last good one and says what to do."""
        self.settle()
        self.bad.gather(self.state.global_step, self.accelerator)
        out, step = Path(self.args.output_dir), self.state.global_step
        staging = Path(self._get_output_dir(trial)) / f"checkpoint-{step}"
        try:
            super()._save_checkpoint(model, trial)
            running = {**self.measured.state(), "num_skipped_in_row": self.num_skipped_in_row}
            (staging / f"running_{self.args.process_index}.json").write_text(json.dumps(running), encoding="utf-8")
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                checkpoints.publish(staging, out / staging.name)
                checkpoints.prune(out, keep_last=self.args.save_total_limit, keep_every=self.keep_every)
        except Exception as error:  # OSError, RuntimeError of torch.save, SafetensorError: each writer has its own
            shutil.rmtree(staging, ignore_errors=True)
            raise checkpoints.save_failed(out, step, self._checkpoint_bytes(), error) from error
        self.accelerator.wait_for_everyone()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            path = Path(checkpoint) / f"running_{self.args.process_index}.json"
            if path.exists():  # not for a rank that was not there before
                running = json.loads(path.read_text(encoding="utf-8"))
                self.num_skipped_in_row = running.pop("num_skipped_in_row")
                self.measured.load(running, self.args.device)

    def _checkpoint_bytes(self) -> int:
        optimizer = [value for state in self.optimizer.state.values() for value in state.values()]
        tensors = [*self.model.state_dict().values(), *(value for value in optimizer if isinstance(value, Tensor))]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class StepByStep(TrainerCallback):
    """What follows an optimiser step: the teacher moves before anything is saved; SIGTERM ends the run after a save.

    Args:
        method: teacher and student.
        optim: the momentum's start and end.
    """

    def __init__(self, method: TeacherStudent, optim: OptimConfig) -> None:
        self.method, self.optim = method, optim
        self.trainer: PretrainTrainer

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Apply the momentum of this step, unless the step was skipped."""
        momentum = momentum_at(state.global_step, state.max_steps, self.optim)
        self.method.update_teacher(momentum, self.trainer.found_inf)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Read back how the step before went; the last step of a run is logged."""
        control.should_log |= state.global_step >= state.max_steps
        if self.trainer.settle(leave=1):
            self.trainer.stop.is_obeyed = control.should_save = control.should_training_stop = True


def momentum_at(step: int, total: int, optim: OptimConfig) -> float:
    """Return the teacher's momentum for the update that follows optimiser step `step`, counted from 0."""
    return cosine_between(step, start=optim.momentum_start, end=optim.momentum_end, total=total)

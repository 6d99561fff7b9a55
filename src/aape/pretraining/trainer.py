"""The Hugging Face Trainer with what this method adds to it: a teacher, what to watch, and whole checkpoints."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from aape.config import OptimConfig
from aape.data.frontend import LogMel
from aape.errors import DataError
from aape.pretraining.teacher_student import TeacherStudent
from aape.training.optim import adamw
from aape.training.results import write_atomically
from aape.training.schedules import cosine_between, warmup_cosine

COMPLETE = "complete"  # the last file of a checkpoint: without it, the folder is the debris of a killed process
METRICS_NAME = "metrics.jsonl"


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

    def forward(self, waveform: Tensor, num_samples: Tensor, visible: Tensor, queries: Tensor) -> dict[str, Tensor]:
        """Compute `TeacherStudent`'s outputs.

        Args:
            waveform: (B, samples), zero behind the clip's own.
            num_samples: how many are the clip's own (B,).
            visible: (B, M, V).
            queries: (B, M, Q).
        """
        spectrogram, is_audio = self.spectrograms(waveform, num_samples)
        outputs: dict[str, Tensor] = self.method(
            spectrogram, visible, queries, is_audio if self.method.loss.ignore_padding else None
        )
        return outputs

    def spectrograms(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute log-mels cut or zero-padded, after standardisation, to T frames; and which tokens hold audio.

        Returns:
            Spectrograms (B, 1, F, T) and a mask (B, N).
        """
        patch = self.method.student.patch_size
        out = waveform.new_zeros(len(waveform), 1, self.log_mel.n_mels, self.num_frames)
        is_audio = torch.zeros(len(waveform), self.log_mel.n_mels // patch, self.num_frames // patch, dtype=torch.bool)
        lengths = num_samples.tolist()
        for length in set(lengths):  # clips of one length at a time: what is reflected at the end is the clip itself
            rows = [i for i, n in enumerate(lengths) if n == length]
            frames = self.log_mel(waveform[rows, :length])[..., : self.num_frames]
            out[rows, ..., : frames.shape[-1]] = frames.to(out.dtype)
            is_audio[rows, :, : -(-frames.shape[-1] // patch)] = True
        return out, is_audio.flatten(1).to(waveform.device)


class PretrainTrainer(Trainer):
    """Draws in sequence, AdamW with the method's groups, averages of everything measured since the last log.

    Args:
        optim: optimiser and momentum settings.
        max_bad_fraction: stop when more than this share of the draws had to be replaced.
        trainer_options: of `transformers.Trainer`.
    """

    def __init__(self, *, optim: OptimConfig, max_bad_fraction: float, **trainer_options: Any) -> None:
        self.optim, self.max_bad_fraction = optim, max_bad_fraction
        super().__init__(**trainer_options)
        self.sums: dict[str, Tensor] = {}
        self.num_measured = self.num_draws = 0
        self.log_time = time.perf_counter()
        self.bad: dict[str, str] = {}

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

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
        bad = inputs.pop("bad")
        inputs.pop("clip")
        self.num_draws += len(inputs["waveform"])
        self._note_bad(bad)
        outputs = model(**inputs)
        self.num_measured += 1
        for name, value in outputs.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        return outputs["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Replace the Trainer's own loss by the averages of all that was measured since the last log."""
        if self.num_measured:
            names = list(self.sums)
            means = torch.stack([self.sums[name].float() for name in names]) / self.num_measured
            means = self.accelerator.reduce(means, "mean")
            logs = {**logs, **dict(zip(names, means.tolist(), strict=True))}
            now = time.perf_counter()
            logs["momentum"] = momentum_at(self.state.global_step - 1, self.state.max_steps, self.optim)
            logs["clips_per_second"] = self.num_draws * self.args.world_size / max(1e-9, now - self.log_time)
            self.sums, self.num_measured, self.num_draws, self.log_time = {}, 0, 0, now
        super().log(logs, start_time)

    def _note_bad(self, bad: list[tuple[str, str]]) -> None:
        for name, reason in bad:
            if name not in self.bad:
                self.bad[name] = reason
                with open(Path(self.args.output_dir) / "bad_files.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps({"file": name, "reason": reason}) + "\n")
        num_clips = len(self.train_dataset.clips)
        if len(self.bad) > self.max_bad_fraction * num_clips:
            name, reason = next(iter(self.bad.items()))
            raise DataError(
                f"{len(self.bad)} of {num_clips} clips cannot be read, more than max_bad_fraction = "
                f"{self.max_bad_fraction:g} allows; the first: {name}: {reason}"
            )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            write_atomically(folder / COMPLETE, b"")


class TeacherUpdate(TrainerCallback):
    """Moves the teacher right after the optimiser, before anything is saved.

    Args:
        method: teacher and student.
        optim: the momentum's start and end.
    """

    def __init__(self, method: TeacherStudent, optim: OptimConfig) -> None:
        self.method, self.optim = method, optim

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Apply the momentum of this step."""
        self.method.update_teacher(momentum_at(state.global_step, state.max_steps, self.optim))


class MetricsFile(TrainerCallback):
    """Appends every log to metrics.jsonl; a resumed run first drops what came after its checkpoint."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Keep the lines up to the step that training starts from."""
        path = Path(args.output_dir) / METRICS_NAME
        if state.is_world_process_zero and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= state.global_step]
            write_atomically(path, "".join(kept).encode())

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Write one line."""
        if state.is_world_process_zero and logs and "loss_mask" in logs:
            with open(Path(args.output_dir) / METRICS_NAME, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Log at every checkpoint, so that a resumed run averages over the same steps as an unbroken one."""
        if control.should_save or state.global_step % args.save_steps == 0:
            control.should_log = True


class Progress(TrainerCallback):
    """A bar with the time left on a terminal; a line per log elsewhere."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.shown = state.is_world_process_zero
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("pre-training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[summary]}"),
            console=self.console,
            disable=not (self.shown and self.console.is_terminal),
        )
        self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step, summary="")
        self.bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Advance."""
        self.bar.update(self.task, completed=state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Show what matters: the loss, and whether the targets still vary."""
        if not (self.shown and logs and "loss_mask" in logs):
            return
        summary = (
            f"loss {logs['loss']:.3f}  target variance {logs['target_variance_tokens']:.3f}"
            f"  {logs['clips_per_second']:.1f} clips/s"
        )
        if self.console.is_terminal:
            self.bar.update(self.task, summary=summary)
        else:
            self.console.print(f"step {state.global_step}/{state.max_steps}  {summary}", highlight=False)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop the bar."""
        self.bar.stop()


def momentum_at(step: int, total: int, optim: OptimConfig) -> float:
    """Return the teacher's momentum for the update that follows optimiser step `step`, counted from 0."""
    return cosine_between(step, start=optim.momentum_start, end=optim.momentum_end, total=total)


def newest_checkpoint(out: str | os.PathLike[str]) -> Path | None:
    """Return the last complete checkpoint of a run folder; what a killed process left half-written is passed over."""
    folders = [path.parent for path in Path(out).glob(f"checkpoint-*/{COMPLETE}")]
    return max(folders, key=lambda path: int(path.name.rpartition("-")[2]), default=None)

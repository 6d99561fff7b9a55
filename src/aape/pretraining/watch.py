"""What a run measures and tells: averages, bad files, metrics.jsonl, the progress bar, the alarm of a collapse."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from aape.errors import DataError
from aape.runs.files import Records

METRICS_NAME = "metrics.jsonl"
BAD_NAME = "bad_files.jsonl"


class Measurements:
    """Sums of what was measured since the last log, kept on the device; what is not finite is left out."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.num_draws = 0
        self.since = time.perf_counter()

    def add(self, values: dict[str, Tensor]) -> None:
        """Add scalars (), each under its name."""
        for name, value in values.items():
            is_finite = torch.isfinite(value)
            value = torch.where(is_finite, value, 0.0).double() if value.device.type != "mps" else value.nan_to_num()
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + is_finite

    def averages(self, accelerator: Any, world_size: int) -> dict[str, float]:
        """Return the averages over all ranks, and clips per second, and start anew."""
        names = list(self.sums)
        totals = accelerator.reduce(torch.stack([self.sums[name] for name in names]), "sum")
        counts = accelerator.reduce(torch.stack([self.counts[name] for name in names]), "sum")
        means = (totals / counts.clamp(min=1)).tolist()
        now = time.perf_counter()
        rate = self.num_draws * world_size / max(1e-9, now - self.since)
        seen = counts.tolist()
        self.sums, self.counts, self.num_draws, self.since = {}, {}, 0, now
        averages = {name: mean if count else float("nan") for name, mean, count in zip(names, means, seen, strict=True)}
        return {**averages, "clips_per_second": rate}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs so that the next averages are those of an unbroken run."""
        return {
            "sums": {name: value.item() for name, value in self.sums.items()},
            "counts": {name: int(value) for name, value in self.counts.items()},
        }

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Take over the state of a checkpoint."""
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.sums = {name: torch.tensor(value, dtype=wide, device=device) for name, value in state["sums"].items()}
        self.counts = {name: torch.tensor(value, device=device) for name, value in state["counts"].items()}


class BadFiles:
    """The clips that cannot be read: each listed once, with its reason, over all ranks and restarts.

    Args:
        out: the run folder.
        num_clips: clips of the corpus.
        max_fraction: of them that may be bad.
    """

    def __init__(self, out: Path, num_clips: int, max_fraction: float) -> None:
        self.records = Records(out / BAD_NAME)
        self.num_clips, self.max_fraction = num_clips, max_fraction
        self.reasons: dict[str, str] = {}
        self.new: list[tuple[str, str]] = []

    def note(self, found: list[tuple[str, str]]) -> None:
        """Remember (name, reason) pairs until the next `gather`."""
        self.new += [item for item in found if item[0] not in self.reasons and item not in self.new]

    def gather(self, step: int, accelerator: Any) -> None:
        """Bring together what the ranks found, list what is new.

        Raises:
            DataError: more than `max_fraction` of the clips are bad.
        """
        from accelerate.utils import gather_object

        for name, reason in sorted(set(gather_object(self.new))):
            if name not in self.reasons:
                self.reasons[name] = reason
                if accelerator.is_main_process:
                    self.records.append(step, file=name, reason=reason)
        self.new = []
        if len(self.reasons) > self.max_fraction * self.num_clips:
            name, reason = next(iter(self.reasons.items()))
            raise DataError(
                f"{len(self.reasons)} of {self.num_clips} clips cannot be read, more than max_bad_fraction = "
                f"{self.max_fraction:g} allows; the first: {name}: {reason}; all are in {self.records.path}"
            )


class MetricsFile(TrainerCallback):
    """Appends every log to metrics.jsonl; a resumed run first drops what came after its checkpoint.

    Args:
        bad: cut back to the checkpoint likewise.
        skipped: likewise.
        steps_per_epoch: steps in which every clip is drawn once.
    """

    def __init__(self, bad: BadFiles, skipped: Records, steps_per_epoch: float) -> None:
        self.bad, self.skipped, self.steps_per_epoch = bad, skipped, steps_per_epoch

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Keep the lines up to the step that training starts from."""
        self.records = Records(os.path.join(args.output_dir, METRICS_NAME))
        self.bad.reasons = {
            record["file"]: record["reason"]
            for record in self.bad.records.read()
            if record["step"] <= state.global_step
        }
        if state.is_world_process_zero:
            for records in (self.records, self.bad.records, self.skipped):
                records.cut_after(state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Write one line."""
        if state.is_world_process_zero and logs and "loss_mask" in logs:
            self.records.append(state.global_step, **{**logs, "epoch": state.global_step / self.steps_per_epoch})


class CollapseAlarm(TrainerCallback):
    """Says so when targets or predictions stop telling tokens, or clips, apart; once for each.

    The targets of the first log are the measure: they come from an encoder that has hardly moved.
    """

    FALL = 0.1  # of the first value
    FLOOR = 1e-4
    ADVICE = (
        "the run may be collapsing: raise --optim.momentum-start (0.9998 where 0.994 collapsed), lower "
        "--optim.learning-rate, use more clips or a larger --loss.contrastive-weight, and look at the audio"
    )

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self.raised: dict[str, int] = {}

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Compare with the first log."""
        for name in ("target_variance_tokens", "target_variance_batch", "prediction_variance_tokens"):
            value = (logs or {}).get(name)
            if value is None or name in self.raised:
                continue
            first = self.first.setdefault(name, value)
            if value < max(self.FLOOR, self.FALL * first):
                self.raised[name] = state.global_step
                if state.is_world_process_zero:
                    print(f"step {state.global_step}: {name} is {value:.2g}, {self.ADVICE}", file=sys.stderr)


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

"""One training loop, for pre-training and fine-tuning. `Loop.train` is one step in view, from batch to checkpoint.

There is no DistributedDataParallel: ranks may have different numbers of batches in a step, so each sums up its weighted
gradients, and `sum_over_ranks` adds them up once per step.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from aape.errors import TrainingError
from aape.runs import checkpoints
from aape.runs.files import Records
from aape.runs.guards import BadFiles, Flags
from aape.runs.signals import StopSignal

METRICS_NAME, SKIPPED_NAME = "metrics.jsonl", "skipped_steps.jsonl"
MAX_SKIPPED = 5  # steps in a row


@dataclass
class StepPart:
    """What the forward pass of one batch of a step gives."""

    loss: Tensor  # mean over the clips of the batch
    weight: float  # share of the step; the shares of all batches on all ranks add up to 1
    clips: Sequence[str]  # names of the clips, for the list of skipped steps
    measured: dict[str, Tensor] = field(default_factory=dict)  # scalars on the device, averaged until the next log


@dataclass
class Loop:
    """Trains `num_steps` steps, and keeps what docs/reliability.md promises."""

    accelerator: Accelerator  # device, ranks and trackers, as `start_ranks` makes it
    out: Path  # folder of metrics.jsonl, skipped_steps.jsonl and checkpoints
    forward: Callable[[int, Any], StepPart]  # called with the step and a batch
    optimizer: torch.optim.Optimizer  # as `adamw` builds it: fused; the learning rates of its groups are the peaks
    modules: Mapping[str, nn.Module]  # what checkpoints hold, by name: everything trained, and averages of it
    num_steps: int  # steps of the whole run, those before a resume included
    rate: Callable[[int], float]  # factor of the learning rates, a pure function of the step
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext  # context of every forward
    clip_grad: float = math.inf  # largest norm of the gradient
    # Called with the step and a scalar on the device, 1.0 if the step was skipped: teacher, average
    after_step: Callable[[int, Tensor], None] = lambda step, is_skipped: None
    log_every: int = 50  # steps between logs; the last step is logged too
    # Called with the number of steps done and the averages, to which it may add
    on_log: Callable[[int, dict[str, float]], None] = lambda step, values: None
    every: Sequence[tuple[int, Callable[[int], None]]] = ()  # (n, function): called every n steps with those done
    save_every: int = 5000  # steps between checkpoints; the last step is saved too
    keep_last: int = 2  # number of newest checkpoints that stay
    keep_every: int = 0  # checkpoints of every so many steps stay as well; 0 for none
    bad_files: BadFiles = field(default_factory=lambda: BadFiles(1, math.inf))  # of all ranks; no limit by default
    progress: Callable[[int], None] = lambda step: None  # called with the number of steps done
    stop: StopSignal = field(default_factory=StopSignal)  # shared by loops that follow each other
    extra: dict[str, Any] = field(default_factory=dict)  # JSON values that the caller adds to the checkpoint

    def __post_init__(self) -> None:
        self.step = self.num_skipped_in_row = 0
        self.is_stopping = False
        self.peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.flags = Flags(self.accelerator.device, self.accelerator.num_processes)
        self.measured = Measurements()
        self.records, self.skipped = Records(self.out / METRICS_NAME), Records(self.out / SKIPPED_NAME)

    def train(self, batches: Iterable[Iterable[Any]]) -> bool:
        """Train to the last step, or until SIGTERM or SIGHUP; returns whether the last step was reached.

        `batches` yields, from `self.step` on, this rank's batches of each step: one, several (accumulation, groups of
        clips of one length), or none.

        Raises:
            TrainingError: loss or gradient were not finite in several steps in a row.
            DataError: too many clips cannot be read.
            CheckpointError: a checkpoint cannot be written.
        """
        num_ranks = self.accelerator.num_processes
        parameters = [p for module in self.modules.values() for p in module.parameters() if p.requires_grad]
        optimizer: Any = self.optimizer
        with self.stop.caught():
            for step, batches_of_step in zip(range(self.step, self.num_steps), batches, strict=False):
                for group, peak in zip(optimizer.param_groups, self.peaks, strict=True):
                    group["lr"] = peak * self.rate(step)
                is_nonfinite = torch.zeros((), dtype=torch.bool, device=self.accelerator.device)
                clips: list[str] = []
                for batch in batches_of_step:
                    with self.autocast():
                        part = self.forward(step, batch)
                    (part.weight * part.loss).backward()
                    is_nonfinite |= ~torch.isfinite(part.loss.detach())
                    self.measured.add(part.measured, part.weight, num_clips=len(part.clips))
                    clips += part.clips
                sum_over_ranks(parameters, num_ranks)
                norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip_grad).detach()
                self.measured.add({"grad_norm": norm}, 1 / num_ranks)  # as above, the weights of all ranks add up to 1
                # A step that is not finite is left out on the device; the host reads the flag a step later
                is_nonfinite = is_nonfinite | ~torch.isfinite(norm)
                is_skipped = self.flags.post(is_nonfinite, self.stop.is_set, about=(step, clips))
                optimizer.found_inf = is_skipped  # GradScaler's hook: at 1.0, fused AdamW changes nothing
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                self.after_step(step, is_skipped)
                self.step = step + 1
                self._periodic()
                if self.is_stopping:
                    break
        return self.step == self.num_steps

    def _periodic(self) -> None:
        """Log, call what is due, save; whichever of them meet in a step, and whether the run is to stop."""
        is_last = self.step == self.num_steps
        is_logged, is_saved = is_last or self.step % self.log_every == 0, is_last or self.step % self.save_every == 0
        due = [function for every, function in self.every if self.step % every == 0]
        self.read_flags(lag=0 if is_logged or is_saved or due else 1)
        if is_logged:
            self.log()
        with self.measured.paused():
            for function in due:
                function(self.step)
            if is_saved or self.is_stopping:
                self.save()
        self.progress(self.step)

    def read_flags(self, *, lag: int = 0) -> None:
        """Act on the flags of all steps but the last `lag`; the same on all ranks."""
        for is_skipped, is_stop, (step, clips) in self.flags.read(lag=lag):
            self.is_stopping |= is_stop  # it stays set, whoever has read the flag
            self.num_skipped_in_row = self.num_skipped_in_row + 1 if is_skipped else 0
            if is_skipped:
                self.skipped.append(step + 1, rank=self.accelerator.process_index, clips=clips)
            if self.num_skipped_in_row >= min(MAX_SKIPPED, self.num_steps):
                steps = f"{self.num_skipped_in_row} steps in a row"
                raise TrainingError(
                    f"{self.out}: loss or gradient was not finite {steps}, up to step {step + 1}; "
                    f"the weights are those of before, the clips are in {SKIPPED_NAME}: lower "
                    "--optim.learning-rate, or use --optim.precision float32, and go on with --resume"
                )

    def log(self) -> None:
        """Write the averages since the last log to metrics.jsonl and the trackers."""
        self.bad_files.gather(self.step, self.accelerator)
        values = self.measured.averages(self.accelerator)
        values["learning_rate"] = max(self.peaks) * self.rate(self.step - 1)
        with self.measured.paused():
            self.on_log(self.step, values)
            if self.accelerator.is_main_process:
                self.records.append(self.step, **values)
            self.accelerator.log(values, step=self.step)

    def save(self) -> None:
        """Write a checkpoint aside, flush it, and name it; an error leaves the last good one and says what to do.

        It holds modules, the optimiser's moments, `extra`, random states, and what was measured since the last log.
        """
        self.read_flags()
        self.bad_files.gather(self.step, self.accelerator)
        is_main, rank = self.accelerator.is_main_process, self.accelerator.process_index
        staging = self.out / checkpoints.STAGING_NAME / f"checkpoint-{self.step}"
        tensors = self._tensors()
        try:
            staging.mkdir(parents=True, exist_ok=True)
            checkpoints.write_tensors(staging / f"rank-{rank}.safetensors", self._rank_tensors())
            if is_main:
                checkpoints.write_tensors(staging / checkpoints.TENSORS_NAME, tensors)
                state = {"step": self.step, "num_skipped_in_row": self.num_skipped_in_row, "extra": self.extra}
                (staging / checkpoints.STATE_NAME).write_text(json.dumps(state), encoding="utf-8")
            self.accelerator.wait_for_everyone()
            if is_main:
                checkpoints.publish(staging, self.out / staging.name)
                checkpoints.prune(self.out, keep_last=max(2, self.keep_last), keep_every=self.keep_every)
        except Exception as error:  # OSError and SafetensorError: each writer has its own
            shutil.rmtree(staging, ignore_errors=True)
            with contextlib.suppress(OSError):
                staging.parent.rmdir()
            size = sum(tensor.nbytes for tensor in tensors.values())
            raise checkpoints.save_failed(self.out, self.step, size, error.__cause__ or error) from error
        self.accelerator.wait_for_everyone()

    def resume(self, checkpoint: Path | None) -> None:
        """Go on from a checkpoint, or begin; records of later steps are dropped, and all ranks get the same weights."""
        self.out.mkdir(parents=True, exist_ok=True)
        if checkpoint is not None:
            state, tensors, of_rank = checkpoints.read_checkpoint(checkpoint, self.accelerator.process_index)
            with checkpoints.checkpoint_errors(checkpoint):
                self.step, self.num_skipped_in_row = state["step"], state["num_skipped_in_row"]
                self.extra.clear()
                self.extra.update(state["extra"])
                self._load_tensors(tensors)
                if of_rank is not None:  # this rank was there before
                    self._load_rank_tensors(of_rank)
        self.bad_files.restore(self.step)
        if self.accelerator.is_main_process:
            for records in (self.records, self.skipped, self.bad_files.records):
                if records is not None:
                    records.cut_after(self.step)
        if self.accelerator.num_processes > 1:
            for module in self.modules.values():
                for tensor in module.state_dict().values():
                    torch.distributed.broadcast(tensor, 0)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"{name}.{key}": t for name, m in self.modules.items() for key, t in m.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
        return tensors

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(_section(tensors, name))
        moments = _section(tensors, "optimizer")
        indices = sorted({int(name.partition(".")[0]) for name in moments})
        state = {index: _section(moments, str(index)) for index in indices}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def _rank_tensors(self) -> dict[str, Tensor]:
        """What differs from rank to rank: random states, and sums that were not logged yet."""
        states = {"random.cpu": torch.get_rng_state()}
        if (kind := self.accelerator.device.type) != "cpu":
            states[f"random.{kind}"] = getattr(torch, kind).get_rng_state()
        return states | self.measured.state()

    def _load_rank_tensors(self, tensors: dict[str, Tensor]) -> None:
        states, kind = _section(tensors, "random"), self.accelerator.device.type
        torch.set_rng_state(states["cpu"])
        if kind != "cpu" and kind in states:
            getattr(torch, kind).set_rng_state(states[kind])
        self.measured.load(tensors, self.accelerator.device)


class Measurements:
    """Weighted sums of what was measured since the last log, kept on the device; what is not finite is left out."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        self.num_clips = 0
        self.since = time.perf_counter()

    def add(self, values: Mapping[str, Tensor], weight: float = 1.0, *, num_clips: int = 0) -> None:
        """Add scalars (), each under its name."""
        self.num_clips += num_clips
        for name, value in values.items():
            is_finite = torch.isfinite(value)
            value = torch.where(is_finite, value, 0.0).to(_wide(value.device))
            self.sums[name] = self.sums.get(name, 0.0) + weight * value
            self.weights[name] = self.weights.get(name, 0.0) + weight * is_finite.to(value.dtype)

    def averages(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the averages over all ranks, and clips per second, and start anew."""
        # A rank without a clip since the last log knows no names; all have to reduce the same
        names = sorted(set(gather_object(list(self.sums))))
        none = torch.zeros((), dtype=_wide(accelerator.device), device=accelerator.device)
        held = [self.sums.get(name, none) for name in names] + [self.weights.get(name, none) for name in names]
        held.append(none + self.num_clips)
        *totals, num_clips = accelerator.reduce(torch.stack(held), "sum").tolist()
        pairs = zip(totals[: len(names)], totals[len(names) :], strict=True)
        means = [total / weight if weight else math.nan for total, weight in pairs]
        rate = num_clips / max(1e-9, time.perf_counter() - self.since)
        self.__init__()  # type: ignore[misc]
        return {**dict(zip(names, means, strict=True)), "clips_per_second": rate}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep what happens within out of the rate: evaluations, checkpoints."""
        started = time.perf_counter()
        yield
        self.since += time.perf_counter() - started

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint needs so that the next averages are those of an unbroken run."""
        return {f"{kind}.{k}": v for kind in ("sums", "weights") for k, v in getattr(self, kind).items()}

    def load(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over the state of a checkpoint."""
        self.sums = {name: value.to(device) for name, value in _section(state, "sums").items()}
        self.weights = {name: value.to(device) for name, value in _section(state, "weights").items()}


def sum_over_ranks(parameters: Sequence[nn.Parameter], num_ranks: int) -> None:
    """Add up the gradients of all ranks, one collective per data type; a rank without a clip adds zeros."""
    if num_ranks == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        by_dtype.setdefault(parameter.dtype, []).append(parameter.grad)
    for grads in by_dtype.values():
        flat = torch.cat([grad.flatten() for grad in grads])
        torch.distributed.all_reduce(flat)
        for grad, total in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(total.view_as(grad))


def _section(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors called `name.*`, without that prefix."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64

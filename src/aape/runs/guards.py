"""What keeps a long run safe: flags read without waiting, bad files, and the alarm of a collapse."""

from __future__ import annotations

import functools
import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aape.errors import AudioWarning, DataError, one_line
from aape.runs.files import Records
from aape.runs.signals import follow_parent

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

    from accelerate import Accelerator


class Flags:
    """Two flags a step, the same on all ranks: leave this step out; stop the run."""

    def __init__(self, device: torch.device, num_ranks: int) -> None:
        self.device, self.num_ranks = device, num_ranks
        self.pending: list[tuple[Tensor, Any, Any]] = []

    def post(self, is_nonfinite: Tensor, is_stop: bool, about: Any) -> Tensor:
        """Note this rank's flags of a step, and `about`, which comes back with them.

        Returns:
            1.0 or 0.0 (), on the device: whether the step is left out, as one of any rank is not finite.
        """
        # Filled on the device: copying a number there would wait for all that is queued
        stop = torch.full((), float(is_stop), device=self.device)
        flags = torch.stack([is_nonfinite.reshape(()).float(), stop])
        if self.num_ranks > 1:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        host, event = flags, None
        if self.device.type == "cuda":
            host = torch.empty(2, pin_memory=True).copy_(flags, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self.pending.append((host, event, about))
        return flags[0]

    def read(self, *, lag: int) -> Iterator[tuple[bool, bool, Any]]:
        """Yield the flags of all steps but the last `lag`, each once, with what they are about."""
        while len(self.pending) > lag:
            host, event, about = self.pending.pop(0)
            if event is not None:
                event.synchronize()
            is_skipped, is_stop = (value > 0 for value in host.tolist())
            yield is_skipped, is_stop, about


def worker_start(num_workers: int) -> Callable[[int], None] | None:
    """Return what data workers begin with: they end with their parent, and warn of sound once, not of every crop."""
    return functools.partial(_start_worker, has_warned=_has_warned()) if num_workers else None


@functools.cache
def _has_warned() -> Synchronized[int]:
    """Return a flag that all data workers of this process share."""
    return multiprocessing.Value("b", False)


def _start_worker(worker: int, has_warned: Synchronized[int]) -> None:
    follow_parent(worker)
    show = warnings.showwarning

    def show_first(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if not issubclass(category, AudioWarning):
            show(message, category, *where)
            return
        with has_warned.get_lock():
            if not has_warned.value:
                has_warned.value = True
                print(f"warning: {message} (`aape data check` lists all such files)", file=sys.stderr)

    warnings.showwarning = show_first  # type: ignore[assignment]


class BadFiles:
    """The clips that cannot be read: more than `max_fraction` of the corpus end the run.

    Each is listed once in `records`, over all ranks and restarts, if there are any.
    """

    MAX_PRINTED = 20

    def __init__(self, num_clips: int, max_fraction: float, records: Records | None = None) -> None:
        self.num_clips, self.max_fraction, self.records = num_clips, max_fraction, records
        self.reasons: dict[str, str] = {}  # why each file cannot be read, by its name
        self._noted: list[tuple[str, str]] = []
        self._num_printed = 0

    def add(self, bad: Iterable[tuple[str, str]]) -> None:
        """Remember (name, reason) pairs; DataError if more than `max_fraction` of the clips are bad."""
        for name, reason in bad:
            self.reasons.setdefault(name, reason)
        if len(self.reasons) > self.max_fraction * self.num_clips:
            name, reason = next(iter(self.reasons.items()))
            where = f"; all are in {self.records.path}" if self.records is not None else ""
            raise DataError(
                f"{len(self.reasons)} of {self.num_clips} clips cannot be read, more than max_bad_fraction = "
                f"{self.max_fraction:g} allows; the first: {name}: {reason}{where}"
            )

    def note(self, bad: Iterable[tuple[str, str]]) -> None:
        """Keep this rank's (name, reason) pairs until the next `gather`."""
        self._noted += [item for item in bad if item[0] not in self.reasons and item not in self._noted]

    def gather(self, step: int, accelerator: Accelerator) -> None:
        """Bring together what the ranks noted, list what is new, and `add` it."""
        from accelerate.utils import gather_object

        noted = {name: reason for name, reason in sorted(gather_object(self._noted)) if name not in self.reasons}
        self._noted = []
        if self.records is not None and accelerator.is_main_process:
            for name, reason in noted.items():
                self.records.append(step, file=name, reason=reason)
        self.add(noted.items())

    def restore(self, step: int) -> None:
        """Take over what was listed up to a step."""
        listed = self.records.read() if self.records is not None else []
        self.reasons |= {record["file"]: record["reason"] for record in listed if record["step"] <= step}

    def print_new(self) -> None:
        """Print a line on standard error for each one that is new, and after `MAX_PRINTED` lines a count."""
        new = list(self.reasons.items())[self._num_printed :]
        num_lines = max(0, self.MAX_PRINTED - self._num_printed)
        for name, reason in new[:num_lines]:
            print(f"left out: {one_line(name)}: {reason}", file=sys.stderr)
        if len(new) > num_lines:
            print(f"left out: and {len(new) - num_lines} more", file=sys.stderr)
        self._num_printed = len(self.reasons)

    def as_dicts(self) -> list[dict[str, str]]:
        """Return file and reason of each, for a JSON file."""
        return [{"file": name, "reason": reason} for name, reason in self.reasons.items()]


class CollapseAlarm:
    """Says so when targets or predictions stop telling tokens, or clips, apart; once for each.

    Each variance is compared with that of the first log, when the encoder has hardly moved. Batches of one clip have no
    variance over clips.
    """

    FALL, FLOOR = 0.1, 1e-4  # alarm below this share of the first value, or below this value
    ADVICE = (
        "the run may be collapsing: raise --optim.momentum-start (0.9998 where 0.994 collapsed), lower "
        "--optim.learning-rate, use more clips or a larger --loss.contrastive-weight, and look at the audio"
    )

    def __init__(self, clips_per_batch: int) -> None:
        self.names = ["target_variance_tokens", "prediction_variance_tokens"]
        if clips_per_batch > 1:
            self.names.append("target_variance_batch")
        self.first: dict[str, float] = {}
        self.raised: dict[str, int] = {}  # the step of each alarm, by the name of its variance

    def check(self, step: int, values: Mapping[str, float], *, is_main: bool = True) -> list[str]:
        """Compare a log's values with those of the first; returns what is new, and the main rank prints it."""
        new = []
        for name in self.names:
            if name not in values or name in self.raised:
                continue
            first = self.first.setdefault(name, values[name])
            if values[name] < max(self.FLOOR, self.FALL * first):
                self.raised[name] = step
                new.append(f"step {step}: {name} is {values[name]:.2g}")
        if is_main:
            for text in new:
                print(f"{text}, {self.ADVICE}", file=sys.stderr)
        return new

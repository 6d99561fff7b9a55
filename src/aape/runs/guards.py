"""What keeps a long run safe: flags that are raised on the device and read without waiting, SIGTERM, and bad files."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from aape.errors import DataError, one_line


class Flags:
    """Two flags a step, the same on all ranks: leave this step out; stop the run.

    Args:
        device: where the steps are computed.
        world_size: number of ranks; the flags of one are those of all.
    """

    def __init__(self, device: torch.device, world_size: int) -> None:
        self.device, self.world_size = device, world_size
        self.pending: list[tuple[Tensor, Any, Any]] = []

    def raise_(self, is_skipped: Tensor, is_stop: bool, about: Any) -> Tensor:
        """Note the flags of a step.

        Args:
            is_skipped: scalar on the device, true where loss or gradient is not finite.
            is_stop: whether this rank was asked to stop.
            about: comes back with the flags.

        Returns:
            1.0 or 0.0 (), on the device: whether any rank wants the step left out.
        """
        flags = torch.stack([is_skipped.reshape(()).float(), torch.tensor(float(is_stop), device=self.device)])
        if self.world_size > 1:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        if self.device.type == "cuda":
            host = torch.empty(2, pin_memory=True).copy_(flags, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self.pending.append((host, event, about))
        else:
            self.pending.append((flags, None, about))
        return flags[0]

    def read(self, *, leave: int) -> Iterator[tuple[bool, bool, Any]]:
        """Yield the flags noted so far but for the last `leave`, each once, with what they are about."""
        while len(self.pending) > leave:
            host, event, about = self.pending.pop(0)
            if event is not None:
                event.synchronize()
            is_skipped, is_stop = (value > 0 for value in host.tolist())
            yield is_skipped, is_stop, about


class StopSignal:
    """SIGTERM while training: set, and left to the run to obey. A second one ends the process as ever."""

    def __init__(self) -> None:
        self.is_set = self.is_obeyed = False

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Catch the signal; where that is not possible, outside the main thread, do nothing."""
        try:
            before = signal.signal(signal.SIGTERM, self._set)
        except ValueError:
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _set(self, number: int, frame: Any) -> None:
        self.is_set = True
        signal.signal(number, signal.SIG_DFL)


def ignore_sigterm(worker: int) -> None:
    """Let a data worker outlive a SIGTERM to the whole process group: the main process still needs batches to stop."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class BadFiles:
    """The clips that cannot be read: each is told once, and too many of them end the run.

    Args:
        num_clips: clips of the corpus.
        max_fraction: of them that may be bad.
    """

    MOST_TOLD = 20

    def __init__(self, num_clips: int, max_fraction: float) -> None:
        self.num_clips, self.max_fraction = num_clips, max_fraction
        self.reasons: dict[str, str] = {}  # by name
        self._num_told = 0

    def add(self, bad: Iterable[tuple[str, str]]) -> None:
        """Remember (name, reason) pairs.

        Raises:
            DataError: more than `max_fraction` of the clips are bad.
        """
        for name, reason in bad:
            self.reasons.setdefault(name, reason)
        if len(self.reasons) > self.max_fraction * self.num_clips:
            name, reason = next(iter(self.reasons.items()))
            raise DataError(
                f"{len(self.reasons)} of {self.num_clips} clips cannot be read, more than max_bad_fraction = "
                f"{self.max_fraction:g} allows; the first: {name}: {reason}"
            )

    def tell(self) -> None:
        """Print a line on standard error for each that was not told yet, and a count where there are many."""
        untold = list(self.reasons.items())[self._num_told :]
        most = max(0, self.MOST_TOLD - self._num_told)
        for name, reason in untold[:most]:
            print(f"left out: {one_line(name)}: {reason}", file=sys.stderr)
        if len(untold) > most:
            print(f"left out: and {len(untold) - most} more", file=sys.stderr)
        self._num_told = len(self.reasons)

    def as_dicts(self) -> list[dict[str, str]]:
        """Return them for a JSON file."""
        return [{"file": name, "reason": reason} for name, reason in self.reasons.items()]

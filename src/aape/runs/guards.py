"""What keeps a long run safe: flags that are raised on the device and read without waiting, and SIGTERM."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


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

"""SIGTERM, SIGHUP and Ctrl-C: a verb ends at once, a training after a checkpoint, workers with their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

# Windows has no SIGHUP, and whoever starts a process may have it ignore any of them, as nohup does.
TERMINATING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
SECONDS_TO_END = 10.0
SECONDS_OF_ECHO = 5.0  # a scheduler signals every process, and a queue or torchrun passes it on once more


class Stopped(SystemExit):
    """A signal asked this process to end; the exit status is a shell's, 128 + the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class StopSignal:
    """SIGTERM or SIGHUP while training: set, and left to the run to obey. A later one ends the process as ever."""

    def __init__(self) -> None:
        self.is_set = False
        self.since: float | None = None
        self.number: int = signal.SIGTERM  # of ranks that got none themselves, too

    def exit(self) -> NoReturn:
        """End the process after the run has stopped."""
        raise Stopped(self.number)

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Catch the signals; where that is not possible, outside the main thread, do nothing."""
        with handled(TERMINATING, self._set):
            yield

    def _set(self, number: int, frame: Any) -> None:
        if self.since is None:
            self.is_set, self.number, self.since = True, number, time.monotonic()
        else:
            _end_if_late(self.since, number)


def _end_if_late(since: float, number: int) -> None:
    """End the process as ever after a signal that is no echo of the first one, which came at `since`."""
    if time.monotonic() - since > SECONDS_OF_ECHO:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


@contextlib.contextmanager
def handled(numbers: tuple[int, ...], handler: Callable[[int, Any], object]) -> Iterator[None]:
    """Have a function called for signals, but for those that this process was started to ignore."""
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: known for number, known in before.items() if known not in (signal.SIG_IGN, None)}
    if threading.current_thread() is not threading.main_thread():
        before = {}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


@contextlib.contextmanager
def raising(at_first: Callable[[int], object] = lambda number: None) -> Iterator[None]:
    """Raise `Stopped` where the first signal finds the program, Ctrl-C's too; a later one ends the process as ever."""
    times: list[float] = []
    numbers: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if times:
            _end_if_late(times[0], number)
            return
        times.append(time.monotonic())
        numbers.append(number)
        at_first(number)
        raise Stopped(number)

    with handled((signal.SIGINT, *TERMINATING), stop):
        try:
            yield
        except Exception:  # what Python makes of `Stopped` in some places, as in the definition of a class
            if numbers:
                raise Stopped(numbers[0]) from None
            raise
        if numbers:  # a library has swallowed it
            raise Stopped(numbers[0])


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let signals end the program as `raising` does: what is half-written is removed on the way out.

    Worker processes are killed first, as their parent would wait for them. A library that swallows the exception, as
    callbacks from C do, delays the end by `SECONDS_TO_END`.
    """
    timers: list[threading.Timer] = []
    before = threading.excepthook

    def end(number: int) -> None:
        threading.excepthook = lambda args: None  # a pool's thread may stumble over its killed workers
        kill_workers()
        timers.append(threading.Timer(SECONDS_TO_END, os._exit, (128 + number,)))
        timers[0].daemon = True
        timers[0].start()

    try:
        with raising(end):
            yield
    finally:
        threading.excepthook = before
        for timer in timers:
            timer.cancel()


def kill_workers() -> None:
    """Kill the worker processes of pools and loaders."""
    if hasattr(signal, "SIGCHLD"):  # torch's handler would take it for an accident
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        child.kill()


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Start workers here: they never see a signal to the whole process group, which is for their parent to act on.

    It does so when they have been started. Windows has no such mask, and no such groups either.
    """
    numbers, pending = (signal.SIGINT, *TERMINATING), list[int]()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers) if hasattr(signal, "pthread_sigmask") else None
    try:
        # The mask is this thread's: a library's thread may take a signal and leave the handler to this one
        with handled(numbers, lambda number, frame: pending.append(number)):
            yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number in pending:
            signal.raise_signal(number)


def follow_parent(worker: int = 0) -> None:
    """End this worker process when its parent has been killed; else it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""Clips to segments, in processes that read ahead of the model.

Clip r is read by worker r mod N, and the segments are taken in the order of clips: so what comes out does not depend on
N. A worker imports no torch, holds a few segments and waits in its pipe when they are not taken yet. There is no other
link to it, so shared memory is not needed, and when the pipe breaks, whoever is left ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from queue import Queue, SimpleQueue
from typing import IO, Any, NoReturn

from aape.data.clips import Clip, stream_clip
from aape.errors import MAX_WORKERS, AapeError, ConfigError
from aape.inference.segments import Cut, End, Segment, segments
from aape.runs.signals import held

CLIPS_AHEAD = 8  # of the one that is being taken, for each worker
ITEMS_AHEAD = 16  # segments and ends that a worker holds

_PROGRAM = "import sys; sys.path[:] = {}; from aape.inference.reading import work; work()"
# With threads of their own, many workers could be more than a machine allows.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def read_clips(clips: Iterable[Clip], cut: Cut, loop_to: int = 0, *, num_workers: int = 0) -> Iterator[Segment | End]:
    """Read and cut clips one after the other; rows count them.

    Args:
        clips: pulled while they are read, with workers up to 8 for each ahead.
        cut: where to cut.
        loop_to: samples that shorter clips are looped to.
        num_workers: processes that read; 0: this one does.

    Raises:
        AapeError: a worker could not be started, or has died.
        ConfigError: no such number of workers.
    """
    if isinstance(num_workers, bool) or not isinstance(num_workers, int) or not 0 <= num_workers <= MAX_WORKERS:
        raise ConfigError(f"workers must be 0 to {MAX_WORKERS}, got {num_workers!r}")
    if num_workers == 0:
        for row, clip in enumerate(clips):
            yield from _read_clip(row, clip, cut, loop_to)
        return
    workers: list[_Worker] = []
    pending: deque[tuple[_Worker, Clip]] = deque()
    with ExitStack() as stack:
        for row, clip in enumerate(clips):
            if row < num_workers:
                workers.append(_Worker(cut, loop_to))
                stack.callback(workers[row].close)
            worker = workers[row % num_workers]
            worker.send((row, clip))
            pending.append((worker, clip))
            if len(pending) == CLIPS_AHEAD * num_workers:
                yield from _Worker.items(*pending.popleft())
        while pending:
            yield from _Worker.items(*pending.popleft())


def _read_clip(row: int, clip: Clip, cut: Cut, loop_to: int) -> Iterator[Segment | End]:
    return segments(row, stream_clip(clip, sample_rate=cut.rate), cut, loop_to)


class _Worker:
    """A process that reads, as this one sees it."""

    def __init__(self, *settings: Any) -> None:
        command = [sys.executable, "-c", _PROGRAM.format(ascii([*map(str, sys.path)]))]
        environment = {**os.environ, **_ONE_THREAD}
        try:
            with held():
                self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        except OSError as error:
            raise AapeError(f"a worker could not be started ({error.strerror}): take fewer workers") from error
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.tasks, self.results = self.process.stdin, self.process.stdout
        self.send(settings)

    def send(self, task: object) -> None:
        """Send a task; that the worker is dead shows when its result is taken."""
        with suppress(BrokenPipeError):
            pickle.dump(task, self.tasks)
            self.tasks.flush()

    def items(self, clip: Clip) -> Iterator[Segment | End]:
        """Take what was read of the next clip; its warnings become those of this process."""
        item: Any = None
        while not isinstance(item, End):
            try:
                item = pickle.load(self.results)
            except (EOFError, pickle.UnpicklingError):
                self._raise_death(clip)
            if isinstance(item, Warning):
                warnings.warn(item, stacklevel=2)
            elif isinstance(item, Exception):
                raise item
            else:
                yield item

    def _raise_death(self, clip: Clip) -> NoReturn:
        status = self.process.wait()
        how = signal.strsignal(-status) if status < 0 else f"status {status}"
        rule = "start again, with fewer workers if memory is short"
        raise AapeError(f"a worker that reads has died ({how}), at {clip.name} or soon after: {rule}")

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self.results.close()
        with suppress(BrokenPipeError):
            self.tasks.close()


def work() -> None:
    """Be a worker: read the clips that come through the standard input, until that ends."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where a library may print
    tasks: SimpleQueue[Any] = SimpleQueue()
    items: Queue[Any] = Queue(ITEMS_AHEAD)
    for function in (lambda: tasks.put(pickle.load(sys.stdin.buffer)), lambda: _write(items.get(), output)):
        threading.Thread(target=_for_ever, args=(function,), daemon=True).start()
    cut, loop_to = tasks.get()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # which of them are shown, the parent decides
        while True:
            row, clip = tasks.get()
            try:
                for item in _read_clip(row, clip, cut, loop_to):
                    for warning in caught:
                        items.put(warning.message)
                    caught.clear()
                    items.put(item)
            except Exception as error:
                items.put(error)


def _for_ever(function: Any) -> None:
    """Call a function until that fails, which it does when the parent has ended, and end this process."""
    try:
        while True:
            function()
    finally:
        os._exit(1)


def _write(item: object, output: IO[bytes]) -> None:
    pickle.dump(item, output, protocol=pickle.HIGHEST_PROTOCOL)
    output.flush()

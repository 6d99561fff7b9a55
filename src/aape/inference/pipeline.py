"""Segments to results: in batches of equal lengths, in parallel, and back in order.

What shares a batch depends on the segments alone, and on a CPU one thread computes it: so the bytes of a result do not
depend on how many threads there are.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier, Lock
from typing import TypeAlias, TypeVar

import numpy as np
import torch

from aape.inference.segments import End, Segment

MAX_WAITING_FRAMES = 1 << 16  # of segments held back until a batch of their length is full: 42 MB
MAX_OVERTAKEN = 1 << 9  # segments that may pass one that waits for others of its length

_NO_SAMPLES = np.empty(0, np.float32)
_LOCK = Lock()

ResultT = TypeVar("ResultT")
Numbered: TypeAlias = tuple[int, Segment]
Group: TypeAlias = list[Numbered] | tuple[int, End]
Compute: TypeAlias = Callable[[list[Segment]], Iterable[ResultT]]


def encode(
    stream: Iterable[Segment | End],
    compute: Compute[ResultT],
    *,
    batch_size: Callable[[int], int],
    device: torch.device,
    is_repeatable: bool = False,
) -> Iterator[tuple[Segment, ResultT] | End]:
    """Compute a result for every segment of a stream, in its order.

    Args:
        stream: segments and ends of recordings.
        compute: gets segments of equal length, in other threads, and returns a result for each.
        batch_size: the most in a batch, by the number of frames.
        device: which `compute` uses.
        is_repeatable: bytes do not depend on the number of threads even where all fits in one batch, which is
            otherwise computed by all of them.
    """
    groups = _batches(stream, batch_size)
    if not is_repeatable:
        head = list(_until_second_batch(groups))
        groups = itertools.chain(head, groups)
        if sum(isinstance(group, list) for group in head) < 2:
            return _in_order(_inline(groups, compute))
    return _in_order(_in_threads(groups, compute, device))


def _batches(stream: Iterable[Segment | End], batch_size: Callable[[int], int]) -> Iterator[Group]:
    """Group segments by their number of frames, in full batches as far as memory allows; ends go their way alone."""
    waiting: dict[int, list[Numbered]] = {}
    num_frames = 0
    for number, item in enumerate(stream):
        if isinstance(item, End):
            yield number, item
            if item.closes:
                yield from (waiting[length] for length in sorted(waiting))
                waiting, num_frames = {}, 0
            continue
        length = item.padded
        waiting.setdefault(length, []).append((number, item))
        num_frames += length
        oldest = min(waiting, key=lambda key: waiting[key][0][0])
        if num_frames > MAX_WAITING_FRAMES:
            length = max(waiting, key=lambda key: key * len(waiting[key]))
        elif number - waiting[oldest][0][0] > MAX_OVERTAKEN:
            length = oldest
        elif len(waiting[length]) < batch_size(length):
            continue
        batch = waiting.pop(length)
        num_frames -= length * len(batch)
        yield batch
    yield from (waiting[length] for length in sorted(waiting))


def _until_second_batch(groups: Iterator[Group]) -> Iterator[Group]:
    num_batches = 0
    for group in groups:
        yield group
        num_batches += isinstance(group, list)
        if num_batches == 2:
            return


def _finish(batch: list[Numbered], results: Iterable[ResultT]) -> Iterator[tuple[int, tuple[Segment, ResultT]]]:
    for (number, segment), result in zip(batch, results, strict=True):
        yield number, (segment._replace(samples=_NO_SAMPLES), result)


def _inline(groups: Iterable[Group], compute: Compute[ResultT]) -> Iterator[tuple[int, tuple[Segment, ResultT] | End]]:
    for group in groups:
        if isinstance(group, tuple):
            yield group
        else:
            yield from _finish(group, compute([segment for _, segment in group]))


def _in_threads(
    groups: Iterable[Group], compute: Compute[ResultT], device: torch.device
) -> Iterator[tuple[int, tuple[Segment, ResultT] | End]]:
    """Compute batches ahead, while the stream is being read: one in each thread of a CPU, one by one elsewhere."""
    num_threads = torch.get_num_threads() if device.type == "cpu" else 1
    pool = _threads(num_threads)
    ahead: deque[tuple[list[Numbered], Future[Iterable[ResultT]]]] = deque()
    try:
        for group in groups:
            if isinstance(group, tuple):
                yield group
                continue
            ahead.append((group, pool.submit(compute, [segment for _, segment in group])))
            if len(ahead) > 2 * num_threads:
                batch, future = ahead.popleft()
                yield from _finish(batch, future.result())
        while ahead:
            batch, future = ahead.popleft()
            yield from _finish(batch, future.result())
    finally:
        for _, future in ahead:
            future.cancel()


def _in_order(
    done: Iterable[tuple[int, tuple[Segment, ResultT] | End]],
) -> Iterator[tuple[Segment, ResultT] | End]:
    held: dict[int, tuple[Segment, ResultT] | End] = {}
    following = 0
    for number, item in done:
        held[number] = item
        while following in held:
            yield held.pop(following)
            following += 1


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Return threads that stay, in each of which torch computes without any others."""
    started = Barrier(count + 1, timeout=60)  # in case a thread cannot be started

    def start() -> None:
        torch.get_num_threads()  # takes torch's setting over, which it would otherwise do later
        torch.set_num_threads(1)
        started.wait()

    with _LOCK:
        num_threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(count, thread_name_prefix="aape", initializer=start)
        for _ in range(count):
            pool.submit(int)
        started.wait()
        torch.set_num_threads(num_threads)  # of this thread and those to come, which `start` has changed too
    return pool


def _forget_threads() -> None:
    """Start anew in a child process, which has no threads but one."""
    _LOCK.release()
    _threads.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_forget_threads)

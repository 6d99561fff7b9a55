"""Recordings cut into the pieces that are encoded in one pass.

A recording is read block by block and never held as a whole. A segment brings the samples that its frames see, so that
its log-mel is that of the whole recording. Nothing here needs torch: `reading` does this in small processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aape.errors import AudioError, ConfigError
from aape.models.config import FrontEndConfig

MAX_FRAMES = 1024  # what is encoded in one pass: 10.24 s
SEGMENT_FRAMES = 608  # what longer audio is cut into: 6.08 s, also the hop

FloatArray: TypeAlias = NDArray[np.floating]
Blocks: TypeAlias = Iterable[FloatArray]  # a recording, in consecutive blocks (samples,)


class Cut(NamedTuple):
    """How recordings are cut, in frames; see `cutting`."""

    hop_length: int  # of the front end, in samples
    reach: int  # samples that a frame sees on either side of its centre
    patch_size: int  # P
    rate: int  # samples per second
    window: int = SEGMENT_FRAMES
    hop: int = SEGMENT_FRAMES
    whole: int = MAX_FRAMES  # shorter recordings are not cut
    is_asked: bool = False  # by the user, who gets windows of the recording and not of its loop


class Segment(NamedTuple):
    """A piece of a recording that is encoded in one pass."""

    row: int  # of the recording
    start: float  # in the recording, in seconds
    end: float
    num_patches: int  # time patches that begin within the recording; the others are its loop's
    padded: int  # T, frames in whole patches
    samples: FloatArray  # that its frames see
    lead: int  # frames before the first, whose reflection at the cut is not the recording's
    num_frames: int


class End(NamedTuple):
    """The end of a recording, or why it cannot be read to its end."""

    row: int
    error: AudioError | None = None
    stop: float = 0.0  # its length in seconds
    closes: bool = False  # later recordings share no batch with this one and those before


def cutting(front_end: FrontEndConfig, patch_size: int, window: float | None = None, hop: float | None = None) -> Cut:
    """Return how recordings are cut.

    Args:
        front_end: the frames.
        patch_size: P.
        window: length in seconds; None: recordings of up to 1,024 frames whole, longer ones in 608 frames.
        hop: from the start of one window to that of the next, in seconds; None for the length of the window.

    Raises:
        ConfigError: a window shorter than a patch or longer than 1,024 frames, a hop of 0 or above the window, either
            no multiple of a frame, or a hop without a window.
    """
    rate, step = front_end.sample_rate, front_end.hop_length
    cut = Cut(step, front_end.n_fft // 2, patch_size, rate)
    if window is None:
        if hop is not None:
            raise ConfigError("hop: it is from window to window: give a window, too")
        return cut

    def frames(name: str, seconds: float, least: int, most: int) -> int:
        """Count the frames of a length."""
        bounds = f"{least * step / rate:g} to {most * step / rate:g} s"
        try:
            count = float(seconds) * rate / step
        except (OverflowError, TypeError, ValueError) as error:
            raise ConfigError(f"{name} must be {bounds}, got {seconds!r}") from error
        if not least - 1e-3 <= count <= most + 1e-3:  # also true of NaN
            raise ConfigError(f"{name} must be {bounds}, got {seconds:g}")
        if abs(count - round(count)) > 1e-3:  # 0.7 in float32 is one
            raise ConfigError(f"{name} must be a multiple of {step / rate:g} s, a frame, got {seconds:g}")
        return round(count)

    length = frames("window", window, patch_size, MAX_FRAMES)
    distance = length if hop is None else frames("hop", hop, 1, length)
    return cut._replace(window=length, hop=distance, whole=length, is_asked=True)


def loop(blocks: Blocks, count: int) -> tuple[Blocks, int | None]:
    """Loop a recording of fewer than `count` samples to that many; also returns how many it had, None if not looped."""
    source = iter(blocks)
    head: list[FloatArray] = []
    total = 0
    while total < count:
        block = next(source, None)
        if block is None:
            return ([np.resize(np.concatenate(head), count)], total) if total else ([], None)
        head.append(block)
        total += len(block)
    return itertools.chain(head, source), None


def segments(row: int, blocks: Blocks, cut: Cut, loop_to: int = 0) -> Iterator[Segment | End]:
    """Cut a recording while it is being read, holding no more of it than a segment and a block; the last is its end.

    Windows follow each other until one reaches the end; there the last is shorter. Of windows that the user asked for,
    one shorter than a patch is left out, unless it is the only one.

    Args:
        row: of the recording.
        blocks: its samples (samples,) at the front end's rate, in consecutive blocks of any size.
        cut: where to cut.
        loop_to: samples that shorter recordings are looped to.
    """
    stop = 0
    try:
        looped, length = loop(blocks, loop_to)
        stop = yield from _segments(row, looped, cut, length)
        error = None if stop else AudioError("recording", "no samples in it")
    except AudioError as reason:
        error = reason
    yield End(row, error, stop / cut.rate)


def _segments(row: int, blocks: Blocks, cut: Cut, length: int | None) -> Generator[Segment, None, int]:
    """Cut a recording, and return its number of samples; `length` is that number where its loop follows."""
    step = cut.hop_length
    held: FloatArray = np.zeros(0, np.float32)  # samples from `origin` on
    origin, first, is_long = 0, 0, False

    def segment(last: int) -> Segment:
        """Return the frames first..last with the samples that they see."""
        lead = _lead(first, cut)
        begin, end = (first - lead) * step - origin, (last - 1) * step + cut.reach + 1 - origin
        stop = origin + len(held) if length is None else length
        frames = min(last, 1 + stop // step) - first  # of the recording; negative where only its loop is left
        count = last - first
        padded = count + -count % cut.patch_size
        start, end_seconds = first * step / cut.rate, min(last * step, stop) / cut.rate
        num_patches = max(0, -(-frames // cut.patch_size))
        return Segment(row, start, end_seconds, num_patches, padded, held[begin:end].copy(), lead, count)

    def is_covered(num_samples: int) -> bool:
        """Say whether no window is left that begins at `first`, with so many samples read and to come."""
        stop = num_samples if length is None or not cut.is_asked else length
        before = first - cut.hop + cut.window  # the end of the last window
        is_short = cut.is_asked and stop - first * step < cut.patch_size * step
        return first > 0 and (before * step >= stop or is_short)

    for block in blocks:
        held = np.concatenate([held, block]) if held.size else block
        is_long = is_long or origin + len(held) > cut.whole * step
        while is_long and origin + len(held) > (first + cut.window - 1) * step + cut.reach:
            if cut.is_asked and length is not None and is_covered(length):
                return length
            yield segment(first + cut.window)
            first += cut.hop
        unused = (first - _lead(first, cut)) * step - origin
        held, origin = held[unused:], origin + unused
    total = origin + len(held)
    while total and not is_covered(total):
        yield segment(min(first + (cut.window if is_long else cut.whole), 1 + total // step))
        first += cut.hop if is_long else cut.whole
    return total if length is None else length


def _lead(first: int, cut: Cut) -> int:
    """Count the frames before `first` whose reflection at the cut is not the recording's."""
    return min(first, cut.reach // cut.hop_length + 1)

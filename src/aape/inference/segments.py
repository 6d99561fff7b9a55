"""How sound of any length becomes segments that an encoder takes, and segments become batches.

Up to `MAX_FRAMES` frames are one segment; anything longer is cut into segments of `SEGMENT_FRAMES` that neither overlap
nor leave anything out, the last one shorter. A segment's log-mel is that of the whole recording, seams included.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aape.data.log_mel import LogMel

MAX_FRAMES = 1024  # what is encoded in one pass: 10.24 s
SEGMENT_FRAMES = 608  # what longer audio is cut into: 6.08 s, also the hop
MAX_WAITING_FRAMES = 1 << 16  # of segments held back until a batch of their length is full: 32 MB

FloatArray: TypeAlias = NDArray[np.floating]
Blocks: TypeAlias = Iterable[FloatArray]  # a recording, in consecutive blocks (samples,)
Key: TypeAlias = tuple[int, int]  # row of the recording, index of the segment in it


class Segment(NamedTuple):
    """A piece of a recording that is encoded in one pass."""

    spectrogram: Tensor  # (F, T), standardised log-mel, zero-padded to whole patches
    start: float  # in the recording, in seconds
    end: float
    num_patches: int  # time patches that begin within the recording; the others are its loop's


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


def cut(
    blocks: Blocks, log_mel: LogMel, patch_size: int, prepare: Callable[[Tensor], Tensor], length: int | None = None
) -> Iterator[Segment]:
    """Cut a recording into segments while it is being read, holding no more of it than a segment and a block.

    Args:
        blocks: its samples (samples,) at the front end's rate, in consecutive blocks of any size.
        log_mel: the front end.
        patch_size: P.
        prepare: brings samples to the device and the precision to compute in.
        length: samples of the recording, where its loop follows; None if nothing follows.
    """
    hop, reach = log_mel.hop_length, log_mel.n_fft // 2
    held: FloatArray = np.zeros(0, np.float32)  # samples from `origin` on
    origin, first, is_long = 0, 0, False

    def segment(last: int) -> Segment:
        """Compute the frames first..last from the samples that they see."""
        lead = _lead(first, log_mel)
        begin, end = (first - lead) * hop - origin, (last - 1) * hop + reach + 1 - origin
        with torch.inference_mode():
            spectrogram = log_mel(prepare(torch.from_numpy(held[begin:end]))[None])[0, 0]
            spectrogram = spectrogram[:, lead : lead + last - first]
            spectrogram = torch.nn.functional.pad(spectrogram, (0, -spectrogram.shape[-1] % patch_size))
        stop = origin + len(held) if length is None else length
        frames = min(last, 1 + stop // hop) - first  # of the recording; negative where only its loop is left
        start, end_seconds = first * hop / log_mel.sample_rate, min(last * hop, stop) / log_mel.sample_rate
        return Segment(spectrogram, start, end_seconds, max(0, -(-frames // patch_size)))

    for block in blocks:
        held = np.concatenate([held, block]) if held.size else block
        is_long = is_long or origin + len(held) >= MAX_FRAMES * hop
        while is_long and origin + len(held) > (first + SEGMENT_FRAMES - 1) * hop + reach:
            yield segment(first + SEGMENT_FRAMES)
            first += SEGMENT_FRAMES
        unused = (first - _lead(first, log_mel)) * hop - origin
        held, origin = held[unused:], origin + unused
    num_frames = 1 + (origin + len(held)) // hop
    while first < num_frames:
        last = min(first + (SEGMENT_FRAMES if is_long else MAX_FRAMES), num_frames)
        yield segment(last)
        first = last


def _lead(first: int, log_mel: LogMel) -> int:
    """Count the frames before `first` whose reflection at the cut is not the recording's."""
    return min(first, log_mel.n_fft // 2 // log_mel.hop_length + 1)


def batches(segments: Iterable[tuple[Key, Segment]], batch_size: int) -> Iterator[list[tuple[Key, Segment]]]:
    """Group segments by their number of frames T, in full batches as far as memory allows."""
    waiting: dict[int, list[tuple[Key, Segment]]] = {}
    num_frames = 0
    for item in segments:
        length = item[1].spectrogram.shape[-1]
        waiting.setdefault(length, []).append(item)
        num_frames += length
        if num_frames > MAX_WAITING_FRAMES:
            length = max(waiting, key=lambda key: key * len(waiting[key]))
        elif len(waiting[length]) < batch_size:
            continue
        batch = waiting.pop(length)
        num_frames -= length * len(batch)
        yield batch
    yield from (waiting[length] for length in sorted(waiting))

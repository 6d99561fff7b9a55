"""How sound of any length becomes pieces that an encoder takes, and pieces become batches.

Up to `MAX_FRAMES` frames are one piece; anything longer is cut into windows of `WINDOW_FRAMES` that neither overlap nor
leave anything out, the last one shorter. A window's log-mel is that of the whole recording, seams included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aape.data.log_mel import LogMel

MAX_FRAMES = 1024  # what is encoded in one pass: 10.24 s
WINDOW_FRAMES = 608  # what longer audio is cut into: 6.08 s, also the hop
MOST_WAITING_FRAMES = 1 << 16  # of spectrograms that wait for company, whatever the mixture of lengths: 32 MB

FloatArray: TypeAlias = NDArray[np.floating]
KeyT = TypeVar("KeyT")


class Window(NamedTuple):
    """A piece of a recording that is encoded in one pass."""

    spectrogram: Tensor  # (F, T), standardised log-mel, zero-padded to whole patches
    start: float  # in the recording, in seconds
    end: float
    num_patches: int  # time patches that begin within the recording; the others are its loop's


def cut(
    blocks: Iterable[FloatArray],
    log_mel: LogMel,
    patch_size: int,
    place: Callable[[Tensor], Tensor],
    length: int | None = None,
) -> Iterator[Window]:
    """Cut a recording into windows while it is being read, holding no more of it than a window and a block.

    Args:
        blocks: its samples (samples,) at the front end's rate, in consecutive blocks of any size.
        log_mel: the front end.
        patch_size: P.
        place: brings samples to the device and the precision to compute in.
        length: samples of the recording, where more of its loop follow; None if nothing follows.

    Yields:
        The windows in order.
    """
    hop, rate, reach = log_mel.hop_length, log_mel.sample_rate, log_mel.n_fft // 2
    held: FloatArray = np.zeros(0, np.float32)  # samples from `origin` on
    origin, first, is_long = 0, 0, False

    def lead() -> int:
        """Count the frames before `first` whose reflection at the cut is not the recording's."""
        return min(first, reach // hop + 1)

    def window(last: int) -> Window:
        """Compute the frames first..last from the samples that they see."""
        begin, end = (first - lead()) * hop - origin, (last - 1) * hop + reach + 1 - origin
        with torch.inference_mode():
            spectrogram = log_mel(place(torch.from_numpy(held[begin:end]))[None])[0, 0]
            spectrogram = spectrogram[:, lead() : lead() + last - first]
            spectrogram = torch.nn.functional.pad(spectrogram, (0, -spectrogram.shape[-1] % patch_size))
        stop = origin + len(held) if length is None else length
        num_patches = spectrogram.shape[-1] // patch_size
        if length is not None:
            num_patches = max(0, min(num_patches, -(-(1 + length // hop - first) // patch_size)))
        return Window(spectrogram, first * hop / rate, min(last * hop, stop) / rate, num_patches)

    for block in blocks:
        held = np.concatenate([held, block]) if held.size else block
        is_long = is_long or origin + len(held) >= MAX_FRAMES * hop
        while is_long and origin + len(held) > (first + WINDOW_FRAMES - 1) * hop + reach:
            yield window(first + WINDOW_FRAMES)
            first += WINDOW_FRAMES
        unused = (first - lead()) * hop - origin
        held, origin = held[unused:], origin + unused
    num_frames = 1 + (origin + len(held)) // hop
    while first < num_frames:
        last = min(first + (WINDOW_FRAMES if is_long else MAX_FRAMES), num_frames)
        yield window(last)
        first = last


def batches(pieces: Iterable[tuple[KeyT, Window]], batch_size: int) -> Iterator[list[tuple[KeyT, Window]]]:
    """Group windows by their number of frames T, in full batches as far as memory allows."""
    waiting: dict[int, list[tuple[KeyT, Window]]] = {}
    num_frames = 0
    for piece in pieces:
        length = piece[1].spectrogram.shape[-1]
        waiting.setdefault(length, []).append(piece)
        num_frames += length
        if num_frames > MOST_WAITING_FRAMES:
            length = max(waiting, key=lambda key: key * len(waiting[key]))
        elif len(waiting[length]) < batch_size:
            continue
        batch = waiting.pop(length)
        num_frames -= length * len(batch)
        yield batch
    yield from (waiting[length] for length in sorted(waiting))

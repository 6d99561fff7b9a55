"""What a caller brings, arrays, paths and lists of them, as recordings that are read block by block."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from aape.data.audio.arrays import NAME, read_array
from aape.data.audio.decoding import stream_audio
from aape.data.clips import Clip, find_audio
from aape.errors import AudioError
from aape.inference.segments import Blocks

Sound: TypeAlias = Any  # an array of samples, a path, or a list of those
Paths: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def open_sounds(
    wav: Sound,
    sample_rate: float | None,
    *,
    to_rate: int,
    dtype: type[np.floating],
    lengths: Sequence[int] | None = None,
) -> tuple[list[Blocks], bool]:
    """Open one recording per row; arrays are vetted here, files while they are read.

    Args:
        wav: samples (samples,) or (B, samples), a path, or a list of arrays (samples,) and paths.
        sample_rate: of the samples, in Hz.
        to_rate: of the blocks, in Hz.
        dtype: of the blocks that come from arrays; files give float32.
        lengths: valid samples of each row of (B, samples).

    Returns:
        The recordings, and whether they are a batch to the caller.

    Raises:
        AudioError: an array cannot be used, or `lengths` are not those of its rows.
    """
    if isinstance(wav, (str, os.PathLike)):
        if lengths is not None:
            raise AudioError(wav, "lengths are for the rows of an array (clips, samples), a file has its own")
        return [stream_audio(wav, sample_rate=to_rate)], False
    if lengths is not None:
        wav = _without_padding(wav, lengths)
    if not (isinstance(wav, (list, tuple)) and len(wav) > 0 and all(map(_is_sound, wav))):
        waves = read_array(wav, sample_rate, to_rate=to_rate, dtype=dtype)
        return [[wave] for wave in waves], np.ndim(wav) == 2
    sounds: list[Blocks] = []
    for index, item in enumerate(wav):
        name = f"{NAME}, clip {index}"
        if isinstance(item, (str, os.PathLike)):
            sounds.append(stream_audio(item, sample_rate=to_rate))
        elif item.ndim != 1:
            raise AudioError(name, f"of shape {tuple(item.shape)}: a list is made of clips (samples,) and paths")
        else:
            sounds.append([read_array(item, sample_rate, to_rate=to_rate, dtype=dtype, name=name)[0]])
    return sounds, True


def file_clips(inputs: Paths) -> list[Clip]:
    """List sound files, and those in folders, as clips."""
    paths = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    return [Clip(path=file, name=file) for file in find_audio(paths)]


def readable_names(clips: Sequence[Clip], bad: Sequence[tuple[str, str]]) -> list[str]:
    """Return the names of the clips that are not in `bad`, in order."""
    unreadable = dict(bad)
    return [clip.name for clip in clips if clip.name not in unreadable]


def _is_sound(item: Any) -> bool:
    return isinstance(item, (str, os.PathLike)) or (isinstance(item, (np.ndarray, Tensor)) and item.ndim > 0)


def _without_padding(wav: Any, lengths: Sequence[int]) -> list[Any]:
    """Cut each row of (B, samples) to its length."""
    try:
        shape = np.shape(wav)
    except ValueError as error:
        raise AudioError(NAME, "clips of unequal lengths have no padding: leave lengths out") from error
    try:
        counts = [operator.index(count) for count in lengths]
    except TypeError as error:
        rule = "lengths must be whole numbers of samples, one for each row of (clips, samples)"
        raise AudioError(NAME, f"{rule}, got {lengths!r}") from error
    if len(shape) != 2 or len(counts) != shape[0]:
        raise AudioError(NAME, f"of shape {shape}: {len(counts)} lengths are for as many rows (clips, samples)")
    for index, count in enumerate(counts):
        if not 1 <= count <= shape[1]:
            raise AudioError(f"{NAME}, clip {index}", f"a length of {count} samples, outside 1 to {shape[1]}")
    rows = wav if isinstance(wav, Tensor) else np.asarray(wav)
    return [rows[index, :count] for index, count in enumerate(counts)]

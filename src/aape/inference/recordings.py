"""What a caller brings, arrays, files and lists of them, as recordings that are read block by block."""

from __future__ import annotations

import array
import numbers
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aape.data.audio.arrays import FEW_CHANNELS, NAME, read_array
from aape.data.audio.decoding import MAX_CHANNELS, stream_audio
from aape.data.clips import Clip
from aape.errors import AudioError
from aape.inference.segments import Blocks

Sound: TypeAlias = Any  # what `SOUNDS` lists
Paths: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def open_sounds(
    wav: Sound,
    sample_rate: float | None,
    *,
    to_rate: int,
    dtype: type[np.floating],
    lengths: Sequence[int] | None = None,
    channels_first: bool = False,
    names: Sequence[str] = (),
) -> tuple[list[Blocks], bool]:
    """Open one recording per row; arrays are vetted here, files while they are read.

    Args:
        wav: samples (samples,) or (B, samples); one recording, see `_unpack`; or a list of samples (samples,) and
            recordings.
        sample_rate: of samples that do not come with it, in Hz.
        to_rate: of the blocks, in Hz.
        dtype: of the blocks that come from arrays; files give float32.
        lengths: valid samples of each row of (B, samples).
        channels_first: arrays are (channels, samples), one recording each, whose channels are averaged; those that
            bring their rate are so anyway, where they have up to 8 channels.
        names: what the items of a list are called in errors; none for "array, clip 0" and so on. A file has its own.

    Returns:
        The recordings, and whether they are a batch to the caller.

    Raises:
        AudioError: an array cannot be used, or `lengths` are not those of its rows.
    """

    def read(source: Any, rate: float | None, name: str, *, has_rate: bool) -> NDArray[np.floating]:
        """Read an array: clips, or one recording where it says so."""
        most = MAX_CHANNELS if channels_first else FEW_CHANNELS if has_rate else None
        rate = sample_rate if rate is None else rate
        waves = read_array(source, rate, to_rate=to_rate, dtype=dtype, name=name, max_channels=most)
        if channels_first and not has_rate and np.ndim(source) == 1:
            shape = tuple(np.shape(source))
            raise AudioError(name, f"of shape {shape}: channels_first is for arrays (channels, samples)")
        return waves

    recording = _unpack(wav, NAME)
    if recording is None and lengths is not None and not channels_first:
        wav = _without_padding(wav, lengths)
    elif lengths is not None:
        raise AudioError(NAME, "lengths are for the rows of an array (clips, samples), a recording has its own")
    if recording is None and not names and not _is_list(wav):
        waves = read(wav, None, NAME, has_rate=False)
        return [[wave] for wave in waves], np.ndim(wav) == 2 and not channels_first
    items = [None] if recording else wav
    sounds: list[Blocks] = []
    for index, item in enumerate(items):
        default = NAME if recording else names[index] if names else f"{NAME}, clip {index}"
        name = _path(wav if recording else item) or default
        unpacked = recording or _unpack(item, name)
        source, rate = unpacked or (item, None)
        if None not in (rate, sample_rate) and rate != sample_rate:
            rule = "resample it, or leave the other rate out"
            raise AudioError(name, f"its sample rate is {rate} Hz, and {sample_rate!r} was expected: {rule}")
        if _is_file(source):
            has_name = name == NAME or isinstance(source, (str, os.PathLike)) or getattr(source, "name", None)
            label = None if has_name else f"file{name.removeprefix(NAME)}" if name.startswith(f"{NAME}, ") else name
            sounds.append(stream_audio(source, sample_rate=to_rate, name=label))
            continue
        waves = read(source, rate, name, has_rate=unpacked is not None)
        if unpacked is None and not channels_first and np.ndim(source) > 1:
            shape = tuple(np.shape(source))
            raise AudioError(name, f"of shape {shape}: a list is made of clips (samples,): average its channels")
        sounds.append([waves[0]])
    return sounds, recording is None


def readable_clips(clips: Sequence[Clip], bad: Sequence[tuple[str, str]]) -> list[Clip]:
    """Return the clips whose names are not in `bad`, in order."""
    unreadable = dict(bad)
    return [clip for clip in clips if clip.name not in unreadable]


def _unpack(item: Any, name: str) -> tuple[Any, Any] | None:
    """Return the file or the samples of a recording, and the rate that comes with them; None for anything else.

    A recording is a path, a binary file or its bytes; samples and their rate; a mapping of `array` or `raw` and its
    rate, or of `bytes` or `path`, as `datasets` and pipelines have it; or a decoder of torchcodec.
    """
    if _is_file(item):
        return item, None
    if isinstance(item, (bytearray, memoryview)) and memoryview(item).itemsize == 1:
        return bytes(item), None
    if hasattr(item, "get_all_samples"):
        try:
            samples = item.get_all_samples()
        except (RuntimeError, ValueError) as error:
            raise AudioError(name, f"its decoder says: {error}") from error
        return samples.data.mean(0) if samples.data.ndim == 2 else samples.data, samples.sample_rate
    source: Any
    if isinstance(item, Mapping):
        source = next((item[key] for key in ("array", "raw", "bytes", "path") if item.get(key) is not None), None)
        if source is None:
            rule = "it must have 'array' and 'sampling_rate', 'bytes' or 'path'"
            raise AudioError(name, f"a mapping of {', '.join(map(repr, item)) or 'nothing'}: {rule}")
        rate = item.get("sample_rate") if item.get("sampling_rate") is None else item["sampling_rate"]
    elif isinstance(item, tuple) and sorted(map(_kind, item)) in (["array", "number"], ["array", "none"]):
        # As librosa, soundfile and torchaudio return them; scipy has the rate first. One that is None is yet to come.
        source, rate = item if _kind(item[0]) == "array" else item[::-1]
    else:
        return None
    if isinstance(source, (bytearray, memoryview)) and memoryview(source).itemsize == 1:
        source = bytes(source)
    if _is_file(source):
        return source, None
    is_mono = hasattr(source, "reshape") and source.ndim == 2 and 1 in source.shape
    return (source.reshape(-1) if is_mono else source), rate


def _path(item: Any) -> str | None:
    """Return the path that a mapping of samples or bytes names, as `datasets` has it."""
    path = item.get("path") if isinstance(item, Mapping) else None
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else None


def _is_file(item: Any) -> bool:
    return isinstance(item, (str, os.PathLike, bytes)) or hasattr(item, "read")


def _kind(item: Any) -> str:
    if item is None:
        return "none"
    if isinstance(item, numbers.Real) or getattr(item, "shape", None) == ():
        return "number"
    return "array" if isinstance(item, list) or getattr(item, "ndim", None) else "other"


def is_sequence(wav: Any) -> bool:
    """Say whether this is a list, a tuple, or a column of `datasets` or of a data frame, and no array of samples."""
    if getattr(getattr(wav, "dtype", None), "kind", "") in ("O", "U"):
        return np.ndim(wav) == 1
    return isinstance(wav, Sequence) and not isinstance(wav, (array.array, memoryview, range))


def _is_list(wav: Any) -> bool:
    """Say whether this is a list of sounds, and not of numbers; lists of equally many are the rows of an array."""
    if not is_sequence(wav):
        return False
    if all(isinstance(item, list) for item in wav):
        return len(set(map(len, wav))) > 1
    return not all(_kind(item) == "number" for item in wav)


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

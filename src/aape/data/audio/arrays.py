"""Samples that a caller brings as an array: vetted and resampled as sound files are."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aape.data.audio.decoding import MAX_LEVEL, MAX_RATE, MIN_RATE
from aape.data.audio.resampling import warn_of_range
from aape.errors import AudioError

NAME = "array"  # what an array is called in errors
SOUNDS = "samples and their rate, a path, a file opened as binary, its bytes, or a list of such"
_LOUD = 1000.0  # 60 dB above full scale: such are integers that somebody only cast
_DIVIDE = {
    "int16": "divide by 32768",
    "int32": "divide by 2147483648",
    "int64": "divide 16-bit ones by 32768",
    "uint8": "subtract 128 and divide by 128",
}
FEW_CHANNELS = 8  # an array no wider than this, and higher than wide, is (samples, channels) and not (clips, samples)


def read_array(
    wav: Any,
    sample_rate: float | None,
    *,
    to_rate: int = 16000,
    dtype: type[np.floating] = np.float32,
    name: str = NAME,
    max_channels: int | None = None,
) -> NDArray[np.floating]:
    """Vet an array of samples and resample it.

    Args:
        wav: floating point samples (samples,), or (B, samples) for B clips: anything that numpy reads, or a tensor.
        sample_rate: of the samples, in Hz.
        to_rate: of the result, in Hz (soxr, HQ).
        dtype: of the result.
        name: what to call it in errors.
        max_channels: the array is one recording, (samples,) or (channels, samples) of so many channels at most and more
            samples than channels; they are averaged. None: its rows are clips.

    Returns:
        One row per clip, (B, samples); B = 1 for a single clip.

    Raises:
        AudioError: not such an array, empty, NaN, infinite or absurdly large samples, no or an absurd sample rate, or
            too short to resample.
    """
    array = _as_samples(wav, name, max_channels)
    sample_rate = _as_rate(sample_rate, name)
    rows = np.atleast_2d(array)
    for index, row in enumerate(rows):
        level = float(np.abs(row).max())
        if not level <= MAX_LEVEL:  # also true of NaN
            reason = f"samples as large as {level:g}" if np.isfinite(level) else "NaN or infinite samples"
            kind = "clip" if max_channels is None else "channel"
            raise AudioError(name if array.ndim == 1 else f"{name}, {kind} {index}", reason)
        if level > _LOUD:
            message = f"{name}: samples as large as {level:g}, where -1..1 is meant: divide 16-bit ones by 32768"
            warnings.warn(message, stacklevel=2)
    rows = rows.astype(dtype, copy=not array.flags.writeable)  # a tensor would warn that it cannot be written to
    if max_channels is not None:
        rows = rows.mean(0, keepdims=True)
    before = rows
    if sample_rate != to_rate:
        import soxr

        rows = np.stack([soxr.resample(row, sample_rate, to_rate, quality="HQ") for row in rows])
        if rows.shape[1] == 0:
            raise AudioError(name, f"{array.shape[-1]} samples at {sample_rate:g} Hz are too short to resample")
    warn_of_range(name, before, rows, sample_rate, to_rate)
    return np.ascontiguousarray(rows)


def _as_samples(wav: Any, name: str, max_channels: int | None) -> NDArray[np.floating]:
    """Return floating point samples (samples,), (clips, samples) or (channels, samples), or say why these are none."""
    kind = "clips" if max_channels is None else "channels"
    if np.ma.is_masked(wav):
        raise AudioError(name, "masked samples: fill them in first, as with .filled(0)")
    try:
        if hasattr(wav, "detach"):
            wav = wav.detach().cpu()
            wav = wav.float() if wav.is_floating_point() and wav.element_size() < 4 else wav  # numpy has no bfloat16
        array = np.asarray(wav)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AudioError(name, f"not an array of samples ({error})") from error
    if array.dtype.kind not in "biuf":
        raise AudioError(name, f"{array.dtype} values are no samples: pass {SOUNDS}")
    if array.ndim not in (1, 2):
        raise AudioError(name, f"of shape {array.shape}: expected (samples,), or ({kind}, samples)")
    if array.dtype.kind != "f":
        hint = f": {_DIVIDE[array.dtype.name]}" if array.dtype.name in _DIVIDE else ""
        raise AudioError(name, f"{array.dtype} values: samples must be floating point, in -1..1{hint}")
    if array.size == 0:
        raise AudioError(name, f"of shape {array.shape}: no samples in it")
    if array.ndim == 2 and array.shape[1] <= FEW_CHANNELS and array.shape[0] > array.shape[1]:
        advice = "average the channels, or transpose it if they are clips" if max_channels is None else "transpose it"
        raise AudioError(name, f"of shape {array.shape}: it looks like (samples, channels): {advice}")
    if array.ndim == 2 and max_channels is not None and not array.shape[0] <= min(max_channels, array.shape[1] - 1):
        rule = f"(channels, samples) has at most {max_channels} channels, and more samples"
        raise AudioError(name, f"of shape {array.shape}: {rule}: average its channels")
    return array


def _as_rate(sample_rate: float | None, name: str) -> float:
    if sample_rate is None:
        raise AudioError(name, "an array does not know its sample rate: pass it")
    try:
        sample_rate = float(sample_rate)
    except (OverflowError, TypeError, ValueError) as error:
        raise AudioError(name, f"a sample rate of {sample_rate!r}: it must be one number, in Hz") from error
    if not MIN_RATE <= sample_rate <= MAX_RATE:  # also true of NaN
        raise AudioError(name, f"a sample rate of {sample_rate:g} Hz, outside {MIN_RATE} to {MAX_RATE} Hz")
    return sample_rate

"""Resampling block by block, and whether a sound survives it: a tone of 40 kHz is silence at 16 kHz."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from aape.errors import RangeWarning

MIN_SHARE = 0.01  # of the energy of a sound, which must lie in the range, so that nothing is said
QUIET = (
    1e-8  # mean square, -80 dB of full scale: from here down a sound is silence, and noise-shaped dither no ultrasound
)
_STEPS = 200  # means a second, whose energy is that of an offset and of what lies below 10 Hz


class Energy:
    """The energy of a sound before and after resampling, and of what hardly changes, added up block by block."""

    def __init__(self, rate: float, sample_rate: float) -> None:
        self.rate, self.sample_rate = rate, sample_rate
        self.all = self.kept = self.slow = self.seconds = 0.0
        self.rest = np.zeros(0, np.float32)  # less than a step

    def add_source(self, block: NDArray[np.floating]) -> None:
        """Add samples (T,) at the file's rate."""
        self.seconds += len(block) / self.rate
        self.all += float(np.dot(block, block)) / self.rate

    def add_result(self, block: NDArray[np.floating]) -> None:
        """Add samples (T,) at the rate of the front end."""
        self.kept += float(np.dot(block, block)) / self.sample_rate
        step = max(1, round(self.sample_rate / _STEPS))
        block = np.concatenate([self.rest, block]) if len(self.rest) else block
        whole = len(block) // step * step
        means, self.rest = block[:whole].reshape(-1, step) @ np.full(step, 1 / step, block.dtype), block[whole:].copy()
        self.slow += float(np.dot(means, means)) * step / self.sample_rate

    def warn(self, name: str) -> None:
        """Warn if nearly all energy lies outside the range, and the sound is none that is silent anyway."""
        above = f"above {self.sample_rate / 2000:g} kHz"
        if self.all <= QUIET * self.seconds:
            return
        if self.kept < MIN_SHARE * self.all:
            where = above
        elif self.kept - self.slow < MIN_SHARE * self.kept:
            where = f"below 10 Hz or {above}" if self.kept < self.all / 2 else "below 10 Hz, as of a constant offset"
        else:
            return
        message = f"{name}: over {1 - MIN_SHARE:.0%} of its energy lies {where}, where the front end reads nothing"
        warnings.warn(message, RangeWarning, stacklevel=3)


def warn_of_range(
    name: str, source: NDArray[np.floating], result: NDArray[np.floating], rate: float, sample_rate: float
) -> None:
    """Warn of each clip (B, T) whose energy, before and after resampling, lies outside the range."""
    for index, row in enumerate(source):
        energy = Energy(rate, sample_rate)
        energy.add_source(row)
        energy.add_result(result[index])
        energy.warn(name if len(source) == 1 else f"{name}, clip {index}")


def resample(blocks: Iterator[np.ndarray], rate: int, sample_rate: int, energy: Energy) -> Iterator[np.ndarray]:
    """Resample blocks (T,) one by one, so that memory follows the result; `energy` learns of both sides."""
    stream = None
    if rate != sample_rate:
        import soxr

        stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        energy.add_source(block)
        result = block if stream is None else stream.resample_chunk(block)
        energy.add_result(result)
        yield result
    if stream is not None:
        result = stream.resample_chunk(np.zeros(0, np.float32), last=True)
        energy.add_result(result)
        yield result

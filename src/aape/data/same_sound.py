"""One sound in several files, whatever they are called, in other formats and at other rates.

A clip is sketched: `NUM` random projections of its samples at `RATE`, over their norm. The mean squared difference of
two sketches estimates 2 - 2 x correlation of the clips, to a quarter of itself: 0 for copies, about 2 for other sounds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

RATE = 16000  # Hz
NUM = 32
SAME = 0.02  # mean squared difference from here up is not the same sound: a correlation of 0.99
NEAR = 0.1  # nor from here up a lossy copy: 0.95; of two other sounds, one pair in 10^15 is estimated below
CONSTANT = 1e-10  # share of the energy that is not the offset's, down to which there is nothing but an offset
_LENGTH = 4096  # samples that are projected at once
_SIGNS = np.random.default_rng(0).choice((-1.0, 1.0), (NUM, _LENGTH)).astype(np.float32)


class Sketch:
    """The sketch of a clip, added up block by block."""

    def __init__(self) -> None:
        self.sums, self.energy = np.zeros(NUM), 0.0
        self.length, self.total, self.ones = 0, 0.0, np.zeros(NUM)  # ones: what an offset of 1 adds to the sums
        self.rest = np.zeros(0, np.float32)
        self.signs = np.random.default_rng(1)
        self.digest = hashlib.blake2b(digest_size=16)

    def add(self, block: NDArray[np.float32]) -> None:
        """Add samples (T,)."""
        self.digest.update(
            np.rint(32768 * block).astype("<i4").tobytes()
        )  # of 16 bits, as most files have, also in float
        self.energy += float(np.dot(block, block))
        self.length += len(block)
        self.total += float(block.sum(dtype=np.float64))
        self.rest = np.concatenate([self.rest, block])
        num_whole = len(self.rest) // _LENGTH
        self._project(self.rest[: num_whole * _LENGTH].reshape(num_whole, _LENGTH))
        self.rest = self.rest[num_whole * _LENGTH :]

    def values(self) -> NDArray[np.float32]:
        """Return the sketch (NUM,) of all that was added, zeros for silence and a constant offset."""
        if len(self.rest):
            self._project(self.rest[None])
        self.rest = self.rest[:0]
        offset = self.total / max(1, self.length)  # which is no sound
        energy = self.energy - self.length * offset**2
        is_silent = energy <= CONSTANT * self.energy
        return (np.zeros(NUM) if is_silent else (self.sums - offset * self.ones) / np.sqrt(energy)).astype(np.float32)

    def _project(self, pieces: NDArray[np.float32]) -> None:
        signs = self.signs.choice((-1.0, 1.0), (len(pieces), NUM))  # other projections for each piece
        projections = _SIGNS[:, : pieces.shape[1]]
        self.sums += (signs * (pieces @ projections.T)).sum(0)
        self.ones += (signs * projections.sum(1)).sum(0)


def matches(
    sketches: NDArray[np.float32], others: NDArray[np.float32], limit: float = SAME
) -> Iterator[dict[int, float]]:
    """Yield, for each of (n, NUM) sketches, the rows of (m, NUM) others that are the same sound; none for silence.

    The same is what differs by less than `limit`. With each row comes the estimate of the correlation, at most 1.
    """
    norms = np.square(others).sum(1)
    for block in np.array_split(sketches, max(1, len(sketches) * len(others) >> 22)):  # some 16 MB at a time
        own = np.square(block).sum(1)
        differences = (own[:, None] + norms - 2 * np.abs(block @ others.T)) / NUM  # also of a sound upside down
        for row, energy in zip(differences, own, strict=True):
            same = np.flatnonzero(row < limit).tolist() if energy else []
            yield {index: min(1.0, 1 - float(row[index]) / 2) for index in same}

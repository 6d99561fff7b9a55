"""Which clips a step of fine-tuning sees (docs/method.md 8). n clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def class_balanced_weights(targets: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return the weight of every clip (n,): the sum over its classes of 1000 / (clips of the class + 0.01)."""
    counts = Counter(target for labels in targets for target in labels)
    return np.asarray([sum(1000 / (counts[target] + 0.01) for target in labels) for labels in targets])


@dataclass
class Draws:
    """Which clips each step sees, as a function of the seed and the step: resuming replays nothing.

    Attributes:
        indices: indices of the training clips, (n,).
        batch: clips per step.
        seed: random seed of the order.
        weights: how likely each clip is drawn, (n,); None goes through all clips in a new order every epoch.
        draws_per_epoch: with weights, how many clips one generator draws.
    """

    indices: NDArray[np.int64]
    batch: int
    seed: int
    weights: NDArray[np.float64] | None = None
    draws_per_epoch: int = 0

    def __post_init__(self) -> None:
        self.per_epoch = len(self.indices) if self.weights is None else self.draws_per_epoch
        self._epoch, self._order = -1, self.indices[:0]

    def __getitem__(self, step: int) -> NDArray[np.int64]:
        """Return the clips of a step (batch,); a batch may hold the end of one epoch and the start of the next."""
        parts = []
        position, count = step * self.batch, self.batch
        while count:
            epoch, offset = divmod(position, self.per_epoch)
            parts.append(self._epoch_order(epoch)[offset : offset + count])
            position, count = position + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            generator = np.random.default_rng((self.seed, epoch))
            if self.weights is None:
                self._order = generator.permutation(self.indices)
            else:
                self._order = generator.choice(self.indices, self.per_epoch, p=self.weights / self.weights.sum())
            self._epoch = epoch
        return self._order

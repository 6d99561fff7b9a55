"""What fine-tuning does to spectrograms and to the order of the clips (method 8). n clips, F mel bins, T frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def mix_up(
    spectrograms: Sequence[Tensor], targets: Tensor, *, alpha: float, generator: np.random.Generator
) -> tuple[list[Tensor], Tensor]:
    """Mix every clip with another of the batch: x_i and x_j by one lambda from Beta(alpha, alpha), targets likewise.

    A clip keeps its length: what it is mixed with is cut, or continued with zeros, the mean of the training audio.

    Args:
        spectrograms: standardised log-mels (F, T), T each clip's own.
        targets: (B, C).
        alpha: of the Beta distribution.
        generator: of the pairs and of lambda.
    """
    partners = generator.permutation(len(spectrograms))
    weights = generator.beta(alpha, alpha, len(spectrograms))
    mixed = []
    for own, partner, weight in zip(spectrograms, partners, weights, strict=True):
        other = spectrograms[partner]
        other = F.pad(other, (0, own.shape[-1] - other.shape[-1]))  # cuts where that is negative
        mixed.append(float(weight) * own + (1 - float(weight)) * other)
    share = torch.as_tensor(weights, dtype=targets.dtype, device=targets.device)[:, None]
    return mixed, share * targets + (1 - share) * targets[torch.as_tensor(partners, device=targets.device)]


def spec_augment(spectrogram: Tensor, *, largest: float, generator: np.random.Generator) -> Tensor:
    """Hide one band of frequencies and one stretch of time, each at most `largest` of the spectrogram (F, T).

    Widths and places are uniform; what is hidden becomes 0, the mean of the training audio.
    """
    out = spectrogram.clone()
    for dim in (0, 1):
        size = out.shape[dim]
        width = int(generator.integers(0, int(largest * size) + 1))
        start = int(generator.integers(0, size - width + 1))
        out.narrow(dim, start, width).zero_()
    return out


def class_balanced_weights(targets: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return the weight of every clip (n,): the sum over its classes of 1000 / (clips of the class + 0.01)."""
    counts = Counter(target for own in targets for target in own)
    return np.asarray([sum(1000 / (counts[target] + 0.01) for target in own) for own in targets])


class Draws:
    """Which clips each step sees, as a function of the seed and the step: resuming replays nothing.

    Args:
        indices: the training clips (n,).
        weights: of the draws, (n,); None goes through all clips in a new order every epoch.
        draws_per_epoch: with weights, how many are drawn before the generator moves on.
        batch: clips per step.
        seed: of the order.
    """

    def __init__(
        self,
        indices: NDArray[np.int64],
        *,
        batch: int,
        seed: int,
        weights: NDArray[np.float64] | None = None,
        draws_per_epoch: int = 0,
    ) -> None:
        self.indices, self.batch, self.seed = indices, batch, seed
        self.probabilities = None if weights is None else weights / weights.sum()
        self.per_epoch = draws_per_epoch if weights is not None else len(indices)
        self._epoch, self._order = -1, indices[:0]

    def __getitem__(self, step: int) -> NDArray[np.int64]:
        """Return the clips of a step (batch,); a batch may hold the end of one epoch and the start of the next."""
        parts = []
        position, wanted = step * self.batch, self.batch
        while wanted:
            epoch, offset = divmod(position, self.per_epoch)
            parts.append(self._epoch_order(epoch)[offset : offset + wanted])
            position, wanted = position + len(parts[-1]), wanted - len(parts[-1])
        return np.concatenate(parts)

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            generator = np.random.default_rng((self.seed, epoch))
            if self.probabilities is None:
                self._order = generator.permutation(self.indices)
            else:
                self._order = generator.choice(self.indices, self.per_epoch, p=self.probabilities)
            self._epoch = epoch
        return self._order

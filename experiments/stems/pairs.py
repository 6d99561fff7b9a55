"""Paired comparisons: an interval over seeds, one over test sources, and the verdict that both allow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
RESAMPLES = 10_000
MARGIN = 0.01  # accuracy: a smaller difference decides nothing
Values = NDArray[np.float64]


class Difference(NamedTuple):
    """The mean of paired differences, its interval over seeds, and if known that over test sources."""

    mean: float
    seeds: tuple[float, float]
    sources: tuple[float, float] | None = None

    def verdict(self, margin: float = MARGIN) -> str:
        """Return "supported", "refuted", "no difference" or "undecided" for the claim that it is above 0."""
        intervals = [self.seeds] if self.sources is None else [self.seeds, self.sources]
        lowest, highest = min(low for low, _ in intervals), max(high for _, high in intervals)
        if lowest > 0:
            return "supported"
        if highest < 0:
            return "refuted"
        return "no difference" if -margin < lowest and highest < margin else "undecided"


def over_seeds(differences: Values) -> tuple[float, float]:
    """Return the interval of the mean of differences (seeds,) by Student's t."""
    reach = stats.t.ppf(0.5 + LEVEL / 2, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    return float(differences.mean() - reach), float(differences.mean() + reach)


def source_draws(differences: Values, counts: Values, seed: int = 0) -> Values:
    """Return bootstrap samples of a difference of accuracies, of the sources that are drawn, the seeds as they are.

    Args:
        differences: by how many more clips of a source one stem is right, on average over seeds (sources,).
        counts: clips of each source (sources,).
        seed: of the resampling.
    """
    drawn = np.random.default_rng(seed).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), RESAMPLES)
    draws: Values = drawn @ differences / (drawn @ counts)
    return draws


def middle(draws: Values) -> tuple[float, float]:
    """Return the interval of bootstrap samples."""
    low, high = np.quantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)

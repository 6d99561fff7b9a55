"""Which sounds are nearest to one, by their vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def nearest_neighbours(
    vectors: NDArray[np.floating], queries: Sequence[int], count: int
) -> list[list[tuple[int, float]]]:
    """Find each query's nearest rows of vectors (n, width), itself left out, by the cosine of standardised vectors.

    Returns:
        For each query `count` pairs (row, cosine), nearest first; fewer where there are no more.
    """
    standardised = (vectors - vectors.mean(0)) / (vectors.std(0) + 1e-8)
    unit = standardised / (np.linalg.norm(standardised, axis=1, keepdims=True) + 1e-12)
    rows = []
    for query in queries:
        cosines = unit @ unit[query]
        cosines[query] = -np.inf
        nearest = np.argsort(-cosines, kind="stable")[: min(count, len(vectors) - 1)]
        rows.append([(int(row), float(cosines[row])) for row in nearest])
    return rows

"""Where sounds lie on a map, which are nearest to which, and the reduced vectors that the page ranks by.

All of it is about vectors of length 1, whose products are cosines. n sounds, E numbers in a vector, K components.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aape.explorer.sounds import Points

NEIGHBOURS = 10
COMPONENTS = 64  # of the reduced vectors
_ROWS = 2048  # at a time, of those that are taken to float64
_COSINES = 1 << 24  # at a time, 64 MB
_CANDIDATES = 16  # beyond the neighbours, that float32 may have put in a wrong order
_LEAST_FOR_TSNE = 5


def normalise(vectors: NDArray[np.float32]) -> None:
    """Give every vector (n, E) the length 1, in place; zeros stay."""
    for first in range(0, len(vectors), _ROWS):
        rows = vectors[first : first + _ROWS].astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        vectors[first : first + _ROWS] = rows / np.where(lengths > 0, lengths, 1.0)


@dataclass(frozen=True)
class Components:
    """Principal components."""

    mean: NDArray[np.float64]  # (E,)
    scores: NDArray[np.float64]  # (n, K), K at most the rank
    explained: NDArray[np.float64]  # share of the variance of each (K,)


def principal_components(vectors: NDArray[np.float32], count: int = COMPONENTS) -> Components:
    """Return the first components of vectors (n, E), in float64; each has its largest score positive."""
    n, width = vectors.shape
    mean = vectors.mean(0, dtype=np.float64)
    blocks = [slice(first, first + _ROWS) for first in range(0, n, _ROWS)]
    if n <= width:
        centred = vectors - mean
        values, basis = np.linalg.eigh(centred @ centred.T)
        scores = basis * np.sqrt(np.maximum(values, 0.0))
    else:
        scatter = np.zeros((width, width))
        for block in blocks:
            rows = vectors[block] - mean
            scatter += rows.T @ rows
        values, basis = np.linalg.eigh(scatter)
        basis = basis[:, ::-1][:, :count]
        scores = np.concatenate([(vectors[block] - mean) @ basis for block in blocks])[:, ::-1]
    values, scores = values[::-1], scores[:, ::-1]
    # Vectors of length 1 that differ by less than 1e-5 are those of equal sounds, rounded
    rank = int((values[:count] > max(1e-10 * n, 1e-10 * values[0])).sum())
    scores = scores[:, :rank]
    largest = np.abs(scores).argmax(0) if rank else np.zeros(0, int)
    scores = scores * np.where(scores[largest, np.arange(rank)] < 0, -1.0, 1.0)
    total = float(np.maximum(values, 0.0).sum())
    return Components(mean, scores, values[:rank] / total if rank else values[:0])


def why_no_tsne(components: Components) -> str | None:
    """Say why there can be no t-SNE, None if there can."""
    if importlib.util.find_spec("sklearn") is None:
        return "t-SNE needs scikit-learn: pip install 'aape[explore]'"
    if len(components.scores) < _LEAST_FOR_TSNE:
        return f"t-SNE needs {_LEAST_FOR_TSNE} sounds or more"
    return None if components.scores.shape[1] else "t-SNE needs sounds that differ"


def tsne(components: Components, seed: int) -> NDArray[np.float32]:
    """Lay the sounds out in two dimensions by t-SNE of their components, from the first two on, (n, 2)."""
    from sklearn.manifold import TSNE

    scores = components.scores.astype(np.float32)
    start = flat(components)
    start = 1e-4 * start / start[:, 0].std()
    start += np.random.default_rng(seed).normal(scale=1e-6, size=start.shape).astype(np.float32)  # parts equal sounds
    perplexity = min(30.0, (len(scores) - 1) / 3)
    method = TSNE(init=start, perplexity=perplexity, learning_rate="auto", random_state=seed, n_jobs=1)
    placed: NDArray[np.float32] = method.fit_transform(scores / scores[:, 0].std())
    return placed


def flat(components: Components) -> NDArray[np.float32]:
    """Return the first two components, (n, 2), zeros where there are fewer."""
    scores = components.scores[:, :2].astype(np.float32)
    return np.pad(scores, ((0, 0), (0, 2 - scores.shape[1])))


def neighbours(points: Points, count: int = NEIGHBOURS) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Find the nearest sounds to each by cosine; windows of one sound that overlap are not each other's.

    Args:
        points: with vectors of length 1.
        count: how many; fewer where there are no more.

    Returns:
        Rows (n, k), nearest first, the first of equally near ones first, and their cosines (n, k). Where the sounds
        that may be neighbours are fewer than k, the rest have a cosine of -inf.
    """
    vectors, n = points.vectors, len(points.vectors)
    k = min(count, n - 1)
    rows, cosines = np.zeros((n, k), np.uint32), np.zeros((n, k), np.float32)
    first, last = _overlapping(points)
    step = max(1, _COSINES // n)
    for begin in range(0, n if k else 0, step):
        block = vectors[begin : begin + step] @ vectors.T
        for at, near in enumerate(block):
            row = begin + at
            near[first[row] : last[row]] = -np.inf
            most = min(n, k + _CANDIDATES)
            likely = np.sort(np.argpartition(-near, most - 1)[:most])
            exact = vectors[likely].astype(np.float64) @ vectors[row].astype(np.float64)
            exact[np.isneginf(near[likely])] = -np.inf
            order = np.argsort(-exact, kind="stable")[:k]
            rows[row], cosines[row] = likely[order], exact[order]
    return rows, cosines


def _overlapping(points: Points) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return, for each row, where the rows begin and end that share sound with it; itself is among them."""
    n = len(points.source)
    first, last = np.arange(n), np.arange(n)
    for row in range(1, n):
        at = first[row - 1]
        while at < row and (points.source[at] != points.source[row] or points.end[at] <= points.start[row]):
            at += 1
        first[row] = at
    for row in range(n):
        last[first[row] : row + 1] = row  # grows: rows are in the order of time
    return first, last + 1


@dataclass(frozen=True)
class Reduced:
    """Vectors in few bytes: a cosine of u and v is square + offset(u) + offset(v) + the product of their rows."""

    rows: NDArray[np.int8]  # (n, K)
    scale: NDArray[np.float64]  # of each component, (K,)
    offset: NDArray[np.float32]  # product of mean and what differs from it, (n,)
    square: float  # of the mean


def reduce(vectors: NDArray[np.float32], components: Components) -> Reduced:
    """Keep the components of vectors (n, E) of length 1 as whole numbers from -127 to 127."""
    scores = components.scores
    scale = np.abs(scores).max(0) / 127 if scores.shape[1] else np.zeros(0)
    square = float(components.mean @ components.mean)
    offset = (vectors @ components.mean.astype(np.float32)).astype(np.float32) - np.float32(square)
    return Reduced(np.round(scores / scale).astype(np.int8), scale, offset, square)


def agreement(reduced: Reduced, points: Points, exact: NDArray[np.uint32], most: int = 500) -> float:
    """Return how many of the exact neighbours (n, k) the reduced vectors find, of k, in the mean over `most` sounds."""
    n, k = exact.shape
    if not k:
        return 0.0
    rows = reduced.rows.astype(np.float32) * reduced.scale.astype(np.float32)
    first, last = _overlapping(points)
    queries = np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))
    same = 0
    for query in queries:
        likeness = rows @ rows[query] + reduced.offset
        likeness[first[query] : last[query]] = -np.inf
        same += len(set(np.argpartition(-likeness, k - 1)[:k].tolist()) & set(exact[query].tolist()))
    return same / len(queries)

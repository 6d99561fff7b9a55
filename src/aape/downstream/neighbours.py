"""The classes of the nearest training clips, weighted, as DINO scores frozen features (docs/method.md 9).

n training clips, D features.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from aape.downstream.few_shot import MEANING as FEW_SHOT_MEANING
from aape.downstream.partitions import Indices
from aape.downstream.probing import Method, ProbeProtocol, ProbeScores, score_predictions

K, TEMPERATURE = 10, 0.07  # DINO's temperature, and the k that DINO and X-ARES share
BLOCK = 1 << 24  # similarities at a time, 128 MB
MEANING = {
    "last": FEW_SHOT_MEANING["last"],
    "mean": "over folds and untrained encoders; balanced accuracy is the mean recall of the classes present in a test "
    "set, f1 the mean over the classes that are present or predicted",
    "std_seeds": "sample standard deviation over untrained encoders of the mean over folds",
    "std_folds": "sample standard deviation over folds of the mean over untrained encoders",
    "interval": FEW_SHOT_MEANING["interval"],
    "untrained": "one random initialisation per seed",
}


def nearest_classes(
    train: NDArray[np.float32], labels: NDArray[np.int64], test: NDArray[np.float32], num_classes: int
) -> NDArray[np.int64]:
    """Let the `K` training clips of the largest cosine c vote with exp(c / `TEMPERATURE`), in float64.

    Of clips that are equally near, the first in `train` is nearer, and of classes with equal votes the first wins. A
    vector of zeros is at a cosine of 0 from all.

    Args:
        train: (n, D), fewer than `K` of which all vote.
        labels: their classes, (n,), in [0, num_classes).
        test: (clips, D).
        num_classes: number of classes.

    Returns:
        A class for each test clip, (clips,).
    """
    k, named = min(K, len(train)), []
    for block in np.array_split(test, max(1, len(test) * len(train) // BLOCK)):
        queries = _unit(block)
        # Blocks of the training clips, too: all of them in float64 could be twice what the features take.
        parts = np.array_split(train, max(1, len(train) // 4096))
        cosines = np.concatenate([queries @ _unit(part).T for part in parts], axis=1)
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        weights = np.exp((np.take_along_axis(cosines, nearest, axis=1) - 1) / TEMPERATURE)  # a cosine is at most 1
        votes = np.zeros((len(block), num_classes))
        np.add.at(votes, (np.arange(len(block))[:, None], labels[nearest]), weights)
        named.append(votes.argmax(axis=1))
    return np.concatenate(named)


def score(
    features: NDArray[np.float32], protocol: ProbeProtocol, progress: Callable[[int], None] | None = None
) -> ProbeScores:
    """Classify the test clips of every partition by every matrix; see `aape.downstream.probing.score`."""
    predictions: list[list[Indices]] = []
    for part in protocol.partitions:
        train, labels = part.train, protocol.labels[part.train]
        sets = ((matrix[train], labels, matrix[part.test]) for matrix in features)
        predictions.append([nearest_classes(*one, protocol.num_classes) for one in sets])
        if progress is not None:
            progress(1)
    return score_predictions(protocol, predictions, num_features=features.shape[-1], k=K)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return vectors (n, D) over their lengths, zeros as they are."""
    rows = vectors.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)


NEAREST = Method("nearest neighbours", score, lambda protocol: len(protocol.partitions), MEANING, f"{K} neighbours")

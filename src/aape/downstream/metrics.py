"""Classification scores, one label or several per clip, with bootstrap intervals.

n clips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Count clips by true class (row) and predicted class (column), (classes, classes).

    Args:
        labels: true classes, (n,), in [0, num_classes).
        predictions: predicted classes, (n,).
        num_classes: number of classes.
    """
    pairs = np.asarray(labels, dtype=np.int64) * num_classes + np.asarray(predictions, dtype=np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def recall_per_class(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each class's share of rightly named clips, (classes,); NaN for a class without clips."""
    counts = confusion.sum(axis=1)
    return np.where(counts > 0, np.diag(confusion) / np.maximum(counts, 1), np.nan)


def accuracy(confusion: NDArray[np.int64]) -> float:
    """Return the share of rightly named clips."""
    return float(np.trace(confusion) / confusion.sum())


def balanced_accuracy(confusion: NDArray[np.int64]) -> float:
    """Return the mean recall over the classes that have clips: a common class weighs no more than a rare one."""
    return float(np.nanmean(recall_per_class(confusion)))


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Return the mean F1 over the classes that have clips or are predicted, as scikit-learn's macro average."""
    counts = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float(np.mean(2 * np.diag(confusion)[counts > 0] / counts[counts > 0]))


@dataclass(frozen=True)
class MultiLabelScores:
    """Scores of several labels per clip.

    Attributes:
        mean_average_precision: macro mean over the classes that have positives (mAP).
        d_prime: sqrt(2) times the normal quantile of the macro mean of the areas under the ROC curves, which is kept
            within 1e-6 and 1 - 1e-6, so that a perfect ranking gives 6.72 and not infinity; NaN if every area is.
        average_precision: of each class, (classes,); NaN without positives.
        area: under the ROC curve of each class, (classes,); NaN without positives or without negatives.
    """

    mean_average_precision: float
    d_prime: float
    average_precision: NDArray[np.float64]
    area: NDArray[np.float64]


def multi_label_scores(probabilities: ArrayLike, targets: ArrayLike) -> MultiLabelScores:
    """Score the ranking of clips by each class.

    Args:
        probabilities: (n, classes).
        targets: (n, classes), 0 or 1.
    """
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    predicted = torch.as_tensor(np.asarray(probabilities, dtype=np.float64))
    truth = torch.as_tensor(np.asarray(targets, dtype=np.int64))
    precision, area = torch.full((2, truth.shape[1]), math.nan, dtype=torch.float64)
    for label, num_positive in enumerate(truth.sum(0).tolist()):
        if num_positive:
            precision[label] = binary_average_precision(predicted[:, label], truth[:, label])
        if 0 < num_positive < len(truth):
            area[label] = binary_auroc(predicted[:, label], truth[:, label])
    quantile = float(torch.special.ndtri(area.nanmean().clamp(1e-6, 1 - 1e-6)))
    return MultiLabelScores(float(precision.nanmean()), math.sqrt(2) * quantile, precision.numpy(), area.numpy())


def bootstrap_scores(
    labels: Sequence[NDArray[np.int64]],
    correct: Sequence[NDArray[np.float64]],
    groups: Sequence[NDArray[np.int64]] | None = None,
    *,
    num_classes: int,
    resamples: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Resample every partition's test clips; return each resample's accuracy and balanced accuracy, (resamples, 2).

    The score is the mean over partitions (folds). The same seed draws the same clips, so that the difference of two
    calls on the same clips is a paired comparison.

    Args:
        labels: per partition, the true classes (n,).
        correct: per partition, the share of seeds that named the clip rightly, (n,).
        groups: per partition, integers (n,); clips of one group are drawn together, since clips of one recording or one
            instrument are not independent. A partition of a single group, or None, draws single clips.
        num_classes: number of classes.
        resamples: number of resamples.
        seed: random seed of the draws.
    """
    generator = np.random.default_rng(seed)
    total = np.zeros((resamples, 2))
    for index, (truth, right) in enumerate(zip(labels, correct, strict=True)):
        units = np.arange(len(truth))
        if groups is not None and len(np.unique(groups[index])) > 1:
            units = np.unique(groups[index], return_inverse=True)[1]
        num_units = int(units.max()) + 1
        counts = generator.multinomial(num_units, np.full(num_units, 1 / num_units), size=resamples)
        weights = counts[:, units].astype(np.float64)  # (resamples, n): how often each clip was drawn
        one_hot = np.eye(num_classes)[truth]  # (n, classes)
        drawn = weights @ one_hot
        hits = weights @ (one_hot * right[:, None])
        total[:, 0] += hits.sum(axis=1) / drawn.sum(axis=1)
        recall = np.divide(hits, drawn, out=np.zeros_like(hits), where=drawn > 0)
        total[:, 1] += recall.sum(axis=1) / (drawn > 0).sum(axis=1)
    return total / len(labels)


def percentile_interval(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Return the central interval that holds `level` of the resampled values (resamples,)."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

"""What a classifier says about a recording and about its windows."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from aape.errors import ConfigError
from aape.inference.segments import FloatArray

Threshold: TypeAlias = float | Mapping[str, float] | None


@dataclass(frozen=True)
class Prediction:
    """The labels of a piece of sound."""

    start: float  # seconds
    end: float
    labels: list[str]  # names of the likeliest classes, best first
    scores: list[float]  # their probabilities


@dataclass(frozen=True)
class Classification(Prediction):
    """The labels of a whole recording; probabilities are the mean over its windows, weighted by their length."""

    windows: list[Prediction]  # one, or consecutive ones of 6.08 s in recordings over 10.24 s


def check_request(top: int, threshold: Threshold, labels: Sequence[str] = ()) -> None:
    """Refuse what would silently give no labels, or others than were meant.

    Raises:
        ConfigError: `top` is no whole number from 1 up, a threshold is outside 0 to 1, or of a class not in `labels`.
    """
    if not isinstance(top, numbers.Integral) or top < 1:
        raise ConfigError(f"top must be 1 or more, got {top!r}")
    by_label = threshold if isinstance(threshold, Mapping) else {"": 0.0 if threshold is None else threshold}
    for label, value in by_label.items():
        if label and label not in labels:
            raise ConfigError.unknown_key(label, labels, "threshold")
        if not isinstance(value, numbers.Real) or not 0 <= value <= 1:  # also true of NaN
            raise ConfigError(f"threshold must be within 0 and 1, got {value!r}{f' for {label}' if label else ''}")


class Summary:
    """The labels of one recording, put together from those of its segments; memory is taken for what is returned."""

    def __init__(self, labels: Sequence[str], top: int, threshold: Threshold) -> None:
        self.labels, self.top, self.threshold = labels, top, threshold
        self.weighted, self.weight, self.end = np.zeros(len(labels)), 0.0, 0.0
        self.windows: list[Prediction] = []

    def add(self, weight: float, start: float, end: float, scores: FloatArray) -> None:
        """Take the next segment, from `start` to `end` seconds, with its probabilities (classes,)."""
        self.weighted += weight * scores
        self.weight, self.end = self.weight + weight, max(self.end, end)
        if start < end:  # the others hold the loop of a short recording only
            self.windows.append(Prediction(start, end, *_best(scores, self.labels, self.top, self.threshold)))

    def result(self) -> Classification:
        """Return what has been added."""
        best = _best(self.weighted / self.weight, self.labels, self.top, self.threshold)
        return Classification(0.0, self.end, *best, self.windows)


def _best(scores: FloatArray, labels: Sequence[str], top: int, threshold: Threshold) -> tuple[list[str], list[float]]:
    """Return names and scores of the best classes, best first, ties in the order of the classes."""
    lowest = threshold if isinstance(threshold, Mapping) else dict.fromkeys(labels, threshold or 0.0)
    order = np.argsort(-scores, kind="stable")[:top]
    best = [index for index in order if scores[index] >= lowest.get(labels[index], 0.0)]
    return [labels[index] for index in best], [float(scores[index]) for index in best]

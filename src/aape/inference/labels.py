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


def summarise(
    segments: Sequence[tuple[int, float, float, FloatArray]],
    labels: Sequence[str],
    top: int,
    threshold: Threshold,
) -> Classification:
    """Put the segments of one recording together, each a weight, start and end in seconds, probabilities (classes,)."""
    weights, probabilities = [weight for weight, *_ in segments], [scores for *_, scores in segments]
    mean = np.average(probabilities, axis=0, weights=weights)
    parts = [
        Prediction(start, end, *_best(scores, labels, top, threshold))
        for _, start, end, scores in segments
        if start < end  # the others hold the loop of a short recording only
    ]
    return Classification(0.0, segments[-1][2], *_best(mean, labels, top, threshold), parts)


def _best(scores: FloatArray, labels: Sequence[str], top: int, threshold: Threshold) -> tuple[list[str], list[float]]:
    """Return names and scores of the best classes, best first, ties in the order of the classes."""
    lowest = threshold if isinstance(threshold, Mapping) else dict.fromkeys(labels, threshold or 0.0)
    order = np.argsort(-scores, kind="stable")[:top]
    best = [index for index in order if scores[index] >= lowest.get(labels[index], 0.0)]
    return [labels[index] for index in best], [float(scores[index]) for index in best]

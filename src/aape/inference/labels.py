"""What a classifier says about a recording and about its windows."""

from __future__ import annotations

import numbers
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from aape.data.tables import open_table
from aape.errors import ConfigError, DataError
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


def read_thresholds(
    path: str | os.PathLike[str], labels: Sequence[str], default: float | None = None
) -> dict[str, float]:
    """Read the threshold of each label from a table with the columns `label` and `threshold`, as clips are read.

    Args:
        path: of the table.
        labels: of the model.
        default: of those that the table does not name; None for 0.

    Raises:
        DataError: names the file, and the line, of what is missing, no label, there twice or outside 0 to 1.
    """
    names = {_plain(label): label for label in labels} | {label: label for label in labels}
    lines: dict[str, int] = {}
    thresholds = dict.fromkeys(labels, default or 0.0)
    with open_table(path) as table:
        columns = [table.require("label"), table.require("threshold")]
        for line, cells in table.rows():
            text, number = (cells[column] for column in columns)
            value = table.number(number)
            label = names.get(text) or names.get(_plain(text))
            where = f"{path}, line {line}"
            if label is None:
                raise DataError(str(ConfigError.unknown_key(text, labels, where)))
            if label in lines:
                raise DataError(f"{where}: {label!r} has a threshold in line {lines[label]} already")
            if value is None or not 0 <= value <= 1:
                raise DataError(f"{where}: threshold must be within 0 and 1, got {number.strip()!r} for {label}")
            lines[label], thresholds[label] = line, value
    if not lines:
        raise DataError(f"{path}: no rows in it")
    table.warn_unused()
    return thresholds


def _plain(label: str) -> str:
    """Return a label as tables of clips have it."""
    return unicodedata.normalize("NFC", label.strip())


class Summary:
    """The labels of one recording, put together from those of its segments; memory is taken for what is returned."""

    def __init__(self, labels: Sequence[str], top: int, threshold: Threshold) -> None:
        by_label = threshold if isinstance(threshold, Mapping) else dict.fromkeys(labels, threshold or 0.0)
        self.labels, self.top = labels, top
        self.lowest = np.array([by_label.get(label, 0.0) for label in labels])
        self.weighted, self.weight, self.end = np.zeros(len(labels)), 0.0, 0.0
        self.windows: list[Prediction] = []

    def add(self, weight: float, start: float, end: float, scores: FloatArray) -> None:
        """Take the next segment, from `start` to `end` seconds, with its probabilities (classes,)."""
        self.weighted += weight * scores
        self.weight, self.end = self.weight + weight, max(self.end, end)
        if start < end:  # the others hold the loop of a short recording only
            self.windows.append(Prediction(start, end, *self._best(scores)))

    def result(self) -> Classification:
        """Return what has been added."""
        return Classification(0.0, self.end, *self._best(self.weighted / self.weight), self.windows)

    def _best(self, scores: FloatArray) -> tuple[list[str], list[float]]:
        """Return names and scores of the best classes, best first, ties in the order of the classes."""
        (high,) = np.nonzero(scores >= self.lowest.astype(scores.dtype))
        best = high[np.argsort(-scores[high], kind="stable")[: self.top]]
        return [self.labels[index] for index in best], scores[best].tolist()

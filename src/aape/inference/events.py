"""What sounds when: windows in which a label scores high enough, joined to events."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aape.errors import ConfigError
from aape.inference.labels import Prediction

_ROUNDING = 1e-6  # seconds; times are sums of decimal fractions, which float does not hold exactly


@dataclass(frozen=True)
class Event:
    """A stretch of a recording in which a label scores high enough."""

    start: float  # seconds
    end: float
    label: str
    score: float  # the highest of its windows


def check_lengths(min_duration: float, min_gap: float) -> None:
    """Refuse lengths in seconds that are negative or no numbers: ConfigError."""
    lengths: dict[str, Any] = {"min_duration": min_duration, "min_gap": min_gap}
    for name, seconds in lengths.items():
        if not isinstance(seconds, numbers.Real) or not float(seconds) >= 0:  # also true of NaN
            raise ConfigError(f"{name} must be 0 s or more, got {seconds!r}")


def events(windows: Iterable[Prediction], *, min_duration: float = 0.0, min_gap: float = 0.0) -> list[Event]:
    """Join windows of a label that overlap or touch to events, each from the start of the first to the end of the last.

    Args:
        windows: of `AudioModel.classify` with `top=len(model.labels)` and a `threshold`, so that they have all labels
            that score at least that, and no others.
        min_duration: leave out events that are shorter, in seconds, after joining.
        min_gap: also join windows that are less than this apart, in seconds.

    Returns:
        The events by start, then by label.

    Raises:
        ConfigError: a negative length.
    """
    check_lengths(min_duration, min_gap)
    last: dict[str, Event] = {}  # of each label
    done: list[Event] = []
    for window in sorted(windows, key=lambda window: window.start):
        for label, score in zip(window.labels, window.scores, strict=True):
            event = last.get(label)
            gap = 0.0 if event is None else window.start - event.end
            if event is not None and (gap <= 0 or gap < min_gap - _ROUNDING):
                last[label] = Event(event.start, max(event.end, window.end), label, max(event.score, score))
                continue
            if event is not None:
                done.append(event)
            last[label] = Event(window.start, window.end, label, score)
    long = [event for event in (*done, *last.values()) if event.end - event.start >= min_duration - _ROUNDING]
    return sorted(long, key=lambda event: (event.start, event.label))


def label_track(events: Iterable[Event]) -> str:
    """Lay out events as a label track that Audacity imports: a line of start, end (in seconds) and label for each."""
    lines = (f"{event.start:.6f}\t{event.end:.6f}\t{' '.join(event.label.split())}\n" for event in events)
    return "".join(lines)

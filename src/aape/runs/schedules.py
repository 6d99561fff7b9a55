"""Schedules as pure functions of the step."""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, warmup: int, total: int) -> float:
    """Return the learning rate's factor: linear from 0 to 1 over `warmup` steps, then a cosine to 0 at `total`."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def cosine_between(step: int, *, start: float, end: float, total: int) -> float:
    """Return the value at `step` of a cosine from `start` at 0 to `end` at `total`: the teacher's momentum."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, total))))

"""Time and memory: ratios of things measured in one run, turn by turn, medians of at least seven turns."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
TURNS = 7


def time_in_turns(forms: dict[str, Callable[[], Any]], turns: int = TURNS) -> dict[str, float]:
    """Return the median seconds of each form; every turn runs all of them, so that all see the same weather.

    A form runs twice in its turn and the second run counts: the first pays for what another form did to the caches and
    to the allocator.
    """
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(turns):
        for name, form in forms.items():
            form()
            _synchronise()
            start = time.perf_counter()
            form()
            _synchronise()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_megabytes(form: Callable[[], Any]) -> float:
    """Return the most memory (MB) that PyTorch's CPU allocator lends beyond what is in use before."""
    form()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        form()
    events: list[tuple[int, int]] = []
    pending = list(profiler.profiler.kineto_results.experimental_event_tree())
    while pending:
        event = pending.pop()
        pending += event.children
        if event.name == "[memory]":
            events.append((event.start_time_ns, event.extra_fields.alloc_size))
    return max(accumulate(size for _, size in sorted(events))) / 1e6


def write(name: str, results: dict[str, Any]) -> Path:
    """Write results with the machine and the versions they belong to."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"where": describe(), **results}, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")
    return path


def describe() -> dict[str, Any]:
    """Return the machine, the date and the versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": version("torch"),
        "aape": version("aape"),
        "commit": _commit(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return done.stdout.strip() or None


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

"""Time and memory: ratios of things measured in one run, turn by turn, medians of at least seven turns."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
TURNS = 7


def time_in_turns(forms: dict[str, Callable[[], Any]], turns: int = TURNS) -> dict[str, float]:
    """Return the median seconds of each form; every turn runs all of them once, so that all see the same weather."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(turns + 1):
        for name, form in forms.items():
            _synchronise()
            start = time.perf_counter()
            form()
            _synchronise()
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_megabytes(statement: str, setup: str) -> float:
    """Return what a statement adds to the peak resident memory of a fresh process, in MB."""
    code = (
        f"import resource, gc\n{setup}\ngc.collect()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"{statement}\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    return float(done.stdout.split()[-1])


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

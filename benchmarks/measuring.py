"""Time and memory: ratios of things measured in one run, turn by turn, medians of at least seven turns."""

from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timezone
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType

import aape

RESULTS = Path(os.environ.get("OUT") or Path(__file__).parent / "results")
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


def where_time_goes(form: Callable[[], Any], calls: int = 3, most: int = 20) -> dict[str, Any]:
    """Profile calls of a form, after one that is not counted.

    Returns:
        Of one call: how often the host waited for the device, the number of kernels and their seconds, and the `most`
        expensive by name; without a GPU, operators stand for kernels.
    """
    form()
    _synchronise()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(calls):
            form()
    events = profiler.key_averages()
    waits = sum(event.count for event in events if "Synchronize" in event.key)
    if torch.cuda.is_available():
        kernels = [(e.self_device_time_total, e.count, e.key) for e in events if e.device_type != DeviceType.CPU]
    else:
        kernels = [(event.self_cpu_time_total, event.count, event.key) for event in events]
    kernels.sort(reverse=True)
    return {
        "waits": waits // calls,  # the profiler itself waits once
        "kernels": sum(count for _, count, _ in kernels) / calls,
        "seconds": sum(time for time, _, _ in kernels) / 1e6 / calls,
        "by_kernel": {name[:100]: time / 1e6 / calls for time, _, name in kernels[:most]},
    }


def peak_gigabytes(form: Callable[[], Any]) -> float | None:
    """Return the most memory (GB) that PyTorch holds on the GPU meanwhile; None without one."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    form()
    return torch.cuda.max_memory_allocated() / 1e9


def write(name: str, results: dict[str, Any]) -> Path:
    """Write results with the machine and the versions they belong to; again, as they become more."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"where": describe(), **results}, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")
    return path


def describe() -> dict[str, Any]:
    """Return the machine, the date and the versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    here = str(Path(__file__).parent)
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "driver": gpu and ask_gpu("driver_version"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _triton(),
        "aape": aape.__version__,
        "commit": os.environ.get("COMMIT") or _said("git", "-C", here, "rev-parse", "--short", "HEAD"),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def ask_gpu(query: str) -> str | None:
    """Return what nvidia-smi says of the first GPU."""
    lines = _said("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits")
    return lines and lines.splitlines()[0]


def _said(*command: str) -> str | None:
    """Return what a command prints; None if there is no such program, or nothing is printed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _triton() -> str | None:
    try:
        return str(importlib.import_module("triton").__version__)
    except ImportError:
        return None


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

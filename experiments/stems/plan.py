"""What is to be run, in the order in which verdicts depend on it; see README.md for why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from stems import ENCODERS, STEMS

from aape.commands.table import Entry

FOLDER = Path(__file__).resolve().parent
DATA, RUNS = Path("data/stems"), Path("runs/stems")
TASKS = ("words", "notes", "rates")
SEEDS = range(5)
STEPS = 2000
SELECTION_SEED = 100  # of runs that choose a learning rate, and of no other
SELECTION_STEPS = 1000
FIRST_RATES = (5e-4, 1e-3, 2e-3)  # then further by factors of 2, as long as the best is at an edge
EDGES = (1.25e-4, 3.2e-2)  # but not beyond these
LONGER, LONGER_TASK, LONGER_SEEDS = 4, "words", range(3)
LONGER_STEMS = ("standard", "standard-norm", "gelu-wide", "filters", "bilateral")
PRETRAINING_SEEDS = range(3)
TWINS = ("aape", "standard")  # of trial 3
GRID = "experiments/stems"
SIZE = "small"


def enlarge() -> None:
    """Plan the same runs for a GPU, in a folder of their own: larger encoders, four times the steps."""
    global RUNS, SIZE, STEPS, SELECTION_STEPS
    RUNS, SIZE, STEPS, SELECTION_STEPS = Path("runs/stems-large"), "large", 4 * STEPS, 4 * SELECTION_STEPS


@dataclass(frozen=True)
class Job:
    """A run: what Python is called with, its folder, and what is there when it has ended."""

    arguments: tuple[str, ...]
    out: Path
    result: str = "result.json"

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.out.with_name(self.out.name + ".log")

    def is_done(self) -> bool:
        """Return whether it has ended."""
        return (self.out / self.result).exists()

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, or let it go on, away from the terminal's Ctrl-C."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            command = [sys.executable, *self.arguments]
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=os.name == "posix")


def supervised(task: str, stem: str, seed: int, rate: float, steps: int, out: Path, *more: str) -> Job:
    """Return a training of supervised.py."""
    options = {"task": task, "stem": stem, "seed": seed, "learning-rate": f"{rate:g}", "steps": steps, "out": out}
    if SIZE != "small":
        options["size"] = SIZE
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return Job((str(FOLDER / "supervised.py"), *words, *more), out)


def selection(task: str, stem: str, rate: float) -> Job:
    """Return a short training that scores a learning rate on validation clips."""
    out = RUNS / "select" / task / stem / f"{rate:g}"
    return supervised(task, stem, SELECTION_SEED, rate, SELECTION_STEPS, out, "--select")


def validation_accuracy(task: str, stem: str, rate: float) -> float | None:
    """Return what a learning rate reached; None where it was not run, 0 where it failed to stay finite."""
    job = selection(task, stem, rate)
    if not job.is_done():
        return None
    scores = json.loads((job.out / "result.json").read_text())["scores"]
    return float(scores.get(str(SELECTION_STEPS), {}).get("validation", 0.0))


def rates_to_try(task: str, stem: str) -> tuple[list[float], float | None]:
    """Return the learning rates that are still to be run, and where there are none, the best."""
    rates = list(FIRST_RATES)
    while True:
        scores = {rate: validation_accuracy(task, stem, rate) for rate in rates}
        missing = [rate for rate, score in scores.items() if score is None]
        if missing:
            return missing, None
        best = max(rates, key=lambda rate: scores[rate] or 0.0)
        wider = {min(rates): best / 2, max(rates): best * 2}.get(best)
        if wider is None or not EDGES[0] <= wider <= EDGES[1]:
            return [], best
        rates.append(wider)


def select() -> Iterator[Job]:
    """Yield the runs that choose each stem's learning rate."""
    for task in TASKS:
        for stem in STEMS:
            for rate in rates_to_try(task, stem)[0]:
                yield selection(task, stem, rate)


def trials() -> Iterator[Job]:
    """Yield trials 1 and 2, seed by seed: what has ended is balanced whenever one stops."""
    for seed in SEEDS:
        for task in TASKS:
            for stem in STEMS:
                rate = rates_to_try(task, stem)[1]
                if rate is not None:
                    yield supervised(task, stem, seed, rate, STEPS, RUNS / "supervised" / task / stem / str(seed))


def longer() -> Iterator[Job]:
    """Yield the trainings of trial 1 that go on for longer."""
    for seed in LONGER_SEEDS:
        for stem in LONGER_STEMS:
            rate = rates_to_try(LONGER_TASK, stem)[1]
            if rate is not None:
                out = RUNS / "longer" / LONGER_TASK / stem / str(seed)
                yield supervised(LONGER_TASK, stem, seed, rate, LONGER * STEPS, out)


def aape(line: str) -> Job:
    """Return a run of the command line, as typed after `aape`."""
    entry = Entry.of(line.split())
    return Job(tuple(entry.command()[1:]), entry.out)


def probes(encoder: str, tasks: Mapping[str, Any]) -> list[str]:
    """Return the tasks that an encoder is probed on: the rendered ones; those of trial 3 also on recordings."""
    recorded = [task for task in tasks if task not in TASKS and encoder in TWINS and Path(tasks[task]["data"]).exists()]
    return [*TASKS, *recorded]


def pretraining() -> Iterator[Job]:
    """Yield trial 3 and the ablations, encoder by encoder: each seed's pre-training, then its probes."""
    lists = Job((str(FOLDER / "lists.py"), "--data", str(DATA)), DATA, "pretraining.csv")
    options = ("--data", str(DATA / "pretraining.csv"), "--out", str(DATA / "stats.json"))
    for job in (lists, Job(("-m", "aape", "stats", *options), DATA / "stats.json", "")):
        if not job.is_done():
            yield job
            return
    grid = yaml.safe_load((FOLDER / "grid.yaml").read_text())
    larger = ""
    if SIZE != "small":
        encoder = " ".join(f"--encoder.{key} {value}" for key, value in ENCODERS[SIZE].items())
        larger = f"--steps {4 * grid['pretrain']['steps']} {encoder}"
    for name in grid["encoders"]:
        for seed in PRETRAINING_SEEDS:
            out = RUNS / "pretraining" / f"{name}-{seed}"
            job = aape(f"pretrain --config {GRID}/{name} --seed {seed} --out {out} {larger}")
            yield job
            if job.is_done():
                for task in probes(name, grid["tasks"]):
                    yield aape(f"probe --config {GRID}/{name}-{task} --checkpoint {out} --out {out}-{task}")


STAGES: dict[str, Callable[[], Iterator[Job]]] = {
    "select": select,
    "supervised": trials,
    "longer": longer,
    "pretraining": pretraining,
}

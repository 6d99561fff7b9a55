"""Trial 3 and the ablations: what probes of pre-trained encoders gave, each against AaPE as in the paper."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pairs import Difference, over_seeds
from plan import FOLDER, PRETRAINING_SEEDS, TASKS

BASE = "aape"
RECORDED = ("drums", "instruments")  # of these only the encoders of trial 3 have probes
Scores = Mapping[str, Mapping[str, float]]  # by task and seed


def titles() -> dict[str, str]:
    """Return what each encoder of grid.yaml is about."""
    grid = yaml.safe_load((FOLDER / "grid.yaml").read_text())
    return {name: encoder["about"] for name, encoder in grid["encoders"].items()}


def collect(runs: Path) -> dict[str, Any]:
    """Return accuracy by encoder, task and seed."""
    encoders = {}
    for name in titles():
        scores: dict[str, dict[str, float]] = {task: {} for task in (*TASKS, *RECORDED)}
        for seed in PRETRAINING_SEEDS:
            for task in scores:
                path = runs / "pretraining" / f"{name}-{seed}-{task}" / "result.json"
                if path.exists():
                    row = json.loads(path.read_text())["rows"]["encoder"]
                    scores[task][str(seed)] = row["scores"]["last"]["accuracy"]["mean"]
        if any(scores.values()):
            encoders[name] = scores
    return encoders


def difference(ours: Scores, base: Scores, tasks: Sequence[str]) -> Difference | None:
    """Return the paired difference of the mean over tasks, of the seeds that both have in all of them."""
    parts = [entry[task] for entry in (ours, base) for task in tasks]
    seeds = [seed for seed in parts[0] if all(seed in part for part in parts)]
    if len(seeds) < 2:
        return None
    values = np.array([np.mean([ours[task][seed] - base[task][seed] for task in tasks]) for seed in seeds])
    return Difference(float(values.mean()), over_seeds(values))


def rows(encoders: Mapping[str, Scores]) -> list[list[str]]:
    """Return the lines of the table: accuracy by task, difference to AaPE over the rendered tasks, and verdict."""
    lines = []
    for name, title in titles().items():
        cells = []
        for task in (*TASKS, *RECORDED):
            values = 100 * np.array(list(encoders.get(name, {}).get(task, {}).values()))
            listed = ", ".join(f"{value:.1f}" for value in values)
            cells.append(f"{values.mean():.1f} ({listed})" if len(values) else "not run")
        is_paired = {BASE, name} <= encoders.keys() and name != BASE
        against = difference(encoders[name], encoders[BASE], TASKS) if is_paired else None
        words = ["", ""]
        if against is not None:
            low, high = (100 * bound for bound in against.seeds)
            words = [f"{100 * against.mean:+.1f} ({low:+.1f} to {high:+.1f})", against.verdict()]
        lines.append([title, *cells, *words])
    return lines

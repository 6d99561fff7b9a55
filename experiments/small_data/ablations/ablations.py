"""What each choice of the method gives at a small scale: the runs of grid.yaml as a table, each against AaPE.

    python experiments/small_data/ablations/ablations.py --list > runs/ablations.txt
    aape table run runs/ablations.txt
    python experiments/small_data/ablations/ablations.py [--runs runs/evidence]

Prints the table and writes ablations.json. A run that has not ended is "not run".
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
BASE = "aape"
SETS = ("drums", "instruments")
SEEDS = 3
VARIANTS = {
    name: encoder["about"] for name, encoder in yaml.safe_load((FOLDER / "grid.yaml").read_text())["encoders"].items()
}
# 97.5 % of Student's t, by degrees of freedom: an interval of a mean of so few seeds is wide, and should be.
STUDENT = {1: 12.7062, 2: 4.3027}


def lines(runs: Path) -> list[str]:
    """Return what is to be run: every encoder with each seed and its probes, and the yardsticks once."""
    recipes = "experiments/small_data/ablations"
    listed = []
    for variant in VARIANTS:
        for seed in range(SEEDS):
            run = runs / f"{variant}-{seed}"
            listed.append(f"pretrain --config {recipes}/{variant} --seed {seed} --out {run}")
            probes = [f"probe --config {recipes}/{variant}-{name} --checkpoint {run} --out" for name in SETS]
            listed += [f"{probe} {run}-{name}" for probe, name in zip(probes, SETS, strict=True)]
        if variant == BASE:
            listed += [
                f"probe --config {recipes}/{BASE}-{name} --checkpoint {runs / BASE}-0 "
                f"--out {runs}/yardsticks-{name} --yardsticks --seeds 3"
                for name in SETS
            ]
    return listed


def collect(runs: Path) -> list[dict[str, Any]]:
    """Return a row per variant: for each set the accuracies by seed, and by how much they differ from the base's."""
    scores = {
        (variant, name): {
            seed: score for seed in range(SEEDS) if (score := read(runs / f"{variant}-{seed}-{name}")) is not None
        }
        for variant in VARIANTS
        for name in SETS
    }
    rows = []
    for variant in VARIANTS:
        sets = {}
        for name in SETS:
            ours, base = scores[variant, name], scores[BASE, name]
            if ours:
                sets[name] = {"scores": ours, "mean": statistics.mean(ours.values()), **difference(ours, base)}
        rows.append({"variant": variant, "title": VARIANTS[variant], "sets": sets})
    return rows


def read(folder: Path, features: str = "encoder") -> float | None:
    """Return the accuracy of the probe's last step, in 0..1; None where there is no result."""
    path = folder / "result.json"
    if not path.exists():
        return None
    accuracy: float = json.loads(path.read_text())["rows"][features]["scores"]["last"]["accuracy"]["mean"]
    return accuracy


def yardsticks(runs: Path) -> list[dict[str, Any]]:
    """Return the rows of the same encoder untrained and of log-mel statistics: means over three seeds of the probe."""
    rows = []
    for features in ("untrained encoder", "log-mel statistics"):
        means = {name: read(runs / f"yardsticks-{name}", features) for name in SETS}
        sets = {name: {"scores": {}, "mean": score} for name, score in means.items() if score is not None}
        rows.append({"variant": features, "title": features, "sets": sets})
    return rows


def difference(ours: dict[int, float], base: dict[int, float]) -> dict[str, Any]:
    """Return the mean difference over the seeds that both have, and its 95 % interval by Student's t."""
    pairs = [ours[seed] - base[seed] for seed in ours if seed in base]
    if len(pairs) < 2 or ours is base:
        return {}
    mean, error = statistics.mean(pairs), statistics.stdev(pairs) / len(pairs) ** 0.5
    reach = STUDENT[len(pairs) - 1] * error
    return {"difference": mean, "interval": [mean - reach, mean + reach]}


def line(row: dict[str, Any]) -> str:
    """Return one line of the table, in per cent."""
    cells = []
    for name in SETS:
        cell = row["sets"].get(name)
        if cell is None:
            cells += ["not run", ""]
            continue
        scores = ", ".join(f"{100 * score:.1f}" for score in cell["scores"].values())
        cells.append(f"{100 * cell['mean']:.1f}" + (f" ({scores})" if scores else ""))
        if "difference" in cell:
            low, high = (100 * bound for bound in cell["interval"])
            cells.append(f"{100 * cell['difference']:+.1f} ({low:+.1f} to {high:+.1f})")
        else:
            cells.append("")
    return "| " + " | ".join([row["title"], *cells]) + " |"


def main() -> None:
    """Print the table, and write its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--list", action="store_true", help="print the list of runs for `aape table run`")
    options = parser.parse_args()
    runs = options.runs
    if options.list:
        print("\n".join(lines(runs)))
        return
    rows = yardsticks(runs) + collect(runs)
    print("| variant | " + " | ".join(f"{name} | against AaPE" for name in SETS) + " |")
    print("|---" * (1 + 2 * len(SETS)) + "|")
    for row in rows:
        print(line(row))
    (FOLDER / "ablations.json").write_text(json.dumps({"seeds": SEEDS, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

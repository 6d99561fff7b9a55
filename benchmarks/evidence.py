"""What the ablations say: the runs of recipes/evidence/queue.txt as a table, each against the paper's stem.

    aape table run recipes/evidence/queue.txt
    python benchmarks/evidence.py [--runs runs/evidence]

Prints the table and writes results/evidence.json. A run that has not ended is "not run".
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

BASE = "aape"
SETS = ("drums", "instruments")
SEEDS = 3
VARIANTS = {
    "aape": "AaPE, the paper's method (4 views)",
    "patch": "standard stem",
    "analytic": "analytic phase",
    "statistics": "with the statistics' loss",
    "long-windows": "kernels start long",
    "fixed": "not adaptive",
    "con1": "contrastive weight 1",
    "con0.01": "contrastive weight 0.01",
    "con0.001": "contrastive weight 0.001",
    "mask-context": "mask context",
    "channel-norm": "targets per channel",
    "eat-loss": "EAT's loss reduction",
    "cnn": "CNN predictor",
    "k31": "31 taps",
    "k127": "127 taps",
    "views2": "2 views",
}
# 97.5 % of Student's t, by degrees of freedom: an interval of a mean of so few seeds is wide, and should be.
STUDENT = {1: 12.7062, 2: 4.3027}


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
            own, base = scores[variant, name], scores[BASE, name]
            if own:
                sets[name] = {"scores": own, "mean": statistics.mean(own.values()), **difference(own, base)}
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
        found = {name: read(runs / f"yardsticks-{name}", features) for name in SETS}
        sets = {name: {"scores": {}, "mean": score} for name, score in found.items() if score is not None}
        rows.append({"variant": features, "title": features, "sets": sets})
    return rows


def difference(own: dict[int, float], base: dict[int, float]) -> dict[str, Any]:
    """Return the mean difference over the seeds that both have, and its 95 % interval by Student's t."""
    pairs = [own[seed] - base[seed] for seed in own if seed in base]
    if len(pairs) < 2 or own is base:
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
    runs = parser.parse_args().runs
    rows = yardsticks(runs) + collect(runs)
    print("| variant | " + " | ".join(f"{name} | against AaPE" for name in SETS) + " |")
    print("|---" * (1 + 2 * len(SETS)) + "|")
    for row in rows:
        print(line(row))
    path = Path(__file__).parent / "results" / "evidence.json"
    path.write_text(json.dumps({"seeds": SEEDS, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

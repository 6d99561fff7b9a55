"""The tables of the page, from what `pooling.py` has left in its cache.

    python experiments/pooling/tables.py CORPUS

Prints them as Markdown, and writes scan.csv: every set, pool and choice of blocks.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pooling import CACHE, ENCODERS, FINALISTS, LAYERS, LOOPS, SETS, STATISTICS, read_set, title

from aape.downstream.metrics import accuracy, balanced_accuracy, bootstrap_scores, confusion_matrix, percentile_interval
from aape.models.pooling import POOLS

LAST = (12,)
PAPER = ("cls_mean", LAST)
UNTRAINED = ("untrained", "untrained_min", "untrained_max")
MARGIN = 3.0  # points; for less, nothing changes
VECTORS = [(kind, layers) for kind in POOLS for layers in LAYERS]


class Scores:
    """Scores in per cent of every set, encoder, length and vector."""

    def __init__(self, corpus: Path, cache: Path) -> None:
        self.balanced: dict[tuple[Any, ...], float] = {}
        self.accuracy: dict[tuple[Any, ...], float] = {}
        self.resamples: dict[tuple[Any, ...], NDArray[np.float64]] = {}
        for name in SETS:
            labelled, parts = read_set(corpus, name)
            tested = np.concatenate([part.test for part in parts])
            truth = labelled.labels()[tested]
            groups = np.unique(labelled.groups or [], return_inverse=True)[1][tested]
            for encoder in (STATISTICS, *ENCODERS):
                for loop_to in LOOPS:
                    scored = json.loads((cache / f"{name}-{encoder}-{loop_to}.json").read_text())
                    for vector, result in scored.items():
                        key, guess = (name, encoder, loop_to, vector), np.asarray(result["predictions"])
                        confusion = confusion_matrix(truth, guess, len(labelled.classes))
                        self.balanced[key] = 100 * balanced_accuracy(confusion)
                        self.accuracy[key] = 100 * accuracy(confusion)
                        if encoder in ("tiny", STATISTICS):
                            units = [groups] if SETS[name].resampled else None
                            right = [(guess == truth).astype(np.float64)]
                            drawn = bootstrap_scores([truth], right, units, num_classes=len(labelled.classes))
                            self.resamples[key] = 100 * drawn[:, 1]

    def untrained(self, name: str, loop_to: int, vector: str) -> list[float]:
        """Return the balanced accuracy with each of the three untrained encoders."""
        return [self.balanced[name, encoder, loop_to, vector] for encoder in ENCODERS[1:]]

    def mean(self, vector: tuple[str, tuple[int, ...]], names: list[str]) -> float:
        """Return the mean balanced accuracy of `tiny` over some sets."""
        return float(np.mean([self.balanced[name, "tiny", 3, key(vector)] for name in names]))

    def difference(self, vector: Any, other: Any, names: list[str]) -> tuple[float, float, float]:
        """Return by how much one vector is ahead of another in the mean over sets, and the 95 % interval of that."""
        draws = [self.resamples[n, "tiny", 3, key(vector)] - self.resamples[n, "tiny", 3, key(other)] for n in names]
        return (self.mean(vector, names) - self.mean(other, names), *percentile_interval(np.mean(draws, 0)))

    def choose(self, names: list[str]) -> tuple[Any, Any]:
        """Return the vector with the highest mean over sets, and the one that the rule of the page takes."""
        best = max(VECTORS, key=lambda vector: self.mean(vector, names))
        kind = max(POOLS, key=lambda kind: self.mean((kind, LAST), names))
        other = max(((kind, layers) for layers in LAYERS), key=lambda vector: self.mean(vector, names))
        return best, other if self.is_ahead(other, (kind, LAST), names) else (kind, LAST)

    def is_ahead(self, vector: Any, other: Any, names: list[str]) -> bool:
        """Say whether the lead of a vector is at least `MARGIN`, or its interval above 0."""
        lead, low, _ = self.difference(vector, other, names)
        return lead >= MARGIN or low > 0


def key(vector: tuple[str, tuple[int, ...]]) -> str:
    """Name a vector as the cache does."""
    return f"{vector[0]} {title(vector[1])}"


def row(*cells: Any) -> None:
    """Print a line of a table."""
    print("| " + " | ".join(map(str, cells)) + " |")


def head(*cells: Any) -> None:
    """Print the head of a table."""
    print()
    row(*cells)
    print("|---" * len(cells) + "|")


def print_last_block(scores: Scores, loop_to: int, vectors: list[Any]) -> None:
    """Print some vectors of `tiny`, untrained and log-mel statistics, by set."""
    head("vector", *SETS, "mean")
    for vector in vectors:
        for encoder in ("tiny", "untrained"):
            cells, means = [], []
            for name in SETS:
                if encoder == "tiny":
                    low, high = percentile_interval(scores.resamples[name, "tiny", loop_to, key(vector)])
                    means.append(scores.balanced[name, "tiny", loop_to, key(vector)])
                else:
                    values = scores.untrained(name, loop_to, key(vector))
                    low, high = min(values), max(values)
                    means.append(float(np.mean(values)))
                cells.append(f"{means[-1]:.1f} ({low:.1f} to {high:.1f})")
            row(f"{key(vector)}, {encoder}", *cells, f"{np.mean(means):.1f}")
    means = [scores.balanced[name, STATISTICS, loop_to, "statistics 0"] for name in SETS]
    row("log-mel statistics", *(f"{mean:.1f}" for mean in means), f"{np.mean(means):.1f}")


def print_scan(scores: Scores) -> None:
    """Print the mean over sets of every vector, of `tiny` and untrained."""
    head("blocks", *POOLS)
    for layers in LAYERS:
        cells = []
        for kind in POOLS:
            values = [np.mean(scores.untrained(name, 3, key((kind, layers)))) for name in SETS]
            cells.append(f"{scores.mean((kind, layers), list(SETS)):.1f} ({np.mean(values):.1f})")
        row(title(layers), *cells)
    by_set = [
        sorted(VECTORS, key=lambda vector, name=name: -scores.balanced[name, "tiny", 3, key(vector)]) for name in SETS
    ]
    ranks = {key(vector): np.mean([order.index(vector) + 1 for order in by_set]) for vector in VECTORS}
    best = sorted(ranks, key=lambda name: ranks[name])[:5]
    print("\nmean rank over sets:", ", ".join(f"{name} {ranks[name]:.1f}" for name in best))
    print(f"{key(PAPER)} {ranks[key(PAPER)]:.1f}; best on each set:", ", ".join(key(order[0]) for order in by_set))


def print_choice(scores: Scores) -> None:
    """Print the differences to the paper's vector, and what is chosen on all sets and without one of them."""
    names = list(SETS)
    head(f"ahead of {key(PAPER)}", *names, "mean over sets")
    best, chosen = scores.choose(names)
    for vector in dict.fromkeys((best, chosen, *FINALISTS)):
        leads = [scores.difference(vector, PAPER, part) for part in (*([name] for name in names), names)]
        row(key(vector), *(f"{lead:+.1f} ({low:+.1f} to {high:+.1f})" for lead, low, high in leads))
    print(f"\nhighest mean: {key(best)}; by the rule: {key(chosen)}")
    head(
        "set left out", "highest mean on the others", "on the set", "by the rule", "on the set", key(PAPER), "its best"
    )
    for name in names:
        cells: list[str] = []
        for vector in scores.choose([other for other in names if other != name]):
            cells += [key(vector), f"{scores.balanced[name, 'tiny', 3, key(vector)]:.1f}"]
        top = max(VECTORS, key=lambda vector: scores.balanced[name, "tiny", 3, key(vector)])
        values = [scores.balanced[name, "tiny", 3, key(vector)] for vector in (PAPER, top)]
        row(name, *cells, f"{values[0]:.1f}", f"{values[1]:.1f} ({key(top)})")


def print_probes(cache: Path) -> None:
    """Print what the linear layer of `aape probe` gave."""
    for metric in ("balanced_accuracy", "accuracy"):
        head(f"linear layer, {metric.replace('_', ' ')}", *SETS, "mean")
        for vector in FINALISTS:
            means, cells = [], []
            for name in SETS:
                path = cache / "probes" / f"{name}-{vector[0]}-{title(vector[1])}" / "result.json"
                if not path.exists():
                    cells.append("not run")
                    continue
                last = json.loads(path.read_text())["rows"]["encoder"]["scores"]["last"][metric]
                means.append(100 * last["mean"])
                cells.append(f"{means[-1]:.1f} ± {100 * last['std_seeds']:.1f}")
            row(key(vector), *cells, f"{np.mean(means):.1f}" if len(means) == len(SETS) else "")


def write_csv(scores: Scores, path: Path) -> None:
    """Write every set and vector, clips looped to 3 s."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*("set", "pool", "blocks", "balanced", "low", "high", "accuracy"), *UNTRAINED])
        for name in SETS:
            for vector in VECTORS:
                at, values = (name, "tiny", 3, key(vector)), scores.untrained(name, 3, key(vector))
                low, high = percentile_interval(scores.resamples[at])
                numbers = (scores.balanced[at], low, high, scores.accuracy[at])
                numbers = (*numbers, np.mean(values), min(values), max(values))
                writer.writerow([name, vector[0], title(vector[1]), *(f"{number:.1f}" for number in numbers)])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    scores = Scores(options.corpus, options.cache)
    write_csv(scores, Path(__file__).with_name("scan.csv"))
    print_last_block(scores, 3, [(kind, (12,)) for kind in POOLS])
    print_scan(scores)
    print_choice(scores)
    print_last_block(scores, 0, list(FINALISTS))
    print_probes(options.cache)


if __name__ == "__main__":
    main()

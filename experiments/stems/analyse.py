"""What the runs gave: the tables of README.md, its verdicts and its figures.

    python experiments/stems/analyse.py [--runs runs/stems]      # prints; reads runs, and writes results.json
    python experiments/stems/analyse.py --figures                # from results.json: accuracy.png, shifts.png

Everything in README.md that is a number comes from here. A run that has not ended is "not run".
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plan
import pretrained
from numpy.typing import NDArray
from pairs import Difference, middle, over_seeds, source_draws
from plan import LONGER, LONGER_STEMS, LONGER_TASK, SEEDS, TASKS, rates_to_try
from stems import STEMS

from aape.runs.files import write_json

FOLDER = Path(__file__).resolve().parent
RESULTS = "results.json"
SHARES = ("10 %", "25 %", "50 %", "100 %")
CURVE_POINTS = 40
# For each claim: name, the stem that it says is ahead, and the one behind
COMPARISONS = (
    ("conditioning", "standard-norm", "standard"),
    ("nonlinearity and size", "gelu", "standard-norm"),
    ("context", "gelu-wide", "gelu"),
    ("AaPE over the standard stem", "bilateral", "standard"),
    ("AaPE over a standard stem that is conditioned", "bilateral", "standard-norm"),
    ("AaPE over as many plain parameters", "bilateral", "gelu"),
    ("AaPE over the same context", "bilateral", "gelu-wide"),
    ("SBLU over learned filters of the same band", "bilateral", "filters"),
    ("high-pass", "bilateral", "all-pass"),
    ("high-pass, long windows", "bilateral-long", "all-pass-long"),
    ("analytic phase", "analytic", "bilateral"),
    ("analytic phase, long windows", "analytic-long", "bilateral-long"),
    ("long windows, bilateral", "bilateral-long", "bilateral"),
    ("long windows, analytic", "analytic-long", "analytic"),
    ("adaptive kernels", "bilateral", "fixed"),
)
Scores = NDArray[np.float64]


class Claim(NamedTuple):
    """What the plan says that a claim goes by.

    Supported: every pair is, and so on for refuted, where one will do. A pair is judged by the number of tasks, two
    against none, or in the mean of the tasks, where no task may say the opposite.
    """

    text: str
    pairs: tuple[tuple[str, str], ...]  # the stem that it says is ahead, and the one behind
    measure: str = "100 %"
    by_mean: bool = False


CONTROLS = ("standard-norm", "gelu", "gelu-wide", "filters")
LONG_PAIRS = (("analytic", "bilateral"), ("analytic-long", "bilateral-long"))
# Of the measures that should be small, the pairs are turned round
CLAIMS = (
    Claim("The stem helps", (("bilateral", "standard"),)),
    Claim("It helps for what it measures", tuple(("bilateral", control) for control in CONTROLS)),
    Claim("It needs fewer samples", (("bilateral", "standard-norm"),), "25 %"),
    Claim("It steadies training", (("standard-norm", "bilateral"),), "spike", by_mean=True),
    Claim("It is stabler under shifts", (("standard-norm", "bilateral"),), "distance", by_mean=True),
    Claim("The analytic phase is better", LONG_PAIRS, by_mean=True),
    Claim(
        "Long windows that average are the better start",
        (("bilateral-long", "bilateral"), ("analytic-long", "analytic")),
        by_mean=True,
    ),
    Claim("The kernels should adapt", (("bilateral", "fixed"),), by_mean=True),
    Claim("The high-pass helps", (("bilateral", "all-pass"), ("bilateral-long", "all-pass-long")), by_mean=True),
)


def collect(runs: Path, data: Path) -> dict[str, Any]:
    """Return what results.json holds: by task and stem the learning rate, and what each seed gave."""
    tasks = {}
    for task in TASKS:
        sources = test_sources(data / task)
        stems = {}
        for stem in STEMS:
            folders = {seed: runs / "supervised" / task / stem / str(seed) for seed in SEEDS}
            ended = {
                str(seed): read(path, sources) for seed, path in folders.items() if (path / "result.json").exists()
            }
            if ended:
                stems[stem] = {"learning_rate": rates_to_try(task, stem)[1], "seeds": ended}
        clips = [sources.count(name) for name in sorted(set(sources))]
        tasks[task] = {"sources": sorted(set(sources)), "clips": clips, "stems": stems}
    return {"tasks": tasks, "longer": collect_longer(runs, data), "pretraining": pretrained.collect(runs)}


def collect_longer(runs: Path, data: Path) -> dict[str, Any]:
    """Return what the longer runs gave, by stem and seed."""
    sources = test_sources(data / LONGER_TASK)
    folders = {stem: sorted((runs / "longer" / LONGER_TASK / stem).glob("*/result.json")) for stem in LONGER_STEMS}
    return {stem: {p.parent.name: read(p.parent, sources) for p in paths} for stem, paths in folders.items() if paths}


def test_sources(folder: Path) -> list[str]:
    """Return voice or program of each test clip."""
    with (folder / "clips.csv").open(encoding="utf-8", newline="") as file:
        return [row["source"] for row in csv.DictReader(file) if row["split"] == "test"]


def read(run: Path, sources: Sequence[str]) -> dict[str, Any]:
    """Return a run's result with its answers counted by source and its curves thinned."""
    result = json.loads((run / "result.json").read_text())
    if "diverged" in result:
        return {"diverged": result["diverged"]}
    correct = np.unpackbits(np.frombuffer(bytes.fromhex(result["correct"]), np.uint8))[: len(sources)]
    names = np.asarray(sources)
    counts = [int(correct[names == name].sum()) for name in sorted(set(sources))]
    curves = {name: np.asarray(values) for name, values in result["curves"].items()}
    norms = curves["grad_norm"][len(curves["grad_norm"]) // 10 :]  # after the warm-up
    every = max(1, len(curves["step"]) // CURVE_POINTS)
    return {
        "accuracy": [score["test"] for score in result["scores"].values()],
        "steps": [int(step) for step in result["scores"]],
        "correct_by_source": counts,
        "loss": thinned(curves["loss"], every),
        "grad_norm": thinned(curves["grad_norm"], every),
        "spike": round(float(norms.max() / np.median(norms)), 4),
        "shift_accuracy": result["shifts"]["accuracy"],
        "shift_distance": [round(value, 6) for value in result["shifts"]["distance"]],
        "parameters": result["parameters"],
    }


def thinned(values: Scores, every: int) -> list[float]:
    """Return means of so many values each."""
    return [round(float(values[i : i + every].mean()), 4) for i in range(0, len(values), every)]


class Task:
    """The results of one task, by stem and seed; measures are arrays over the seeds that both stems of a pair have."""

    def __init__(self, name: str, results: Mapping[str, Any]) -> None:
        self.name, self.clips = name, np.asarray(results["clips"], np.float64)
        self.stems = {
            stem: {seed: run for seed, run in entry["seeds"].items() if "diverged" not in run}
            for stem, entry in results["stems"].items()
        }
        self.diverged = {
            stem: [seed for seed, run in entry["seeds"].items() if "diverged" in run]
            for stem, entry in results["stems"].items()
        }
        self.rates = {stem: entry["learning_rate"] for stem, entry in results["stems"].items()}

    def values(self, measure: str, stem: str) -> dict[str, float]:
        """Return a measure of `MEASURES` by seed."""
        return {seed: MEASURES[measure](run) for seed, run in self.stems.get(stem, {}).items()}

    def paired(self, measure: str, ahead: str, behind: str) -> dict[str, float]:
        """Return differences by seed."""
        first, second = self.values(measure, ahead), self.values(measure, behind)
        return {seed: first[seed] - second[seed] for seed in first if seed in second}

    def difference(self, measure: str, ahead: str, behind: str) -> Difference | None:
        """Return the paired difference; of the last accuracy, with the interval over test sources."""
        by_seed = self.paired(measure, ahead, behind)
        if len(by_seed) < 2:
            return None
        values = np.array(list(by_seed.values()))
        sources = middle(self.source_draws(ahead, behind, list(by_seed))) if measure == "100 %" else None
        return Difference(float(values.mean()), over_seeds(values), sources)

    def source_draws(self, ahead: str, behind: str, seeds: Sequence[str], generator: int = 0) -> Scores:
        """Return bootstrap samples over test sources of the difference of the last accuracies."""
        first, second = ([self.stems[stem][seed]["correct_by_source"] for seed in seeds] for stem in (ahead, behind))
        return source_draws(np.mean(np.subtract(first, second), 0), self.clips, generator)


MEASURES = {
    **{share: (lambda run, at=at: run["accuracy"][at]) for at, share in enumerate(SHARES)},
    "loss": lambda run: run["loss"][-1],
    "spike": lambda run: float(np.log(run["spike"])),
    "distance": lambda run: float(np.mean(run["shift_distance"][1:])),
    "drop": lambda run: float(np.mean(run["shift_accuracy"]) - np.min(run["shift_accuracy"])),
}


def pooled(tasks: Sequence[Task], measure: str, ahead: str, behind: str) -> Difference | None:
    """Return the difference of the mean over tasks, of the seeds that all tasks have; intervals as for a task."""
    by_task = [task.paired(measure, ahead, behind) for task in tasks]
    seeds = [seed for seed in by_task[0] if all(seed in part for part in by_task)]
    if len(seeds) < 2:
        return None
    values = np.array([np.mean([part[seed] for part in by_task]) for seed in seeds])
    sources = None
    if measure == "100 %":  # tasks have sources of their own, which are drawn apart
        sources = middle(np.mean([task.source_draws(ahead, behind, seeds, i) for i, task in enumerate(tasks)], 0))
    return Difference(float(values.mean()), over_seeds(values), sources)


def per_cent(values: Mapping[str, float]) -> str:
    """Return mean ± standard deviation over seeds."""
    numbers = 100 * np.array(list(values.values()))
    if not len(numbers):
        return "not run"
    return f"{numbers.mean():.1f}" + (f" ± {numbers.std(ddof=1):.1f}" if len(numbers) > 1 else "")


def interval(pair: tuple[float, float], scale: float = 100) -> str:
    """Return an interval in words."""
    return f"{scale * pair[0]:+.1f} to {scale * pair[1]:+.1f}"


def described(difference: Difference, scale: float = 100) -> str:
    """Return a difference with its intervals, over seeds (in brackets) and over sources [likewise]."""
    sources = f" [{interval(difference.sources, scale)}]" if difference.sources else ""
    return f"{scale * difference.mean:+.1f} ({interval(difference.seeds, scale)}){sources}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracy_table(task: Task) -> str:
    """Return accuracy by stem and share of the steps."""
    rows = []
    for stem in STEMS:
        seeds = [*task.stems.get(stem, {}), *task.diverged.get(stem, [])]
        diverged = f", {len(task.diverged[stem])} diverged" if task.diverged.get(stem) else ""
        rate = f"{task.rates[stem]:g}" if task.rates.get(stem) else ""
        scores = [per_cent(task.values(share, stem)) for share in SHARES]
        rows.append([stem, rate, f"{len(seeds)}{diverged}", *scores])
    return table([task.name, "learning rate", "seeds", *SHARES], rows)


def comparison_table(tasks: Sequence[Task], measure: str, scale: float = 100) -> str:
    """Return every comparison's difference and intervals by task, and pooled; of accuracy with the verdicts."""
    is_accuracy = measure in SHARES
    rows = []
    for claim, ahead, behind in COMPARISONS:
        row = [claim, f"{ahead} - {behind}"]
        for difference in (
            *(task.difference(measure, ahead, behind) for task in tasks),
            pooled(tasks, measure, ahead, behind),
        ):
            if difference is None:
                row.append("not run")
                continue
            cell = described(difference, scale)
            row.append(f"{cell} {difference.verdict()}" if is_accuracy else cell)
        rows.append(row)
    return table(["claim", "difference", *(task.name for task in tasks), "mean of the tasks"], rows)


def verdict_of_pair(tasks: Sequence[Task], claim: Claim, ahead: str, behind: str) -> str:
    """Return the verdict of one pair of a claim: those of `Difference.verdict`, and "not run"."""
    found = [task.difference(claim.measure, ahead, behind) for task in tasks]
    mean = pooled(tasks, claim.measure, ahead, behind)
    if mean is None or None in found:
        return "not run"
    verdicts = [difference.verdict() for difference in found if difference is not None]
    for verdict, opposite in (("supported", "refuted"), ("refuted", "supported")):
        holds = mean.verdict() == verdict if claim.by_mean else verdicts.count(verdict) >= 2
        # Of gradients and vectors it is the mean alone
        if holds and (claim.measure not in SHARES or opposite not in verdicts):
            return verdict
    is_equal = claim.by_mean and claim.measure in SHARES and mean.verdict() == "no difference"
    return "no difference" if is_equal else "undecided"


def verdict_of(tasks: Sequence[Task], claim: Claim) -> str:
    """Return the verdict of a claim: the weakest of its pairs, and refuted where one of them is."""
    verdicts = {verdict_of_pair(tasks, claim, ahead, behind) for ahead, behind in claim.pairs}
    for verdict in ("not run", "refuted", "undecided", "no difference"):
        if verdict in verdicts:
            return verdict
    return "supported"


def claims_table(tasks: Sequence[Task]) -> str:
    """Return the verdict of every claim, with the differences in the mean of the tasks."""
    rows = []
    for claim in CLAIMS:
        cells = []
        for ahead, behind in claim.pairs:
            difference = pooled(tasks, claim.measure, ahead, behind)
            if difference is not None:
                scale = 1 if claim.measure == "spike" else 100
                cells.append(f"{ahead} - {behind}: {described(difference, scale)}")
        rows.append([claim.text, claim.measure, "; ".join(cells), verdict_of(tasks, claim)])
    return table(["claim", "measure", "difference, mean of the tasks (over seeds) [over sources]", "verdict"], rows)


def stem_table(tasks: Sequence[Task], measures: Mapping[str, tuple[str, float]]) -> str:
    """Return mean ± standard deviation over seeds of some measures, by stem."""
    rows = []
    for stem in STEMS:
        row = [stem]
        for measure, (_, scale) in measures.items():
            for task in tasks:
                values = scale * np.array(list(task.values(measure, stem).values()))
                row.append(f"{values.mean():.3g} ± {values.std(ddof=1):.2g}" if len(values) > 1 else "not run")
        rows.append(row)
    head = [f"{title}, {task.name}" for title, _ in measures.values() for task in tasks]
    return table(["stem", *head], rows)


def report(results: Mapping[str, Any]) -> str:
    """Return all tables."""
    tasks = [Task(name, entry) for name, entry in results["tasks"].items()]
    parts = [claims_table(tasks), *(accuracy_table(task) for task in tasks)]
    parts += [comparison_table(tasks, share) for share in ("100 %", "25 %")]
    parts.append(stem_table(tasks, {"loss": ("last loss", 1), "spike": ("log spike", 1)}))
    parts.append(stem_table(tasks, {"distance": ("distance, %", 100), "drop": ("drop, points", 100)}))
    parts += [comparison_table(tasks, measure) for measure in ("distance", "drop")]
    longer = {stem: {"seeds": seeds, "learning_rate": None} for stem, seeds in results["longer"].items()}
    parts.append(accuracy_table(Task(f"{LONGER_TASK}, {LONGER} times the steps", {"clips": [], "stems": longer})))
    head = ["encoder", *TASKS, *pretrained.RECORDED, "mean of the tasks against AaPE", "better?"]
    parts.append(table(head, pretrained.rows(results["pretraining"])))
    return "\n\n".join(parts)


def draw(results: Mapping[str, Any], folder: Path) -> None:
    """Draw accuracy against clips seen, and stability against shift."""
    from aape.analysis.figures import make_figure, save_figure

    tasks = [Task(name, entry) for name, entry in results["tasks"].items()]
    samples, shifts = make_figure(15, 5), make_figure(15, 8)
    top = samples.subplots(1, len(tasks), squeeze=False)[0]
    bottom = shifts.subplots(2, len(tasks), squeeze=False)
    for column, task in enumerate(tasks):
        for number, stem in enumerate(STEMS):
            runs = list(task.stems.get(stem, {}).values())
            if not runs:
                continue
            style = {"color": f"C{number % 10}", "linestyle": "-" if number < 5 else "--", "label": stem}
            curves = 100 * np.array([run["accuracy"] for run in runs])
            top[column].errorbar(runs[0]["steps"], curves.mean(0), curves.std(0, ddof=min(1, len(runs) - 1)), **style)
            for row, name in enumerate(("shift_accuracy", "shift_distance")):
                curves = 100 * np.array([run[name] for run in runs])
                bottom[row, column].plot(10 * np.arange(curves.shape[1]), curves.mean(0), **style)
        top[column].set(title=task.name, xlabel="steps", ylabel="test accuracy, %")
        bottom[0, column].set(title=task.name, ylabel="accuracy, %")
        bottom[1, column].set(xlabel="shift, ms", ylabel="distance of vectors, % of that between clips")
    for figure, axes, name in ((samples, top[0], "accuracy"), (shifts, bottom[0, 0], "shifts")):
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize="small")
        save_figure(figure, folder / f"{name}.png")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data/stems"))
    parser.add_argument("--figures", action="store_true", help="only draw, from results.json")
    parser.add_argument("--large", action="store_true", help="runs of run_queue.py --large, into the folder `large`")
    options = parser.parse_args()
    folder = FOLDER
    if options.large:
        plan.enlarge()
        folder = FOLDER / "large"
        folder.mkdir(exist_ok=True)
    if not options.figures:
        write_json(folder / RESULTS, collect(options.runs or plan.RUNS, options.data))
    results = json.loads((folder / RESULTS).read_text())
    draw(results, folder)
    print(report(results))


if __name__ == "__main__":
    main()

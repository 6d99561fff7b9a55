"""What a run is judged by: curves over its steps become best, best on validation and last, over seeds and folds."""

from __future__ import annotations

import csv
import dataclasses
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aape.data.labelled import LabelledSet, describe
from aape.downstream.metrics import confusion_matrix, multi_label_scores, recall_per_class
from aape.downstream.partitions import Indices, Partition
from aape.errors import one_line
from aape.runs.files import write_atomically
from aape.runs.folder import write_result

if TYPE_CHECKING:
    from rich.table import Table

Predictions = tuple[Indices, NDArray[np.float32]]  # of the clips that could be read (n,), probabilities (n, classes)
Curves = Mapping[str, ArrayLike]  # by metric, one value for each evaluated step
COLUMNS = {"best": "best", "best_on_validation": "best val.", "last": "last"}
METRICS = {"accuracy": ("acc.", 100), "balanced_accuracy": ("bal.", 100), "f1": ("F1", 100), "mAP": ("mAP", 100),
           "d_prime": ("d'", 1)}  # fmt: skip
NOT_AVAILABLE = "n/a"
CAPTION = (
    "Per cent, accuracy and balanced accuracy; ± standard deviation over seeds. `best` selects on test data, as the "
    "paper does; `best val.` on validation data."
)
FIT_CAPTION = "Per cent: accuracy, balanced accuracy, macro F1; ± standard deviation over draws or untrained encoders."
MEANING = {
    "best": "the highest test score of all evaluated steps: it selects on test data, as the paper does",
    "best_on_validation": "the test score at the first step with the highest validation score, each metric for "
    "itself; of fold sets, the step is chosen by a run without the next fold and read off the run that trained on it "
    "too; null without validation data",
    "last": "the test score after the last step",
    "mean": "over folds and seeds; balanced accuracy is the mean recall of the classes present in a test set",
    "std_seeds": "sample standard deviation over seeds of the mean over folds",
    "std_folds": "sample standard deviation over folds of the mean over seeds",
    "mAP": "mean over the classes that have positives of the average precision",
    "d_prime": "from the mean over classes of the area under the ROC curve",
}


def summarise_curves(tests: Sequence[Sequence[Curves]], validation: Sequence[Sequence[Curves]]) -> dict[str, Any]:
    """Return best, best on validation and last of every metric.

    Args:
        tests: test scores, one list per seed, one set of curves per fold.
        validation: likewise the validation scores that choose a step, each metric for itself; empty without validation
            data, and the score is None.
    """
    scores: dict[str, Any] = {"best": {}, "best_on_validation": {} if validation else None, "last": {}}
    for metric in tests[0][0]:
        curves = [[np.asarray(run[metric], dtype=np.float64) for run in folds] for folds in tests]
        scores["best"][metric] = summarise([[curve.max() for curve in folds] for folds in curves])
        scores["last"][metric] = summarise([[curve[-1] for curve in folds] for folds in curves])
        if validation:
            chosen = [
                [curve[np.argmax(run[metric])] for curve, run in zip(folds, runs, strict=True)]
                for folds, runs in zip(curves, validation, strict=True)
            ]
            scores["best_on_validation"][metric] = summarise(chosen)
    return scores


def summarise(scores: ArrayLike) -> dict[str, Any]:
    """Return mean and standard deviations of scores (S, folds): over seeds of the mean over folds, and vice versa."""
    values = np.asarray(scores, dtype=np.float64)
    return {
        "mean": float(values.mean()),
        "std_seeds": standard_deviation(values.mean(axis=1)),
        "std_folds": standard_deviation(values.mean(axis=0)),
        "values": values.tolist(),  # one list per seed, one number per fold
    }


def standard_deviation(values: ArrayLike) -> float | None:
    """Return the sample standard deviation (n - 1 in the denominator), or None for a single value."""
    array: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    return float(array.std(ddof=1)) if array.size > 1 else None


def describe_run(labelled: LabelledSet, parts: Sequence[Partition], bad: Mapping[str, str]) -> dict[str, Any]:
    """Return what `result.json` says of the data: counts, bad files, partitions and what a reader should know.

    Args:
        labelled: the set, with or without its bad clips.
        parts: without them.
        bad: name and reason of the clips that could not be read.
    """
    classes = labelled.classes
    unseen = [part.unseen(labelled.targets) for part in parts]
    warnings = describe(labelled)
    if num_unseen := sum(len(clips) for clips, _ in unseen):
        names = ", ".join(sorted({classes[target] for _, targets in unseen for target in targets}))
        warnings.append(f"{num_unseen} test clips are of classes their training set lacks: {names}")
    return {
        "num_clips": sum(clip.name not in bad for clip in labelled.clips),
        "counts": labelled.counts,
        "num_missing": labelled.num_missing,
        "num_bad": len(bad),
        "bad": [{"file": name, "reason": reason} for name, reason in bad.items()],
        "warnings": warnings,
        "protocol": "leave one fold out" if labelled.has_folds else "split",
        "partitions": [
            {
                "name": part.name,
                "num_train": len(part.train),
                "num_test": len(part.test),
                "num_validation": len(part.validation),
                "num_unseen": len(clips),
                "unseen_classes": sorted(classes[target] for target in targets),
            }
            for part, (clips, targets) in zip(parts, unseen, strict=True)
        ],
    }


def report(
    config: Any, result: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], labelled: LabelledSet, how: str = ""
) -> dict[str, Any]:
    """Write `result.json`, and show its warnings and its table.

    Args:
        config: the options of the run.
        result: its result, to which the options are added.
        rows: see `score_table`.
        labelled: the set.
        how: what the scores are over; by default the seeds.

    Returns:
        What was written.
    """
    from rich.console import Console
    from rich.markup import escape

    head = {"task": config.task, "data": config.data, "checkpoint": config.checkpoint}
    result = {**head, **result, "config": dataclasses.asdict(config)}
    path = write_result(config.out, result)
    for warning in result["warnings"]:
        print(f"warning: {one_line(warning)}", file=sys.stderr)
    folds = f", {len(result['partitions'])} test folds" if labelled.has_folds else ""
    sizes = f"{result['num_clips']} clips, {len(labelled.classes)} classes{folds}, {how or f'{config.seeds} seeds'}"
    Console().print(score_table(rows, escape(f"{config.data}: {sizes}")))
    print(f"-> {path}")
    return result


def score_table(rows: Mapping[str, Mapping[str, Any]], title: str = "") -> Table:
    """Return the scores of a run for the terminal.

    Args:
        rows: by name, what holds `scores` as `summarise_curves` returns them, the same metrics in all rows; without
            steps, the last alone.
        title: line above it, in rich's markup.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    lasts = [row["scores"]["last"] for row in rows.values()]
    metrics = list(lasts[0])
    has_interval, has_steps = "interval" in lasts[0][metrics[0]], "best" in next(iter(rows.values()))["scores"]
    caption = CAPTION if has_steps else FIT_CAPTION
    if has_interval:
        caption += f" Interval: 95 % bootstrap over test clips{', of the last step' if has_steps else ''}."
    columns = COLUMNS if has_steps else {"last": ""}
    table = Table(
        title=title, caption=caption, title_justify="left", caption_justify="left",
        box=SIMPLE_HEAD, padding=(0, 0, 0, 0), pad_edge=False,
    )  # fmt: skip
    # On a narrow terminal cells break into lines: a number that is cut short could be read as another.
    table.add_column("", overflow="fold", min_width=10)
    for heading in columns.values():
        for metric in metrics:
            table.add_column(f"{heading}\n{METRICS[metric][0]}", justify="right", overflow="fold")
    if has_interval:
        table.add_column(f"interval\n{METRICS[metrics[0]][0]}", justify="right", overflow="fold")
    for (name, row), last in zip(rows.items(), lasts, strict=True):
        cells = [_cell(metric, (row["scores"][score] or {}).get(metric)) for score in columns for metric in metrics]
        if has_interval:
            low, high = last[metrics[0]]["interval"]
            cells.append(f"{100 * low:.1f}-{100 * high:.1f}")
        table.add_row(name, *cells)
    return table


def write_scores(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Write one line per feature set, score and metric as a CSV; fractions, not per cent."""
    lines: list[list[Any]] = [
        ["features", "score", "metric", "mean", "std_seeds", "std_folds", "low", "high", "learning_rate"]
    ]
    for row_name, row in rows.items():
        for name in (name for name in COLUMNS if name in row["scores"]):
            for metric in row["scores"]["last"]:
                values = (row["scores"][name] or {}).get(metric) or {}
                numbers = [values.get(key) for key in ("mean", "std_seeds", "std_folds")]
                numbers += values.get("interval", [None, None])
                cells = [NOT_AVAILABLE if number is None else f"{number:.6f}" for number in numbers]
                lines.append([row_name, name, metric, *cells, row.get("learning_rate", NOT_AVAILABLE)])
    write_csv(path, lines)


def write_classes(out: Path, labelled: LabelledSet, results: Sequence[Predictions]) -> list[dict[str, Any]]:
    """Write `per_class.csv`, and `confusion.csv` of sets with one label per clip: last step, all folds and seeds.

    Args:
        out: the run folder.
        labelled: the set.
        results: of every run, its test clips (n,) and their probabilities (n, classes).

    Returns:
        The rows of `per_class.csv`: class, its test clips, each counted once, and recall or the mean over runs of the
        average precision.
    """
    classes = labelled.classes
    tested = np.unique(np.concatenate([indices for indices, _ in results]))
    counts = labelled.target_matrix(tested).sum(0)
    if labelled.is_multi_label:
        name = "average_precision"
        each = [multi_label_scores(rows, labelled.target_matrix(clips)).average_precision for clips, rows in results]
        num_finite = np.isfinite(each).sum(axis=0)
        values = np.where(num_finite, np.nansum(each, axis=0) / np.maximum(1, num_finite), np.nan)
    else:
        name, labels = "recall", labelled.labels()
        confusion = sum(confusion_matrix(labels[indices], rows.argmax(-1), len(classes)) for indices, rows in results)
        values = recall_per_class(np.asarray(confusion))
        table = zip(classes, np.asarray(confusion).tolist(), strict=True)
        write_csv(out / "confusion.csv", [["true \\ predicted", *classes], *([label, *row] for label, row in table)])
    rows = [
        {"class": label, "clips": int(count), name: None if np.isnan(value) else float(value)}
        for label, count, value in zip(classes, counts, values, strict=True)
    ]
    cells = [[row["class"], row["clips"], "" if row[name] is None else f"{row[name]:.6f}"] for row in rows]
    write_csv(out / "per_class.csv", [["class", "clips", name], *cells])
    return rows


def write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _cell(metric: str, values: Mapping[str, Any] | None) -> str:
    if values is None:
        return NOT_AVAILABLE
    scale = METRICS[metric][1]
    spread = "" if values["std_seeds"] is None else f"±{scale * values['std_seeds']:.1f}"
    return f"{scale * values['mean']:.1f}{spread}"

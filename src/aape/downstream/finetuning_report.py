"""A fine-tuning's result: scores over seeds and folds, per-class files, and a table for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aape.data.labelled import LabelledSet, describe
from aape.downstream.finetuning import History, Probabilities, target_matrix
from aape.downstream.metrics import confusion_matrix, multi_label_scores, recall_per_class
from aape.downstream.partitions import Indices, Partition
from aape.downstream.scores import summarise
from aape.runs.files import write_atomically

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = {"best": "best", "best_on_validation": "best val.", "last": "last"}
MEANING = {
    "best": "the highest test score of all evaluated steps: it selects on test data, as the paper does",
    "best_on_validation": "the test score at the first step with the highest validation score, each metric for "
    "itself; of fold sets, the step is chosen by a run without the next fold and read off the run that trained on it "
    "too; null without validation data",
    "last": "the test score after the last step",
    "mean": "over folds and seeds",
    "std_seeds": "sample standard deviation over seeds of the mean over folds",
    "std_folds": "sample standard deviation over folds of the mean over seeds",
    "mAP": "mean over the classes that have positives of the average precision",
    "d_prime": "from the mean over classes of the area under the ROC curve",
}


def summarise_runs(tests: Sequence[Sequence[History]], choosers: Sequence[Sequence[History]]) -> dict[str, Any]:
    """Return best, best on validation and last of every metric.

    Args:
        tests: histories with test scores, one list per seed, one history per fold.
        choosers: likewise with validation scores; empty without validation data.
    """
    metrics = list(tests[0][0].scores["test"])
    scores: dict[str, Any] = {name: {} for name in COLUMNS}
    for metric in metrics:
        curves = [[np.asarray(run.scores["test"][metric]) for run in runs] for runs in tests]
        scores["best"][metric] = summarise(np.asarray([[curve.max() for curve in own] for own in curves]))
        scores["last"][metric] = summarise(np.asarray([[curve[-1] for curve in own] for own in curves]))
        if choosers:
            chosen = [
                [curve[int(np.argmax(run.scores["validation"][metric]))] for curve, run in zip(own, runs, strict=True)]
                for own, runs in zip(curves, choosers, strict=True)
            ]
            scores["best_on_validation"][metric] = summarise(np.asarray(chosen))
    if not choosers:
        scores["best_on_validation"] = None
    return scores


def write_classes(
    out: Path, labelled: LabelledSet, results: Sequence[tuple[Indices, Probabilities]]
) -> list[dict[str, Any]]:
    """Write `per_class.csv`, and `confusion.csv` of sets with one label per clip: last step, all folds and seeds.

    Returns:
        The rows of `per_class.csv`: class, its test clips, each counted once, and recall or the mean over runs of the
        average precision.
    """
    tested = np.unique(np.concatenate([indices for indices, _ in results]))
    counts = target_matrix(labelled, tested).sum(0)
    if labelled.is_multi_label:
        name = "average_precision"
        each = [
            multi_label_scores(probabilities, target_matrix(labelled, indices)).average_precision
            for indices, probabilities in results
        ]
        has = np.any(np.isfinite(each), axis=0)
        values = np.where(has, np.nansum(each, axis=0) / np.maximum(1, np.isfinite(each).sum(axis=0)), np.nan)
    else:
        name = "recall"
        num_classes = len(labelled.classes)
        labels = labelled.labels()
        confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
        for indices, probabilities in results:
            confusion += confusion_matrix(labels[indices], probabilities.argmax(-1), num_classes)
        values = recall_per_class(confusion)
        header = ["true \\ predicted", *labelled.classes]
        _write(
            out / "confusion.csv",
            [header, *([own, *row] for own, row in zip(labelled.classes, confusion, strict=True))],
        )
    rows = [
        {"class": own, "clips": int(count), name: None if np.isnan(value) else float(value)}
        for own, count, value in zip(labelled.classes, counts, values, strict=True)
    ]
    _write(out / "per_class.csv", [["class", "clips", name], *([_cell(v) for v in row.values()] for row in rows)])
    return rows


def find_warnings(labelled: LabelledSet, parts: list[Partition], per_class: list[dict[str, Any]]) -> list[str]:
    """Return what a reader of the numbers should know, in sentences."""
    found = describe(labelled)
    unseen: list[str] = []
    for part in parts:
        seen = {target for index in part.train for target in labelled.targets[index]}
        own = {target for index in part.test for target in labelled.targets[index]}
        unseen += [labelled.classes[target] for target in sorted(own - seen)]
    if unseen:
        found.append(f"test clips are of classes their training set lacks: {', '.join(sorted(set(unseen)))}")
    if labelled.is_multi_label:
        silent = [row["class"] for row in per_class if not row["clips"]]
        if silent:
            found.append(
                f"{len(silent)} of {len(per_class)} classes have no positive test clip, and are left out of mAP"
            )
    return found


def score_table(scores: Mapping[str, Any], title: str) -> Table:
    """Return the table of a run: metrics down, best / best on validation / last across."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    caption = "± standard deviation over seeds. `best` selects on test data, as the paper does."
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for name in COLUMNS.values():
        table.add_column(name, justify="right")
    for metric in scores["last"]:
        cells = []
        for name in COLUMNS:
            values = (scores[name] or {}).get(metric)
            scale = 1 if metric == "d_prime" else 100
            spread = "" if not values or values["std_seeds"] is None else f" ± {scale * values['std_seeds']:.1f}"
            cells.append(f"{scale * values['mean']:.1f}{spread}" if values else "n/a")
        table.add_row(metric.replace("_", " "), *cells)
    return table


def _cell(value: Any) -> Any:
    return "" if value is None else f"{value:.6f}" if isinstance(value, float) else value


def _write(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue().encode())

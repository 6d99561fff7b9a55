"""The protocol of linear probing (docs/method.md 9): how learning rate and step are chosen, and what is reported.

n clips, D features, S seeds, E evaluated steps; a partition is one training set and its test clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aape.downstream.linear import LinearHistory, LinearRun, train_linear
from aape.downstream.metrics import (
    accuracy,
    balanced_accuracy,
    bootstrap_scores,
    confusion_matrix,
    macro_f1,
    percentile_interval,
    recall_per_class,
)
from aape.downstream.partitions import Indices, Partition, hold_out
from aape.downstream.scores import MEANING as SCORES_MEANING
from aape.downstream.scores import summarise, summarise_curves
from aape.errors import DataError

METRICS = ("accuracy", "balanced_accuracy")
HELD_OUT = 0.1  # of the training set, to choose the learning rate where there is no validation data [ours]

MEANING = {
    **SCORES_MEANING,
    "interval": "central 95 % of 1000 bootstrap resamples of the test clips of every fold (of groups of clips if a "
    "group column is given); it holds the training set fixed",
    "untrained": "one random initialisation per seed",
}


@dataclass(frozen=True)
class ProbeProtocol:
    """All that a feature set is probed with, the same for every one of them.

    Attributes:
        labels: classes, (n,).
        num_classes: number of classes.
        partitions: one for a split, one per tested fold.
        groups: integers (n,) of clips that are not independent, or None.
        steps: optimiser steps.
        batch: clips per step.
        seeds: number of probes per partition, S.
        learning_rates: peak rates to choose from.
        validate_every: steps between evaluations.
        device: where to train.
    """

    labels: NDArray[np.int64]
    num_classes: int
    partitions: list[Partition]
    groups: NDArray[np.int64] | None = None
    steps: int = 8000
    batch: int = 128
    seeds: int = 3
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    validate_every: int = 100
    device: str | torch.device = "cpu"

    @property
    def num_runs(self) -> int:
        """Linear layers that one feature set takes, the sweep included."""
        sweep = len(self.learning_rates) if len(self.learning_rates) > 1 else 0
        selecting = sum(partition.needs_selection_run for partition in self.partitions)
        return self.seeds * (sweep + len(self.partitions) + selecting)

    def runs(self, train: Indices, watched: tuple[Indices, ...], rate: float, num_matrices: int) -> list[LinearRun]:
        """Return a run for each seed."""
        return [LinearRun(train, watched, rate, seed, seed % num_matrices) for seed in range(self.seeds)]

    def train(
        self, features: NDArray[np.float32], runs: list[LinearRun], progress: Callable[[int], None] | None
    ) -> list[LinearHistory]:
        """Train linear layers; see `train_linear`."""
        names = ("num_classes", "steps", "batch", "validate_every", "device")
        options = {name: getattr(self, name) for name in names}
        return train_linear(features, self.labels, runs, progress=progress, **options)

    def sweep_sets(self) -> tuple[Indices, Indices, str]:
        """Return the training and validation clips of the learning rate sweep, and what they are in words.

        Raises:
            DataError: there is no validation data, and no class has a clip to spare for it.
        """
        first = self.partitions[0]
        if len(first.validation):
            words = "the fold after the first test fold" if first.needs_selection_run else "the validation split"
            return first.selection_train, first.validation, words
        held = hold_out(first.train, self.labels, self.groups, fraction=HELD_OUT, seed=0)
        if not len(held):
            raise DataError("every class has a single training clip: no learning rate can be chosen, give one")
        words = f"{len(held)} training clips held out, by class{'' if self.groups is None else ' and group'}"
        return np.setdiff1d(first.train, held), held, words


@dataclass(frozen=True)
class ProbeScores:
    """The result of one feature set.

    Attributes:
        summary: what goes into `result.json`.
        curves: one entry per evaluated step, for `metrics.jsonl`.
        resamples: accuracy and balanced accuracy of the last step in every bootstrap resample, (resamples, 2).
    """

    summary: dict[str, Any]
    curves: list[dict[str, float]]
    resamples: NDArray[np.float64] = field(repr=False)


@dataclass(frozen=True)
class Method:
    """A way to score frozen features.

    Attributes:
        title: what is fitted, for the progress bar.
        score: takes features (matrices, n, D), the protocol and what is called with the number of fits since the last
            call.
        num_fits: of one feature set.
        meaning: of the numbers in `result.json`.
        how: what the scores are over, where it is not the seeds.
    """

    title: str
    score: Callable[[NDArray[np.float32], ProbeProtocol, Callable[[int], None]], ProbeScores]
    num_fits: Callable[[ProbeProtocol], int]
    meaning: Mapping[str, str]
    how: str = ""


def score(
    features: NDArray[np.float32], protocol: ProbeProtocol, progress: Callable[[int], None] | None = None
) -> ProbeScores:
    """Choose the learning rate, train on every partition with every seed, and summarise.

    Args:
        features: (matrices, n, D), one matrix, or one per seed.
        protocol: the clips, labels and budget.
        progress: called with the number of layers trained since the last call.
    """
    rate, sweep = choose_learning_rate(features, protocol, progress)
    runs: list[LinearRun] = []
    for partition in protocol.partitions:
        is_separate = partition.needs_selection_run
        sets = [partition.test] if is_separate else [partition.test, partition.validation]
        runs += protocol.runs(partition.train, tuple(indices for indices in sets if len(indices)), rate, len(features))
        if is_separate:
            runs += protocol.runs(partition.selection_train, (partition.validation,), rate, len(features))
    histories = iter(protocol.train(features, runs, progress))
    # One list per partition, one history per seed; of several evaluated sets, validation is the last.
    trained: list[list[LinearHistory]] = []
    selecting: list[list[LinearHistory]] = []
    for partition in protocol.partitions:
        trained.append([next(histories) for _ in range(protocol.seeds)])
        if partition.needs_selection_run:
            selecting.append([next(histories) for _ in range(protocol.seeds)])
        elif len(partition.validation):
            selecting.append(trained[-1])
    predictions = [[history.predictions[0] for history in histories] for histories in trained]
    resamples = _resample(protocol, predictions)
    validation = _by_seed(selecting, -1) if len(selecting) == len(trained) else []
    scores = summarise_curves(_by_seed(trained, 0), validation)
    for index, metric in enumerate(METRICS):
        scores["last"][metric]["interval"] = list(percentile_interval(resamples[:, index]))
    summary = {
        "num_features": features.shape[-1],
        "learning_rate": rate,
        "sweep": sweep,
        "scores": scores,
        **_by_class(protocol, predictions),
    }
    return ProbeScores(summary, _curves(trained, selecting), resamples)


def score_predictions(protocol: ProbeProtocol, predictions: Sequence[Sequence[Indices]], **details: Any) -> ProbeScores:
    """Summarise classifiers that have no steps: their only score is the last.

    Args:
        protocol: the clips and labels.
        predictions: by partition and repetition (draw, or untrained encoder), the classes of its test clips.
        details: what else the summary says.
    """
    measures = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "f1": macro_f1}
    labels = [protocol.labels[partition.test] for partition in protocol.partitions]
    confusions = [
        [confusion_matrix(truth, named, protocol.num_classes) for truth, named in zip(labels, repetition, strict=True)]
        for repetition in zip(*predictions, strict=True)
    ]
    last = {name: summarise([list(map(measure, row)) for row in confusions]) for name, measure in measures.items()}
    resamples = _resample(protocol, predictions)
    for index, metric in enumerate(METRICS):
        last[metric]["interval"] = list(percentile_interval(resamples[:, index]))
    return ProbeScores({**details, "scores": {"last": last}, **_by_class(protocol, predictions)}, [], resamples)


def choose_learning_rate(
    features: NDArray[np.float32], protocol: ProbeProtocol, progress: Callable[[int], None] | None = None
) -> tuple[float, dict[str, Any] | None]:
    """Return the peak rate with the best validation accuracy after the last step, mean over seeds, and the sweep.

    Equal accuracies are decided by the lower validation loss. A single rate needs no sweep, and gets None.
    """
    rates = protocol.learning_rates
    if len(rates) == 1:
        return rates[0], None
    train, validation, words = protocol.sweep_sets()
    runs = [run for rate in rates for run in protocol.runs(train, (validation,), rate, len(features))]
    histories = protocol.train(features, runs, progress)
    table = []
    for index, rate in enumerate(rates):
        of_rate = histories[index * protocol.seeds : (index + 1) * protocol.seeds]
        table.append(
            {
                "learning_rate": rate,
                "accuracy": float(np.mean([history.accuracy[0, -1] for history in of_rate])),
                "loss": float(np.mean([history.loss[0, -1] for history in of_rate])),
            }
        )
    best = max(table, key=lambda row: (row["accuracy"], -row["loss"]))
    is_edge = best["learning_rate"] in (min(rates), max(rates))
    return best["learning_rate"], {"validation": words, "is_at_edge": is_edge, "rates": table}


def margin(ours: ProbeScores, theirs: ProbeScores) -> dict[str, dict[str, Any]]:
    """Return by how much one feature set's last score exceeds another's, with a paired bootstrap interval."""
    margins = {}
    for index, metric in enumerate(METRICS):
        means = [scores.summary["scores"]["last"][metric]["mean"] for scores in (ours, theirs)]
        interval = percentile_interval(ours.resamples[:, index] - theirs.resamples[:, index])
        margins[metric] = {"mean": means[0] - means[1], "interval": list(interval)}
    return margins


def _by_seed(histories: list[list[LinearHistory]], row: int) -> list[list[dict[str, NDArray[np.float64]]]]:
    """Turn histories by partition and seed into the curves, by seed and partition, of one evaluated set."""
    return [
        [{"accuracy": history.accuracy[row], "balanced_accuracy": history.balanced[row]} for history in by_partition]
        for by_partition in zip(*histories, strict=True)
    ]


def _by_class(protocol: ProbeProtocol, predictions: Sequence[Sequence[Indices]]) -> dict[str, Any]:
    """Confusion and recall of the last step over all folds and seeds."""
    confusion = np.zeros((protocol.num_classes, protocol.num_classes), dtype=np.int64)
    for partition, by_seed in zip(protocol.partitions, predictions, strict=True):
        for named in by_seed:
            confusion += confusion_matrix(protocol.labels[partition.test], named, protocol.num_classes)
    pooled = {"accuracy": accuracy(confusion), "balanced_accuracy": balanced_accuracy(confusion)}
    return {"pooled": pooled, "recall": recall_per_class(confusion).tolist(), "confusion": confusion.tolist()}


def _resample(protocol: ProbeProtocol, predictions: Sequence[Sequence[Indices]]) -> NDArray[np.float64]:
    labels = [protocol.labels[partition.test] for partition in protocol.partitions]
    correct = [
        np.mean([named == truth for named in by_seed], axis=0)
        for truth, by_seed in zip(labels, predictions, strict=True)
    ]
    groups = None
    if protocol.groups is not None:
        groups = [protocol.groups[partition.test] for partition in protocol.partitions]
    return bootstrap_scores(labels, correct, groups, num_classes=protocol.num_classes)


def _curves(trained: list[list[LinearHistory]], selecting: list[list[LinearHistory]]) -> list[dict[str, float]]:
    runs = [run for histories in trained for run in histories]
    curves = {
        "train_loss": [run.train_loss for run in runs],
        "test_accuracy": [run.accuracy[0] for run in runs],
        "test_balanced_accuracy": [run.balanced[0] for run in runs],
        "validation_accuracy": [run.accuracy[-1] for histories in selecting for run in histories],
    }
    return [
        {"step": step} | {name: float(np.mean([row[index] for row in rows])) for name, rows in curves.items() if rows}
        for index, step in enumerate(runs[0].steps.tolist())
    ]


LINEAR = Method("linear layers", score, lambda protocol: protocol.num_runs, MEANING)

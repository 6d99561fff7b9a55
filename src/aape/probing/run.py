"""`aape probe`: a labelled set and a saved encoder in, a table with both yardsticks out (method 9)."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aape.config import ProbeConfig
from aape.data.manifest import Clip, read_manifest
from aape.errors import ConfigError, DataError
from aape.evaluation.folds import Partition, fold_partitions, split_partition
from aape.inference import load_model, random_model
from aape.probing.features import Features, embeddings, log_mel_statistics
from aape.probing.protocol import MEANING, ProbeScores, Protocol, margin, score
from aape.probing.report import score_table, write_csv
from aape.training.results import write_atomically, write_result, write_run_header

if TYPE_CHECKING:
    from rich.progress import Progress

    from aape.inference import AudioModel

ENCODER, UNTRAINED, STATISTICS = "encoder", "untrained encoder", "log-mel statistics"
MAX_BAD_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class LabelledSet:
    """Clips with labels; `groups` names what clips of a set have in common, or is None."""

    clips: list[Clip]
    groups: list[str] | None

    def without(self, names: set[str]) -> LabelledSet:
        """Return the set without the clips of these names."""
        kept = [index for index, clip in enumerate(self.clips) if clip.name not in names]
        groups = None if self.groups is None else [self.groups[index] for index in kept]
        return LabelledSet([self.clips[index] for index in kept], groups)


def probe(config: ProbeConfig) -> dict[str, Any]:
    """Probe an encoder and, beside it, the untrained encoder and the statistics of the log-mel.

    Leaves in `config.out`: `result.json`, `results.csv`, `metrics.jsonl` (scores by step), `config.yaml`,
    `environment.json` and `features/`, from which a second run over the same clips starts.

    Args:
        config: the options.

    Returns:
        The content of `result.json`.

    Raises:
        ConfigError: options that exclude each other or make no protocol.
        DataError: a set that cannot be probed, or too many bad files.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    _check(config)
    notes = Console(stderr=True)
    everything = read_labelled(config)
    partition(everything, config)  # before hours of embedding, say what is wrong with the set
    model = load_model(config.checkpoint, device=config.device)
    out = Path(config.out)
    device = _training_device(model)
    environment = write_run_header(out, config, device=device)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=notes) as bars:
        features = compute_features(model, everything.clips, config, bars)
        bad = _bad_clips(features)
        _report_bad(bad, everything, config, notes)
        labelled = everything.without(set(bad))
        protocol = build_protocol(labelled, config, device)
        kept = {clip.name for clip in labelled.clips}
        names = [clip.name for clip in everything.clips]
        bar = bars.add_task("linear layers", total=protocol.num_runs * len(features))
        scores: dict[str, ProbeScores] = {}
        for name, feature_sets in features.items():
            matrices = np.stack([item.of(names, kept) for item in feature_sets])  # (1 or S, n, width)
            scores[name] = score(matrices, protocol, progress=lambda runs: bars.advance(bar, runs))
    rows = {name: item.summary for name, item in scores.items()}
    classes = _classes(labelled)
    warnings = find_warnings(labelled, protocol, rows)
    result = {
        "task": config.task,
        "data": config.data,
        "checkpoint": config.checkpoint,
        "rows": rows,
        "margins_of_the_encoder": {name: margin(scores[ENCODER], scores[name]) for name in scores if name != ENCODER},
        "classes": classes,
        "num_clips": len(labelled.clips),
        "num_bad": len(bad),
        "bad": [{"file": name, "reason": reason} for name, reason in bad.items()],
        "warnings": warnings,
        "protocol": "leave one fold out" if config.fold else "split",
        "partitions": [_describe(item, protocol, classes) for item in protocol.partitions],
        "meaning": MEANING,
        "config": dataclasses.asdict(config),
        "environment": environment,
    }
    _write_curves(out / "metrics.jsonl", scores)
    write_csv(out / "results.csv", rows)
    path = write_result(out, result)
    for warning in warnings:
        notes.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    folds = f", {len(protocol.partitions)} test folds" if config.fold else ""
    title = f"{config.data}: {len(labelled.clips)} clips, {len(classes)} classes{folds}, {config.seeds} seeds"
    Console().print(score_table(rows, escape(title)))
    print(f"-> {path}")
    return result


def read_labelled(config: ProbeConfig) -> LabelledSet:
    """Read the clips with their labels, and keep those that `where` asks for.

    Raises:
        ConfigError: a malformed `where`.
        DataError: what `read_manifest` raises; no clip left; fewer than two classes.
    """
    clips = read_manifest(config.data, label=config.label, split=config.split, fold=config.fold)
    groups = _column(config.data, config.group) if config.group else None
    labelled = LabelledSet(clips, groups)
    if config.where is not None:
        column, separator, value = (part.strip() for part in config.where.partition("="))
        if not (separator and column and value):
            raise ConfigError(f"where: expected COLUMN=VALUE, got {config.where!r}")
        values = _column(config.data, column)
        if value not in values:
            found = sorted(set(values))
            listed = ", ".join(found[:10]) + (", ..." if len(found) > 10 else "")
            raise DataError(f"{config.data}: no clip has {column} = {value!r}; there are {listed}")
        labelled = labelled.without({clip.name for clip, own in zip(clips, values, strict=True) if own != value})
    classes = _classes(labelled)
    if len(classes) < 2:
        raise DataError(f"{config.data}: the only label is {classes[0]!r}: a probe needs two classes or more")
    return labelled


def partition(labelled: LabelledSet, config: ProbeConfig) -> list[Partition]:
    """Return the training and test sets that the split or the fold column stands for.

    Raises:
        DataError: nothing to train or test on, or a training set of one class.
    """
    names = [clip.name for clip in labelled.clips]
    if config.fold is not None:
        folds = [clip.fold for clip in labelled.clips]
        partitions = fold_partitions(folds, names, min_clips=config.min_fold_clips)
    else:
        partitions = [split_partition([clip.split for clip in labelled.clips], names)]
    for item in partitions:
        if len({labelled.clips[index].label for index in item.train}) < 2:
            what = f"without fold {item.name!r} " if config.fold else ""
            raise DataError(f"{config.data}: the training set {what}has a single class")
    return partitions


def build_protocol(labelled: LabelledSet, config: ProbeConfig, device: str) -> Protocol:
    """Turn clips and options into the numbers that the linear layers need."""
    classes = _classes(labelled)
    groups = None if labelled.groups is None else np.unique(labelled.groups, return_inverse=True)[1].astype(np.int64)
    return Protocol(
        labels=np.asarray([classes.index(str(clip.label)) for clip in labelled.clips], dtype=np.int64),
        num_classes=len(classes),
        partitions=partition(labelled, config),
        groups=groups,
        steps=config.steps,
        batch=config.batch,
        seeds=config.seeds,
        learning_rates=tuple(config.learning_rates),
        validate_every=config.validate_every,
        device=device,
    )


def compute_features(
    model: AudioModel, clips: Sequence[Clip], config: ProbeConfig, bars: Progress
) -> dict[str, list[Features]]:
    """Compute, or read from the run folder, the features of every row: one matrix, or one per seed."""
    folder = Path(config.out) / "features"

    def one(kind: str, what: Any, file: str) -> Features:
        bar = bars.add_task(kind, total=len(clips))

        def advance(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)

        compute = log_mel_statistics if kind == STATISTICS else embeddings
        features = compute(what, clips, cache=folder / file, progress=advance)
        bars.update(bar, completed=len(clips))
        return features

    features = {ENCODER: [one(ENCODER, model, "encoder.npz")]}
    if config.yardsticks:
        features[UNTRAINED] = [
            one(UNTRAINED, random_model(model, seed), f"untrained-{seed}.npz") for seed in range(config.seeds)
        ]
        features[STATISTICS] = [one(STATISTICS, model.log_mel, "log-mel-statistics.npz")]
    return features


def find_warnings(labelled: LabelledSet, protocol: Protocol, rows: dict[str, Any]) -> list[str]:
    """Return what a reader of the numbers should know, in sentences."""
    classes = _classes(labelled)
    found = []
    counts = Counter(clip.label for clip in labelled.clips)
    single = [name for name in classes if counts[name] == 1]
    if single:
        found.append(f"{len(single)} classes have a single clip, never both trained on and tested: {', '.join(single)}")
    unseen = [(item.name, _unseen(item, protocol)) for item in protocol.partitions]
    num_clips = sum(len(indices) for _, indices in unseen)
    if num_clips:
        names = sorted({classes[protocol.labels[index]] for _, indices in unseen for index in indices})
        found.append(f"{num_clips} test clips are of classes their training set lacks, and count as wrong: {names}")
    for name, row in rows.items():
        if row["sweep"] is not None and row["sweep"]["is_at_edge"]:
            rate = row["learning_rate"]
            found.append(f"{name}: the chosen learning rate, {rate:g}, is at the edge of the sweep: widen it")
    return found


def _check(config: ProbeConfig) -> None:
    if config.task != "csv":
        raise ConfigError(f"task: {config.task!r} is not built in; use csv, with --split or --fold")
    if (config.split is None) == (config.fold is None):
        given = "both are" if config.split is not None else "neither is"
        raise ConfigError(f"give either --split COLUMN or --fold COLUMN: {given} given")


def _column(data: str, column: str) -> list[str]:
    # Any column can be read as the label: same rows, same order, and the same words for a column that is missing.
    return [str(clip.label) for clip in read_manifest(data, label=column)]


def _classes(labelled: LabelledSet) -> list[str]:
    return sorted({str(clip.label) for clip in labelled.clips})


def _training_device(model: AudioModel) -> str:
    # The layers are tiny: anything but CUDA is no faster than the CPU, and the CPU gives the same bits everywhere.
    return "cuda" if model.device.type == "cuda" else "cpu"


def _bad_clips(features: dict[str, list[Features]]) -> dict[str, str]:
    return {name: reason for sets in features.values() for item in sets for name, reason in item.bad}


def _report_bad(bad: dict[str, str], labelled: LabelledSet, config: ProbeConfig, notes: Any) -> None:
    for name, reason in list(bad.items())[:MAX_BAD_SHOWN]:
        notes.print(f"left out: {name}: {reason}", highlight=False, markup=False, soft_wrap=True)
    if len(bad) > MAX_BAD_SHOWN:
        notes.print(f"left out: and {len(bad) - MAX_BAD_SHOWN} more")
    if len(bad) > config.max_bad_fraction * len(labelled.clips):
        raise DataError(
            f"{config.data}: {len(bad)} of {len(labelled.clips)} clips cannot be read, "
            f"more than max_bad_fraction = {config.max_bad_fraction:g} allows"
        )


def _unseen(item: Partition, protocol: Protocol) -> NDArray[np.int64]:
    seen = protocol.labels[item.train]
    return item.test[~np.isin(protocol.labels[item.test], seen)]


def _describe(item: Partition, protocol: Protocol, classes: list[str]) -> dict[str, Any]:
    unseen = _unseen(item, protocol)
    return {
        "name": item.name,
        "num_train": len(item.train),
        "num_test": len(item.test),
        "num_validation": len(item.validation),
        "num_unseen": len(unseen),
        "unseen_classes": sorted({classes[protocol.labels[index]] for index in unseen}),
    }


def _write_curves(path: Path, scores: dict[str, ProbeScores]) -> None:
    lines = [json.dumps({"features": name, **entry}) for name, item in scores.items() for entry in item.curves]
    write_atomically(path, ("\n".join(lines) + "\n").encode())

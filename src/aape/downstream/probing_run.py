"""`aape probe`: a labelled set and a saved encoder in, a table with both yardsticks out (method 9)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aape.commands.probe import ProbeConfig
from aape.data.clips import Clip
from aape.data.corpora import protocol as protocol_of
from aape.data.corpora import read_task
from aape.data.labelled import LabelledSet, describe
from aape.downstream.features import Features, embeddings, log_mel_statistics
from aape.downstream.partitions import Partition, partitions
from aape.downstream.probing import MEANING, ProbeScores, Protocol, margin, score
from aape.downstream.probing_report import score_table, write_csv
from aape.errors import ConfigError, DataError
from aape.inference import load_model, random_model
from aape.runs.files import write_atomically
from aape.runs.folder import RESULT_NAME, is_same_place, write_result, write_run_header

if TYPE_CHECKING:
    from rich.progress import Progress

    from aape.inference import AudioModel

ENCODER, UNTRAINED, STATISTICS = "encoder", "untrained encoder", "log-mel statistics"
MAX_BAD_SHOWN = 20


def probe(config: ProbeConfig) -> dict[str, Any]:
    """Probe an encoder and, beside it, the untrained encoder and the statistics of the log-mel.

    Leaves in `config.out`: `result.json`, `results.csv`, `metrics.jsonl` (scores by step), `config.yaml`,
    `environment.json` and `features/`, from which a second run over the same clips starts and which it replaces.

    Args:
        config: the options.

    Returns:
        The content of `result.json`.

    Raises:
        ConfigError: options that exclude each other or make no protocol; `config.out` holds another run.
        DataError: a set that cannot be probed, or too many bad files.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    config = resolve(config)
    out, notes = Path(config.out), Console(stderr=True)
    _check_out(config, out)
    everything = read_labelled(config)
    partition(everything, config)  # before hours of embedding, say what is wrong with the set
    model = load_model(config.checkpoint, device=config.device, loop_to=config.loop_to)
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
    classes = labelled.classes
    warnings = find_warnings(labelled, protocol, rows)
    result = {
        "task": config.task,
        "data": config.data,
        "checkpoint": config.checkpoint,
        "rows": rows,
        "margins_of_the_encoder": {name: margin(scores[ENCODER], scores[name]) for name in scores if name != ENCODER},
        "classes": classes,
        "num_clips": len(labelled.clips),
        "counts": labelled.counts,
        "num_missing": labelled.num_missing,
        "num_bad": len(bad),
        "bad": [{"file": name, "reason": reason} for name, reason in bad.items()],
        "warnings": warnings,
        "protocol": "leave one fold out" if labelled.has_folds else "split",
        "partitions": [_describe(item, protocol, classes) for item in protocol.partitions],
        "meaning": MEANING,
        "pretraining": model.training,
        "config": dataclasses.asdict(config),
        "environment": environment,
    }
    _write_curves(out / "metrics.jsonl", scores)
    write_csv(out / "results.csv", rows)
    path = write_result(out, result)
    for warning in warnings:
        notes.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    folds = f", {len(protocol.partitions)} test folds" if labelled.has_folds else ""
    title = f"{config.data}: {len(labelled.clips)} clips, {len(classes)} classes{folds}, {config.seeds} seeds"
    Console().print(score_table(rows, escape(title)))
    print(f"-> {path}")
    return result


def resolve(config: ProbeConfig) -> ProbeConfig:
    """Fill in what the task sets (method 9) and the options leave open."""
    given = protocol_of(config.task, "probing")
    missing = {name: value for name, value in given.items() if getattr(config, name) is None}
    return dataclasses.replace(config, **missing)


def read_labelled(config: ProbeConfig) -> LabelledSet:
    """Read the task's data.

    Raises:
        ConfigError: options that do not belong to the task, or a task with several labels per clip.
        DataError: see `aape.data.corpora.read_task`.
    """
    labelled = read_task(
        config.task,
        config.data,
        label=config.label,
        split=config.split,
        fold=config.fold,
        where=config.where,
        group=config.group,
    )
    if labelled.is_multi_label:
        raise ConfigError(f"task: {config.task} has several labels per clip, a probe takes one; use `aape finetune`")
    return labelled


def partition(labelled: LabelledSet, config: ProbeConfig) -> list[Partition]:
    """Return the training and test sets of the task."""
    return partitions(labelled, min_clips=config.min_fold_clips, num_folds=config.num_folds)


def build_protocol(labelled: LabelledSet, config: ProbeConfig, device: str) -> Protocol:
    """Turn clips and options into the numbers that the linear layers need."""
    groups = None if labelled.groups is None else np.unique(labelled.groups, return_inverse=True)[1].astype(np.int64)
    return Protocol(
        labels=labelled.labels(),
        num_classes=len(labelled.classes),
        partitions=partition(labelled, config),
        groups=groups,
        steps=int(config.steps or 0),
        batch=int(config.batch or 0),
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
    classes = labelled.classes
    found = describe(labelled)
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


def _check_out(config: ProbeConfig, out: Path) -> None:
    """Refuse to write over a run that is not a probe of the same checkpoint, data and task."""
    written = out / "config.yaml"
    if not written.exists() and not (out / RESULT_NAME).exists():
        return
    import yaml

    try:
        before = yaml.safe_load(written.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        before = None
    if not isinstance(before, dict) or "learning_rates" not in before:  # which no other verb has
        raise ConfigError(f"{out} already holds something else than a probe: choose another --out")
    for key in ("checkpoint", "data", "task"):
        now = getattr(config, key)
        if not is_same_place(before.get(key), now):
            raise ConfigError(
                f"{out} already holds a probe whose {key} is {before.get(key)}, not {now}: choose another --out"
            )


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

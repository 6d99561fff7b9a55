"""`aape probe`: a labelled set and a saved encoder in, a table with both yardsticks out (docs/method.md 9)."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aape.commands.options import Device, Task
from aape.errors import MAX_CLIPS, MAX_RATE, MAX_SEEDS, MAX_STEPS, ConfigError, require_at_most, require_positive
from aape.models.config import MAX_LOOP_TO, Pool

if TYPE_CHECKING:
    from accelerate import Accelerator

    from aape.data.labelled import LabelledSet
    from aape.downstream.features import Features
    from aape.downstream.probing import Method, ProbeProtocol, ProbeScores


STEPS_ONLY = ("steps", "batch", "learning_rates", "validate_every")  # of the linear protocol, which trains in steps


@dataclass(frozen=True)
class ProbeConfig:
    """`aape probe`: a simple classifier on frozen features, beside the untrained encoder and log-mel statistics.

    Args:
        data: folder of the task; for csv, a CSV of clips with labels, or a folder with a folder for each class.
        checkpoint: the model, a name or a saved folder.
        out: folder of the run.
        task: csv for your data, or a public data set with its protocol.
        protocol: linear layer, 8 clips a class as MAEB, or nearest neighbours.
        label: column of the labels.
        split: column that says train, valid or test.
        fold: column of the folds; each fold is held out once.
        where: COLUMN=VALUE: use only rows where COLUMN equals VALUE.
        group: group column (speaker, instrument), for intervals and held-out clips.
        min_fold_clips: folds of fewer clips are trained on and never tested.
        num_folds: merge folds into this many of similar size; 0 keeps them.
        steps: optimiser steps of each probe; by default the task's, 8000 for csv.
        batch: clips per optimiser step; by default the task's, 128 for csv.
        seeds: number of seeds, and of untrained encoders.
        learning_rates: peak rates to sweep on validation data [ours].
        validate_every: steps between evaluations.
        device: where to run.
        pool: what the vector is; by default the model's, in a linear probe the paper's for its tasks.
        layers: blocks, counted from 1, whose outputs are averaged before, [] for the last; by default as for pool.
        loop_to: length in seconds that shorter sounds are looped to, 0 for as they are; by default as for pool.
        yardsticks: also score the untrained encoder and log-mel statistics.
        max_bad_fraction: stop when more than this share of the files cannot be read.
    """

    data: str
    checkpoint: str
    out: str
    task: Task = "csv"
    protocol: Literal["linear", "few-shot", "knn"] = "linear"
    label: str = "label"
    split: str | None = None
    fold: str | None = None
    where: str | None = None
    group: str | None = None
    min_fold_clips: int = 1
    num_folds: int = 0
    steps: int | None = None
    batch: int | None = None
    seeds: int = 3
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    validate_every: int = 100
    device: Device = "auto"
    pool: Pool | None = None
    layers: tuple[int, ...] | None = None
    loop_to: float | None = None
    yardsticks: bool = True
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        require_positive(self, "steps", "batch", "seeds", "validate_every", "min_fold_clips")
        require_at_most(self, steps=MAX_STEPS, batch=MAX_CLIPS, seeds=MAX_SEEDS, loop_to=MAX_LOOP_TO)
        require_at_most(self, max_bad_fraction=1)
        require_at_most(self, learning_rates=MAX_RATE)
        if not self.learning_rates or not min(self.learning_rates) > 0:
            raise ConfigError(f"learning_rates must be one number or more, above 0, got {list(self.learning_rates)}")
        if self.protocol != "linear":
            changed = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]
            if unused := [name for name in STEPS_ONLY if name in changed]:
                raise ConfigError(f"{', '.join(unused)}: for --protocol linear only, {self.protocol} has no steps")


def probe(config: ProbeConfig) -> dict[str, Any]:
    """Probe an encoder and both yardsticks, as `run_probe`; torchrun's processes divide the sounds."""
    from aape.runs.devices import start_ranks
    from aape.runs.lock import locked

    with locked(config.out):
        return run_probe(config, start_ranks(config.device))


def run_probe(config: ProbeConfig, accelerator: Accelerator | None = None) -> dict[str, Any]:
    """Probe an encoder and, beside it, the untrained encoder and the statistics of the log-mel.

    Leaves in `config.out`: `result.json`, `results.csv`, `metrics.jsonl` (scores by step), `config.yaml`,
    `environment.json` and `features/`, from which a second run over the same clips starts and which it replaces.

    Args:
        config: the options.
        accelerator: the processes that divide the sounds; only the first goes on after the features. None: this one.

    Returns:
        The content of `result.json`; nothing in all processes but the first.

    Raises:
        ConfigError: options that exclude each other or make no protocol; `config.out` holds another run.
        DataError: a set that cannot be probed, or too many bad files.
    """
    from aape.downstream.yardsticks import compute_features
    from aape.inference import load_model
    from aape.runs.devices import close_ranks
    from aape.runs.folder import claim, write_run_header
    from aape.runs.guards import BadFiles
    from aape.runs.progress import progress_bar

    config, out = resolve(config), Path(config.out)
    may_change = {field.name for field in dataclasses.fields(config)} - {"checkpoint", "data", "task"}
    claim(out, config, may_change=may_change, resume=True)
    labelled = read_probe_set(config)  # what is wrong with the set is said before hours of embedding
    model = load_model(config.checkpoint, config.device, pool=config.pool, layers=config.layers, loop_to=config.loop_to)
    is_main, seeds = accelerator is None or accelerator.is_main_process, config.seeds if config.yardsticks else 0
    environment = write_run_header(out, config, device=model.device) if is_main else {}
    features = compute_features(
        model, labelled.clips, out / "features", seeds=seeds, accelerator=accelerator, progress_bar=progress_bar
    )
    if accelerator is not None:
        close_ranks(accelerator)
    if not is_main:
        return {}
    bad = BadFiles(len(labelled.clips), config.max_bad_fraction)
    bad.add(pair for matrices in features.values() for matrix in matrices for pair in matrix.bad)
    bad.print_new()
    device = "cuda" if model.device.type == "cuda" else "cpu"  # the layers are tiny: no other device is faster
    readable = labelled.without(set(bad.reasons))
    protocol = build_protocol(readable, config, device)
    names = [clip.name for clip in labelled.clips]
    scores = _score(_method(config), features, names, set(bad.reasons), protocol)
    vector = {"pool": model.pool, "layers": model.layers, "loop_to": model.loop_to}
    origin = {"vector": vector, "pretraining": model.training, "environment": environment}
    return _report(config, readable, protocol, scores, bad.reasons, origin)


def resolve(config: ProbeConfig) -> ProbeConfig:
    """Fill in what the task sets for a linear probe (docs/method.md 9) and the options leave open."""
    from aape.data.corpora import protocol

    if config.protocol != "linear":
        return config
    values = protocol(config.task, "probing")
    return dataclasses.replace(config, **{key: value for key, value in values.items() if getattr(config, key) is None})


def read_probe_set(config: ProbeConfig) -> LabelledSet:
    """Read the task's data, one label per clip, as `aape.downstream.partitions.read_set`.

    Raises:
        ConfigError, DataError: as there; ConfigError for a task with several labels per clip, and where the protocol
            needs a package that is missing, too.
    """
    from aape.downstream.few_shot import require_sklearn
    from aape.downstream.partitions import read_set

    if config.protocol == "few-shot":
        require_sklearn()
    labelled = read_set(config)
    if labelled.is_multi_label:
        raise ConfigError(f"task: {config.task} has several labels per clip, a probe takes one; use `aape finetune`")
    return labelled


def build_protocol(labelled: LabelledSet, config: ProbeConfig, device: str) -> ProbeProtocol:
    """Turn clips and options into the numbers that the linear layers need."""
    import numpy as np

    from aape.downstream.partitions import partitions
    from aape.downstream.probing import ProbeProtocol

    groups = None if labelled.groups is None else np.unique(labelled.groups, return_inverse=True)[1].astype(np.int64)
    return ProbeProtocol(
        labels=labelled.labels(),
        num_classes=len(labelled.classes),
        partitions=partitions(labelled, config),
        groups=groups,
        steps=int(config.steps or 0),
        batch=int(config.batch or 0),
        seeds=config.seeds,
        learning_rates=tuple(config.learning_rates),
        validate_every=config.validate_every,
        device=device,
    )


def _method(config: ProbeConfig) -> Method:
    from aape.downstream.few_shot import FEW_SHOT
    from aape.downstream.neighbours import NEAREST
    from aape.downstream.probing import LINEAR

    return {"linear": LINEAR, "few-shot": FEW_SHOT, "knn": NEAREST}[config.protocol]


def _score(
    method: Method,
    features: dict[str, list[Features]],
    names: list[str],
    bad: set[str],
    protocol: ProbeProtocol,
) -> dict[str, ProbeScores]:
    """Train the classifiers of every row on the readable ones of all clips."""
    import numpy as np

    from aape.runs.progress import progress_bar

    total, done = method.num_fits(protocol) * len(features), 0
    with progress_bar(method.title, total) as progress:

        def advance(runs: int) -> None:
            nonlocal done
            done += runs
            progress(done, total)

        kept = set(names) - bad
        stacked = {row: np.stack([item.of(names, kept) for item in matrices]) for row, matrices in features.items()}
        return {row: method.score(matrices, protocol, advance) for row, matrices in stacked.items()}


def _report(
    config: ProbeConfig,
    labelled: LabelledSet,
    protocol: ProbeProtocol,
    scores: dict[str, ProbeScores],
    bad: dict[str, str],
    origin: dict[str, Any],
) -> dict[str, Any]:
    """Write the files of the result, and show it."""
    from aape.downstream.probing import margin
    from aape.downstream.scores import describe_run, report, write_scores
    from aape.downstream.yardsticks import ENCODER
    from aape.runs.files import write_atomically

    out, rows, method = Path(config.out), {row: item.summary for row, item in scores.items()}, _method(config)
    described = describe_run(labelled, protocol.partitions, bad)
    described["warnings"] += _warnings(config, labelled, protocol, rows)
    result = {
        "rows": rows,
        "margins_of_the_encoder": {row: margin(scores[ENCODER], scores[row]) for row in scores if row != ENCODER},
        "classes": labelled.classes,
        **described,
        "meaning": method.meaning,
        **origin,
    }
    lines = [json.dumps({"features": row, **entry}) for row, item in scores.items() for entry in item.curves]
    if lines:
        write_atomically(out / "metrics.jsonl", ("\n".join(lines) + "\n").encode())
    else:  # no steps: those of an earlier protocol would pass for this one's
        (out / "metrics.jsonl").unlink(missing_ok=True)
    write_scores(out / "results.csv", rows)
    return report(config, result, rows, labelled, method.how)


def _warnings(
    config: ProbeConfig, labelled: LabelledSet, protocol: ProbeProtocol, rows: dict[str, dict[str, Any]]
) -> list[str]:
    """Say what a reader of the scores should know of the classifiers."""
    from aape.downstream.few_shot import MAX_ITERATIONS, SHOTS, scarce_classes

    warnings = []
    if config.protocol == "few-shot" and (scarce := scarce_classes(protocol)):
        names = ", ".join(labelled.classes[label] for label in scarce)
        warnings.append(f"all training clips are taken of classes that have fewer than {SHOTS}: {names}")
    for row, summary in rows.items():
        if (sweep := summary.get("sweep")) is not None and sweep["is_at_edge"]:
            rate = f"the chosen learning rate, {summary['learning_rate']:g}"
            warnings.append(f"{row}: {rate}, is at the edge of the sweep: widen it")
        if failed := summary.get("not_converged"):
            fits = f"{failed} of {summary['num_fits']} fits"
            warnings.append(f"{row}: {fits} have not converged in {MAX_ITERATIONS} iterations; mteb scores such, too")
    return warnings

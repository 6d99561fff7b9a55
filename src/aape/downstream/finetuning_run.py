"""`aape finetune`: a labelled set and a pre-trained encoder in, a classifier and its scores out (method 8)."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import os
import urllib.parse
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aape.commands.finetune import FinetuneConfig
from aape.data.corpora import protocol, read_task
from aape.data.labelled import LabelledSet
from aape.downstream.finetuning import CHECKPOINT, Classifier, History, Job, Probabilities, Trainer
from aape.downstream.finetuning_report import MEANING, find_warnings, score_table, summarise_runs, write_classes
from aape.downstream.partitions import Indices, Partition, partitions
from aape.downstream.spectrograms import Spectrograms
from aape.errors import CheckpointError, ConfigError
from aape.models.saved import SavedModel, read_model, save_model
from aape.runs.devices import resolve_device
from aape.runs.files import plain, write_atomically, write_json
from aape.runs.folder import write_result, write_run_header

MAY_CHANGE = {"resume", "workers", "device", "data", "out", "save_every", "clips_at_once", "max_bad_fraction"}
MAX_BAD_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Done:
    """A finished job: what it measured, and the probabilities of its last step by watched set."""

    history: History
    last: dict[str, tuple[Indices, Probabilities]]


def finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Fine-tune on every fold with every seed, and score.

    Leaves in `config.out`: `model/` (of the first seed and fold), `result.json`, `metrics.jsonl`, `per_class.csv`,
    `confusion.csv`, `config.yaml`, `environment.json`, and `jobs/` with what each training has measured.

    Args:
        config: the options.

    Returns:
        The content of `result.json`.

    Raises:
        ConfigError: options that exclude each other, or the run that is resumed.
        DataError: a set that cannot be learnt from, or too many bad files.
        CheckpointError: the encoder or a checkpoint cannot be read.
        TrainingError: loss or probabilities are no longer finite.
    """
    from rich.console import Console
    from rich.markup import escape

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            "fine-tuning runs on one device: start it without torchrun, and share seeds out among devices"
        )
    config = resolve(config)
    out, notes = Path(config.out), Console(stderr=True)
    _check_out(config, out)
    labelled = _read(config)
    partitions(labelled, min_clips=config.min_fold_clips, num_folds=config.num_folds)  # before hours of reading
    saved = read_model(config.checkpoint)
    device = resolve_device(config.device)
    environment = write_run_header(out, config, device=device)
    spectrograms, labelled = _load(config, labelled, saved, device, notes)
    _check_data(config, labelled)
    parts = partitions(labelled, min_clips=config.min_fold_clips, num_folds=config.num_folds)
    jobs = make_jobs(parts, config)
    done: dict[str, Done] = {}
    with _Progress(len(jobs) * int(config.steps or 0), notes, out, spectrograms.bad) as progress:
        for job in jobs:
            progress.begin(job.name)
            done[job.name] = _run_job(job, labelled, spectrograms, saved, config, progress)
            progress.finish(int(config.steps or 0), done[job.name].history)
    bad = np.flatnonzero([clip.name in spectrograms.bad for clip in labelled.clips])  # found on the way
    parts = [part.without(bad) for part in parts]
    num_clips = len(labelled.clips) - len(bad)
    tests = [[done[_name(seed, part)].history for part in parts] for seed in _seeds(config)]
    choosers = [[done[_chooser(seed, part, jobs)].history for part in parts] for seed in _seeds(config)]
    has_validation = all("validation" in run.scores for runs in choosers for run in runs)
    scores = summarise_runs(tests, choosers if has_validation else [])
    results = [done[_name(seed, part)].last["test"] for seed in _seeds(config) for part in parts]
    per_class = write_classes(out, labelled, results)
    warnings = find_warnings(labelled, parts, per_class)
    trained = [run for runs in tests for run in runs]
    result = {
        "task": config.task,
        "data": config.data,
        "checkpoint": config.checkpoint,
        "scores": scores,
        "per_class": per_class,
        "num_clips": num_clips,
        "counts": labelled.counts,
        "num_missing": labelled.num_missing,
        "num_bad": len(spectrograms.bad),
        "bad": [{"file": name, "reason": reason} for name, reason in spectrograms.bad.items()],
        "warnings": warnings,
        "protocol": "leave one fold out" if labelled.has_folds else "split",
        "partitions": [_describe(part) for part in parts],
        "batches_per_second": sum(run.steps[-1] for run in trained) / max(1e-9, sum(run.seconds for run in trained)),
        "meaning": MEANING,
        "pretraining": saved.training,
        "config": dataclasses.asdict(config),
        "environment": environment,
    }
    path = write_result(out, result)
    _write_card(out / "model", result, parts[0])
    for warning in warnings:
        notes.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    folds = f", {len(parts)} test folds" if labelled.has_folds else ""
    title = f"{config.data}: {num_clips} clips, {len(labelled.classes)} classes{folds}, {config.seeds} seeds"
    Console().print(score_table(scores, escape(title)))
    print(f"-> {path}, {out / 'model'}")
    return result


def resolve(config: FinetuneConfig) -> FinetuneConfig:
    """Fill in what the task sets (method 8) and the options leave open."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in protocol(config.task, "finetuning").items():
        section, _, name = key.rpartition(".")
        holder = getattr(config, section) if section else config
        if getattr(holder, name) is None:
            sections.setdefault(section, {})[name] = value
    top = sections.pop("", {})
    nested = {name: dataclasses.replace(getattr(config, name), **values) for name, values in sections.items()}
    return dataclasses.replace(config, **top, **nested)


def make_jobs(parts: list[Partition], config: FinetuneConfig) -> list[Job]:
    """List the trainings: every seed and partition, and for fold sets those that only choose the step."""
    jobs = []
    for seed in _seeds(config):
        for part in parts:
            is_separate = len(np.intersect1d(part.train, part.validation)) > 0
            watched = {"test": part.test}
            if len(part.validation) and not is_separate:
                watched["validation"] = part.validation
            jobs.append(Job(_name(seed, part), seed, part.train, watched))
            if is_separate and config.selection_runs:
                watched = {"validation": part.validation}
                jobs.append(Job(f"{_name(seed, part)}-selection", seed, part.selection_train, watched))
    return jobs


def _read(config: FinetuneConfig) -> LabelledSet:
    columns = {name: getattr(config, name) for name in ("label", "split", "fold", "where", "multi_label")}
    return read_task(config.task, config.data, **columns)


def _load(
    config: FinetuneConfig, labelled: LabelledSet, saved: SavedModel, device: torch.device, notes: Any
) -> tuple[Spectrograms, LabelledSet]:
    """Read the sounds; those that cannot be read are listed, and left out of the set."""
    from rich.progress import Progress

    options: dict[str, Any] = {"device": device, "workers": config.workers, "max_bad_fraction": config.max_bad_fraction}
    spectrograms = Spectrograms(labelled.clips, saved.front_end, **options)
    with Progress(console=notes) as bar:
        task = bar.add_task("reading", total=len(labelled.clips))
        spectrograms.check(lambda done, _: bar.update(task, completed=done))
    _tell_bad(list(spectrograms.bad.items()), notes)
    if not spectrograms.bad:
        return spectrograms, labelled
    left = labelled.without(set(spectrograms.bad))
    return spectrograms.of(left.clips), left


def _tell_bad(bad: list[tuple[str, str]], notes: Any) -> None:
    for name, reason in bad[:MAX_BAD_SHOWN]:
        notes.print(f"left out: {name}: {reason}", highlight=False, markup=False, soft_wrap=True)
    if len(bad) > MAX_BAD_SHOWN:
        notes.print(f"left out: and {len(bad) - MAX_BAD_SHOWN} more", highlight=False)


def _run_job(
    job: Job,
    labelled: LabelledSet,
    spectrograms: Spectrograms,
    saved: SavedModel,
    config: FinetuneConfig,
    progress: _Progress,
) -> Done:
    """Train, or read what an earlier process has finished."""
    folder = Path(config.out) / "jobs" / job.name
    finished = _read_job(folder, labelled)
    if finished is not None:
        spectrograms.bad.update(finished.history.bad)
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(job.seed)
    classifier = Classifier(copy.deepcopy(saved.encoder), len(labelled.classes), config.augment.drop_path)
    trainer = Trainer(job, classifier.to(spectrograms.device), labelled, spectrograms, config)
    last = trainer.run(folder, progress.on_step)
    model = trainer.average.module
    assert isinstance(model, Classifier)
    if progress.is_first:
        places = ("data", "out", "checkpoint")  # on this machine
        settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in places}
        training = {"finetuning": plain(settings), "pretraining": saved.training, "job": job.name}
        save_model(
            Path(config.out) / "model",
            model.encoder,
            saved.front_end,
            head=model.head,
            labels=labelled.classes,
            multi_label=labelled.is_multi_label,
            training=training,
        )
    arrays: dict[str, Any] = {}
    for name, (indices, probabilities) in last.items():
        arrays[f"{name}_file"] = np.asarray([labelled.clips[index].name for index in indices], dtype=np.str_)
        arrays[f"{name}_probability"] = probabilities
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(folder / "last.npz", content.getvalue())
    write_json(folder / "history.json", vars(trainer.history))
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return Done(trainer.history, last)


def _read_job(folder: Path, labelled: LabelledSet) -> Done | None:
    path = folder / "history.json"  # written last
    if not path.exists():
        return None
    try:
        history = History(**json.loads(path.read_text(encoding="utf-8")))
        for own in history.scores.values():  # JSON has null for NaN
            own.update((metric, np.asarray(values, dtype=np.float64).tolist()) for metric, values in own.items())
        places = {clip.name: index for index, clip in enumerate(labelled.clips)}
        with open(folder / "last.npz", "rb") as file, np.load(file, allow_pickle=False) as arrays:
            last = {
                name: (
                    np.asarray([places[str(file)] for file in arrays[f"{name}_file"]], dtype=np.int64),
                    arrays[f"{name}_probability"],
                )
                for name in history.scores
            }
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{folder}: does not belong to this data set, or is damaged ({error}): delete it"
        ) from error
    return Done(history, last)


def _check_out(config: FinetuneConfig, out: Path) -> None:
    written = out / "config.yaml"
    if not written.exists():
        return
    if not config.resume:
        raise ConfigError(f"{out} already holds a run: continue it with --resume, or choose another --out")
    import yaml

    before = yaml.safe_load(written.read_text(encoding="utf-8")) or {}
    now = plain(dataclasses.asdict(config))
    for key in now:
        if key not in MAY_CHANGE and before.get(key) != now[key]:
            raise ConfigError(f"cannot resume {out}: {key} was {before.get(key)}, and now is {now[key]}")


def _check_data(config: FinetuneConfig, labelled: LabelledSet) -> None:
    """Keep a digest of the readable set in the run folder, and go on with no other."""
    path, digest = Path(config.out) / "data.sha256", labelled.digest().encode()
    if not path.exists():
        write_atomically(path, digest)
    elif path.read_bytes() != digest:
        raise ConfigError(
            f"cannot resume {config.out}: the readable clips of {config.data}, their labels, splits or folds are not "
            "those it began with: bring these back, or choose another --out"
        )


def _write_card(folder: Path, result: dict[str, Any], first: Partition) -> None:
    """Put data and scores, which are known only now, beside the weights."""
    saved = read_model(folder)
    kind = f"{result['protocol']}, last step, mean over seeds: {result['config']['seeds']}"
    name = f"{result['task']} ({Path(result['data']).name})"
    held_out = f", fold {first.name} held out" if result["protocol"] != "split" else ""
    scores = [
        {
            "data": name,
            "metric": metric.replace("_", " "),
            "value": round(values["mean"], 4),
            "protocol": kind,
        }
        for metric, values in result["scores"]["last"].items()
        if np.isfinite(values["mean"])
    ]
    save_model(
        folder,
        saved.encoder,
        saved.front_end,
        head=saved.head,
        labels=saved.labels,
        multi_label=saved.multi_label,
        training=saved.training,
        card={"data": f"{name}: trained on {len(first.train)} clips{held_out}.", "scores": scores},
    )


def _describe(part: Partition) -> dict[str, Any]:
    sizes = {"num_train": len(part.train), "num_test": len(part.test), "num_validation": len(part.validation)}
    return {"name": part.name, **sizes}


def _seeds(config: FinetuneConfig) -> range:
    return range(config.first_seed, config.first_seed + config.seeds)


def _name(seed: int, part: Partition) -> str:
    return f"seed{seed}-{urllib.parse.quote(part.name, safe=' ')}"


def _chooser(seed: int, part: Partition, jobs: list[Job]) -> str:
    name = f"{_name(seed, part)}-selection"
    return name if any(job.name == name for job in jobs) else _name(seed, part)


class _Progress:
    """A bar on a terminal and a line per evaluation elsewhere; `metrics.jsonl` and new bad files after each."""

    def __init__(self, total: int, console: Any, out: Path, bad: dict[str, str]) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self.console, self.out, self.total = console, out, total
        self.task = self.bar.add_task("fine-tuning", total=total)
        self.name, self.completed, self.is_first = "", 0, False
        self.histories: dict[str, History] = {}
        self.bad, self.num_told = bad, len(bad)

    def __enter__(self) -> _Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def begin(self, name: str) -> None:
        """Go to the next job."""
        self.is_first, self.name = not self.histories, name

    def finish(self, steps: int, history: History) -> None:
        """Count a job that is done, by this process or an earlier one."""
        self.completed += steps
        self.histories[self.name] = history
        self._write()
        self.bar.update(self.task, completed=self.completed)

    def on_step(self, trainer: Trainer, is_evaluated: bool) -> None:
        """Advance, and tell the scores."""
        self.bar.update(self.task, completed=self.completed + trainer.step)
        if not is_evaluated:
            return
        self.histories[self.name] = trainer.history
        self._write()
        scores = {
            f"{name} {metric.replace('_', ' ')}": values[-1]
            for name, own in trainer.history.scores.items()
            for metric, values in own.items()
        }
        shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        line = f"{self.name}  step {trainer.step}/{trainer.steps}  loss {trainer.history.loss[-1]:.4f}  {shown}"
        self.bar.console.print(line, highlight=False, soft_wrap=True)

    def _write(self) -> None:
        _tell_bad(list(self.bad.items())[self.num_told :], self.console)
        self.num_told = len(self.bad)
        lines = []
        for name, history in self.histories.items():
            for place, step in enumerate(history.steps):
                entry: dict[str, Any] = {"job": name, "step": step, "loss": history.loss[place]}
                for watched, own in history.scores.items():
                    entry |= {f"{watched}_{metric}": values[place] for metric, values in own.items()}
                lines.append(json.dumps(plain(entry)))
        write_atomically(self.out / "metrics.jsonl", "".join(f"{line}\n" for line in lines).encode())

"""The trainings of a run: one for every seed and partition, each in its folder and done only once."""

from __future__ import annotations

import copy
import json
import math
import shutil
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from aape.data.labelled import LabelledSet
from aape.downstream.finetuning import Classifier, History, Job, Settings, Training
from aape.downstream.partitions import Partition
from aape.downstream.scores import MEANING, Predictions, describe_run, summarise_curves, write_classes
from aape.downstream.spectrograms import Spectrograms
from aape.errors import CheckpointError
from aape.models.saved import SavedModel, read_model, save_model
from aape.runs.checkpoints import list_checkpoints, refuse_old
from aape.runs.files import Records, npz, plain, read_npz, write_atomically, write_json
from aape.runs.progress import TrainingBar
from aape.runs.signals import StopSignal


class Done(NamedTuple):
    """A finished job: what it measured, and its last predictions by watched set."""

    history: History
    last: dict[str, Predictions]


def make_jobs(parts: Sequence[Partition], seeds: int, *, selection_runs: bool = True) -> list[Job]:
    """List the trainings: every seed and partition, and for fold sets those that only choose the step."""
    jobs = []
    for seed in range(seeds):
        for part in parts:
            watched = {"test": part.test}
            if len(part.validation) and not part.needs_selection_run:
                watched["validation"] = part.validation
            jobs.append(Job(job_name(seed, part), seed, part.train, watched))
            if part.needs_selection_run and selection_runs:
                watched = {"validation": part.validation}
                jobs.append(Job(job_name(seed, part, "-selection"), seed, part.selection_train, watched))
    return jobs


def job_name(seed: int, part: Partition, kind: str = "") -> str:
    """Return the name of a job's folder."""
    return f"seed{seed}-{urllib.parse.quote(part.name, safe=' ')}{kind}"


@dataclass
class Run:
    """What the jobs of a run share.

    Attributes:
        saved: the model to start from.
        accelerator: device and processes; the first one writes.
        resume: whether to continue from checkpoints.
        loop_to: length in seconds that shorter clips are looped to, saved with the model.
        options: options of the run, saved with the model.
        done: finished jobs by name.
    """

    out: Path
    labelled: LabelledSet
    spectrograms: Spectrograms
    saved: SavedModel
    settings: Settings
    accelerator: Accelerator
    resume: bool = False
    loop_to: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    done: dict[str, Done] = field(default_factory=dict)

    def work_through(self, jobs: Sequence[Job]) -> None:
        """Train one job after the other, or read what an earlier process has finished; the first one's model is saved.

        Raises:
            CheckpointError, DataError, TrainingError: as `Training.run`; a finished job is damaged.
            SystemExit: 128 + the signal, after a checkpoint, when SIGTERM or SIGHUP asked to stop.
        """
        stop, steps, is_main = StopSignal(), self.settings.steps, self.accelerator.is_main_process
        with TrainingBar("fine-tuning", len(jobs) * steps, is_shown=is_main) as bar:
            for number, job in enumerate(jobs):
                done = self._finished(job) or self._train(job, stop, bar, number * steps, is_saved=number == 0)
                self.done[job.name] = done
                bar.advance((number + 1) * steps)
                self._write_metrics()

    def summarise(self, parts: Sequence[Partition], seeds: int) -> dict[str, Any]:
        """Return what `result.json` says of the finished jobs; write `per_class.csv` and `confusion.csv`."""
        bad = self.spectrograms.bad.reasons
        unreadable = np.flatnonzero([clip.name in bad for clip in self.labelled.clips])
        parts = [part.without(unreadable) for part in parts]
        tests = [[self.done[job_name(seed, part)] for part in parts] for seed in range(seeds)]
        holdouts = [
            [self.done.get(job_name(seed, part, "-selection"), self.done[job_name(seed, part)]) for part in parts]
            for seed in range(seeds)
        ]
        has_validation = all("validation" in done.history.scores for folds in holdouts for done in folds)
        per_class = write_classes(self.out, self.labelled, [done.last["test"] for folds in tests for done in folds])
        described = describe_run(self.labelled, parts, bad)
        num_empty = sum(not row["clips"] for row in per_class)
        if self.labelled.is_multi_label and num_empty:
            classes = f"{num_empty} of {len(per_class)} classes"
            described["warnings"].append(f"{classes} have no positive test clip, and are left out of mAP")
        seconds = sum(done.history.seconds for folds in tests for done in folds)
        return {
            "loop_to": self.loop_to,
            "scores": summarise_curves(
                [[done.history.scores["test"] for done in folds] for folds in tests],
                [[done.history.scores["validation"] for done in folds] for folds in holdouts] if has_validation else [],
            ),
            "per_class": per_class,
            **described,
            "meaning": MEANING,
            "batches_per_second": sum(done.history.steps[-1] for folds in tests for done in folds) / max(1e-9, seconds),
        }

    def write_card(self, result: dict[str, Any], first: Partition) -> None:
        """Put data and scores, which are known only now, beside the weights."""
        saved = dict(vars(read_model(self.out / "model")))
        name = f"{result['task']} ({Path(result['data']).name})"
        held_out = f", fold {first.name} held out" if self.labelled.has_folds else ""
        kind = f"{result['protocol']}, last step, mean over seeds: {result['config']['seeds']}"
        means = {metric.replace("_", " "): values["mean"] for metric, values in result["scores"]["last"].items()}
        saved["card"] = {
            "data": f"{name}: trained on {len(first.train)} clips{held_out}.",
            "scores": [
                {"data": name, "metric": metric, "value": round(mean, 4), "protocol": kind}
                for metric, mean in means.items()
                if math.isfinite(mean)
            ],
        }
        save_model(self.out / "model", saved.pop("encoder"), saved.pop("front_end"), **saved)

    def _train(self, job: Job, stop: StopSignal, bar: TrainingBar, steps_before: int, *, is_saved: bool) -> Done:
        folder = self._folder(job)
        refuse_old(folder)
        torch.manual_seed(job.seed)
        encoder, num_classes = copy.deepcopy(self.saved.encoder), len(self.labelled.classes)
        settings = self.settings
        classifier = Classifier(encoder, num_classes, settings.drop_path, settings.pool).to(self.spectrograms.device)

        def show(step: int) -> None:
            bar.advance(steps_before + step)
            if training.history.steps[-1:] == [step]:
                self.done[job.name] = Done(training.history, training.last)
                self._write_metrics()
                bar.note(steps_before + step, f"{job.name}  {training.history.last_line()}")

        training = Training(
            job, classifier, self.labelled, self.spectrograms, settings,
            accelerator=self.accelerator, folder=folder, stop=stop, progress=show,
        )  # fmt: skip
        if not training.run(resume=self.resume):
            stop.exit()
        is_main = self.accelerator.is_main_process
        done = Done(training.history, training.last)
        if is_main and is_saved:
            self._save_model(training.average.module, job)
        if is_main:
            self._finish(job, done)
        self.accelerator.wait_for_everyone()
        return done

    def _save_model(self, model: nn.Module, job: Job) -> None:
        assert isinstance(model, Classifier)
        save_model(
            self.out / "model",
            model.encoder,
            self.saved.front_end,
            head=model.head,
            labels=self.labelled.classes,
            multi_label=self.labelled.is_multi_label,
            training={"finetuning": plain(self.options), "pretraining": self.saved.training, "job": job.name},
            loop_to=self.loop_to,
            pool=None if model.head.pool == "cls" else model.head.pool,
        )

    def _finish(self, job: Job, done: Done) -> None:
        """Write what a finished job leaves behind, and remove its checkpoints."""
        arrays: dict[str, Any] = {}
        for name, (indices, probabilities) in done.last.items():
            arrays[f"{name}_file"] = np.asarray([self.labelled.clips[index].name for index in indices], dtype=np.str_)
            arrays[f"{name}_probability"] = probabilities
        write_atomically(self._folder(job) / "last.npz", npz(**arrays))
        write_json(self._folder(job) / "history.json", vars(done.history))
        for checkpoint in list_checkpoints(self._folder(job)):
            shutil.rmtree(checkpoint)

    def _folder(self, job: Job) -> Path:
        """Return a job's folder; bad files that turn up from now on are listed there."""
        folder = self.out / "jobs" / job.name
        self.spectrograms.bad.records = Records(folder / "bad_files.jsonl")
        return folder

    def _finished(self, job: Job) -> Done | None:
        """Read a job that an earlier process has finished."""
        path = self._folder(job) / "history.json"  # this file is written last
        if not path.exists():
            return None
        try:
            history = History(**json.loads(path.read_text(encoding="utf-8")))
            for scores in history.scores.values():  # JSON has null for NaN
                scores.update((metric, np.asarray(values, np.float64).tolist()) for metric, values in scores.items())
            numbers = {clip.name: index for index, clip in enumerate(self.labelled.clips)}
            arrays, last = read_npz(path.with_name("last.npz")) or {}, {}
            for name in history.scores:
                indices = np.asarray([numbers[str(file)] for file in arrays[f"{name}_file"]], dtype=np.int64)
                last[name] = indices, arrays[f"{name}_probability"]
        except (OSError, KeyError, TypeError, ValueError) as error:
            reason = f"does not belong to this data set, or is damaged ({error})"
            raise CheckpointError(f"{path.parent}: {reason}: delete it") from error
        self.spectrograms.bad.restore(self.settings.steps)
        return Done(history, last)

    def _write_metrics(self) -> None:
        """Write `metrics.jsonl` of the run, and name new bad files."""
        if not self.accelerator.is_main_process:
            return
        self.spectrograms.bad.print_new()
        lines = []
        for name, done in self.done.items():
            for row, step in enumerate(done.history.steps):
                entry: dict[str, Any] = {"job": name, "step": step, "loss": done.history.loss[row]}
                for watched, scores in done.history.scores.items():
                    entry |= {f"{watched}_{metric}": values[row] for metric, values in scores.items()}
                lines.append(json.dumps(plain(entry)))
        write_atomically(self.out / "metrics.jsonl", "".join(f"{line}\n" for line in lines).encode())

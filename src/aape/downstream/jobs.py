"""The trainings of a run: one for every seed and partition, each in a folder of its own and done only once."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import sys
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from aape.data.labelled import LabelledSet
from aape.downstream.finetuning import Classifier, History, Job, Settings, Training
from aape.downstream.partitions import Partition
from aape.downstream.scores import Predictions, describe_run, summarise_curves, write_classes
from aape.downstream.spectrograms import Spectrograms
from aape.errors import CheckpointError
from aape.models.saved import SavedModel, save_model
from aape.runs.checkpoints import list_checkpoints, refuse_old
from aape.runs.files import Records, npz, plain, read_npz, write_atomically, write_json
from aape.runs.guards import StopSignal
from aape.runs.progress import progress_bar


@dataclass(frozen=True)
class Done:
    """A finished job: what it measured, and the predictions of its last step by watched set."""

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
        out: the run folder.
        labelled: the data set.
        spectrograms: its log-mels.
        saved: the model to start from.
        settings: how to train.
        accelerator: device and ranks; the first one writes.
        resume: go on from checkpoints.
        loop_to: length in seconds that shorter clips are looped to, saved with the model.
        training: how the model was trained, saved with it.
        done: finished jobs, by name.
    """

    out: Path
    labelled: LabelledSet
    spectrograms: Spectrograms
    saved: SavedModel
    settings: Settings
    accelerator: Accelerator
    resume: bool = False
    loop_to: float = 0.0
    training: dict[str, Any] = field(default_factory=dict)
    done: dict[str, Done] = field(default_factory=dict)

    def work_through(self, jobs: Sequence[Job]) -> dict[str, Done]:
        """Train one job after the other, or read what an earlier process has finished; the first one's model is saved.

        Raises:
            CheckpointError, DataError, TrainingError: as `Training.run`; a finished job is damaged.
            SystemExit: 143, after a checkpoint, when SIGTERM asked to stop.
        """
        is_main, stop, steps = self.accelerator.is_main_process, StopSignal(), self.settings.steps
        bar = progress_bar("fine-tuning", len(jobs) * steps)
        with bar if is_main else contextlib.nullcontext(lambda done, total: None) as progress:
            for number, job in enumerate(jobs):
                show = lambda step, number=number: progress(number * steps + step, len(jobs) * steps)  # noqa: E731
                self.done[job.name] = self._finished(job) or self._train(job, stop, show, is_saved=number == 0)
                show(steps)
                if is_main:
                    self._tell({name: done.history for name, done in self.done.items()})
        return self.done

    def summarise(self, parts: Sequence[Partition], seeds: int) -> dict[str, Any]:
        """Return what `result.json` says of the finished jobs; write `per_class.csv` and `confusion.csv`."""
        bad = self.spectrograms.bad.reasons
        on_the_way = np.flatnonzero([clip.name in bad for clip in self.labelled.clips])
        parts = [part.without(on_the_way) for part in parts]
        tests = [[self.done[job_name(seed, part)] for part in parts] for seed in range(seeds)]
        choosers = [
            [self.done.get(job_name(seed, part, "-selection"), self.done[job_name(seed, part)]) for part in parts]
            for seed in range(seeds)
        ]
        has_validation = all("validation" in done.history.scores for own in choosers for done in own)
        per_class = write_classes(self.out, self.labelled, [done.last["test"] for own in tests for done in own])
        described = describe_run(self.labelled, parts, bad)
        silent = [row["class"] for row in per_class if not row["clips"]]
        if self.labelled.is_multi_label and silent:
            counted = f"{len(silent)} of {len(per_class)} classes"
            described["warnings"].append(f"{counted} have no positive test clip, and are left out of mAP")
        seconds = sum(done.history.seconds for own in tests for done in own)
        return {
            "scores": summarise_curves(
                [[done.history.scores["test"] for done in own] for own in tests],
                [[done.history.scores["validation"] for done in own] for own in choosers] if has_validation else [],
            ),
            "per_class": per_class,
            **described,
            "batches_per_second": sum(done.history.steps[-1] for own in tests for done in own) / max(1e-9, seconds),
        }

    def _train(self, job: Job, stop: StopSignal, progress: Callable[[int], None], *, is_saved: bool) -> Done:
        folder = self.out / "jobs" / job.name
        refuse_old(folder)
        torch.manual_seed(job.seed)
        encoder, num_classes = copy.deepcopy(self.saved.encoder), len(self.labelled.classes)
        classifier = Classifier(encoder, num_classes, self.settings.drop_path).to(self.spectrograms.device)
        self.spectrograms.bad.records = Records(folder / "bad_files.jsonl")

        def show(step: int) -> None:
            progress(step)
            history = training.history
            if self.accelerator.is_main_process and history.steps[-1:] == [step]:
                self._tell({**{name: done.history for name, done in self.done.items()}, job.name: history})
                line = f"{job.name}  step {step}/{self.settings.steps}  loss {history.loss[-1]:.4f}"
                for watched, scores in history.scores.items():
                    for metric, values in scores.items():
                        line += f"  {watched} {metric.replace('_', ' ')} {values[-1]:.3f}"
                print(line, file=sys.stderr)

        training = Training(
            job, classifier, self.labelled, self.spectrograms, self.settings,
            accelerator=self.accelerator, folder=folder, stop=stop, progress=show,
        )  # fmt: skip
        if not training.run(resume=self.resume):
            stop.leave(self.out, training.loop.step, is_main=self.accelerator.is_main_process)
        model = training.average.module
        assert isinstance(model, Classifier)
        if self.accelerator.is_main_process:
            if is_saved:
                self._save_model(model, job)
            self._finish(folder, training)
        self.accelerator.wait_for_everyone()
        return Done(training.history, training.last)

    def _save_model(self, model: Classifier, job: Job) -> None:
        save_model(
            self.out / "model",
            model.encoder,
            self.saved.front_end,
            head=model.head,
            labels=self.labelled.classes,
            multi_label=self.labelled.is_multi_label,
            training={"finetuning": self.training, "pretraining": self.saved.training, "job": job.name},
            loop_to=self.loop_to,
        )

    def _finish(self, folder: Path, training: Training) -> None:
        """Write what a finished job leaves behind, and remove its checkpoints."""
        arrays: dict[str, Any] = {}
        for name, (indices, probabilities) in training.last.items():
            arrays[f"{name}_file"] = np.asarray([self.labelled.clips[index].name for index in indices], dtype=np.str_)
            arrays[f"{name}_probability"] = probabilities
        write_atomically(folder / "last.npz", npz(**arrays))
        write_json(folder / "history.json", vars(training.history))
        for checkpoint in list_checkpoints(folder):
            shutil.rmtree(checkpoint)

    def _finished(self, job: Job) -> Done | None:
        """Read a job that an earlier process has finished."""
        folder = self.out / "jobs" / job.name
        path = folder / "history.json"  # written last
        if not path.exists():
            return None
        try:
            history = History(**json.loads(path.read_text(encoding="utf-8")))
            for own in history.scores.values():  # JSON has null for NaN
                own.update((metric, np.asarray(values, dtype=np.float64).tolist()) for metric, values in own.items())
            places = {clip.name: index for index, clip in enumerate(self.labelled.clips)}
            arrays = read_npz(folder / "last.npz") or {}
            last = {
                name: (
                    np.asarray([places[str(file)] for file in arrays[f"{name}_file"]], dtype=np.int64),
                    arrays[f"{name}_probability"],
                )
                for name in history.scores
            }
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder}: does not belong to this data set, or is damaged ({error}): delete it"
            ) from error
        self.spectrograms.bad.records = Records(folder / "bad_files.jsonl")
        self.spectrograms.bad.restore(self.settings.steps)
        return Done(history, last)

    def _tell(self, histories: dict[str, History]) -> None:
        """Write `metrics.jsonl` of the run, and name new bad files."""
        self.spectrograms.bad.tell()
        lines = []
        for name, history in histories.items():
            for place, step in enumerate(history.steps):
                entry: dict[str, Any] = {"job": name, "step": step, "loss": history.loss[place]}
                for watched, own in history.scores.items():
                    entry |= {f"{watched}_{metric}": values[place] for metric, values in own.items()}
                lines.append(json.dumps(plain(entry)))
        write_atomically(self.out / "metrics.jsonl", "".join(f"{line}\n" for line in lines).encode())

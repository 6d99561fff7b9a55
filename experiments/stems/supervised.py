"""Trials 1 and 2: a small Vision Transformer from scratch on a rendered set, with one of the stems.

    python experiments/stems/supervised.py --task words --stem bilateral --seed 0 --learning-rate 1e-3 --out FOLDER

Batches, crops and all weights but the stem's depend on the seed alone, so that stems are paired. Begun again, a run
goes on from its last checkpoint; ended, FOLDER/result.json has its curves and scores. With --select the test part is
not touched: such runs choose the learning rate on the validation part.

B clips, F mel bins, T frames, N tokens, D width, n clips of a part.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stems import ENCODERS, NUM_FRAMES, STEMS
from torch import Tensor
from torch.nn import functional as F

from aape.analysis.aliasing import relative_distances
from aape.data.sampling import Draws
from aape.downstream.finetuning import BETAS, WARMUP, WEIGHT_DECAY, Classifier
from aape.errors import AapeError, DataError, TrainingError, one_line
from aape.models.config import encoder_config
from aape.models.encoder import AudioEncoder
from aape.runs.checkpoints import find_checkpoint
from aape.runs.devices import autocast, close_ranks, start_ranks
from aape.runs.files import write_json
from aape.runs.folder import RESULT_NAME, claim, claim_data, write_run_header
from aape.runs.lock import locked
from aape.runs.loop import METRICS_NAME, Loop, StepPart
from aape.runs.optim import adamw, warmup_cosine

SHIFTS = range(17)  # frames of 10 ms
MIDDLE = 8  # where clips are cut for scores
MEASURED_AT = (0.1, 0.25, 0.5, 1.0)  # of the steps
SHIFTED_CLIPS = 1000  # of the test part
AT_ONCE = 50


@dataclass(frozen=True)
class Run:
    """A training; the fields are the options of the command line."""

    task: str
    stem: str
    seed: int
    learning_rate: float
    out: str
    steps: int = 2000
    batch: int = 32
    size: str = "small"
    select: bool = False
    data: str = "data/stems"
    precision: str = "auto"
    device: str = "auto"
    save_every: int = 200


@dataclass(frozen=True)
class Part:
    """Train, validation or test clips of a task: log-mels (n, F, 128), of which 112 frames are seen; classes (n,)."""

    log_mels: NDArray[np.float16]
    classes: NDArray[np.int64]
    num_classes: int


def read_part(folder: Path, name: str) -> Part:
    """Read what render.py wrote.

    Raises:
        DataError: it is not there.
    """
    if not (folder / f"{name}.npy").exists():
        raise DataError(f"{folder / name}.npy is not there: python experiments/stems/render.py makes it")
    with (folder / "clips.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows})
    classes = np.array([names.index(row["label"]) for row in rows if row["split"] == name])
    return Part(np.load(folder / f"{name}.npy", mmap_mode="r"), classes, len(names))


class Training:
    """One run: classifier, batches and scores."""

    def __init__(self, run: Run) -> None:
        self.run, folder = run, Path(run.data) / run.task
        self.train = read_part(folder, "train")
        self.part = "validation" if run.select else "test"
        self.scored = read_part(folder, self.part)
        self.statistics = json.loads((folder / "stats.json").read_text())
        self.accelerator = start_ranks(run.device)
        self.device = self.accelerator.device
        self.classifier = build_classifier(run.stem, run.seed, self.train.num_classes, run.size).to(self.device)
        self.draws = Draws(np.arange(len(self.train.classes)), batch=run.batch, seed=run.seed)
        self.scores: dict[str, dict[str, float]] = {}  # by step and part, accuracy
        self.loop = Loop(
            self.accelerator,
            Path(run.out),
            self.forward,
            adamw(self.classifier, learning_rate=run.learning_rate, weight_decay=WEIGHT_DECAY, betas=BETAS),
            {"classifier": self.classifier},
            num_steps=run.steps,
            rate=lambda step: warmup_cosine(step, warmup=round(WARMUP * run.steps), total=run.steps),
            autocast=partial(autocast, self.device, run.precision),
            log_every=max(1, run.steps // 200),
            every=[(max(1, run.steps // 20), self.measure)],
            save_every=run.save_every,
            extra={"scores": self.scores},
        )

    def batches(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Yield for each step (B, 1, F, T), cut at starts that are drawn, and classes (B,)."""
        for step in range(self.loop.step, self.run.steps):
            clips = self.draws[step]
            starts = np.random.default_rng((self.run.seed, step)).integers(len(SHIFTS), size=len(clips))
            cuts = [self.train.log_mels[i, :, s : s + NUM_FRAMES] for i, s in zip(clips, starts, strict=True)]
            yield [(self.standardised(np.stack(cuts)), torch.from_numpy(self.train.classes[clips]).to(self.device))]

    def standardised(self, log_mels: NDArray[np.float16]) -> Tensor:
        """Return the encoder's input (B, 1, F, T)."""
        x = torch.from_numpy(log_mels.astype(np.float32)).to(self.device)
        return ((x - self.statistics["mean"]) / self.statistics["std"])[:, None]

    def forward(self, step: int, batch: tuple[Tensor, Tensor]) -> StepPart:
        """Return the loss of a batch."""
        x, classes = batch
        loss = F.cross_entropy(self.classifier.train()(x).float(), classes)
        return StepPart(loss, 1.0, [""] * len(x), {"loss": loss.detach()})

    def measure(self, step: int) -> None:
        """Score at some of the steps."""
        if step in {round(share * self.run.steps) for share in MEASURED_AT}:
            self.scores[str(step)] = {self.part: float(self.correct().mean())}

    def encode(self, start: int, num_clips: int) -> Tensor:
        """Return all tokens, the class token first, of the first clips, cut at `start` (n, 1 + N, D)."""
        tokens = []
        with torch.inference_mode(), autocast(self.device, self.run.precision):
            for first in range(0, num_clips, AT_ONCE):
                last = min(first + AT_ONCE, num_clips)
                x = self.standardised(self.scored.log_mels[first:last, :, start : start + NUM_FRAMES])
                tokens.append(self.classifier.eval().encoder(x).float())
        return torch.cat(tokens)

    def answers(self, tokens: Tensor) -> NDArray[np.int64]:
        """Return the classes that the head reads from tokens (n,)."""
        with torch.inference_mode():
            return self.classifier.head(tokens).argmax(-1).cpu().numpy()

    def correct(self) -> NDArray[np.bool_]:
        """Return which clips, cut in the middle, are classified correctly (n,)."""
        return self.answers(self.encode(MIDDLE, len(self.scored.classes))) == self.scored.classes

    def shifted(self) -> dict[str, list[float]]:
        """Return accuracy, and distance that vectors move, by shift of the first test clips (docs: README)."""
        accuracies, vectors, classes = [], [], self.scored.classes[:SHIFTED_CLIPS]
        for shift in SHIFTS:
            tokens = self.encode(shift, len(classes))
            accuracies.append(float((self.answers(tokens) == classes).mean()))
            vectors.append(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], -1)[:, None].double().cpu())
        distances = relative_distances(torch.stack(vectors)).mean(1)
        return {"accuracy": accuracies, "distance": distances.tolist()}

    def result(self) -> dict[str, Any]:
        """Return what the run gave."""
        lines = [json.loads(line) for line in (Path(self.run.out) / METRICS_NAME).read_text().splitlines()]
        curves = {name: [line[name] for line in lines] for name in ("step", "loss", "grad_norm")}
        parameters = {
            "all": sum(p.numel() for p in self.classifier.parameters()),
            "stem": sum(p.numel() for p in self.classifier.encoder.stem.parameters()),
        }
        result = {"scores": self.scores, "curves": curves, "parameters": parameters}
        if not self.run.select:
            bits = np.packbits(self.correct())
            result |= {"correct": bits.tobytes().hex(), "shifts": self.shifted()}
        return result


def build_classifier(stem: str, seed: int, num_classes: int, size: str = "small") -> Classifier:
    """Build encoder and head; of one seed, all weights but those of the stem are the same whatever the stem."""
    config = encoder_config("nano", **ENCODERS[size], num_frames=NUM_FRAMES, stem="patch")
    torch.manual_seed(seed)
    classifier = Classifier(AudioEncoder(config), num_classes)
    torch.manual_seed(seed)
    classifier.encoder.stem = STEMS[stem](config)
    return classifier


def train(run: Run) -> None:
    """Begin a run, or go on with it, and write its result; SystemExit if a signal stops it after a checkpoint."""
    out = Path(run.out)
    with locked(out):
        claim(out, run, may_change={"out", "data", "device", "save_every"}, resume=True)
        if (out / RESULT_NAME).exists():
            return
        training = Training(run)
        made_with = json.loads((Path(run.data) / "engines.json").read_text())
        claim_data(out, json.dumps(made_with[run.task], sort_keys=True), f"the clips of {run.data}", is_main=True)
        environment = write_run_header(out, run, device=training.device)
        training.loop.resume(find_checkpoint(out, is_main=True))
        training.scores = training.loop.extra["scores"]
        try:
            if not training.loop.train(training.batches()):
                training.loop.stop.exit()
            result = training.result()
        except TrainingError as error:  # a stem that does not train at this rate is a result, too
            result = {"scores": training.scores, "diverged": str(error)}
        write_json(out / RESULT_NAME, {**result, "environment": environment})
        close_ranks(training.accelerator)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options of a `Run`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    types = {"int": int, "float": float, "str": str}
    for field in fields(Run):
        name = "--" + field.name.replace("_", "-")
        if field.type == "bool":
            parser.add_argument(name, action="store_true")
        else:
            required = field.name in ("task", "stem", "seed", "learning_rate", "out")
            choices = {"stem": STEMS, "size": ENCODERS}.get(field.name)
            parser.add_argument(
                name, type=types[str(field.type)], choices=choices, required=required, default=field.default
            )
    try:
        train(Run(**vars(parser.parse_args(arguments))))
    except AapeError as error:
        print(f"{Path(__file__).name}: error: {one_line(str(error))}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

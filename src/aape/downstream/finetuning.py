"""One fine-tuning: a classifier, its training clips, and its scores during training (docs/method.md 8).

B clips, F mel bins, T frames of a clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from aape.data.augment import Augmentation, StepDraws, group_by_length, hide, mix_up
from aape.data.labelled import LabelledSet
from aape.data.sampling import Draws, class_balanced_weights
from aape.downstream.metrics import accuracy, balanced_accuracy, confusion_matrix, multi_label_scores
from aape.downstream.partitions import Indices
from aape.downstream.scores import Predictions
from aape.downstream.spectrograms import Spectrograms
from aape.errors import TrainingError
from aape.inference.segments import MAX_FRAMES, SEGMENT_FRAMES
from aape.layers.transformer import Block, DropPath
from aape.models.config import Pool
from aape.models.encoder import AudioEncoder
from aape.models.heads import ClassificationHead
from aape.runs.checkpoints import find_checkpoint
from aape.runs.devices import autocast
from aape.runs.loop import Loop, StepPart
from aape.runs.optim import WeightAverage, adamw, layer_decay, warmup_cosine
from aape.runs.signals import StopSignal

DROP_PATH, WEIGHT_DECAY, BETAS, WARMUP = 0.1, 0.05, (0.9, 0.95), 0.1
Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """How a classifier is trained: options of `aape finetune`, and `balanced_draws` per epoch (0: every clip once)."""

    steps: int
    batch: int
    learning_rate: float
    layer_decay: float
    ema: float
    mixup: float
    spec_augment: float
    balanced_draws: int = 0
    num_frames: int | None = None
    crop_frames: int = 1008
    clips_at_once: int = 0
    evaluations: int = 20
    save_every: int = 1000
    precision: str = "auto"
    pool: Pool = "cls"
    drop_path: float = DROP_PATH


@dataclass(frozen=True)
class Job:
    """One training: a seed and a partition.

    Attributes:
        name: name of its folder.
        seed: random seed of the head, the order and the augmentation.
        train: indices of the clips to train on.
        watched: clips to score during training, by name ("test", "validation").
    """

    name: str
    seed: int
    train: Indices
    watched: dict[str, Indices]


@dataclass
class History:
    """What a job has measured so far.

    Attributes:
        steps: steps at which it was measured.
        loss: mean training loss since the previous evaluation.
        scores: one value for each of the steps, by watched set and metric.
        seconds: time spent in training, without evaluations.
    """

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    seconds: float = 0.0

    def record(self, step: int, loss: float, scores: dict[str, dict[str, float]], seconds: float) -> None:
        """Add an evaluation, and the seconds of training since the one before."""
        self.steps.append(step)
        self.loss.append(loss)
        self.seconds += seconds
        for name, values in scores.items():
            for metric, value in values.items():
                self.scores.setdefault(name, {}).setdefault(metric, []).append(value)

    def last_line(self) -> str:
        """Return the last evaluation in words."""
        scores = [(f"{name} {metric}", c[-1]) for name, pair in self.scores.items() for metric, c in pair.items()]
        words = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in scores)
        return f"loss {self.loss[-1]:.4f}  {words}"


class _SharedDropPath(DropPath):
    """Drop path by numbers that are drawn elsewhere, so that ranks leave the same branches out."""

    def __init__(self, rate: float, uniforms: list[Tensor]) -> None:
        super().__init__(rate)
        self.uniforms = uniforms

    def forward(self, update: Tensor) -> Tensor:
        if not self.training:
            return update
        keep = self.uniforms.pop(0).view(-1, *[1] * (update.ndim - 1)) >= self.rate
        return update * (keep / (1 - self.rate)).to(update.dtype)


class Classifier(nn.Module):
    """An encoder and what reads labels off its tokens.

    Args:
        encoder: the pre-trained encoder.
        num_classes: number of classes.
        drop_path: rate in the last block; less before it, in proportion to the depth [ours].
        pool: what vector the head reads, see `ClassificationHead`.
    """

    def __init__(self, encoder: AudioEncoder, num_classes: int, drop_path: float = 0.0, pool: Pool = "cls") -> None:
        super().__init__()
        self.encoder = encoder
        self.head = ClassificationHead(encoder.embed_dim, num_classes, pool, encoder.stem.grid_size[0])
        self.num_branches = 2 * len(encoder.blocks) if drop_path else 0
        self._uniforms: list[Tensor] = []
        for number, block in enumerate(encoder.blocks, start=1):
            assert isinstance(block, Block)
            if drop_path:
                block.drop_path = _SharedDropPath(drop_path * number / len(encoder.blocks), self._uniforms)

    def forward(self, spectrogram: Tensor, uniforms: Tensor | None = None) -> Tensor:
        """Classify (B, 1, F, T): logits (B, classes). In training, `uniforms` (B, num_branches) decide on drop path."""
        self._uniforms[:] = [] if uniforms is None else uniforms.unbind(1)
        return self.head(self.encoder(spectrogram))


class Training:
    """Trains one job; several ranks divide each step's clips and the evaluations.

    Args:
        job: what to train on, and with which seed.
        classifier: trained in place, on its device.
        labelled: the data set.
        spectrograms: log-mels of the data set.
        settings: how to train.
        accelerator: device and ranks.
        folder: folder of the job, for checkpoints and `metrics.jsonl`.
        stop: notices SIGTERM and SIGHUP, shared by the jobs of a run.
        progress: called with the number of steps done.
    """

    def __init__(
        self,
        job: Job,
        classifier: Classifier,
        labelled: LabelledSet,
        spectrograms: Spectrograms,
        settings: Settings,
        *,
        accelerator: Accelerator,
        folder: Path,
        stop: StopSignal | None = None,
        progress: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.job, self.classifier, self.settings = job, classifier, settings
        self.labelled, self.spectrograms, self.accelerator = labelled, spectrograms, accelerator
        self.targets = labelled.target_matrix(np.arange(len(labelled.clips))).astype(np.float32)
        self.average = WeightAverage(classifier, settings.ema)
        self.history, self.last = History(), dict[str, Predictions]()
        self.at_once = settings.clips_at_once or settings.batch
        self.autocast = partial(autocast, spectrograms.device, settings.precision)
        self.loop = self._loop(folder, stop or StopSignal(), progress)
        balanced = settings.balanced_draws
        weights = class_balanced_weights([labelled.targets[index] for index in job.train]) if balanced else None
        self.augmentation = Augmentation(
            draws=Draws(job.train, batch=settings.batch, seed=job.seed, weights=weights, draws_per_epoch=balanced),
            seed=job.seed,
            bins=spectrograms.log_mel.n_mels,
            crop=settings.num_frames or settings.crop_frames,
            is_padded=settings.num_frames is not None,
            patch_size=classifier.encoder.patch_size,
            num_branches=classifier.num_branches,
            mixup=settings.mixup,
            spec_augment=settings.spec_augment,
            frames=spectrograms.frames,
            rank=accelerator.process_index,
            num_ranks=accelerator.num_processes,
        )

    def run(self, *, resume: bool = False) -> bool:
        """Train to the end, from the folder's checkpoint if the run is resumed and there is one.

        Returns:
            Whether the end was reached; else a signal asked to stop, and all is saved. `history`, `last` (predictions
            by watched set) and `average.module` are then those of the last step.

        Raises:
            CheckpointError: the checkpoint is of another version or training.
            DataError: too many clips cannot be read.
            TrainingError: loss or gradient are not finite several steps in a row, or a probability at an evaluation.
        """
        is_main = self.accelerator.is_main_process
        self.loop.resume(find_checkpoint(self.loop.out, is_main=is_main) if resume else None)
        if "history" in self.loop.extra:
            self.history = History(**self.loop.extra["history"])
        if not self.loop.train(self._batches()):
            return False
        if not self.last:  # resumed after the last step
            self.last = {name: self.predict(indices) for name, indices in self.job.watched.items()}
        return True

    def _loop(self, folder: Path, stop: StopSignal, progress: Callable[[int], None]) -> Loop:
        settings, classifier = self.settings, self.classifier
        rates = layer_decay(len(classifier.encoder.blocks), settings.layer_decay)
        is_averaged = self.average.module is not classifier
        return Loop(
            self.accelerator,
            folder,
            self._forward,
            adamw(
                classifier, learning_rate=settings.learning_rate, weight_decay=WEIGHT_DECAY, betas=BETAS, rate_of=rates
            ),
            {"classifier": classifier} | ({"average": self.average.module} if is_averaged else {}),
            num_steps=settings.steps,
            rate=lambda step: warmup_cosine(step, warmup=round(WARMUP * settings.steps), total=settings.steps),
            autocast=self.autocast,
            after_step=lambda step, is_skipped: self.average.update(is_skipped),
            log_every=-(-settings.steps // settings.evaluations),
            on_log=self._evaluate,
            save_every=settings.save_every,
            bad_files=self.spectrograms.bad,
            stop=stop,
            progress=progress,
        )

    def predict(self, indices: Indices) -> Predictions:
        """Return the readable clips and their probabilities (n, classes): softmax, or sigmoid of several labels."""
        model = self.average.module.eval()
        batches = np.array_split(self.spectrograms.by_length(indices), max(1, -(-len(indices) // self.at_once)))
        rank, num_ranks = self.accelerator.process_index, self.accelerator.num_processes
        rows: list[tuple[int, Probabilities]] = []
        for mels in self.spectrograms.stream(batches, range(rank, len(batches), num_ranks)):
            pieces = [(row, piece) for row, (_, mel) in enumerate(mels) for piece in self._windows(mel)]
            total = torch.zeros(len(mels), len(self.labelled.classes), device=self.spectrograms.device)
            num_frames = torch.zeros(len(mels), 1, device=total.device)
            for slots, inputs in self._grouped(dict(enumerate(piece for _, piece in pieces))):
                with torch.inference_mode(), self.autocast():
                    logits = model(inputs).float()
                probability = logits.sigmoid() if self.labelled.is_multi_label else logits.softmax(-1)
                owners = torch.tensor([pieces[slot][0] for slot in slots], device=total.device)
                length = inputs.shape[-1]  # the weight of a window, as in `aape classify`
                total.index_add_(0, owners, length * probability)
                num_frames.index_add_(0, owners, torch.full_like(probability[:, :1], length))
            rows += zip((index for index, _ in mels), (total / num_frames).cpu().numpy(), strict=True)
        rows = sorted(gather_object(rows), key=lambda row: row[0])
        kept = np.asarray([index for index, _ in rows], dtype=np.int64)
        return kept, np.stack([probabilities for _, probabilities in rows])

    def _batches(self) -> Iterator[list[Any]]:
        """Yield, step by step, this rank's clips of one length after the other: slots, inputs, targets, draws."""
        steps = range(self.loop.step, self.settings.steps)
        for step, clips in zip(steps, self.spectrograms.stream(self.augmentation, steps), strict=True):
            mels = dict(clips)  # by clip, if it can be read
            draws = self.augmentation.draw(step)
            clip_at = {slot: draws.clips[slot] for slot in self.augmentation.read(draws)}
            at = {slot: mels[clip] for slot, clip in clip_at.items() if clip in mels}
            if self.spectrograms.frames is None:
                draws = self.augmentation.draw(step, {slot: mel.shape[-1] for slot, mel in at.items()})
            pieces = {slot: self._crop(mel, draws.starts[slot]) for slot, mel in at.items()}
            inputs, targets = {}, {}
            for slot in self.augmentation.share(draws):
                if slot in pieces:
                    inputs[slot], targets[slot] = self._mixed(slot, pieces, draws)
            yield [(slots, x, targets, draws) for slots, x in self._grouped(inputs)]

    def _mixed(self, slot: int, pieces: dict[int, Tensor], draws: StepDraws) -> tuple[Tensor, NDArray[np.float32]]:
        """Return input (F, T) and target (classes,) of a slot; a clip whose partner cannot be read stays as it is."""
        piece, target, partner = pieces[slot], self.targets[draws.clips[slot]], int(draws.partners[slot])
        if self.settings.mixup and partner in pieces:
            share = float(draws.shares[slot])
            piece = mix_up(piece, pieces[partner], share)
            target = np.float32(share) * target + (1 - np.float32(share)) * self.targets[draws.clips[partner]]
        return hide(piece, draws.bands[slot]) if slot in draws.bands else piece, target

    def _forward(self, step: int, batch: Any) -> StepPart:
        slots, inputs, targets, draws = batch
        self.classifier.train()
        uniforms = None
        if self.classifier.num_branches:
            uniforms = torch.stack([draws.uniforms[slot] for slot in slots]).to(inputs.device, non_blocking=True)
        logits = self.classifier(inputs, uniforms)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # float64 stays
        target = torch.from_numpy(np.stack([targets[slot] for slot in slots])).to(logits, non_blocking=True)
        is_binary = self.labelled.is_multi_label or self.settings.mixup
        loss = (F.binary_cross_entropy_with_logits if is_binary else F.cross_entropy)(logits, target)
        names = [self.labelled.clips[draws.clips[slot]].name for slot in slots]
        return StepPart(loss, len(slots) / self.settings.batch, names, {"loss": loss.detach()})

    def _evaluate(self, step: int, values: dict[str, float]) -> None:
        """Score the watched sets, remember it, and add it to what is logged."""
        self.last = {name: self.predict(indices) for name, indices in self.job.watched.items()}
        loss = values.get("loss", math.nan)
        if not (math.isfinite(loss) and all(np.isfinite(rows).all() for _, rows in self.last.values())):
            raise TrainingError(
                f"{self.job.name}: the loss or a probability is not finite at step {step}: lower "
                "--optim.learning-rate, and begin again in another --out"
            )
        scores = {name: score(self.labelled, *predictions) for name, predictions in self.last.items()}
        since = step - (self.history.steps[-1] if self.history.steps else 0)
        self.history.record(step, loss, scores, since * self.settings.batch / max(1e-9, values["clips_per_second"]))
        self.loop.extra["history"] = vars(self.history)
        values.update({f"{name}_{metric}": value for name, pair in scores.items() for metric, value in pair.items()})

    def _crop(self, mel: Tensor, start: int) -> Tensor:
        """Cut a longer clip; pad a shorter one where there is a fixed length."""
        fixed = self.settings.num_frames
        piece = mel[:, start : start + (fixed or self.settings.crop_frames)]
        return F.pad(piece, (0, fixed - piece.shape[-1])) if fixed else piece

    def _windows(self, mel: Tensor) -> Sequence[Tensor]:
        """Return what is scored: the start, padded, where there is a fixed length; else all (docs/method.md 1)."""
        if self.settings.num_frames:
            return [F.pad(mel, (0, self.settings.num_frames - mel.shape[-1]))]
        return mel.split(SEGMENT_FRAMES if mel.shape[-1] > MAX_FRAMES else MAX_FRAMES, dim=-1)

    def _grouped(self, pieces: dict[int, Tensor]) -> Iterator[tuple[list[int], Tensor]]:
        """Group log-mels (F, T) by patches, zero-padded to whole ones: slots, at most so many, and (B, 1, F, T)."""
        patch_size = self.classifier.encoder.patch_size
        for group in group_by_length({slot: piece.shape[-1] for slot, piece in pieces.items()}, patch_size):
            for start in range(0, len(group), self.at_once):
                slots = group[start : start + self.at_once]
                padded = [F.pad(pieces[slot], (0, -pieces[slot].shape[-1] % patch_size)) for slot in slots]
                yield slots, torch.stack(padded)[:, None]


def score(labelled: LabelledSet, indices: Indices, probabilities: Probabilities) -> dict[str, float]:
    """Return the set's metrics: mAP and d-prime of several labels per clip, else accuracy and balanced accuracy."""
    if labelled.is_multi_label:
        scores = multi_label_scores(probabilities, labelled.target_matrix(indices))
        return {"mAP": scores.mean_average_precision, "d_prime": scores.d_prime}
    confusion = confusion_matrix(labelled.labels()[indices], probabilities.argmax(-1), len(labelled.classes))
    return {"accuracy": accuracy(confusion), "balanced_accuracy": balanced_accuracy(confusion)}

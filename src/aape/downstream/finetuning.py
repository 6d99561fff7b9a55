"""One fine-tuning: a classifier, its training clips, and the scores on the way (method 8).

B clips, C classes, F mel bins, T frames of a clip.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from aape.commands.finetune import FinetuneConfig
from aape.data.augment import Draws, class_balanced_weights, mix_up, spec_augment
from aape.data.labelled import LabelledSet
from aape.downstream.metrics import accuracy, balanced_accuracy, confusion_matrix, multi_label_scores
from aape.downstream.partitions import Indices
from aape.downstream.spectrograms import Spectrograms
from aape.errors import CheckpointError, TrainingError
from aape.inference.segments import MAX_FRAMES, SEGMENT_FRAMES
from aape.layers.transformer import Block
from aape.models.encoder import AudioEncoder
from aape.models.heads import ClassificationHead
from aape.runs.devices import has_fast_bfloat16
from aape.runs.files import write_atomically
from aape.runs.optim import WeightAverage, adamw, layer_decay, warmup_cosine

CHECKPOINT = "checkpoint.pt"
Probabilities = NDArray[np.float32]


class Classifier(nn.Module):
    """LayerNorm and a linear head on the class token.

    Args:
        encoder: pre-trained.
        num_classes: C.
        drop_path: of the last block; less before it, in proportion to the depth [ours].
    """

    def __init__(self, encoder: AudioEncoder, num_classes: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.encoder, self.head = encoder, ClassificationHead(encoder.embed_dim, num_classes)
        for number, block in enumerate(encoder.blocks, start=1):
            assert isinstance(block, Block)
            block.drop_path.rate = drop_path * number / len(encoder.blocks)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Classify (B, 1, F, T): logits (B, C)."""
        return self.head(self.encoder(spectrogram))


@dataclass(frozen=True)
class Job:
    """One training: a seed and a partition.

    Attributes:
        name: of its folder.
        seed: of the head, the order and all that is random.
        train: clips to train on.
        watched: clips to score on the way, by what they are called ("test", "validation").
    """

    name: str
    seed: int
    train: Indices
    watched: dict[str, Indices]


@dataclass
class History:
    """What a job has measured so far.

    Attributes:
        steps: at which.
        loss: mean training loss since the one before.
        scores: by watched set and metric, one value for each of the steps.
        seconds: spent in training, evaluations left out.
        bad: the run's clips found unreadable by then, and why.
    """

    steps: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    seconds: float = 0.0
    bad: dict[str, str] = field(default_factory=dict)

    def record(self, step: int, loss: float, scores: dict[str, dict[str, float]]) -> None:
        """Add an evaluation."""
        self.steps.append(step)
        self.loss.append(loss)
        for name, values in scores.items():
            for metric, value in values.items():
                self.scores.setdefault(name, {}).setdefault(metric, []).append(value)


class Trainer:
    """Trains one job.

    Args:
        job: what.
        classifier: what starts; trained in place, on its device.
        labelled: the data set.
        spectrograms: its log-mels.
        config: resolved, so that nothing the task sets is left open.
    """

    def __init__(
        self,
        job: Job,
        classifier: Classifier,
        labelled: LabelledSet,
        spectrograms: Spectrograms,
        config: FinetuneConfig,
    ) -> None:
        self.job, self.labelled, self.spectrograms, self.config = job, labelled, spectrograms, config
        self.classifier, self.patch_size = classifier, classifier.encoder.patch_size
        self.average = WeightAverage(classifier, config.optim.ema or 0.0)
        self.steps, self.batch = int(config.steps or 0), int(config.batch or 0)
        self.optimizer = adamw(
            classifier,
            learning_rate=float(config.optim.learning_rate or 0),
            weight_decay=config.optim.weight_decay,
            betas=config.optim.betas,
            rate_of=layer_decay(len(classifier.encoder.blocks), float(config.optim.layer_decay or 1)),
        )
        self.peak = [group["lr"] for group in self.optimizer.param_groups]
        balanced = config.balanced_draws or 0
        weights = class_balanced_weights([labelled.targets[index] for index in job.train]) if balanced else None
        self.draws = Draws(job.train, batch=self.batch, seed=job.seed, weights=weights, draws_per_epoch=balanced)
        self.step, self.history = 0, History(bad=spectrograms.bad)
        self.losses = torch.zeros((), device=spectrograms.device)  # not read back at every step

    def run(self, folder: Path, on_step: Callable[[Trainer, bool], None]) -> dict[str, tuple[Indices, Probabilities]]:
        """Train to the end, from the folder's checkpoint if there is one.

        Args:
            folder: for the checkpoint, which is written whole or not at all.
            on_step: called after every step, and told whether it was an evaluated one.

        Returns:
            Of each watched set, the clips that could be read and their probabilities (n, C) after the last step.

        Raises:
            CheckpointError: the checkpoint is damaged or of another training.
            TrainingError: at an evaluation, the loss or a probability is not finite.
        """
        self._restore(folder / CHECKPOINT)
        every = -(-self.steps // self.config.evaluations)
        last: dict[str, tuple[Indices, Probabilities]] = {}
        since = self.step
        started = time.perf_counter()
        if self.step == self.steps:
            last = {name: self.predict(indices) for name, indices in self.job.watched.items()}
        for found in self.spectrograms.stream(self.draws, range(self.step, self.steps)):
            if found:
                self.losses += self._train_step(found)
            self.step += 1
            is_evaluated = self.step % every == 0 or self.step == self.steps
            if is_evaluated:
                self.history.seconds += time.perf_counter() - started
                last = {name: self.predict(indices) for name, indices in self.job.watched.items()}
                loss = float(self.losses) / (self.step - self._logged())
                if not (math.isfinite(loss) and all(np.isfinite(found).all() for _, found in last.values())):
                    raise TrainingError(
                        f"{self.job.name}: the loss or a probability is not finite at step {self.step}: lower "
                        "--optim.learning-rate, and begin again in another --out"
                    )
                scores = {name: score(self.labelled, *result) for name, result in last.items()}
                self.history.record(self.step, loss, scores)
                self.losses.zero_()
                started = time.perf_counter()
            if self.step % self.config.save_every == 0 and self.step < self.steps:
                self.history.seconds += time.perf_counter() - started
                self._save(folder / CHECKPOINT)
                started = time.perf_counter()
            on_step(self, is_evaluated)
        assert self.step > since or last
        return last

    def predict(self, indices: Indices) -> tuple[Indices, Probabilities]:
        """Return the clips that can be read, and their probabilities (n, C): softmax, or sigmoid of several labels."""
        model = self.average.module.eval()
        at_once = self.config.clips_at_once or self.batch
        batches = np.array_split(self.spectrograms.by_length(indices), max(1, -(-len(indices) // at_once)))
        kept: list[int] = []
        rows: list[Tensor] = []
        for found in self.spectrograms.stream(batches, range(len(batches))):
            pieces = [(row, piece) for row, (_, own) in enumerate(found) for piece in self._windows(own)]
            total = torch.zeros(len(found), len(self.labelled.classes), device=self.spectrograms.device)
            num_frames = torch.zeros(len(found), 1, device=total.device)
            for group in _by_length([piece for _, piece in pieces], self.patch_size, at_once):
                with torch.inference_mode(), self._autocast():
                    logits = model(torch.stack([own for _, own in group])[:, None]).float()
                probability = logits.sigmoid() if self.labelled.is_multi_label else logits.softmax(-1)
                places = torch.tensor([pieces[place][0] for place, _ in group], device=total.device)
                length = group[0][1].shape[-1]  # the weight of a window, as in `aape classify`
                total.index_add_(0, places, length * probability)
                num_frames.index_add_(0, places, torch.full_like(probability[:, :1], length))
            kept += [index for index, _ in found]
            rows.append((total / num_frames).cpu())
        order = np.argsort(kept)
        return np.asarray(kept, dtype=np.int64)[order], torch.cat(rows).numpy()[order]

    def _train_step(self, found: list[tuple[int, Tensor]]) -> Tensor:
        generator = np.random.default_rng((self.job.seed, self.step, 1))
        torch.manual_seed(int(generator.integers(1 << 62)))  # of drop path
        factor = warmup_cosine(self.step, warmup=round(self.config.optim.warmup_ratio * self.steps), total=self.steps)
        for group, peak in zip(self.optimizer.param_groups, self.peak, strict=True):
            group["lr"] = factor * peak
        pieces = [self._crop(own, generator) for _, own in found]
        targets = torch.zeros(len(found), len(self.labelled.classes), device=self.spectrograms.device)
        for row, (index, _) in enumerate(found):
            targets[row, list(self.labelled.targets[index])] = 1
        mixup, largest = self.config.augment.mixup or 0.0, self.config.augment.spec_augment or 0.0
        if mixup:
            pieces, targets = mix_up(pieces, targets, alpha=mixup, generator=generator)
        if largest:
            pieces = [spec_augment(piece, largest=largest, generator=generator) for piece in pieces]
        is_binary = self.labelled.is_multi_label or bool(mixup)
        self.classifier.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=targets.device)
        at_once = self.config.clips_at_once or self.batch
        for part in _by_length(pieces, self.patch_size, at_once):
            with self._autocast():
                logits = self.classifier(torch.stack([own for _, own in part])[:, None]).float()
            wanted = targets[[place for place, _ in part]]
            criterion = F.binary_cross_entropy_with_logits if is_binary else F.cross_entropy
            loss = criterion(logits, wanted)
            loss = loss * (len(part) / len(pieces))  # a mean over clips, whatever the parts
            loss.backward()
            total += loss.detach()
        self.optimizer.step()
        self.average.update()
        return total

    def _crop(self, own: Tensor, generator: np.random.Generator) -> Tensor:
        """Cut a random part out of a longer clip; pad a shorter one where there is a fixed length."""
        limit = self.config.num_frames or self.config.crop_frames
        if own.shape[-1] > limit:
            start = int(generator.integers(0, own.shape[-1] - limit + 1))
            return own[:, start : start + limit]
        return F.pad(own, (0, (self.config.num_frames or 0) - own.shape[-1])) if self.config.num_frames else own

    def _windows(self, own: Tensor) -> Sequence[Tensor]:
        """Return what of a clip is scored: the start, padded, where there is a fixed length; else all (method 1)."""
        if self.config.num_frames:
            return [F.pad(own, (0, self.config.num_frames - own.shape[-1]))]
        return own.split(SEGMENT_FRAMES if own.shape[-1] > MAX_FRAMES else MAX_FRAMES, dim=-1)

    def _autocast(self) -> AbstractContextManager[Any]:
        device, precision = self.spectrograms.device, self.config.optim.precision
        is_bf16 = has_fast_bfloat16(device) if precision == "auto" else precision == "bfloat16"
        return torch.autocast(device.type, torch.bfloat16, enabled=is_bf16)

    def _logged(self) -> int:
        return self.history.steps[-1] if self.history.steps else 0

    def _save(self, path: Path) -> None:
        content = io.BytesIO()
        state = {
            "step": self.step,
            "classifier": self.classifier.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": vars(self.history),
            "losses": self.losses,
        }
        torch.save(state, content)
        digest = hashlib.sha256(content.getbuffer()).digest()
        content.write(digest)
        write_atomically(path, content.getvalue())

    def _restore(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            content = path.read_bytes()
            own, digest = content[:-32], content[-32:]
            if hashlib.sha256(own).digest() != digest:
                raise ValueError("its checksum does not agree")
            state = torch.load(io.BytesIO(own), map_location=self.spectrograms.device, weights_only=True)
            self.classifier.load_state_dict(state["classifier"])
            self.average.module.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.history, self.losses = state["step"], History(**state["history"]), state["losses"]
            self.spectrograms.bad.update(self.history.bad)
            self.history.bad = self.spectrograms.bad
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: cannot be continued ({str(error).splitlines()[0]}): delete it") from error


def score(labelled: LabelledSet, indices: Indices, probabilities: Probabilities) -> dict[str, float]:
    """Return the set's metrics: mAP and d-prime of several labels per clip, else accuracy and balanced accuracy."""
    if labelled.is_multi_label:
        scores = multi_label_scores(probabilities, target_matrix(labelled, indices))
        return {"mAP": scores.mean_average_precision, "d_prime": scores.d_prime}
    confusion = confusion_matrix(labelled.labels()[indices], probabilities.argmax(-1), len(labelled.classes))
    return {"accuracy": accuracy(confusion), "balanced_accuracy": balanced_accuracy(confusion)}


def target_matrix(labelled: LabelledSet, indices: Indices) -> NDArray[np.int64]:
    """Return the classes of clips as 0 and 1, (n, C)."""
    matrix = np.zeros((len(indices), len(labelled.classes)), dtype=np.int64)
    for row, index in enumerate(indices):
        matrix[row, list(labelled.targets[index])] = 1
    return matrix


def _by_length(pieces: Sequence[Tensor], patch: int, at_once: int) -> Iterator[list[tuple[int, Tensor]]]:
    """Group (place, log-mel (F, T)) by the number of patches, zero-padded to whole ones, at most so many at once."""
    groups: dict[int, list[tuple[int, Tensor]]] = {}
    for place, piece in enumerate(pieces):
        padded = F.pad(piece, (0, -piece.shape[-1] % patch))
        groups.setdefault(padded.shape[-1], []).append((place, padded))
    for length in sorted(groups):
        for start in range(0, len(groups[length]), at_once):
            yield groups[length][start : start + at_once]

"""Many linear layers trained at once: learning rates, seeds and folds share one batched matrix product.

L runs (layers), n clips, B clips per batch, D features, E evaluated steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from aape.downstream.metrics import accuracy, balanced_accuracy, confusion_matrix

# The batches of the runs that train together hold about this many numbers. Fewer runs would wait for the interpreter,
# more leave a core's cache.
CHUNK_NUMBERS = 1 << 19


@dataclass(frozen=True)
class LinearRun:
    """One linear layer to train.

    Attributes:
        train: the clips to train on, whose statistics standardise all others.
        evaluate: sets of clips to score during training, which never depends on them.
        learning_rate: the peak, at the first step.
        seed: random seed of the initial weights and of the order of the clips.
        matrix: which of the feature matrices.
    """

    train: NDArray[np.int64]
    evaluate: tuple[NDArray[np.int64], ...]
    learning_rate: float
    seed: int
    matrix: int = 0


@dataclass(frozen=True)
class LinearHistory:
    """What one run did; the arrays (len(evaluate), E) have one row per set of `LinearRun.evaluate`.

    Attributes:
        steps: the evaluated steps, (E,), the last of which is the last step.
        accuracy: share of right clips.
        balanced: mean recall over the classes present.
        loss: cross-entropy in nats.
        train_loss: mean cross-entropy of the batches since the previous evaluation, (E,).
        predictions: of the last step, one array per set.
    """

    steps: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    balanced: NDArray[np.float64]
    loss: NDArray[np.float64]
    train_loss: NDArray[np.float64]
    predictions: tuple[NDArray[np.int64], ...]


def standardisation(features: NDArray[np.float32], rows: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """Return mean and reciprocal standard deviation of some rows, (D,) each, computed in float64.

    A feature that is constant over the rows gets a reciprocal of 0: no training signal reaches its weight, so outside
    the training set it would only add noise.
    """
    blocks = [rows[start : start + 4096] for start in range(0, len(rows), 4096)]
    mean = sum(features[block].sum(axis=0, dtype=np.float64) for block in blocks) / len(rows)
    variance = sum(np.square(features[block] - mean).sum(axis=0) for block in blocks) / len(rows)
    std = np.sqrt(variance)
    is_constant = std <= 1e-6 * np.abs(mean)  # what rounding to float32 leaves of a constant
    return mean, np.where(is_constant, 0.0, 1.0 / np.where(is_constant, 1.0, std))


def train_linear(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    runs: Sequence[LinearRun],
    *,
    num_classes: int,
    steps: int,
    batch: int,
    validate_every: int,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] | None = None,
) -> list[LinearHistory]:
    """Train a linear layer per run: cross-entropy, Adam, cosine to 0, no decay, no augmentation (docs/method.md 9).

    Clips come in seeded permutations, one after the other: every clip is seen once before any is seen again, and a
    batch may hold the end of one permutation and the start of the next.

    Args:
        features: (matrices, n, D), not standardised.
        labels: classes, (n,).
        runs: what to train.
        num_classes: number of classes.
        steps: optimiser steps of every run.
        batch: clips per step, B.
        validate_every: steps between two evaluations; the last step is always evaluated.
        device: where to train.
        progress: called with the number of runs finished since the last call.

    Returns:
        One history per run, in order.
    """
    num_matrices, num_clips, width = features.shape
    table = torch.from_numpy(features.reshape(num_matrices * num_clips, width)).to(device)
    target = torch.from_numpy(labels).to(device)
    scalings: dict[tuple[int, bytes], tuple[NDArray, NDArray]] = {}
    size = max(1, CHUNK_NUMBERS // (batch * width))
    histories: list[LinearHistory] = []
    for start in range(0, len(runs), size):
        chunk = runs[start : start + size]
        keys = [(run.matrix, run.train.tobytes()) for run in chunk]
        for key, run in zip(keys, chunk, strict=True):
            if key not in scalings:
                scalings[key] = standardisation(features[run.matrix], run.train)
        layers = _Layers(table, target, chunk, [scalings[key] for key in keys], num_classes)
        histories.extend(layers.train(steps, batch, validate_every))
        if progress is not None:
            progress(len(chunk))
    return histories


class _Layers:
    """A few linear layers, trained together."""

    def __init__(
        self,
        table: Tensor,
        target: Tensor,
        runs: Sequence[LinearRun],
        scalings: Sequence[tuple[NDArray, NDArray]],
        num_classes: int,
    ) -> None:
        self.table, self.target, self.runs = table, target, runs
        mean, scale = (np.stack(values) for values in zip(*scalings, strict=True))
        self.mean, self.scale = (torch.from_numpy(array).float().to(table.device)[:, None] for array in (mean, scale))
        generators = [torch.Generator().manual_seed(run.seed) for run in runs]
        # The start of torch.nn.Linear, from each run's generator: a run does not depend on those it trains with.
        width = table.shape[1]
        bound = 1 / math.sqrt(width)
        starts = [torch.empty(num_classes, width + 1).uniform_(-bound, bound, generator=g) for g in generators]
        self.orders = [_Order(run.train, generator) for run, generator in zip(runs, generators, strict=True)]
        # The first row of a run's matrix in the table, (L, 1).
        self.offset = torch.tensor([run.matrix * len(target) for run in runs], device=table.device)[:, None]
        # Runs of one learning rate, which stand side by side, share a parameter group.
        self.groups: list[dict[str, Any]] = []
        for rate, pairs in itertools.groupby(zip(runs, starts, strict=True), key=lambda pair: pair[0].learning_rate):
            start = torch.stack([start for _, start in pairs]).to(table.device)
            weights_and_biases = [nn.Parameter(part.clone()) for part in start.split((width, 1), dim=-1)]
            self.groups.append({"params": weights_and_biases, "peak": rate})

    def parameters(self) -> list[Tensor]:
        """Return the weights (L, classes, D) and biases (L, classes, 1) of all layers."""
        return [torch.cat(parts) for parts in zip(*(group["params"] for group in self.groups), strict=True)]

    def train(self, steps: int, batch: int, validate_every: int) -> list[LinearHistory]:
        """Train all layers to the end; one history each."""
        adam = torch.optim.Adam(self.groups, fused=True)
        x = torch.empty(len(self.runs), batch, self.table.shape[1], device=self.table.device)
        losses, scores, evaluated = [], [], []
        step = 0
        while step < steps:
            block = min(validate_every, steps - step)
            indices = torch.from_numpy(np.stack([order.take(block * batch) for order in self.orders]))
            indices = indices.to(self.table.device).view(len(self.runs), block, batch)
            block_loss = torch.zeros(len(self.runs), device=self.table.device)
            for rows in indices.unbind(1):  # (L, B)
                torch.index_select(self.table, 0, (rows + self.offset).flatten(), out=x.view(-1, x.shape[-1]))
                x.sub_(self.mean).mul_(self.scale)
                for group in adam.param_groups:
                    group["lr"] = group["peak"] * 0.5 * (1 + math.cos(math.pi * step / steps))
                # Classes before clips: a softmax over a short last dimension is twenty times slower on a CPU.
                weights, biases = self.parameters()
                logits = torch.baddbmm(biases, weights, x.transpose(1, 2))  # (L, classes, B)
                loss = F.cross_entropy(logits, self.target[rows], reduction="none").mean(1)  # (L,)
                adam.zero_grad()
                loss.sum().backward()
                adam.step()
                block_loss += loss.detach() / block
                step += 1
            evaluated.append(step)
            losses.append(block_loss.tolist())
            scores.append(self._evaluate())
        histories = []
        for row, run in enumerate(self.runs):
            array = np.asarray([[score[:3] for score in by_run[row]] for by_run in scores], dtype=np.float64)
            right, balanced, entropy = array.reshape(len(evaluated), len(run.evaluate), 3).transpose(2, 1, 0)
            predictions = tuple(score[3] for score in scores[-1][row])
            train_loss = np.asarray(losses)[:, row]
            histories.append(LinearHistory(np.asarray(evaluated), right, balanced, entropy, train_loss, predictions))
        return histories

    def _evaluate(self) -> list[list[tuple[float, float, float, NDArray[np.int64]]]]:
        """Return, for each run and each of its sets: accuracy, balanced accuracy, loss and predictions."""
        weights, biases = (parameter.detach() for parameter in self.parameters())
        by_run = []
        for row, run in enumerate(self.runs):
            scores = []
            for indices in run.evaluate:
                rows = torch.from_numpy(indices).to(self.table.device)
                x = self.table.index_select(0, rows + self.offset[row]).sub_(self.mean[row]).mul_(self.scale[row])
                logits = torch.addmm(biases[row].T, x, weights[row].T)  # (n, classes)
                truth, predicted = self.target[rows], logits.argmax(-1).cpu().numpy()
                confusion = confusion_matrix(truth.cpu().numpy(), predicted, logits.shape[-1])
                loss = float(F.cross_entropy(logits, truth))
                scores.append((accuracy(confusion), balanced_accuracy(confusion), loss, predicted))
            by_run.append(scores)
        return by_run


class _Order:
    """An endless sequence of a run's training clips, permutation after permutation."""

    def __init__(self, train: NDArray[np.int64], generator: torch.Generator) -> None:
        self.train, self.generator = train, generator
        self.pending = np.empty(0, dtype=np.int64)

    def take(self, count: int) -> NDArray[np.int64]:
        parts, have = [self.pending], len(self.pending)
        while have < count:
            parts.append(self.train[torch.randperm(len(self.train), generator=self.generator).numpy()])
            have += len(self.train)
        stream = np.concatenate(parts)
        self.pending = stream[count:]
        return stream[:count]

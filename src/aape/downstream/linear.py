"""Many linear layers trained at once: learning rates, seeds and folds share one batched matrix product.

Letters: R runs (layers), G feature matrices, n clips, B clips per batch, D features, C classes, E evaluated steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aape.downstream.metrics import accuracy, balanced_accuracy, confusion_matrix

BETAS = (0.9, 0.999)  # Adam as published
EPSILON = 1e-8
# Batches of one chunk of runs together hold about this many numbers: what stays in a core's cache trains fastest.
CHUNK_NUMBERS = 1 << 18


@dataclass(frozen=True)
class Run:
    """One linear layer to train.

    Attributes:
        train: the clips to train on, whose statistics standardise all others.
        evaluate: sets of clips to score on the way; the training never depends on them.
        learning_rate: the peak, at the first step.
        seed: of the start and of the order of the clips.
        matrix: which of the G feature matrices.
    """

    train: NDArray[np.int64]
    evaluate: tuple[NDArray[np.int64], ...]
    learning_rate: float
    seed: int
    matrix: int = 0


@dataclass(frozen=True)
class History:
    """What one run did; the arrays (len(evaluate), E) have one row per set of `Run.evaluate`.

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
    """Return mean and reciprocal standard deviation of the given rows, (D,) each, computed in float64.

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
    runs: Sequence[Run],
    *,
    num_classes: int,
    steps: int,
    batch: int,
    validate_every: int,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] | None = None,
) -> list[History]:
    """Train one linear layer per run: cross-entropy, Adam, cosine to 0, no weight decay, no augmentation (method 9).

    Clips come in seeded permutations, one after the other: every clip is seen once before any is seen again, and a
    batch may hold the end of one permutation and the start of the next.

    Args:
        features: G matrices, (G, n, D), not standardised.
        labels: classes, (n,).
        runs: what to train.
        num_classes: C.
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
    statistics: dict[tuple[int, int], tuple[NDArray, NDArray]] = {}
    for run in runs:
        key = (run.matrix, id(run.train))
        if key not in statistics:
            statistics[key] = standardisation(features[run.matrix], run.train)
    size = max(1, CHUNK_NUMBERS // (batch * width))
    histories: list[History] = []
    for start in range(0, len(runs), size):
        chunk = runs[start : start + size]
        scaling = [statistics[run.matrix, id(run.train)] for run in chunk]
        chunk_histories = _train_chunk(table, target, chunk, scaling, num_classes, steps, batch, validate_every)
        histories.extend(chunk_histories)
        if progress is not None:
            progress(len(chunk))
    return histories


def _train_chunk(
    table: Tensor,
    target: Tensor,
    runs: Sequence[Run],
    scaling: Sequence[tuple[NDArray, NDArray]],
    num_classes: int,
    steps: int,
    batch: int,
    validate_every: int,
) -> list[History]:
    device, num_clips, width, num_runs = table.device, len(target), table.shape[1], len(runs)
    mean = torch.stack([torch.from_numpy(pair[0]) for pair in scaling]).float().to(device)[:, None]  # (R, 1, D)
    scale = torch.stack([torch.from_numpy(pair[1]) for pair in scaling]).float().to(device)[:, None]
    peak = torch.tensor([run.learning_rate for run in runs], device=device)[:, None, None]
    generators = [torch.Generator().manual_seed(run.seed) for run in runs]
    # torch.nn.Linear's own start, from each run's own generator: a run is the same in whatever company it trains.
    bound = 1 / math.sqrt(width)
    starts = [torch.empty(num_classes, width + 1).uniform_(-bound, bound, generator=g) for g in generators]
    weight = torch.stack([start[:, :width] for start in starts]).to(device)  # (R, C, D)
    bias = torch.stack([start[:, width] for start in starts])[..., None].to(device)  # (R, C, 1)
    parameters = (weight, bias)
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    orders = [_Order(run.train, generator) for run, generator in zip(runs, generators, strict=True)]
    # The first row of a run's matrix in the table, (R, 1).
    offset = torch.tensor([run.matrix * num_clips for run in runs], device=device)[:, None]
    evaluations = [_Evaluation(table, target, run, num_clips) for run in runs]

    x = torch.empty(num_runs, batch, width, device=device)
    minus_one = torch.full((num_runs, 1, batch), -1.0, device=device)

    evaluated: list[int] = []
    step = 0
    while step < steps:
        block = min(validate_every, steps - step)
        indices = torch.from_numpy(np.stack([order.take(block * batch) for order in orders])).to(device)
        indices = indices.view(num_runs, block, batch)
        train_loss = torch.zeros(num_runs, device=device)
        for position in range(block):
            rows = indices[:, position]  # (R, B)
            torch.index_select(table, 0, (rows + offset).flatten(), out=x.view(-1, width))
            x.sub_(mean).mul_(scale)
            # Classes before clips: a softmax over a short last dimension is twenty times slower on a CPU.
            log_probability = torch.baddbmm(bias, weight, x.transpose(1, 2)).log_softmax(dim=1)  # (R, C, B)
            picked = target[rows][:, None]  # (R, 1, B)
            train_loss -= log_probability.gather(1, picked).sum(dim=(1, 2)) / (block * batch)
            # The gradient of the mean cross-entropy with respect to the logits: (softmax - one hot) / B.
            error = log_probability.exp_().scatter_add_(1, picked, minus_one).div_(batch)
            gradients = (torch.bmm(error, x), error.sum(dim=2, keepdim=True))
            rate = peak * (0.5 * (1 + math.cos(math.pi * step / steps)))
            step += 1
            for parameter, gradient, m, v in zip(parameters, gradients, first, second, strict=True):
                m.lerp_(gradient, 1 - BETAS[0])
                v.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
                root = v.sqrt().div_(math.sqrt(1 - BETAS[1] ** step)).add_(EPSILON)
                parameter.sub_((m / root).mul_(rate / (1 - BETAS[0] ** step)))
        evaluated.append(step)
        for index, evaluation in enumerate(evaluations):
            evaluation.record(weight[index], bias[index], mean[index], scale[index], float(train_loss[index]))
    return [evaluation.history(evaluated) for evaluation in evaluations]


class _Order:
    """An endless sequence of a run's training clips, permutation after permutation."""

    def __init__(self, train: NDArray[np.int64], generator: torch.Generator) -> None:
        self.train, self.generator = train, generator
        self.waiting = np.empty(0, dtype=np.int64)

    def take(self, count: int) -> NDArray[np.int64]:
        parts, have = [self.waiting], len(self.waiting)
        while have < count:
            parts.append(self.train[torch.randperm(len(self.train), generator=self.generator).numpy()])
            have += len(self.train)
        stream = np.concatenate(parts)
        self.waiting = stream[count:]
        return stream[:count]


class _Evaluation:
    """The scores of one run, gathered along the way."""

    def __init__(self, table: Tensor, target: Tensor, run: Run, num_clips: int) -> None:
        self.table, self.target = table, target
        self.sets = [torch.from_numpy(indices).to(table.device) for indices in run.evaluate]
        self.offset = run.matrix * num_clips
        self.scores: list[list[tuple[float, float, float]]] = []
        self.train_loss: list[float] = []
        self.predictions: tuple[NDArray[np.int64], ...] = ()

    def record(self, weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor, train_loss: float) -> None:
        scores, predictions = [], []
        for indices in self.sets:
            x = self.table.index_select(0, indices + self.offset).sub_(mean).mul_(scale)
            logits = torch.addmm(bias.T, x, weight.T)  # (n, C)
            truth = self.target[indices]
            predicted = logits.argmax(dim=-1).cpu().numpy()
            confusion = confusion_matrix(truth.cpu().numpy(), predicted, logits.shape[-1])
            loss = torch.nn.functional.cross_entropy(logits, truth)
            scores.append((accuracy(confusion), balanced_accuracy(confusion), float(loss)))
            predictions.append(predicted)
        self.scores.append(scores)
        self.train_loss.append(train_loss)
        self.predictions = tuple(predictions)

    def history(self, steps: list[int]) -> History:
        scores = np.asarray(self.scores, dtype=np.float64).reshape(len(steps), len(self.sets), 3).transpose(2, 1, 0)
        return History(
            np.asarray(steps), scores[0], scores[1], scores[2], np.asarray(self.train_loss), self.predictions
        )

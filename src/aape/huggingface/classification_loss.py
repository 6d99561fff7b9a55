"""The losses of transformers' classifiers (`ForSequenceClassificationLoss`), on labels that are checked first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from aape.huggingface.configuration import AaPEConfig

IGNORED = -100  # a class that has no part in the loss


def classification_loss(logits: Tensor, labels: Tensor, config: AaPEConfig) -> Tensor:
    """Return the loss of `config.problem_type`, computed in float32 at least.

    Where that is None it is derived from the labels and set, so that a saved model is read as it was trained: a
    regression with one output, several classes at a time for floats or (B, C), else one class.

    Args:
        logits: (B, C).
        labels: of a regression numbers (B, C), or (B,) for C = 1: mean squared error; several classes at a time:
            targets in 0..1 (B, C): binary cross-entropy; one class: integers (B,), -100 to leave a clip out:
            cross-entropy.
        config: names the problem.

    Raises:
        ValueError: labels of another shape, kind or range, or another problem.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = torch.as_tensor(labels, device=logits.device)
    problem = config.problem_type or _problem(logits, labels)
    if problem == "regression":
        loss = F.mse_loss(logits, _targets(logits, labels, problem))
    elif problem == "multi_label_classification":
        targets = _targets(logits, labels, problem)
        if not bool(((targets >= 0) & (targets <= 1)).all()):  # also true of NaN
            raise ValueError(f"labels of a {problem} must be within 0 and 1")
        loss = F.binary_cross_entropy_with_logits(logits, targets)
    elif problem == "single_label_classification":
        loss = F.cross_entropy(logits, _classes(logits, labels), ignore_index=IGNORED)
    else:
        raise ValueError(f"problem_type {problem!r} is none of transformers'")
    config.problem_type = problem
    return loss


def _problem(logits: Tensor, labels: Tensor) -> str:
    if logits.shape[1] == 1:
        return "regression"
    is_one_class = _is_integer(labels) and labels.shape != logits.shape
    return "single_label_classification" if is_one_class else "multi_label_classification"


def _targets(logits: Tensor, labels: Tensor, problem: str) -> Tensor:
    """Return a target for each logit (B, C)."""
    labels = labels[:, None] if labels.ndim == 1 and logits.shape[1] == 1 else labels
    if labels.shape != logits.shape:
        hint = ": a class for each clip is problem_type='single_label_classification'" if labels.ndim == 1 else ""
        raise ValueError(f"labels of a {problem} must be {tuple(logits.shape)}, not {tuple(labels.shape)}{hint}")
    if labels.is_complex() or not bool(labels.isfinite().all()):
        raise ValueError(f"labels of a {problem} must be finite numbers")
    return labels.to(logits.dtype)


def _classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the class of each clip (B,)."""
    num_clips, num_classes = logits.shape
    if num_classes == 1:
        raise ValueError("a single class is always right: problem_type='regression' is for one number per clip")
    if labels.shape not in ((num_clips,), (num_clips, 1)):
        hint = ": a target for each class is problem_type='multi_label_classification'" if labels.ndim == 2 else ""
        raise ValueError(f"labels must be classes ({num_clips},), not {tuple(labels.shape)}{hint}")
    if not _is_integer(labels):
        raise ValueError(f"labels must be classes, which are integers, not {labels.dtype}")
    labels = labels.reshape(-1).long()
    counted = labels[labels != IGNORED]
    if not len(counted):
        raise ValueError(f"labels: every clip is left out ({IGNORED})")
    if not 0 <= int(counted.min()) <= int(counted.max()) < num_classes:
        raise ValueError(f"labels must be 0 to {num_classes - 1}, got {int(counted.min())} to {int(counted.max())}")
    return labels


def _is_integer(labels: Tensor) -> bool:
    return not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)

"""Masked teacher-student pre-training: the method, and nothing else (method 7)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aape.pretraining.losses import contrastive_loss, masked_loss, teacher_targets, utterance_loss
    from aape.pretraining.masking import inverse_block_mask, sample_queries
    from aape.pretraining.teacher_student import TeacherStudent

__all__ = [
    "TeacherStudent",
    "contrastive_loss",
    "inverse_block_mask",
    "masked_loss",
    "sample_queries",
    "teacher_targets",
    "utterance_loss",
]

# Loaded when first used, so that `aape pretrain --help` does not wait for torch.
_MODULES = {
    "TeacherStudent": "teacher_student",
    "contrastive_loss": "losses",
    "inverse_block_mask": "masking",
    "masked_loss": "losses",
    "sample_queries": "masking",
    "teacher_targets": "losses",
    "utterance_loss": "losses",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'aape.pretraining' has no attribute {name!r}")
    return getattr(importlib.import_module(f"aape.pretraining.{_MODULES[name]}"), name)

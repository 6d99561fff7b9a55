"""Masked teacher-student pre-training: the method (docs/method.md 7), the draws of its steps, and L_stat (ours)."""

from __future__ import annotations

import importlib
from typing import Any

# Loaded when first used, so that `aape pretrain --help` does not wait for torch.
_MODULES = {
    "TeacherStudent": "teacher_student",
    **dict.fromkeys(("contrastive_loss", "masked_loss", "teacher_targets", "utterance_loss"), "losses"),
    **dict.fromkeys(("inverse_block_mask", "sample_queries"), "masking"),
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'aape.pretraining' has no attribute {name!r}")
    return getattr(importlib.import_module(f"aape.pretraining.{_MODULES[name]}"), name)

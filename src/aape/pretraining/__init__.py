"""Masked teacher-student pre-training (method 7)."""

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

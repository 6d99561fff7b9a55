"""One step of teacher and student: who learns, and who follows."""

import torch

from aape.models.config import PredictorConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.pretraining import TeacherStudent, inverse_block_mask, sample_queries
from aape.pretraining.config import LossConfig
from aape.runs.optim import adamw


def test_student_learns_teacher_follows_and_is_never_trained():
    """One step: gradients in the student only, then teacher = m teacher + (1 - m) student."""
    torch.manual_seed(0)
    method = TeacherStudent(
        AudioEncoder(encoder_config("nano", num_frames=96)), (8, 6), PredictorConfig(), LossConfig()
    )
    generator = torch.Generator().manual_seed(0)
    visible = torch.stack([inverse_block_mask((8, 6), 9, generator=generator) for _ in range(4)])
    queries = torch.stack([sample_queries(v, 48, 29, generator) for v in visible]).view(2, 2, -1)
    out = method(torch.randn(2, 1, 128, 96), visible.view(2, 2, -1), queries)
    total = out["loss_mask"] + out["loss_utterance"] + 0.1 * out["loss_contrastive"]
    torch.testing.assert_close(out["loss"].detach(), total)
    out["loss"].backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    missing = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    before = {n: p.clone() for n, p in method.teacher.named_parameters()}
    adamw(method, learning_rate=0.1, weight_decay=0.05, betas=(0.9, 0.95)).step()
    method.update_teacher(0.9)
    for (name, teacher), student in zip(method.teacher.named_parameters(), method.student.parameters(), strict=True):
        torch.testing.assert_close(teacher, 0.9 * before[name] + 0.1 * student)

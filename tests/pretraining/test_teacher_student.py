"""Masks, losses and the teacher, against loops written from the equations."""

import math

import pytest
import torch

from aape.models.config import PredictorConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.pretraining import (
    TeacherStudent,
    contrastive_loss,
    inverse_block_mask,
    masked_loss,
    sample_queries,
    teacher_targets,
    utterance_loss,
)
from aape.pretraining.config import LossConfig, OptimConfig
from aape.runs.optim import adamw, cosine_between, warmup_cosine


def neighbours_share(visible, grid):
    """The share of visible tokens with a visible neighbour."""
    kept = torch.zeros(grid, dtype=torch.bool)
    kept.view(-1)[visible] = True
    padded = torch.nn.functional.pad(kept.int(), (1, 1, 1, 1))
    near = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return (near[kept] > 0).float().mean().item()


def test_masks_keep_60_of_304_in_blocks_and_ask_for_183():
    """The paper's counts, exactly, in every view; and blocks, not dust."""
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(200):
        visible = inverse_block_mask((8, 38), 60, generator=generator)
        queries = sample_queries(visible, 304, 183, generator)
        assert visible.unique().tolist() == visible.tolist()
        assert len(visible) == 60
        assert queries.unique().tolist() == queries.tolist()
        assert len(queries) == 183
        assert not set(visible.tolist()) & set(queries.tolist())
        shares.append(neighbours_share(visible, (8, 38)))
    assert sum(shares) / len(shares) > 0.9
    again = torch.Generator().manual_seed(0)
    assert torch.equal(
        inverse_block_mask((8, 38), 60, generator=again),
        inverse_block_mask((8, 38), 60, generator=torch.Generator().manual_seed(0)),
    )


@pytest.mark.parametrize(("grid", "count"), [((8, 1), 1), ((8, 2), 15), ((8, 64), 512)])
def test_masks_of_unusual_grids(grid, count):
    """Short crops train too."""
    assert len(inverse_block_mask(grid, count, generator=torch.Generator().manual_seed(1))) == count


def test_contrastive_loss_equals_the_equation():
    """Other positives are left out of the denominator; one view is 0; one clip has no negatives."""
    z = torch.randn(3, 4, 5, dtype=torch.float64)
    unit = torch.nn.functional.normalize(z, dim=-1)
    terms = []
    for i in range(3):
        for b in range(4):
            negatives = sum(
                math.exp(unit[i, b] @ unit[m, c] / 0.1) for m in range(3) for c in range(4) if c != b
            )  # fmt: skip
            for p in range(3):
                if p != i:
                    positive = math.exp(unit[i, b] @ unit[p, b] / 0.1)
                    terms.append(-math.log(positive / (positive + negatives)))
    assert contrastive_loss(z, 0.1).item() == pytest.approx(sum(terms) / len(terms), abs=1e-12)
    assert contrastive_loss(z[:1], 0.1) == 0
    assert contrastive_loss(z[:, :1], 0.1) == 0


def test_regression_losses_equal_the_equations_however_a_batch_is_divided():
    """Means over elements, and over clips: two halves average to the whole."""
    a, b = torch.randn(4, 2, 6, 5, dtype=torch.float64), torch.randn(4, 2, 6, 5, dtype=torch.float64)
    assert masked_loss(a, b).item() == pytest.approx(((a - b) ** 2).mean().item())
    valid = torch.rand(4, 2, 6) > 0.4
    whole = masked_loss(a, b, valid)
    halves = [masked_loss(a[i : i + 2], b[i : i + 2], valid[i : i + 2]) for i in (0, 2)]
    assert whole.item() == pytest.approx(sum(halves).item() / 2)
    c, u = a[:, :, 0], b[:, 0, 0]
    assert utterance_loss(c, u).item() == pytest.approx(((c - u[:, None]) ** 2).mean().item())


@pytest.mark.parametrize("target_norm", ["token", "channel"])
def test_targets_equal_the_definition_and_leave_out_padding(target_norm):
    """The teacher's targets, token by token or channel by channel."""
    outputs = [torch.randn(2, 6, 8, dtype=torch.float64) * 3 + 1 for _ in range(3)]
    valid = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).bool()
    pooled, utterance = teacher_targets(outputs, target_norm, valid)
    for b in range(2):
        count = int(valid[b].sum())
        mean = torch.zeros(6, 8, dtype=torch.float64)
        for x in outputs:
            y = x[b]
            over, seen = (-1, y) if target_norm == "token" else (0, y[:count])
            centre, spread = seen.mean(over, keepdim=True), seen.var(over, keepdim=True, unbiased=False)
            mean += (y - centre) / torch.sqrt(spread + 1e-5) / 3
        wanted = (mean - mean.mean(-1, keepdim=True)) / torch.sqrt(mean.var(-1, keepdim=True, unbiased=False) + 1e-5)
        torch.testing.assert_close(pooled[b], wanted)
        torch.testing.assert_close(utterance[b], wanted[:count].mean(0))
    with pytest.raises(ValueError, match="target_norm"):
        teacher_targets(outputs, "batch")


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


def test_schedules_and_decay_groups():
    """Warm-up, cosine to 0, momentum to 1; no decay where method 7 says none."""
    assert [warmup_cosine(s, warmup=10, total=110) for s in (0, 5, 10, 60, 110)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    momentum = {"start": OptimConfig().momentum_start, "end": OptimConfig().momentum_end, "total": 100}
    assert cosine_between(0, **momentum) == pytest.approx(0.994)
    assert cosine_between(100, **momentum) == 1.0
    encoder = AudioEncoder(encoder_config("nano"))
    groups = adamw(encoder, learning_rate=1.0, weight_decay=0.05, betas=(0.9, 0.95)).param_groups
    exempt = {id(p) for p in groups[1]["params"]}
    assert id(encoder.cls_token) in exempt
    assert id(encoder.stem.lambda_encoder.head.weight) in exempt
    assert id(encoder.stem.fuse.weight) not in exempt

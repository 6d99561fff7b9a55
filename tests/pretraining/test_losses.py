"""The three losses and the teacher's targets, against loops written from the equations."""

import math

import pytest
import torch

from aape.pretraining import contrastive_loss, masked_loss, teacher_targets, utterance_loss


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


def test_contrastive_loss_is_not_taken_in_half_precision():
    """In bfloat16 a similarity over a temperature of 0.1 is off by a fifth of a unit in the exponent."""
    z = torch.randn(4, 8, 32, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(z, 0.1)
    assert loss.item() == pytest.approx(contrastive_loss(z.float(), 0.1).item(), rel=1e-6)


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
        expected = (mean - mean.mean(-1, keepdim=True)) / torch.sqrt(mean.var(-1, keepdim=True, unbiased=False) + 1e-5)
        torch.testing.assert_close(pooled[b], expected)
        torch.testing.assert_close(utterance[b], expected[:count].mean(0))
    with pytest.raises(ValueError, match="target_norm"):
        teacher_targets(outputs, "batch")

"""The targets and three losses of the paper (docs/method.md 7); `Pretraining.forward` adds L_stat, which is ours.

Reductions are means over clips, so that they do not depend on how a batch is divided into ranks or accumulation steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

TARGET_NORM_EPS = 1e-5


def teacher_targets(
    block_outputs: Sequence[Tensor], target_norm: str = "token", valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Average the normalised outputs of all blocks, and normalise the average.

    Args:
        block_outputs: each block's (B, N, D).
        target_norm: "token", each token over D (the paper's); "channel", each channel over the tokens (EAT's).
        valid: tokens that are not padding (B, N); the channel statistics and the utterance mean leave out the rest.

    Returns:
        The pooled tokens (B, N, D) and the utterance target (B, D), their mean over tokens; both float32 or wider.

    Raises:
        ValueError: for an unknown norm.
    """
    if target_norm not in ("token", "channel"):
        raise ValueError(f"target_norm must be 'token' or 'channel', got {target_norm!r}")
    outputs = [x if x.dtype == torch.float64 else x.float() for x in block_outputs]
    weight = torch.ones_like(outputs[0][..., :1]) if valid is None else valid[..., None].to(outputs[0].dtype)
    weight = weight / weight.sum(1, keepdim=True)  # (B, N, 1)
    pooled = torch.zeros_like(outputs[0])
    for x in outputs:
        if target_norm == "token":
            pooled = pooled + F.layer_norm(x, x.shape[-1:], eps=TARGET_NORM_EPS)
        else:
            centred = x - (weight * x).sum(1, keepdim=True)
            variance = (weight * centred.square()).sum(1, keepdim=True)
            pooled = pooled + centred * torch.rsqrt(variance + TARGET_NORM_EPS)
    pooled = F.layer_norm(pooled / len(outputs), pooled.shape[-1:], eps=TARGET_NORM_EPS)
    return pooled, (weight * pooled).sum(1)


def masked_loss(predictions: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """L_mask: squared distance between predictions and pooled tokens (B, M, Q, D), a mean over elements of each view.

    With `valid` (B, M, Q), over queries that are not padding only; a view without any counts as zero.
    """
    errors = (predictions.to(targets.dtype) - targets).square().mean(-1)  # (B, M, Q)
    weight = torch.ones_like(errors) if valid is None else valid.to(errors.dtype)
    return ((errors * weight).sum(-1) / weight.sum(-1).clamp(min=1)).mean()


def utterance_loss(class_tokens: Tensor, utterance: Tensor) -> Tensor:
    """L_utt: squared distance between class tokens (B, M, D) and utterance targets (B, D), a mean over elements."""
    return (class_tokens.to(utterance.dtype) - utterance[:, None]).square().mean()


def contrastive_loss(z: Tensor, temperature: float) -> Tensor:
    """L_con: views of a clip attract each other; views of other clips, on all ranks, repel.

    For anchor i and every other view p of its clip, -log(e_p / (e_p + sum of e_a over all views a of other clips)) with
    e_a = exp(z_i . z_a / temperature), averaged over p and i: the other positives are not in the denominator.

    Takes projections z (M, B, D), not normalised; returns a scalar, 0 for a single view.
    """
    num_views, num_clips, _ = z.shape
    if num_views == 1:
        return z.sum() * 0
    with torch.autocast(z.device.type, enabled=False):  # it would take the similarities in half precision
        anchors = F.normalize(z if z.dtype == torch.float64 else z.float(), dim=-1).transpose(0, 1)  # (B, M, D)
        all_anchors, first = _all_ranks(anchors)  # (B of all ranks, M, D)
        similarity = torch.einsum("imd,jnd->imjn", anchors, all_anchors) / temperature
    clip = torch.arange(num_clips, device=z.device)
    position = first + clip  # of this rank's clips among those of all ranks
    positives = similarity[clip, :, position]  # (B, M, M)
    is_same_clip = torch.arange(len(all_anchors), device=z.device) == position[:, None]  # (B, B of all ranks)
    negatives = similarity.masked_fill(is_same_clip[:, None, :, None], float("-inf")).flatten(2).logsumexp(-1)  # (B, M)
    losses = torch.logaddexp(positives, negatives[..., None]) - positives  # (B, M, M)
    is_same_view = torch.eye(num_views, dtype=torch.bool, device=z.device)
    return losses.masked_fill(is_same_view, 0).sum() / (num_clips * num_views * (num_views - 1))


class _Gather(torch.autograd.Function):
    """Concatenate (B, ...) over all ranks; every rank's gradient flows back to the rank the clips came from."""

    # Written out, because `torch.distributed.nn.functional.all_gather` gives a wrong gradient under gloo
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.size = x.shape[0]
        parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(grad)
        return grad.narrow(0, torch.distributed.get_rank() * ctx.size, ctx.size)


def _all_ranks(x: Tensor) -> tuple[Tensor, int]:
    """Concatenate (B, ...) over all ranks, gradients included; and say where this rank's clips begin."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return x, 0
    gathered: Tensor = _Gather.apply(x)
    return gathered, torch.distributed.get_rank() * x.shape[0]

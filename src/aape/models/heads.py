"""What reads labels off the encoder's output."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aape.layers.transformer import NORM_EPS
from aape.models.config import Pool
from aape.models.pooling import pool, pooled_dim


class ClassificationHead(nn.Module):
    """LayerNorm and a linear layer on the class token (docs/method.md 8), or another vector of the last block's tokens.

    Args:
        embed_dim: D, the encoder's.
        num_classes: number of classes.
        pool: what the vector is: "cls" as in the paper, or another of `aape.models.pooling.pool` [ours].
        num_freq: Nf, number of frequency patches.
    """

    def __init__(self, embed_dim: int, num_classes: int, pool: Pool = "cls", num_freq: int = 1) -> None:
        super().__init__()
        self.pool, self.num_freq = pool, num_freq
        width = pooled_dim(pool, embed_dim, num_freq)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.linear = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)  # small, so that the first logits are near 0
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map the encoder's tokens, the class token first, to logits: (B, 1 + N, D) -> (B, num_classes)."""
        vectors = pool(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), self.pool, self.num_freq)
        return self.linear(self.norm(vectors.to(tokens.dtype)))

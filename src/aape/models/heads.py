"""What reads labels off the encoder's output."""

from __future__ import annotations

from torch import Tensor, nn

from aape.layers.transformer import NORM_EPS


class ClassificationHead(nn.Module):
    """LayerNorm and a linear layer on the class token (docs/method.md 8), D -> num_classes."""

    def __init__(self, embed_dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.linear = nn.Linear(embed_dim, num_classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)  # small, so that the first logits are near 0
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map the encoder's tokens, the class token first, to logits: (B, 1 + N, D) -> (B, num_classes)."""
        return self.linear(self.norm(tokens[:, 0]))

"""Where the kernels of SBLU come from: predicted per token (adaptive), or learned per frequency patch (method 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aape.layers.transformer import Block, init_transformer_weights


def constrain(
    raw_decay: Tensor, raw_frequency: Tensor, *, patch_size: int, kernel_size: int, window_edge: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Map raw values to the decays and frequencies that SBLU accepts (method 3).

    Args:
        raw_decay: any shape.
        raw_frequency: the same shape.
        patch_size: P; frequencies lie above pi / P, which the patches themselves can represent.
        kernel_size: K; decays are such that the window has fallen to `window_edge` at its edge.
        window_edge: eps.

    Returns:
        decay = softplus(raw) - 2 ln(eps) / (K - 1), in nepers per frame, and frequency in (pi / P, pi), in radians
        per frame; both at least float32.
    """
    raw_decay, raw_frequency = (
        raw.to(torch.promote_types(raw.dtype, torch.float32)) for raw in (raw_decay, raw_frequency)
    )
    floor = -2 * math.log(window_edge) / max(kernel_size - 1, 1)
    lowest = math.pi / patch_size
    return F.softplus(raw_decay) + floor, lowest + (math.pi - lowest) * torch.sigmoid(raw_frequency)


def _start_of_band(hidden_dim: int, decay_start: float) -> Tensor:
    """Return raw values (2H,): decays this far above their lower bound, frequencies spread evenly over the band."""
    positions = (torch.arange(hidden_dim, dtype=torch.float64) + 0.5) / hidden_dim
    return torch.cat([torch.full((hidden_dim,), math.log(math.expm1(decay_start))), torch.logit(positions).float()])


class LambdaEncoder(nn.Module):
    """A small Transformer over the (visible) tokens that says which kernel each of them needs: (R, V, D) -> (R, V, 2H).

    Args:
        embed_dim: D.
        hidden_dim: H, kernels per token.
        width: of its blocks.
        depth: number of blocks.
        num_heads: heads per block.
        decay_start: of all kernels, above the lower bound, in nepers per frame; ln 2 is a raw decay of 0.
    """

    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        width: int = 128,
        depth: int = 3,
        num_heads: int = 2,
        decay_start: float = math.log(2),
    ) -> None:
        super().__init__()
        self.hidden_dim, self.decay_start = hidden_dim, decay_start
        self.embed = nn.Linear(embed_dim, width)
        self.blocks = nn.Sequential(*(Block(width, num_heads) for _ in range(depth)))
        self.head = nn.Linear(width, 2 * hidden_dim)
        self.init_weights()

    def init_weights(self) -> None:
        """Start with frequencies spread over the band; timm calls this again after its own initialisation."""
        self.apply(init_transformer_weights)
        with torch.no_grad():
            self.head.weight.mul_(0.01)
            self.head.bias.copy_(_start_of_band(self.hidden_dim, self.decay_start))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (R, V, D) to raw decays and frequencies (R, V, 2H)."""
        return self.head(self.blocks(self.embed(tokens)))


class FixedLambda(nn.Module):
    """The non-adaptive form: one learned raw (decay, frequency) pair per frequency patch and channel."""

    def __init__(self, num_freq: int, hidden_dim: int, decay_start: float = math.log(2)) -> None:
        super().__init__()
        start = _start_of_band(hidden_dim, decay_start).expand(num_freq, -1).clone()
        spread = 0.01 * torch.randn_like(start)  # as small as what the adaptive form's scaled head adds at the start
        self.raw = nn.Parameter(start + spread)  # (Nf, 2H)

    def forward(self, frequency_patch: Tensor) -> Tensor:
        """Return raw values (..., 2H) for frequency patch indices (...)."""
        return self.raw[frequency_patch]

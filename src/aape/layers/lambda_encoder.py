"""Where SBLU's kernels come from (docs/method.md 4): predicted for each token, or learned per frequency patch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aape.layers.transformer import Block, init_transformer_weights

WINDOW_EDGE = 0.01  # eps: what the slowest decay leaves of a window at its edge


class LambdaEncoder(nn.Module):
    """A small Transformer over the (visible) tokens that says which kernels each of them needs.

    Args:
        embed_dim: D.
        hidden_dim: H, kernels per token.
        patch_size: P, see `constrain`, as for the next.
        kernel_size: K.
        lambda_shape: (width, depth, heads) of its blocks.
        decay_start: of all kernels, above the lower bound, in nepers per frame; ln 2 is a raw decay of 0.
    """

    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        patch_size: int,
        kernel_size: int,
        lambda_shape: tuple[int, int, int],
        decay_start: float,
    ) -> None:
        super().__init__()
        self.patch_size, self.kernel_size = patch_size, kernel_size
        self.hidden_dim, self.decay_start = hidden_dim, decay_start
        width, depth, num_heads = lambda_shape
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

    def forward(self, tokens: Tensor, frequency_patch: Tensor) -> tuple[Tensor, Tensor]:
        """Choose kernels from the tokens of each view (..., V, D): decay and frequency (..., V, H), see `constrain`."""
        raw = self.head(self.blocks(self.embed(tokens.flatten(0, -3))))  # (views, V, 2H)
        return constrain(raw.unflatten(0, tokens.shape[:-2]), self.patch_size, self.kernel_size)


class FixedLambda(nn.Module):
    """The non-adaptive form: one learned raw (decay, frequency) pair per frequency patch (Nf of them) and channel."""

    def __init__(self, num_freq: int, hidden_dim: int, patch_size: int, kernel_size: int, decay_start: float) -> None:
        super().__init__()
        self.patch_size, self.kernel_size = patch_size, kernel_size
        start = _start_of_band(hidden_dim, decay_start).expand(num_freq, -1).clone()
        spread = 0.01 * torch.randn_like(start)  # as small as what the adaptive form's scaled head adds at the start
        self.raw = nn.Parameter(start + spread)  # (Nf, 2H)

    def forward(self, tokens: Tensor, frequency_patch: Tensor) -> tuple[Tensor, Tensor]:
        """Look up the kernels of each token's frequency patch (..., V): decay and frequency (..., V, H)."""
        return constrain(self.raw[frequency_patch], self.patch_size, self.kernel_size)


def constrain(raw: Tensor, patch_size: int, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Map raw values to the decays and frequencies that SBLU accepts (docs/method.md 3).

    Args:
        raw: raw decays, then raw frequencies (..., 2H).
        patch_size: P; frequencies lie above pi / P, which the patches themselves can represent.
        kernel_size: K; decays are such that the window has fallen to eps at its edge.

    Returns:
        decay = softplus(raw) - 2 ln(eps) / (K - 1), in nepers per frame, and frequency in (pi / P, pi), in radians
        per frame; both (..., H) and at least float32.
    """
    raw_decay, raw_frequency = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in raw.chunk(2, -1))
    floor = -2 * math.log(WINDOW_EDGE) / max(kernel_size - 1, 1)
    lowest = math.pi / patch_size
    return F.softplus(raw_decay) + floor, lowest + (math.pi - lowest) * torch.sigmoid(raw_frequency)


def _start_of_band(hidden_dim: int, decay_start: float) -> Tensor:
    """Return raw values (2H,): decays this far above their lower bound, frequencies spread evenly over the band."""
    positions = (torch.arange(hidden_dim, dtype=torch.float64) + 0.5) / hidden_dim
    return torch.cat([torch.full((hidden_dim,), math.log(math.expm1(decay_start))), torch.logit(positions).float()])

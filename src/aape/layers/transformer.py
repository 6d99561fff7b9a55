"""Pre-norm Transformer blocks (docs/method.md 6 and 7): self-attention for encoders, cross-attention for predictors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-6


class SelfAttention(nn.Module):
    """Multi-head self-attention (..., N, D) -> (..., N, D), with a bias on queries, keys and values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within (..., N, D)."""
        return self.proj(_attend(*_split_heads(self.qkv(x), self.num_heads, 3)))


class CrossAttention(nn.Module):
    """Queries (B, Q, width) read a context (B, V, D); no bias on queries, keys and values."""

    def __init__(self, width: int, context_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(context_dim, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Read the context (B, V, D) from the queries (B, Q, width)."""
        (q,) = _split_heads(self.q(x), self.num_heads, 1)
        k, v = _split_heads(self.kv(context), self.num_heads, 2)
        return self.proj(_attend(q, k, v))


class DropPath(nn.Module):
    """Leaves a residual branch out for a share of the clips, in training, and makes up for it in the others."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, update: Tensor) -> Tensor:
        """Scale (B, ...) by 0 or 1 / (1 - rate)."""
        if not (self.training and self.rate):
            return update
        keep = torch.rand(update.shape[0], *[1] * (update.ndim - 1), device=update.device) >= self.rate
        return update * (keep / (1 - self.rate)).to(update.dtype)


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x); `drop_path.rate`, 0 by default, is for fine-tuning."""

    gradient_checkpointing = False  # transformers sets this, and the function that then computes a block twice
    _gradient_checkpointing_func: Callable[..., Tensor]

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = _mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath()

    def attend(self, x: Tensor) -> Tensor:
        """Return x after the attention branch (..., N, D)."""
        return x + self.drop_path(self.attn(self.norm1(x)))

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return what the feed-forward branch adds to x (..., N, D)."""
        return self.drop_path(self.mlp(self.norm2(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply both branches to (..., N, D)."""
        if self.gradient_checkpointing and self.training and x.requires_grad:
            return self._gradient_checkpointing_func(self._apply_both, x)
        return self._apply_both(x)

    def _apply_both(self, x: Tensor) -> Tensor:
        x = self.attend(x)
        return x + self.feed_forward(x)


class CrossBlock(nn.Module):
    """The same with queries that see the context only, never each other (CrossMAE)."""

    def __init__(self, width: int, context_dim: int, num_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = CrossAttention(width, context_dim, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = _mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Update queries (B, Q, width) from a context (B, V, D)."""
        x = x + self.attn(self.norm1(x), context)
        return x + self.mlp(self.norm2(x))


def init_transformer_weights(module: nn.Module) -> None:
    """Xavier-uniform linear maps and zero biases, as in MAE; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _mlp(dim: int, hidden_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim))


def _split_heads(x: Tensor, num_heads: int, parts: int) -> tuple[Tensor, ...]:
    """(..., N, parts * D) -> `parts` tensors (..., heads, N, D / heads)."""
    return x.unflatten(-1, (parts, num_heads, -1)).movedim(-3, 0).transpose(-2, -3).unbind(0)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of heads (..., heads, N, D / heads), which are merged: (..., N, D)."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad:
        # The CPU's fused backward takes ten times as long in bfloat16 as in float32 (torch 2.13).
        with torch.autocast("cpu", enabled=False):
            out = F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(-2, -3).flatten(-2)

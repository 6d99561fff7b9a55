"""Inverse block masking: a few blocks of the token grid stay visible, the rest is hidden (EAT, docs/method.md 7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aape.pretraining.config import MaskingConfig

BLOCK_SHARE = 0.27  # of the tokens, covered by the blocks before single tokens are added or removed


def inverse_block_mask(
    grid: tuple[int, int],
    num_visible: int,
    *,
    block_sizes: Sequence[tuple[int, int]] = MaskingConfig.block_sizes,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the tokens of one view that stay visible.

    A block size is drawn uniformly; floor(0.27 N / area) blocks of it (at least one) are placed with uniform centres,
    clamped at the edges, allowed to overlap; then random single tokens are added or removed. Blocks are counted in
    patches, whatever the patch; one that is larger than the grid is cut to it.

    Args:
        grid: (Nf, Nt).
        num_visible: V, 60 of 304 in the paper's setting.
        block_sizes: (frequency, time) patches of the blocks to choose from.
        generator: the source of randomness.

    Returns:
        Sorted token indices (V,), n = f Nt + t.

    Raises:
        ValueError: if V is not within 1..N.
    """
    num_freq, num_time = grid
    if not 1 <= num_visible <= num_freq * num_time:
        raise ValueError(f"cannot keep {num_visible} of {num_freq * num_time} tokens visible")

    def below(high: int, count: int = 1) -> list[int]:
        return torch.randint(high, (count,), generator=generator).tolist()

    height, width = block_sizes[below(len(block_sizes))[0]]
    count = max(1, int(BLOCK_SHARE * num_freq * num_time / (height * width)))
    height, width = min(height, num_freq), min(width, num_time)
    kept = torch.zeros(grid, dtype=torch.bool)
    for f, t in zip(below(num_freq, count), below(num_time, count), strict=True):
        top = min(max(f - height // 2, 0), num_freq - height)
        left = min(max(t - width // 2, 0), num_time - width)
        kept[top : top + height, left : left + width] = True
    flat = kept.flatten()
    surplus = int(flat.sum()) - num_visible
    pool = (flat if surplus > 0 else ~flat).nonzero().flatten()
    flat[pool[torch.randperm(len(pool), generator=generator)[: abs(surplus)]]] = surplus < 0
    return flat.nonzero().flatten()


def draw_views(
    grid: tuple[int, int], masking: MaskingConfig, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw the views of one clip: indices of the visible tokens (M, V), and of those to predict (M, Q)."""
    num_tokens = grid[0] * grid[1]
    num_visible = max(1, int((1 - masking.mask_ratio) * num_tokens + 1e-9))
    num_queries = max(1, round(masking.query_ratio * (num_tokens - num_visible)))
    views = [
        inverse_block_mask(grid, num_visible, block_sizes=masking.block_sizes, generator=generator)
        for _ in range(masking.num_views)
    ]
    queries = [sample_queries(visible, num_tokens, num_queries, generator) for visible in views]
    return torch.stack(views), torch.stack(queries)


def sample_queries(
    visible: Tensor, num_tokens: int, num_queries: int, generator: torch.Generator | None = None
) -> Tensor:
    """Choose which hidden tokens are predicted: sorted indices (Q,), none of them in `visible` (V,)."""
    hidden = torch.ones(num_tokens, dtype=torch.bool)
    hidden[visible] = False
    candidates = hidden.nonzero().flatten()
    return candidates[torch.randperm(len(candidates), generator=generator)[:num_queries]].sort().values

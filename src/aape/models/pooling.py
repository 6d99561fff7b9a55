"""From the tokens of a pass to one vector, and from the vectors of several passes to one (docs/method.md 9).

Letters: B clips, N = Nf * Nt patch tokens of Nf frequency and Nt time patches, D width, E length of a vector.
"""

from __future__ import annotations

import numbers
import typing
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aape.errors import ConfigError
from aape.models.config import Pool

POOLS: tuple[Pool, ...] = typing.get_args(Pool)


def pool(tokens: Tensor, kind: Pool, num_freq: int) -> Tensor:
    """Pool the tokens of a pass, the class token first and patches frequency by frequency.

    Args:
        tokens: (B, 1 + N, D).
        kind: "cls_mean", class token and mean patch token (E = 2D), the paper's; "frequency", the mean over time of
            each frequency patch, low ones first (Nf D) [ours]; "frequency_std", the same and behind it their standard
            deviations over time (2 Nf D) [ours]; "cls" (D); "mean" (D).
        num_freq: Nf.

    Returns:
        (B, E).
    """
    cls_token, patches = tokens[:, 0], tokens[:, 1:]
    if kind == "cls":
        return cls_token
    if kind == "mean":
        return patches.mean(1)
    if kind == "cls_mean":
        return torch.cat([cls_token, patches.mean(1)], -1)
    grid = patches.unflatten(1, (num_freq, -1))  # (B, Nf, Nt, D)
    mean = grid.mean(2, keepdim=True)
    if kind == "frequency":
        return mean.flatten(1)
    # A norm, whose gradient is 0 where all patches are equal; that of a square root would be NaN there.
    spread = torch.linalg.vector_norm(grid - mean, dim=2) / grid.shape[2] ** 0.5
    return torch.cat([mean.flatten(1), spread.flatten(1)], -1)


def merge(first: NDArray[np.float64], second: NDArray[np.float64], share: float, kind: Pool) -> NDArray[np.float64]:
    """Return the vector of two passes together, as if their tokens had been pooled at once.

    Args:
        first: vector of the earlier pass (E,).
        second: of the later one.
        share: of the later one in the patches of both, 0 to 1.
        kind: as in `pool`. Of class tokens, the mean is taken.
    """
    step = share * (second - first)
    if kind != "frequency_std":
        return first + step
    half = len(first) // 2
    between = share * (1 - share) * np.square(second[:half] - first[:half])
    within = (1 - share) * np.square(first[half:]) + share * np.square(second[half:])
    return np.concatenate([first[:half] + step[:half], np.sqrt(within + between)])


def pooled_dim(kind: Pool, embed_dim: int, num_freq: int) -> int:
    """Return E, the length of a vector."""
    factors = {"cls_mean": 2, "frequency": num_freq, "frequency_std": 2 * num_freq, "cls": 1, "mean": 1}
    return embed_dim * factors[kind]


def check_pooling(kind: str, layers: Sequence[int], depth: int) -> tuple[Pool, tuple[int, ...]]:
    """Return a pool and the blocks that it is of, in order; none stands for the last.

    Raises:
        ConfigError: no such pool, or no such blocks.
    """
    if kind not in POOLS:
        raise ConfigError(f"pool: expected {', '.join(POOLS[:-1])} or {POOLS[-1]}, got {kind!r}")
    layers = layers.tolist() if isinstance(layers, np.ndarray) else layers
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        raise ConfigError(f"layers: expected a list of blocks, got {layers!r}")
    for layer in layers:
        if isinstance(layer, bool) or not isinstance(layer, numbers.Integral) or not 1 <= layer <= depth:
            raise ConfigError(f"layers: the encoder has blocks 1 to {depth}, and no {layer!r}")
    if len(set(layers)) < len(layers):
        raise ConfigError(f"layers: a block is named twice in {list(layers)}")
    return kind, tuple(sorted(map(int, layers))) or (depth,)

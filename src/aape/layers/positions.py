"""Two-dimensional positions of spectrogram patches, token order n = f Nt + t (docs/method.md 4 and 6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sincos_2d(embed_dim: int, grid_size: tuple[int, int]) -> Tensor:
    """Return the fixed sine-cosine table (Nf, Nt, D) of MAE and AudioMAE: time in the first half of D, frequency after.

    Raises:
        ValueError: if `embed_dim` is not a multiple of 4.
    """
    if embed_dim % 4:
        raise ValueError(f"2-D positions need an embed_dim that is a multiple of 4, got {embed_dim}")
    rates = 10000.0 ** -(torch.arange(embed_dim // 4, dtype=torch.float64) / (embed_dim // 4))
    num_freq, num_time = grid_size

    def axis(length: int) -> Tensor:
        angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], -1)  # (length, D / 2)

    time = axis(num_time)[None].expand(num_freq, -1, -1)
    frequency = axis(num_freq)[:, None].expand(-1, num_time, -1)
    return torch.cat([time, frequency], -1).float()


class PositionTable(nn.Module):
    """An absolute 2-D table that follows a clip's own number of time patches.

    Args:
        grid_size: (Nf, Nt) the table is made for.
        embed_dim: D.
        trainable: learn the table instead of keeping it fixed. Either way it counts among the parameters.
    """

    def __init__(self, grid_size: tuple[int, int], embed_dim: int, trainable: bool = False) -> None:
        super().__init__()
        self.table = nn.Parameter(sincos_2d(embed_dim, grid_size), requires_grad=trainable)

    def forward(self, num_time: int) -> Tensor:
        """Return positions (Nf * num_time, D): truncated in time when shorter, linearly interpolated when longer."""
        table = self.table[:, :num_time]
        if num_time > table.shape[1]:
            table = F.interpolate(table.transpose(1, 2), size=num_time, mode="linear").transpose(1, 2)
        return table.flatten(0, 1)

    def resize(self, num_time: int) -> None:
        """Make the table the one that `forward` takes for this number of time patches."""
        if num_time != self.table.shape[1]:
            table = self(num_time).detach().unflatten(0, (-1, num_time)).clone()
            self.table = nn.Parameter(table, requires_grad=self.table.requires_grad)

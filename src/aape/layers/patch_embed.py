"""The standard stem, a linear map per patch and its position (docs/method.md 4); and what both stems owe to timm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aape.layers.positions import PositionTable

Size = int | tuple[int, int]


class Stem(nn.Module):
    """Sizes and token grid of a stem under timm's `embed_layer` contract; arguments as for `PatchEmbed`."""

    proj: PatchProjection
    pos_embed: PositionTable
    TIMM_OPTIONS = frozenset({"dynamic_img_pad", "strict_img_size", "flatten", "output_fmt", "norm_layer"})

    def __init__(self, img_size: Size, patch_size: Size, in_chans: int, embed_dim: int, **timm_options: Any) -> None:
        super().__init__()
        if unknown := set(timm_options) - self.TIMM_OPTIONS:
            raise TypeError(f"{type(self).__name__} got unexpected options: {', '.join(sorted(unknown))}")
        num_bins, num_frames = (img_size, img_size) if isinstance(img_size, int) else img_size
        patch, patch_frames = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        if in_chans != 1:
            raise ValueError(f"a spectrogram has one channel: in_chans must be 1, got {in_chans}")
        if patch < 1 or patch != patch_frames or num_bins % patch or num_frames % patch:
            raise ValueError(f"patches must be square and divide the spectrogram, got {patch_size} for {img_size}")
        self.img_size, self.patch_size = (num_bins, num_frames), (patch, patch)
        self.grid_size = (num_bins // patch, num_frames // patch)  # (Nf, Nt)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.embed_dim = embed_dim

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Return the reduction from spectrogram to token grid, as timm's stems do."""
        return self.patch_size[0] if as_scalar else self.patch_size

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Return the token grid (Nf, Nt) of a spectrogram of this size (F, T), as timm's stems do."""
        return self.grid_size[0], -(-img_size[1] // self.patch_size[1])

    def pad(self, spectrogram: Tensor) -> Tensor:
        """Zero-pad time to the next multiple of the patch; ValueError if it is not (B, 1, F, T) with this stem's F."""
        if spectrogram.ndim != 4 or spectrogram.shape[1:3] != (1, self.img_size[0]) or not spectrogram.shape[-1]:
            raise ValueError(
                f"expected a spectrogram (B, 1, {self.img_size[0]}, T), T >= 1, got {tuple(spectrogram.shape)}"
            )
        return nn.functional.pad(spectrogram, (0, -spectrogram.shape[-1] % self.patch_size[1]))


class PatchEmbed(Stem):
    """E = Conv2d(patch, stride patch) + position, under timm's `embed_layer` contract.

    Positions are included, so a timm model takes `pos_embed="none"`. Any number of frames is accepted: it is
    zero-padded to the next multiple of the patch, and positions follow it.

    Args:
        img_size: spectrogram (F, T) the position table is made for; an int means a square.
        patch_size: P, bins and frames of a patch.
        in_chans: must be 1; a spectrogram has one channel.
        embed_dim: D.
        bias: whether the projection has one.
        pos_trainable: learn the positions instead of keeping the fixed sine-cosine table.
        device: where the parameters are made.
        dtype: of the parameters.
        timm_options: what timm passes to every stem and does not matter here (`dynamic_img_pad`, ...).

    Raises:
        TypeError: an option that timm does not pass.
        ValueError: if the sizes cannot be.
    """

    def __init__(
        self,
        img_size: Size = (128, 608),
        patch_size: Size = 16,
        in_chans: int = 1,
        embed_dim: int = 768,
        bias: bool = True,
        *,
        pos_trainable: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **timm_options: Any,
    ) -> None:
        super().__init__(img_size, patch_size, in_chans, embed_dim, **timm_options)
        self.proj = PatchProjection(embed_dim, self.patch_size[0], bias)
        self.pos_embed = PositionTable(self.grid_size, embed_dim, pos_trainable)
        self.to(device=device, dtype=dtype)

    def forward(self, spectrogram: Tensor, visible: Tensor | None = None) -> Tensor:
        """Embed all patches, or the visible ones only.

        Args:
            spectrogram: (B, 1, F, T), standardised log-mel.
            visible: sorted token indices (B, V), or (B, M, V) for M views of each clip.

        Returns:
            Tokens (B, N, D), or (B, V, D) or (B, M, V, D) for the visible ones; n = f Nt + t.
        """
        return standard_tokens(self.pad(spectrogram), self.proj, self.pos_embed, visible)


class PatchProjection(nn.Conv2d):
    """The linear map of each patch (B, 1, F, T) -> (B, D, Nf, Nt), initialised as one."""

    def __init__(self, embed_dim: int, patch_size: int, bias: bool) -> None:
        super().__init__(1, embed_dim, patch_size, stride=patch_size, bias=bias)
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Project in the precision of the weights."""
        return super().forward(x.to(self.weight.dtype))

    def init_weights(self) -> None:
        """Initialise; timm calls this too."""
        nn.init.xavier_uniform_(self.weight.flatten(1))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def standard_tokens(x: Tensor, proj: nn.Module, pos_embed: nn.Module, visible: Tensor | None = None) -> Tensor:
    """Return the standard tokens E = proj(X) + position of padded spectrograms; shapes as in `PatchEmbed.forward`."""
    grid = proj(x)  # (B, D, Nf, Nt)
    tokens = grid.flatten(2).transpose(1, 2) + pos_embed(grid.shape[-1]).to(grid.dtype)
    return tokens if visible is None else gather_tokens(tokens, visible)


def gather_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """Pick tokens of (B, N, D) by indices (B, V) -> (B, V, D), or (B, M, V) -> (B, M, V, D)."""
    index = indices.flatten(1)[..., None].expand(-1, -1, tokens.shape[-1])
    return tokens.gather(1, index).view(*indices.shape, tokens.shape[-1])

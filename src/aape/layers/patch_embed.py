"""The standard stem, a linear map per patch and its position (docs/method.md 4); and what both stems owe to timm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aape.layers.positions import PositionTable

Size = int | tuple[int, int]
NO_DECAY = ("pos_embed", "lambda_encoder.raw", "lambda_encoder.head")  # parts of names: positions, kernels


class Stem(nn.Module):
    """Sizes and token grid of a stem under timm's `embed_layer` contract; arguments as for `PatchEmbed`."""

    proj: PatchProjection
    pos_embed: PositionTable
    TIMM_OPTIONS = frozenset({"dynamic_img_pad", "strict_img_size", "flatten", "output_fmt", "norm_layer"})

    def __init__(self, img_size: Size, patch_size: Size, in_chans: int, embed_dim: int, **timm_options: Any) -> None:
        super().__init__()
        name = type(self).__name__
        if unknown := set(timm_options) - self.TIMM_OPTIONS:
            raise TypeError(f"{name} got unexpected options: {', '.join(sorted(unknown))}")
        if in_chans != 1:
            raise ValueError(f"a spectrogram has one channel, {name} got {in_chans}: add in_chans=1")
        self.output_fmt = timm_options.get("output_fmt") or ("NLC" if timm_options.get("flatten", True) else "NCHW")
        if self.output_fmt not in ("NLC", "NHWC"):
            raise ValueError(f"{name} gives tokens as NLC or NHWC, not as {self.output_fmt}")
        self.patch_size = _pair(patch_size)
        self.embed_dim = embed_dim
        self._set_grid(_pair(img_size))

    def _set_grid(self, img_size: tuple[int, int]) -> None:
        patch, patch_frames = self.patch_size
        if patch < 1 or patch != patch_frames or img_size[0] % patch or img_size[1] % patch or min(img_size) < 1:
            raise ValueError(f"patches must be square and divide the spectrogram, got {self.patch_size} for {img_size}")
        self.img_size, self.grid_size = img_size, (img_size[0] // patch, img_size[1] // patch)  # (F, T), (Nf, Nt)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def set_input_size(self, img_size: Size | None = None, patch_size: Size | None = None) -> None:
        """Make the stem one for another number of frames, as timm's `set_input_size` asks it to.

        Tokens of that length stay as they are: the table of positions becomes what `forward` takes from it, truncated
        or linearly interpolated. None leaves a size as it is.

        Raises:
            ValueError: other bins or patches, which the weights are of, or a size that patches do not divide.
        """
        size, patch = _pair(img_size or self.img_size), _pair(patch_size or self.patch_size)
        if (size[0], patch) != (self.img_size[0], self.patch_size):
            bins, side = self.img_size[0], self.patch_size[0]
            raise ValueError(
                f"weights are of {bins} mel bins and patches of {side}, and only the number of frames can change, got "
                f"img_size={size}, patch_size={patch}: build a new model with these"
            )
        self._set_grid(size)
        self.pos_embed.resize(self.grid_size[1])

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that are not to decay, besides those with one dimension."""
        names = (name for name, _ in self.named_parameters())
        return {name for name in names if any(part in name for part in NO_DECAY)}

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        """Return the reduction from spectrogram to token grid, as timm's stems do."""
        return self.patch_size[0] if as_scalar else self.patch_size

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Return the token grid (Nf, Nt) of a spectrogram of this size (F, T), as timm's stems do."""
        return self.grid_size[0], -(-img_size[1] // self.patch_size[1])

    def pad(self, spectrogram: Tensor) -> Tensor:
        """Zero-pad time to the next multiple of the patch; ValueError if it is not (B, 1, F, T) with this stem's F."""
        shape, num_bins = tuple(spectrogram.shape), self.img_size[0]
        if len(shape) != 4 or shape[1:3] != (1, num_bins) or not shape[3]:
            is_other = len(shape) == 4 and shape[1] == 1 and shape[2] != num_bins
            hint = f": build it with img_size=({shape[2]}, {self.img_size[1]})" if is_other else ""
            raise ValueError(f"expected a spectrogram (B, 1, {num_bins}, T), T >= 1, got {shape}{hint}")
        return nn.functional.pad(spectrogram, (0, -spectrogram.shape[-1] % self.patch_size[1]))

    def arrange(self, tokens: Tensor, visible: Tensor | None) -> Tensor:
        """Return all tokens as timm asked for them, (B, N, D) or (B, Nf, Nt, D); visible ones as they are."""
        is_grid = self.output_fmt == "NHWC" and visible is None
        return tokens.unflatten(1, (self.grid_size[0], -1)) if is_grid else tokens


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
            Tokens (B, N, D), or (B, V, D) or (B, M, V, D) for the visible ones; n = f Nt + t. With timm's
            `output_fmt="NHWC"` all tokens are (B, Nf, Nt, D).
        """
        return self.arrange(standard_tokens(self.pad(spectrogram), self.proj, self.pos_embed, visible), visible)


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class PatchProjection(nn.Conv2d):
    """The linear map of each patch (B, 1, F, T) -> (B, D, Nf, Nt), initialised as one."""

    def __init__(self, embed_dim: int, patch_size: int, bias: bool) -> None:
        super().__init__(1, embed_dim, patch_size, stride=patch_size, bias=bias)
        self.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Project in the precision of the weights, of F and T multiples of the patch."""
        # A matrix product: the backward pass of the convolution takes several times as long in bfloat16 on a CPU
        size = self.kernel_size[0]
        x = x[:, 0].to(self.weight.dtype)
        grid = x.unfold(1, size, size).unfold(2, size, size)  # (B, Nf, Nt, P, P)
        return F.linear(grid.flatten(-2), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)

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

"""The stems that are compared: AaPE with one thing at a time changed or replaced. Equal width, grid and positions.

B clips, F mel bins, T frames, N tokens, Nf frequency patches, H channels and Z outputs of each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aape.layers.aape import AaPE
from aape.layers.patch_embed import PatchEmbed, Stem, standard_tokens
from aape.layers.transformer import NORM_EPS
from aape.models.config import EncoderConfig
from aape.ops import high_pass, mix_norm_decimate, sblu_magnitude_at

NUM_FRAMES = 112  # of a clip: 1.12 s, 7 patches
LONG = 0.02  # nepers per frame that long windows start above the least decay
CONTEXT = 2 * 31 + 31  # frames that a token of AaPE sees on either side of its own: high-pass, window
ENCODERS = {  # else as nano
    "small": {"embed_dim": 96, "depth": 3, "num_heads": 3},
    "large": {"embed_dim": 384, "depth": 6, "num_heads": 6},
}


class NormPatchEmbed(PatchEmbed):
    """The standard stem with a LayerNorm and a linear map behind it, as AaPE's fusion has them."""

    def __init__(self, img_size: tuple[int, int], embed_dim: int) -> None:
        super().__init__(img_size, embed_dim=embed_dim)
        self.norm_e = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.fuse = nn.Linear(embed_dim, embed_dim)

    def forward(self, spectrogram: Tensor, visible: Tensor | None = None) -> Tensor:
        """Embed, with shapes as in `PatchEmbed.forward`."""
        return self.fuse(self.norm_e(super().forward(spectrogram, visible)))


class GeluStem(PatchEmbed):
    """AaPE's fusion and Z, but z is GELU of a linear map of the patch, and of `context` frames on either side of it."""

    def __init__(self, img_size: tuple[int, int], embed_dim: int, context: int = 0, sblu_dim: int = 128) -> None:
        super().__init__(img_size, embed_dim=embed_dim)
        patch = self.patch_size[0]
        self.hidden = nn.Conv2d(1, sblu_dim, (patch, patch + 2 * context), stride=patch, padding=(0, context))
        nn.init.xavier_uniform_(self.hidden.weight.flatten(1))
        self.norm_e = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.norm_z = nn.LayerNorm(sblu_dim, eps=NORM_EPS)
        self.fuse = nn.Linear(embed_dim + sblu_dim, embed_dim)

    def forward(self, spectrogram: Tensor, visible: Tensor | None = None) -> Tensor:
        """Embed all patches, with shapes as in `PatchEmbed.forward`."""
        assert visible is None
        e = super().forward(spectrogram)
        z = F.gelu(self.hidden(self.pad(spectrogram))).flatten(2).transpose(1, 2)  # (B, N, Z)
        return self.fuse(torch.cat([self.norm_e(e), self.norm_z(z)], -1))


class VariedAaPE(AaPE):
    """AaPE with two of its steps open to change: what goes into B, and the magnitude. By itself it is AaPE."""

    def forward(self, spectrogram: Tensor, visible: Tensor | None = None) -> Tensor:
        """Embed, as `AaPE.forward`."""
        spectrogram = self.pad(spectrogram)
        e = standard_tokens(spectrogram, self.proj, self.pos_embed, visible)
        u = self.subbands(self.band(self.context(spectrogram, visible)))
        patch_index, f = self.locate(u, visible)
        m = self.magnitude(u, e, patch_index, f)
        weights = self.mix.weight, self.norm.weight, self.norm.bias, self.decimate.weight
        z = mix_norm_decimate(m, f, *weights, num_freq=self.norm.num_groups, in_order=visible is None)
        return self.fuse(torch.cat([self.norm_e(e), self.norm_z(z.to(e.dtype))], -1))

    def band(self, x: Tensor) -> Tensor:
        """Return what the patches fold (B, F, T)."""
        return high_pass(x, patch_size=self.patch_size[1])

    def magnitude(self, u: Tensor, e: Tensor, patch_index: Tensor, f: Tensor) -> Tensor:
        """Return m (B, N, P / S, H) of u (B, Nf, T, H)."""
        return sblu_magnitude_at(u, patch_index, *self.lambda_encoder(e, f), **self.sblu_options._asdict())


class AllPassAaPE(VariedAaPE):
    """AaPE without the high-pass."""

    def band(self, x: Tensor) -> Tensor:
        """Return all of x."""
        return x


class FilterStem(VariedAaPE):
    """AaPE but for SBLU: the same band, context, maps and fusion, with GELU of K freely learned taps per channel."""

    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, **options)
        del self.lambda_encoder  # nobody asks for kernels
        num_channels = self.subbands.out_channels
        taps = self.sblu_options.kernel_size
        self.taps = nn.Conv1d(num_channels, num_channels, taps, padding=taps // 2, groups=num_channels, bias=False)

    def magnitude(self, u: Tensor, e: Tensor, patch_index: Tensor, f: Tensor) -> Tensor:
        """Return GELU of the filtered channels (B, N, P, H)."""
        with torch.autocast(u.device.type, enabled=False):  # as SBLU
            m = F.gelu(self.taps(u.transpose(2, 3).flatten(1, 2)))  # (B, Nf H, T)
        patches = m.unflatten(2, (-1, self.patch_size[1])).unflatten(1, (u.shape[1], -1))  # (B, Nf, H, Nt, P)
        return patches.permute(0, 1, 3, 4, 2).flatten(0, 2)[patch_index]


def build_aape(
    config: EncoderConfig,
    kind: type[AaPE] = AaPE,
    *,
    long: bool = False,
    phase: str = "bilateral",
    adaptive: bool = True,
) -> AaPE:
    """Build a form of AaPE; with `long` from the longest windows, and taps of the last convolution that average."""
    start = {"decay_start": LONG} if long else {}
    shape = config.lambda_dim, config.lambda_depth, config.lambda_heads
    size = config.n_mels, config.num_frames
    stem = kind(size, embed_dim=config.embed_dim, lambda_shape=shape, phase=phase, adaptive=adaptive, **start)
    if long:
        nn.init.constant_(stem.decimate.weight, 1 / stem.decimate.kernel_size[0])
    return stem


def _sized(kind: Callable[..., Stem], config: EncoderConfig, **options: Any) -> Stem:
    return kind((config.n_mels, config.num_frames), embed_dim=config.embed_dim, **options)


STEMS: dict[str, Callable[[EncoderConfig], Stem]] = {
    "standard": partial(_sized, PatchEmbed),
    "standard-norm": partial(_sized, NormPatchEmbed),
    "gelu": partial(_sized, GeluStem),
    "gelu-wide": partial(_sized, GeluStem, context=CONTEXT),
    "filters": partial(build_aape, kind=FilterStem),
    "bilateral": build_aape,
    "bilateral-long": partial(build_aape, long=True),
    "analytic": partial(build_aape, phase="analytic"),
    "analytic-long": partial(build_aape, phase="analytic", long=True),
    "all-pass": partial(build_aape, kind=AllPassAaPE),
    "all-pass-long": partial(build_aape, kind=AllPassAaPE, long=True),
    "fixed": partial(build_aape, adaptive=False),
}

"""Aliasing-aware patch embedding (Figure 3; docs/method.md 5): a standard token, and what its stride would fold."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from aape.layers.lambda_encoder import FixedLambda, LambdaEncoder
from aape.layers.patch_embed import PatchProjection, Size, Stem, standard_tokens
from aape.layers.positions import PositionTable
from aape.layers.transformer import NORM_EPS
from aape.ops import SbluOptions, high_pass, mix_norm_decimate, sblu_magnitude_at


class AaPE(Stem):
    """The paper's stem: tokens = Linear([LayerNorm(E), LayerNorm(z)]), under the same contract as `PatchEmbed`.

    E are the standard tokens, z what SBLU measures above the Nyquist frequency of the patches, with kernels that the
    Lambda Encoder chooses from E.

    Args:
        img_size: as the next five, see `PatchEmbed`.
        patch_size: P.
        in_chans: 1.
        embed_dim: D.
        bias: whether the patch projection has one.
        pos_trainable: learn the positions.
        adaptive: kernels per token by the Lambda Encoder; else learned per frequency patch.
        phase: "bilateral" (the paper's) or "analytic".
        kernel_size: K taps, odd.
        stride: frames between SBLU outputs: 1, 2 or 4, any divisor of P.
        hidden_dim: H, SBLU channels per frequency patch.
        sblu_dim: Z, SBLU outputs per frequency patch.
        mask_context: zero the hidden patches, per view, before the high-pass, so that nothing of them leaks.
        lambda_shape: (width, depth, heads) of the Lambda Encoder.
        decay_start: decay of all kernels above its lower bound at the start, in nepers per frame; ln 2 is a raw decay
            of 0, and near 0 the windows are as long as the taps allow.
        device: where the parameters are made.
        dtype: of the parameters.
        timm_options: see `PatchEmbed`.

    Raises:
        ValueError: another phase, an even number of taps, a stride that does not divide the patch, a decay that is not
            positive; and as `PatchEmbed`.
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
        adaptive: bool = True,
        phase: str = "bilateral",
        kernel_size: int = 63,
        stride: int = 1,
        hidden_dim: int = 16,
        sblu_dim: int = 128,
        mask_context: bool = False,
        lambda_shape: tuple[int, int, int] = (128, 3, 2),
        decay_start: float = math.log(2),
        device: Any = None,
        dtype: torch.dtype | None = None,
        **timm_options: Any,
    ) -> None:
        super().__init__(img_size, patch_size, in_chans, embed_dim, **timm_options)
        if not decay_start > 0:
            raise ValueError(f"decay_start must be above 0, got {decay_start}")
        patch, num_freq, self.mask_context = self.patch_size[0], self.grid_size[0], mask_context
        self.sblu_options = SbluOptions(patch, kernel_size, stride, phase).check()
        self.proj = PatchProjection(embed_dim, patch, bias)
        self.pos_embed = PositionTable(self.grid_size, embed_dim, pos_trainable)
        self.lambda_encoder: LambdaEncoder | FixedLambda = (
            LambdaEncoder(embed_dim, hidden_dim, patch, kernel_size, lambda_shape, decay_start)
            if adaptive
            else FixedLambda(num_freq, hidden_dim, patch, kernel_size, decay_start)
        )
        self.subbands = Subbands(self.img_size[0], num_freq * hidden_dim, 1, groups=num_freq, bias=False)  # B
        # These three hold the weights of C, GroupNorm and the depthwise convolution, and are never called: see forward
        width = num_freq * sblu_dim
        self.mix = nn.Conv1d(num_freq * hidden_dim, width, 1, groups=num_freq, bias=False)
        self.norm = nn.GroupNorm(num_freq, width)
        self.decimate = nn.Conv1d(width, width, patch // stride, groups=width, bias=False)
        self.norm_e = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.norm_z = nn.LayerNorm(sblu_dim, eps=NORM_EPS)
        self.fuse = nn.Linear(embed_dim + sblu_dim, embed_dim)
        self.to(device=device, dtype=dtype)

    def forward(self, spectrogram: Tensor, visible: Tensor | None = None) -> Tensor:
        """Embed all patches (V = N), or the visible ones only; shapes as in `PatchEmbed.forward`.

        Figure 3: standard tokens e, the kernels that the Lambda Encoder chooses from them, x = high_pass(X), u = B x,
        m = SBLU(u), z = depthwise(GroupNorm(C m)), and the fusion of e and z.
        """
        spectrogram = self.pad(spectrogram)  # X (B, 1, F, T)
        e = standard_tokens(spectrogram, self.proj, self.pos_embed, visible)  # (B, [M,] V, D)
        x = high_pass(self.context(spectrogram, visible), patch_size=self.patch_size[1])  # (B or B M, F, T)
        u = self.subbands(x)  # (B or B M, Nf, T, H)
        patch_index, f = self.locate(u, visible)  # (B, [M,] V)
        decay, frequency = self.lambda_encoder(e, f)  # (B, [M,] V, H)
        m = sblu_magnitude_at(u, patch_index, decay, frequency, **self.sblu_options._asdict())  # (B, [M,] V, P / S, H)
        weights = self.mix.weight, self.norm.weight, self.norm.bias, self.decimate.weight
        z = mix_norm_decimate(m, f, *weights, num_freq=self.norm.num_groups, in_order=visible is None)  # (B, [M,] V, Z)
        return self.arrange(self.fuse(torch.cat([self.norm_e(e), self.norm_z(z.to(e.dtype))], -1)), visible)

    def context(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """Return X, at least float32 (B, F, T); with `mask_context`, zero where a view hides it (B M, F, T)."""
        x = x[:, 0].to(torch.promote_types(x.dtype, torch.float32))
        if visible is None or not self.mask_context:
            return x
        patch, num_freq = self.patch_size[0], self.grid_size[0]
        views = visible.flatten(0, -2)  # (B M, V)
        grid = x.new_zeros(views.shape[0], num_freq * (x.shape[-1] // patch)).scatter(1, views, 1.0)  # (B M, N)
        is_visible = grid.unflatten(1, (num_freq, -1)).repeat_interleave(patch, -2).repeat_interleave(patch, -1)
        return x.repeat_interleave(views.shape[0] // x.shape[0], 0) * is_visible

    def locate(self, u: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the index of each patch among those of u, and its frequency patch; both (B, [M,] V)."""
        # patch_index = (source Nf + f) Nt + t = source N + n; a source is a clip, or with `mask_context` a view
        num_sources, num_time = u.shape[0], u.shape[2] // self.patch_size[1]
        num_patches = u.shape[1] * num_time
        n = torch.arange(num_patches, device=u.device).expand(num_sources, -1) if visible is None else visible
        source = torch.arange(num_sources, device=u.device).view(n.shape[0], *[-1] * (n.ndim - 2), 1)
        return source * num_patches + n, n // num_time

    def kernels(self, spectrogram: Tensor) -> tuple[Tensor, Tensor]:
        """Return decay (nepers per frame) and frequency (radians per frame) of all kernels (B, N, H) (Figure 4)."""
        e = standard_tokens(self.pad(spectrogram), self.proj, self.pos_embed)
        f = torch.arange(self.grid_size[0], device=e.device).repeat_interleave(e.shape[1] // self.grid_size[0])
        return self.lambda_encoder(e, f.expand(e.shape[:2]))


class Subbands(nn.Conv1d):
    """B: a 1 x 1 convolution with a group per frequency patch (B', F, T) -> (B', Nf, T, H), never in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the bins of each frequency patch."""
        with torch.autocast(x.device.type, enabled=False):
            bands = x.unflatten(1, (self.groups, -1)).transpose(2, 3)  # (B', Nf, T, P)
            return bands @ self.weight.to(x.dtype).view(self.groups, -1, bands.shape[-1]).transpose(1, 2)

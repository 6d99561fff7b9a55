"""Aliasing-aware patch embedding: the standard token, and beside it what its 16-frame stride would fold (method 5)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from aape.layers.lambda_encoder import FixedLambda, LambdaEncoder, constrain
from aape.layers.patch_embed import PatchEmbed, gather_tokens
from aape.layers.transformer import NORM_EPS
from aape.ops.high_pass import high_pass
from aape.ops.sblu import PHASES, sblu_magnitude_at


class AaPE(PatchEmbed):
    """The paper's stem, under the same contract as `PatchEmbed`.

    tokens = Linear([LayerNorm(E), LayerNorm(z)]): E are the standard tokens, z what SBLU measures above the Nyquist
    frequency of the patches, with kernels that the Lambda Encoder chooses from E.

    Args:
        img_size: spectrogram (F, T) the position table is made for.
        patch_size: P.
        in_chans: must be 1.
        embed_dim: D.
        bias: whether the patch projection has one.
        adaptive: kernels per token by the Lambda Encoder; else learned per frequency patch.
        phase: "bilateral" (the paper's) or "analytic".
        kernel_size: K taps, odd.
        stride: frames between SBLU outputs: 1, 2 or 4, any divisor of P.
        hidden_dim: H, SBLU channels per frequency patch.
        sblu_dim: Z, SBLU outputs per frequency patch.
        mask_context: zero the hidden patches, per view, before the high-pass, so that nothing of them leaks.
        lambda_shape: (width, depth, heads) of the Lambda Encoder.
        decay_start: decay of all kernels above its lower bound at the start, in nepers per frame; ln 2 is a raw
            decay of 0, and near 0 the windows are as long as the taps allow.
        pos_trainable: see `PatchEmbed`.
        device: where the parameters are made.
        dtype: of the parameters.
        timm_options: see `PatchEmbed`.

    Raises:
        TypeError: an option that timm does not pass.
        ValueError: another phase, an even number of taps, a stride that does not divide the patch, a decay that is not
            positive, or as `PatchEmbed`.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = (128, 608),
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 1,
        embed_dim: int = 768,
        bias: bool = True,
        *,
        adaptive: bool = True,
        phase: str = "bilateral",
        kernel_size: int = 63,
        stride: int = 1,
        hidden_dim: int = 16,
        sblu_dim: int = 128,
        mask_context: bool = False,
        lambda_shape: tuple[int, int, int] = (128, 3, 2),
        decay_start: float = math.log(2),
        pos_trainable: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **timm_options: Any,
    ) -> None:
        super().__init__(img_size, patch_size, in_chans, embed_dim, bias, pos_trainable=pos_trainable, **timm_options)
        patch, num_freq = self.patch_size[0], self.grid_size[0]
        if phase not in PHASES:
            raise ValueError(f"phase must be one of {PHASES}, got {phase!r}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        if stride < 1 or patch % stride:
            raise ValueError(f"stride must divide the patch of {patch} frames, got {stride}")
        if not decay_start > 0:
            raise ValueError(f"decay_start must be above 0, got {decay_start}")
        self.phase, self.kernel_size, self.stride, self.mask_context = phase, kernel_size, stride, mask_context
        self.hidden_dim, self.sblu_dim = hidden_dim, sblu_dim
        self.lambda_encoder: LambdaEncoder | FixedLambda = (
            LambdaEncoder(embed_dim, hidden_dim, *lambda_shape, decay_start=decay_start)
            if adaptive
            else FixedLambda(num_freq, hidden_dim, decay_start)
        )
        # Holders of B, C, the GroupNorm's affine part and the depthwise convolution, all per frequency patch
        self.subbands = nn.Conv1d(self.img_size[0], num_freq * hidden_dim, 1, groups=num_freq, bias=False)
        self.mix = nn.Conv1d(num_freq * hidden_dim, num_freq * sblu_dim, 1, groups=num_freq, bias=False)
        self.norm = nn.GroupNorm(num_freq, num_freq * sblu_dim)
        self.decimate = nn.Conv1d(
            num_freq * sblu_dim, num_freq * sblu_dim, patch // stride, groups=num_freq * sblu_dim, bias=False
        )
        self.norm_e = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.norm_z = nn.LayerNorm(sblu_dim, eps=NORM_EPS)
        self.fuse = nn.Linear(embed_dim + sblu_dim, embed_dim)
        self.to(device=device, dtype=dtype)

    def forward(self, spectrogram: Tensor, visible: Tensor | None = None) -> Tensor:
        """Embed all patches, or the visible ones only; shapes as in `PatchEmbed.forward`."""
        spectrogram = self.pad(spectrogram)
        embedded = super().forward(spectrogram)  # E (B, N, D)
        wanted = self._wanted(embedded, visible)  # (B, M, V)
        frequency_patch = wanted // (spectrogram.shape[-1] // self.patch_size[1])
        embedded = gather_tokens(embedded, wanted)  # (B, M, V, D)
        decay, frequency = self.kernels(embedded, frequency_patch)  # (B, M, V, H)
        envelopes = self.envelopes(spectrogram, wanted)  # u (B or B M, Nf, T, H)
        z = self.measure(envelopes, decay, frequency, wanted, is_grid=visible is None)  # (B, M, V, Z)
        z = z.to(embedded.dtype)
        tokens = self.fuse(torch.cat([self.norm_e(embedded), self.norm_z(z)], -1))
        return tokens if visible is not None and visible.ndim == 3 else tokens.squeeze(1)

    def kernels(self, embedded: Tensor, frequency_patch: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the decay (nepers per frame) and frequency (radians per frame) of every kernel.

        Args:
            embedded: standard tokens E (B, M, V, D).
            frequency_patch: the row f of each (B, M, V).

        Returns:
            Two tensors (B, M, V, H), float32 or wider.
        """
        if isinstance(self.lambda_encoder, FixedLambda):
            raw = self.lambda_encoder(frequency_patch)
        else:
            raw = self.lambda_encoder(embedded.flatten(0, 1)).unflatten(0, embedded.shape[:2])
        return constrain(*raw.chunk(2, -1), patch_size=self.patch_size[0], kernel_size=self.kernel_size)

    def envelopes(self, spectrogram: Tensor, wanted: Tensor) -> Tensor:
        """Compute u = B high_pass(X): (B, Nf, T, H), or (B M, Nf, T, H) where every view hides its own patches."""
        patch, num_freq = self.patch_size[0], self.grid_size[0]
        bands = spectrogram.float() if spectrogram.dtype != torch.float64 else spectrogram
        if self.mask_context:
            num_time = spectrogram.shape[-1] // patch
            is_visible = torch.zeros(*wanted.shape[:2], num_freq * num_time, device=wanted.device, dtype=bands.dtype)
            is_visible = is_visible.scatter(-1, wanted, 1.0).view(-1, 1, num_freq, num_time)  # (B M, 1, Nf, Nt)
            keep = is_visible.repeat_interleave(patch, -2).repeat_interleave(patch, -1)
            bands = bands.repeat_interleave(wanted.shape[1], 0) * keep
        with torch.autocast(bands.device.type, enabled=False):
            filtered = high_pass(bands, patch_size=patch).view(bands.shape[0], num_freq, patch, -1)
            return filtered.transpose(2, 3) @ self._per_patch(self.subbands, filtered.dtype).transpose(1, 2)

    def measure(
        self, envelopes: Tensor, decay: Tensor, frequency: Tensor, wanted: Tensor, *, is_grid: bool = False
    ) -> Tensor:
        """Compute z = depthwise(GroupNorm(C SBLU(u))) at the wanted patches (B, M, V) -> (B, M, V, Z), in float32.

        Statistics run per clip, view and frequency patch over the wanted patches. `is_grid` says that they are all of
        the clip's, in order, which is quicker.
        """
        with torch.autocast(envelopes.device.type, enabled=False):
            num_freq, num_time = self.grid_size[0], envelopes.shape[2] // self.patch_size[1]
            view = torch.arange(wanted.shape[0] * wanted.shape[1], device=wanted.device)[:, None]  # (B M, 1)
            clip = view if self.mask_context else view // wanted.shape[1]
            patch = wanted.flatten(0, 1)  # (B M, V)
            m = sblu_magnitude_at(
                envelopes.flatten(0, 1),
                (clip * num_freq * num_time + patch).flatten(),
                decay.flatten(0, 2),
                frequency.flatten(0, 2),
                patch_size=self.patch_size[1],
                kernel_size=self.kernel_size,
                stride=self.stride,
                phase=self.phase,
            )  # (R, P / S, H), R = B M V
            row = (patch // num_time).flatten()
            plan = _Grid(num_freq, num_time) if is_grid else _Blocks(row, num_freq)
            z = self._fold(m, plan, row, (view * num_freq).expand_as(patch).flatten() + row, view.shape[0] * num_freq)
            return z.view(*wanted.shape, self.sblu_dim)

    def _fold(self, m: Tensor, plan: _Grid | _Blocks, row: Tensor, group: Tensor, num_groups: int) -> Tensor:
        """Map magnitudes m (R, Q, H) to z (R, Z), given each request's frequency patch and group of statistics (R,).

        Everything behind the modulus is linear but for the statistics, so C, the affine norm and the depthwise
        convolution act as one map (Q H -> Z) per frequency patch, and the statistics of y = C m come from the moments
        of m: (B, Nf Z, T) is never formed.
        """
        num_freq, num_out = self.grid_size[0], m.shape[1]
        mix = self._per_patch(self.mix, m.dtype)  # C (Nf, Z, H)
        taps = self._per_patch(self.decimate, m.dtype)  # (Nf, Z, Q)
        scale = self.norm.weight.to(m.dtype).view(num_freq, -1)  # (Nf, Z)
        shift = self.norm.bias.to(m.dtype).view(num_freq, -1)

        def per_group(values: Tensor) -> Tensor:  # (R, ...) -> (groups, ...), sums
            return values.new_zeros(num_groups, values.shape[1]).scatter_add(
                0, group[:, None].expand_as(values), values
            )

        shrink = _power_of_two_below(m.detach().amax((1, 2)), group, num_groups)  # (groups, 1), so no square overflows
        m = m * shrink[group, None]
        size = per_group(torch.ones_like(m[:, 0, :1])).clamp(min=1)  # (groups, 1) patches
        mean_m = per_group(m.mean(1)) / size  # (groups, H)
        mean_y = torch.einsum("gfh,fzh->gfz", mean_m.view(-1, num_freq, self.hidden_dim), mix)
        offset = (mean_y - mean_y.mean(-1, keepdim=True)).flatten(0, 1)  # of each channel from its group (groups, Z)

        centred = plan.gather((m - mean_m[group, None]).flatten(1))  # (blocks, rows, Q H)
        # A product with broadcasting: einsum makes one matrix product per (f, z) of it
        folded = (taps.transpose(1, 2)[:, :, None] * (scale[..., None] * mix).transpose(1, 2)[:, None]).flatten(1, 2)
        mapped = plan.scatter(centred @ folded[plan.row])  # by (Nf, Q H, Z): (R, Z)
        frames = centred.unflatten(-1, (num_out, -1)).flatten(1, 2)  # (blocks, rows Q, H)
        gram = (mix.transpose(1, 2) @ mix)[plan.row]  # (blocks, H, H)
        square = ((frames @ gram) * frames).view_as(centred).sum(-1, keepdim=True)  # |C m|^2 of each request
        variance = per_group(plan.scatter(square)) / (size * num_out * self.sblu_dim)
        variance = variance + offset.square().mean(-1, keepdim=True)  # (groups, 1)
        rstd = torch.rsqrt(variance + self.norm.eps * shrink.square())
        tap_sum = taps.sum(-1)  # (Nf, Z)
        constant = (offset.view(-1, num_freq, self.sblu_dim) * (scale * tap_sum)).flatten(0, 1)
        return (mapped + constant[group]) * rstd[group] + (shift * tap_sum)[row]

    def _per_patch(self, conv: nn.Conv1d, dtype: torch.dtype) -> Tensor:
        """View a grouped convolution's weight as one matrix per frequency patch (Nf, out, in)."""
        return conv.weight.to(dtype).view(self.grid_size[0], conv.out_channels // self.grid_size[0], -1)

    @staticmethod
    def _wanted(embedded: Tensor, visible: Tensor | None) -> Tensor:
        """Return token indices (B, M, V): all of them in one view where nothing is masked."""
        if visible is None:
            visible = torch.arange(embedded.shape[1], device=embedded.device).expand(embedded.shape[0], -1)
        return visible if visible.ndim == 3 else visible[:, None]


class _Grid:
    """Every patch of every clip, in order: bringing together those of a frequency patch is a transposition.

    Args:
        num_rows: Nf.
        num_time: Nt.
    """

    def __init__(self, num_rows: int, num_time: int) -> None:
        self.shape, self.row = (num_rows, num_time), slice(None)

    def gather(self, values: Tensor) -> Tensor:
        """Return (R, X) as (Nf, R / Nf, X)."""
        return values.unflatten(0, (-1, *self.shape)).transpose(0, 1).flatten(1, 2)

    def scatter(self, values: Tensor) -> Tensor:
        """Return (Nf, R / Nf, X) as (R, X)."""
        return values.unflatten(1, (-1, self.shape[1])).transpose(0, 1).flatten(0, 2)


class _Blocks:
    """Requests of the same frequency patch, brought together in blocks of 64: one matrix product per block.

    The number of blocks depends on the number of requests alone, so nothing has to be read back from the device.

    Args:
        row: the frequency patch of each request (R,).
        num_rows: Nf.
    """

    SIZE = 64

    def __init__(self, row: Tensor, num_rows: int) -> None:
        num_requests, size = row.shape[0], self.SIZE
        counts = torch.zeros(num_rows, dtype=row.dtype, device=row.device).scatter_add(0, row, torch.ones_like(row))
        blocks = (counts + size - 1) // size
        first = (blocks.cumsum(0) - blocks) * size - (counts.cumsum(0) - counts)  # slot of its first, less its rank
        order = row.argsort(stable=True)
        slot = torch.arange(num_requests, device=row.device) + first[row[order]]
        num_blocks = -(-num_requests // size) + num_rows
        self.source = slot.new_zeros(num_blocks * size).scatter(0, slot, order)  # request of each slot; 0 if empty
        self.slot = torch.zeros_like(order).scatter(0, order, slot)  # slot of each request
        each = torch.arange(num_blocks, device=row.device)
        self.row = torch.searchsorted(blocks.cumsum(0), each, right=True).clamp(max=num_rows - 1)

    def gather(self, values: Tensor) -> Tensor:
        """Return (R, X) as (blocks, 64, X)."""
        # An embedding look-up, because its backward on a CPU is several times that of index_select.
        return nn.functional.embedding(self.source, values).unflatten(0, (-1, self.SIZE))

    def scatter(self, values: Tensor) -> Tensor:
        """Return (blocks, 64, X) as (R, X)."""
        return nn.functional.embedding(self.slot, values.flatten(0, 1))


def _power_of_two_below(largest: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Return the power of two (groups, 1), at most 1, that brings the largest of each group's values (R,) below 1."""
    largest = largest.new_zeros(num_groups).scatter_reduce(0, group, largest, "amax")
    # Not frexp and ldexp, which ONNX lacks. Of a largest value of 0 the power is infinite, and clamped as well.
    return torch.exp2(-1 - torch.floor(torch.log2(largest))).clamp(max=1)[:, None]

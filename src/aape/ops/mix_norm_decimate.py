"""C, GroupNorm and the depthwise time convolution behind SBLU, as one map (Figure 3; docs/method.md 5).

All of it is linear but for the statistics of the norm. So C, the affine norm and the convolution act as one map
(Q H -> Z) per frequency patch, and the statistics of y = C m come from the moments of m: y itself, (B, Nf Z, T), is
never formed. Q = P / S is the number of outputs of SBLU in a patch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aape.ops.switches import use_reference

BLOCK = 64  # patches per matrix product
Map = Callable[[Tensor], Tensor]


def mix_norm_decimate(
    m: Tensor,
    frequency_patch: Tensor,
    mix: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    decimate: Tensor,
    *,
    num_freq: int,
    in_order: bool = False,
    eps: float = 1e-5,
) -> Tensor:
    """Compute z = depthwise(GroupNorm(C m)), with the statistics of each view and frequency patch over its patches.

    Args:
        m: SBLU's magnitudes in V patches of each view (..., V, Q, H).
        frequency_patch: f of each patch (..., V), in any order.
        mix: C, the weight of a 1 x 1 convolution with a group per frequency patch (Nf Z, H, 1).
        norm_weight: of GroupNorm with as many groups (Nf Z,).
        norm_bias: likewise.
        decimate: weight of the depthwise convolution with kernel and stride Q (Nf Z, 1, Q).
        num_freq: Nf.
        in_order: says that the patches of each view are all there are, in the order of tokens, which is quicker.
        eps: of GroupNorm.

    Returns:
        z (..., V, Z), float32 or wider; the weights are taken to its dtype.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    num_patches, num_out, hidden = m.shape[-3:]
    weights, width = (mix, norm_weight, norm_bias, decimate), len(mix)
    shapes = [tuple(weight.shape) for weight in weights]
    if shapes != [(width, hidden, 1), (width,), (width,), (width, 1, num_out)] or width % num_freq:
        raise ValueError(f"expected weights of {num_freq} groups for Q = {num_out} and H = {hidden}, got {shapes}")
    if frequency_patch.shape != m.shape[:-2] or (in_order and num_patches % num_freq):
        raise ValueError(f"frequency_patch {tuple(frequency_patch.shape)} does not fit magnitudes {tuple(m.shape)}")
    with torch.autocast(m.device.type, enabled=False):
        views = m.to(torch.promote_types(m.dtype, torch.float32)).reshape(-1, *m.shape[-3:])
        f = frequency_patch.reshape(-1, num_patches)
        per_patch = [weight.to(views.dtype).view(num_freq, -1, *weight.shape[1:]) for weight in weights]
        if use_reference.is_on:
            z = mix_norm_decimate_reference(views, f, *per_patch, eps=eps)
        else:
            z = _fold(views, f, *per_patch, eps=eps, in_order=in_order)
        return z.view(*m.shape[:-2], width // num_freq)


def mix_norm_decimate_reference(
    m: Tensor, frequency_patch: Tensor, mix: Tensor, scale: Tensor, shift: Tensor, decimate: Tensor, *, eps: float
) -> Tensor:
    """Compute the same by the plain operations, of views in one dimension (views, V, Q, H) and weights (Nf, Z, ...)."""
    z = m.new_zeros(*m.shape[:2], mix.shape[1])
    for view, f in itertools.product(range(len(m)), range(len(mix))):
        chosen = frequency_patch[view] == f
        if chosen.any():
            y = F.conv1d(m[view, chosen].flatten(0, 1).T[None], mix[f])  # one patch after the other: (1, Z, frames)
            y = F.group_norm(y, 1, scale[f], shift[f], eps)
            z[view, chosen] = F.conv1d(y, decimate[f], stride=m.shape[2], groups=mix.shape[1])[0].T
    return z


def _fold(
    m: Tensor, f: Tensor, mix: Tensor, scale: Tensor, shift: Tensor, decimate: Tensor, *, eps: float, in_order: bool
) -> Tensor:
    """Map magnitudes (views, V, Q, H) to z (views V, Z), the weights having frequency patches in front."""
    num_views, num_patches, num_out, hidden = m.shape
    num_freq, width, mix, decimate = len(mix), mix.shape[1], mix[..., 0], decimate[:, :, 0]
    m, group = m.flatten(0, 1), (torch.arange(num_views, device=m.device)[:, None] * num_freq + f).flatten()
    f = f.flatten()
    num_time = num_patches // num_freq
    together, back, f_of_block = _by_transposing(num_freq, num_time) if in_order else _by_blocks(f, num_freq)

    def per_group(values: Tensor) -> Tensor:  # sums (views V, X) -> (groups, X), a group for each view's f
        sums = values.new_zeros(num_views * num_freq, values.shape[1])
        return sums.scatter_add(0, group[:, None].expand_as(values), values)

    largest = m.detach().amax((1, 2))
    largest = largest.new_zeros(num_views * num_freq).scatter_reduce(0, group, largest, "amax")
    # A power of two, so that no square overflows. Not frexp and ldexp, which ONNX lacks; of 0 it is infinite, so 1.
    shrink = torch.exp2(-1 - torch.floor(torch.log2(largest))).clamp(max=1)[:, None]  # (groups, 1)
    m = m * shrink[group, None]
    size = per_group(torch.ones_like(m[:, 0, :1])).clamp(min=1)  # (groups, 1) patches
    mean_m = per_group(m.mean(1)) / size  # (groups, H)
    mean_y = torch.einsum("gfh,fzh->gfz", mean_m.view(-1, num_freq, hidden), mix)
    offset = (mean_y - mean_y.mean(-1, keepdim=True)).flatten(0, 1)  # of each channel from its group (groups, Z)

    centred = together((m - mean_m[group, None]).flatten(1))  # (blocks, patches, Q H)
    # A product with broadcasting: einsum makes one matrix product per (f, z) of it
    folded = (decimate.transpose(1, 2)[:, :, None] * (scale[..., None] * mix).transpose(1, 2)[:, None]).flatten(1, 2)
    mapped = back(centred @ folded[f_of_block])  # by (Nf, Q H, Z): (views V, Z)
    frames = centred.unflatten(-1, (num_out, -1)).flatten(1, 2)  # (blocks, patches Q, H)
    gram = (mix.transpose(1, 2) @ mix)[f_of_block]  # (blocks, H, H)
    square = ((frames @ gram) * frames).view_as(centred).sum(-1, keepdim=True)  # |C m|^2 of each patch
    variance = per_group(back(square)) / (size * num_out * width)
    variance = variance + offset.square().mean(-1, keepdim=True)  # (groups, 1)
    rstd = torch.rsqrt(variance + eps * shrink.square())
    decimate_sum = decimate.sum(-1)  # (Nf, Z)
    constant = (offset.view(-1, num_freq, width) * (scale * decimate_sum)).flatten(0, 1)
    return (mapped + constant[group]) * rstd[group] + (shift * decimate_sum)[f]


def _by_transposing(num_freq: int, num_time: int) -> tuple[Map, Map, Any]:
    """Bring together the patches of each frequency patch where all are in order; returns as `_by_blocks`."""

    def together(values: Tensor) -> Tensor:
        return values.unflatten(0, (-1, num_freq, num_time)).transpose(0, 1).flatten(1, 2)

    def back(values: Tensor) -> Tensor:
        return values.unflatten(1, (-1, num_time)).transpose(0, 1).flatten(0, 2)

    return together, back, slice(None)


def _by_blocks(f: Tensor, num_freq: int) -> tuple[Map, Map, Any]:
    """Return maps to blocks of one frequency patch, (patches, X) -> (blocks, 64, X), and back; and f of each block."""
    counts = torch.zeros(num_freq, dtype=f.dtype, device=f.device).scatter_add(0, f, torch.ones_like(f))
    blocks = (counts + BLOCK - 1) // BLOCK
    first = (blocks.cumsum(0) - blocks) * BLOCK - (counts.cumsum(0) - counts)  # slot of its first, less its rank
    order = f.argsort(stable=True)
    slot = torch.arange(f.shape[0], device=f.device) + first[f[order]]
    num_blocks = -(-f.shape[0] // BLOCK) + num_freq  # from sizes alone: nothing is read back from the device
    patch_in = slot.new_zeros(num_blocks * BLOCK).scatter(0, slot, order)  # each slot; 0 if empty
    slot_of = torch.zeros_like(order).scatter(0, order, slot)  # each patch
    block = torch.arange(num_blocks, device=f.device)
    f_of_block = torch.searchsorted(blocks.cumsum(0), block, right=True).clamp(max=num_freq - 1)

    def together(values: Tensor) -> Tensor:
        # An embedding look-up, because its backward on a CPU is several times that of index_select.
        return F.embedding(patch_in, values).unflatten(0, (-1, BLOCK))

    def back(values: Tensor) -> Tensor:
        return F.embedding(slot_of, values.flatten(0, 1))

    return together, back, f_of_block

"""SBLU in plain PyTorch, for every device: the two one-pole recursions of README.md, on complex numbers.

Letters: L kernels, one for each chosen patch and channel, along the last axis; W = P + 2 R window frames, Q = P / S.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aape.ops.sblu_reference import SbluOptions

KERNELS_AT_ONCE = 8192  # keeps the working set of a chunk near the size of a cache


def forward(u: Tensor, decay: Tensor, frequency: Tensor, patch_index: Tensor, *options: Any) -> Tensor:
    """Compute magnitudes (V, P / S, H); arguments as in `sblu_reference_at`."""
    patch_size, kernel_size, stride, phase = SbluOptions(*options)
    x, a, w = _flatten(u, decay, frequency, patch_index, patch_size, kernel_size // 2)
    m = x.new_empty(patch_size // stride, x.shape[1])
    for some in _chunks(x.shape[1]):
        (s,) = _sums(x[:, some], a[some], w[some], patch_size, phase, order=0)
        m[:, some] = _gain(a[some], w[some]) * s[::stride].abs()
    return m.unflatten(1, decay.shape).movedim(0, 1).to(u.dtype).contiguous()


def backward(
    grad: Tensor, u: Tensor, decay: Tensor, frequency: Tensor, patch_index: Tensor, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of u, decay and frequency; `grad` is (V, P / S, H)."""
    patch_size, kernel_size, stride, phase = SbluOptions(*options)
    radius = kernel_size // 2
    x, a, w = _flatten(u, decay, frequency, patch_index, patch_size, radius)
    grad_m = grad.to(x.dtype).movedim(1, 0).flatten(1)  # (Q, L)
    grad_x, grad_a, grad_w = torch.empty_like(x), torch.empty_like(a), torch.empty_like(w)
    for some in _chunks(x.shape[1]):
        g, gain_a, gain_w = _gain_and_gradients(a[some], w[some])
        sums = _sums(x[:, some], a[some], w[some], patch_size, phase, order=1)
        s, minus_ds_da, ds_dw = (values[::stride] for values in sums)
        modulus = s.abs()
        grad_s = torch.where(modulus == 0, 0, grad_m[:, some] * g * s / modulus)  # the subgradient 0 at 0
        grad_g = (grad_m[:, some] * modulus).sum(0)
        grad_a[some] = grad_g * gain_a - (grad_s.conj() * minus_ds_da).real.sum(0)
        grad_w[some] = grad_g * gain_w + (grad_s.conj() * ds_dw).real.sum(0)
        spread = grad_s.new_zeros(patch_size, grad_s.shape[1])
        spread[::stride] = grad_s
        grad_x[:, some] = _adjoint(spread, a[some], w[some], radius, phase)
    grad_u = _add_up(grad_x.unflatten(1, decay.shape), u.shape, patch_index, patch_size, radius)
    return grad_u.to(u.dtype), grad_a.view_as(decay).to(decay.dtype), grad_w.view_as(decay).to(decay.dtype)


def _gain(decay: Tensor, frequency: Tensor) -> Tensor:
    """Compute g = |2 sinh(lambda / 2) / lambda|, lambda = a + jw (Eq. 4), free of cancellation."""
    numerator = torch.sinh(decay / 2).square() + torch.sin(frequency / 2).square()
    return 2 * torch.sqrt(numerator / (decay.square() + frequency.square()))


def _gain_and_gradients(decay: Tensor, frequency: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return g, dg/da and dg/dw; written out, since autograd cannot record below a mode such as FlopCounterMode."""
    g, square = _gain(decay, frequency), decay.square() + frequency.square()
    numerator = torch.sinh(decay / 2).square() + torch.sin(frequency / 2).square()
    gain_a = torch.sinh(decay) / (4 * numerator) - decay / square  # d log g / da
    gain_w = torch.sin(frequency) / (4 * numerator) - frequency / square
    return g, g * gain_a, g * gain_w


def _sums(x: Tensor, a: Tensor, w: Tensor, patch: int, phase: str, order: int) -> tuple[Tensor, ...]:
    """Return s (P, L) of windows x (W, L); with `order` 1 also -ds/da and ds/dw."""
    # Both directions run side by side, y[0] forward and y[1] backward in time: y = sum_k l^k x, dy = sum_k k l^k x
    radius = (x.shape[0] - patch) // 2
    pole, last = _pole(a, w, radius)
    both = torch.stack([x, x.flip(0)], 1)  # (W, 2, L)
    y = torch.zeros_like(both[0]).to(pole.dtype)
    dy = y.clone()
    ys, dys = [], []
    for i in range(patch + radius):
        gone = both[i - radius - 1] if i > radius else None  # what the window of K frames leaves behind
        if order:
            dy = pole * (dy + y)
            if gone is not None:
                dy.addcmul_(last, gone, value=-(radius + 1))
        y = torch.addcmul(both[i], pole, y)
        if gone is not None:
            y.addcmul_(last, gone, value=-1)
        if i >= radius:
            ys.append(y)
            dys.append(dy)
    ahead, back = torch.stack(ys).unbind(1)
    ahead, back = ahead.conj() if phase == "analytic" else ahead, back.flip(0)
    s = ahead + back - x[radius : radius + patch]
    if not order:
        return (s,)
    d_ahead, d_back = torch.stack(dys).unbind(1)
    d_back = d_back.flip(0)
    if phase == "analytic":
        return s, d_ahead.conj() + d_back, 1j * (d_ahead.conj() - d_back)
    return s, d_ahead + d_back, -1j * (d_ahead + d_back)


def _adjoint(grad_s: Tensor, a: Tensor, w: Tensor, radius: int, phase: str) -> Tensor:
    """Return the gradient (W, L) of the windows: the same two recursions over the conjugate of grad_s (P, L)."""
    patch = grad_s.shape[0]
    pole, last = _pole(a, w, radius)
    backward_input = grad_s if phase == "analytic" else grad_s.conj()
    both = torch.stack([grad_s.conj(), backward_input.flip(0)], 1)  # (P, 2, L)
    y = torch.zeros_like(both[0])
    grad_x = torch.zeros(patch + 2 * radius, grad_s.shape[1], dtype=a.dtype, device=a.device)
    grad_x[radius : radius + patch] = -grad_s.real  # k = 0 is in both
    for i in range(patch + radius):
        y = torch.addcmul(both[i], pole, y) if i < patch else pole * y
        if i > radius:
            y.addcmul_(last, both[i - radius - 1], value=-1)
        grad_x[radius + i] += y[0].real
        grad_x[radius + patch - 1 - i] += y[1].real
    return grad_x


def _pole(a: Tensor, w: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Return l = exp(-(a + jw)) and l^(R + 1); the power by squaring, since rounding w (R + 1) would cost 1e-5."""
    pole = torch.polar(torch.exp(-a), -w)
    power, square, last = radius + 1, pole, torch.ones_like(pole)
    while power:
        if power & 1:
            last = last * square
        square, power = square * square, power >> 1
    return pole, last


def _flatten(
    u: Tensor, decay: Tensor, frequency: Tensor, patch_index: Tensor, patch: int, radius: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return windows (W, L), a and w (L,), in float32 or wider."""
    work = torch.promote_types(u.dtype, torch.float32)
    windows = F.pad(u.to(work), (0, 0, radius, radius)).unfold(1, patch + 2 * radius, patch)  # (B', Nt, H, W)
    x = windows.flatten(0, 1)[patch_index].permute(2, 0, 1).flatten(1)
    return x, decay.to(work).flatten(), frequency.to(work).flatten()


def _add_up(windows: Tensor, shape: torch.Size, patch_index: Tensor, patch: int, radius: int) -> Tensor:
    """Add windows (W, V, H) up into a tensor of u's shape (B', T, H)."""
    num_patches = shape[1] // patch
    reach = -(-radius // patch)  # a window, widened to whole patches, spans 2 reach + 1 of them
    wide = F.pad(windows, (0, 0, 0, 0, reach * patch - radius, reach * patch - radius))
    wide = wide.unflatten(0, (2 * reach + 1, patch)).permute(0, 2, 1, 3)  # (2 reach + 1, V, P, H)
    grad = windows.new_zeros(shape[0], num_patches + 2 * reach, patch, shape[2])
    first = patch_index // num_patches * (num_patches + 2 * reach) + patch_index % num_patches
    for shift in range(2 * reach + 1):
        grad.view(-1, patch, shape[2]).index_add_(0, first + shift, wide[shift])
    return grad[:, reach : reach + num_patches].reshape(shape).contiguous()


def _chunks(num_kernels: int) -> list[slice]:
    return [slice(start, start + KERNELS_AT_ONCE) for start in range(0, num_kernels, KERNELS_AT_ONCE)]

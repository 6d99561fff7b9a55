"""Structured Bilateral Laplace Unit: the magnitude of a bank of damped complex sinusoids (the paper's Eq. 2 to 4).

The kernel of a patch is the same for its P frames, so everything here works on lanes: one lane is one kernel and the
P + K - 1 frames it reads. Lanes are contiguous (the last axis), taps are generated once per lane, and u[n+k] +- u[n-k]
halves the multiplications. Letters: W = P + K - 1 window frames, L lanes, R = (K - 1) / 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

PHASES = ("bilateral", "analytic")
LANES_AT_ONCE = 8192  # keeps the working set of a chunk (5 P lanes of floats) near the size of a level-2 cache


def sblu_magnitude(
    u: Tensor, decay: Tensor, frequency: Tensor, *, kernel_size: int = 63, stride: int = 1, phase: str = "bilateral"
) -> Tensor:
    """Compute m[n] = g |s[n]|, s[n] = sum_{|k| <= R} E_k u[n+k] (Eq. 2 to 4), differentiable in all three inputs.

    Args:
        u: subband envelopes (B, C, T), zero outside [0, T).
        decay: a > 0 in nepers per frame (B, C, Nt), constant over the P = T / Nt frames of a patch.
        frequency: w in radians per frame (B, C, Nt).
        kernel_size: K = 2 R + 1, odd.
        stride: outputs are those at n = 0, stride, 2 stride, ...; it divides P.
        phase: "bilateral", E_k = exp(-(a + jw)|k|), the paper's; or "analytic", E_k = exp(-a|k|) exp(-jwk).

    Returns:
        Magnitudes (B, C, T // stride) in the dtype of `u`; float16 and bfloat16 are computed in float32.

    Raises:
        ValueError: if the shapes do not fit each other, or an option is out of range.
    """
    _check(u, decay, frequency, kernel_size, stride, phase)
    num_patches = decay.shape[-1]
    patch = u.shape[-1] // num_patches
    radius = kernel_size // 2
    windows = F.pad(u, (radius, radius)).unfold(-1, patch + 2 * radius, patch)  # (B, C, Nt, W)
    m = sblu_windows(windows.permute(3, 0, 1, 2), decay, frequency, patch_size=patch, stride=stride, phase=phase)
    return m.permute(1, 2, 3, 0).flatten(2)  # (P / S, B, C, Nt) -> (B, C, T / S)


def sblu_windows(
    windows: Tensor, decay: Tensor, frequency: Tensor, *, patch_size: int, stride: int = 1, phase: str = "bilateral"
) -> Tensor:
    """Compute the same magnitudes for any set of (kernel, window) pairs, such as those of visible patches only.

    Args:
        windows: (W, ...), the P frames of a patch with R frames on either side, W = P + 2 R.
        decay: a of each lane (...).
        frequency: w of each lane (...).
        patch_size: P.
        stride: one output every `stride` frames.
        phase: see `sblu_magnitude`.

    Returns:
        Magnitudes (P / S, ...) in the dtype of `windows`.
    """
    dtype = windows.dtype
    work = torch.promote_types(dtype, torch.float32)
    with torch.autocast(windows.device.type, enabled=False):
        a, w = decay.to(work), frequency.to(work)
        lanes = windows.to(work).reshape(windows.shape[0], -1).contiguous()
        modulus = _Modulus.apply(lanes, a.reshape(-1), w.reshape(-1), patch_size, stride, phase)
        return (gain(a, w) * modulus.view(-1, *a.shape)).to(dtype)


def gain(decay: Tensor, frequency: Tensor) -> Tensor:
    """Compute g = |2 sinh(lambda / 2) / lambda|, lambda = a + jw (Eq. 4), free of cancellation."""
    numerator = torch.sinh(decay / 2).square() + torch.sin(frequency / 2).square()
    return 2 * torch.sqrt(numerator / (decay.square() + frequency.square()))


class _Modulus(torch.autograd.Function):
    """|s| of every lane, and the derivatives of method 3: two more convolutions give all four of them."""

    @staticmethod
    def forward(ctx: Any, windows: Tensor, a: Tensor, w: Tensor, patch: int, stride: int, phase: str) -> Tensor:
        ctx.patch, ctx.stride, ctx.phase = patch, stride, phase
        radius = (windows.shape[0] - patch) // 2
        real = windows.new_empty(-(-patch // stride), windows.shape[1])  # (P / S, L)
        imag = torch.empty_like(real)
        for lanes in _chunks(windows.shape[1]):
            cosines, sines = _taps(a[lanes], w[lanes], radius)
            re, im = windows[radius : radius + patch : stride, lanes].clone(), torch.zeros_like(real[:, lanes])
            for k in range(1, radius + 1):
                even, odd = _fold(windows[:, lanes], k, radius, patch, stride, phase)
                re.addcmul_(even, cosines[k - 1])
                im.addcmul_(odd, sines[k - 1], value=-1)
            real[:, lanes], imag[:, lanes] = re, im
        modulus = torch.sqrt(real.square() + imag.square())
        ctx.save_for_backward(windows, a, w, real, imag, modulus)
        return modulus

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        windows, a, w, real, imag, modulus = ctx.saved_tensors
        patch, stride, phase = ctx.patch, ctx.stride, ctx.phase
        radius = (windows.shape[0] - patch) // 2
        unit = torch.where(modulus > 0, grad / modulus, 0)  # the subgradient 0 at s = 0
        grad_windows, grad_a, grad_w = torch.zeros_like(windows), torch.empty_like(a), torch.empty_like(w)
        for lanes in _chunks(windows.shape[1]):
            cosines, sines = _taps(a[lanes], w[lanes], radius)
            grad_re, grad_im = unit[:, lanes] * real[:, lanes], unit[:, lanes] * imag[:, lanes]
            sums = [torch.zeros_like(grad_re) for _ in range(2 if phase == "bilateral" else 4)]
            ahead = grad_windows[:, lanes]
            ahead[radius : radius + patch : stride] += grad_re
            for k in range(1, radius + 1):
                cosine, sine = cosines[k - 1], sines[k - 1]
                even, odd = _fold(windows[:, lanes], k, radius, patch, stride, phase)
                k_cosine, k_sine = k * cosine, k * sine
                sums[0].addcmul_(even, k_cosine)
                sums[1].addcmul_(even, k_sine)
                if phase == "analytic":
                    sums[2].addcmul_(odd, k_cosine)
                    sums[3].addcmul_(odd, k_sine)
                from_re, from_im = cosine * grad_re, sine * grad_im
                right = from_re - from_im
                ahead[radius + k : radius + k + patch : stride] += right
                ahead[radius - k : radius - k + patch : stride] += (
                    right if phase == "bilateral" else from_re.add_(from_im)
                )
            gc_even, gs_even, gc_odd, gs_odd = sums if phase == "analytic" else sums * 2
            grad_a[lanes] = (grad_im * gs_odd - grad_re * gc_even).sum(0)
            grad_w[lanes] = -(grad_re * gs_even + grad_im * gc_odd).sum(0)
        return grad_windows, grad_a, grad_w, None, None, None


def _fold(windows: Tensor, k: int, radius: int, patch: int, stride: int, phase: str) -> tuple[Tensor, Tensor]:
    """Return what multiplies the cosine and what multiplies the sine of tap k: u[n+k] + u[n-k], and +- for the sine."""
    right = windows[radius + k : radius + k + patch : stride]
    left = windows[radius - k : radius - k + patch : stride]
    even = right + left
    return even, even if phase == "bilateral" else right - left


def _taps(a: Tensor, w: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Return exp(-ak) cos(wk) and exp(-ak) sin(wk) for k = 1..R, (R, L) each.

    They are powers of exp(-a + jw), doubled up. In float64, because rounding w k at k = 63 alone would cost 1e-5.
    """
    wide = a.dtype if a.device.type == "mps" else torch.float64
    powers = torch.polar(torch.exp(-a.to(wide)), w.to(wide))[None]
    while powers.shape[0] < radius:
        powers = torch.cat([powers, powers * powers[-1]])
    powers = powers[:radius]
    return powers.real.to(a.dtype), powers.imag.to(a.dtype)


def _chunks(num_lanes: int) -> Iterator[slice]:
    for start in range(0, num_lanes, LANES_AT_ONCE):
        yield slice(start, min(start + LANES_AT_ONCE, num_lanes))


def _check(u: Tensor, decay: Tensor, frequency: Tensor, kernel_size: int, stride: int, phase: str) -> None:
    if u.ndim != 3 or decay.shape != frequency.shape or decay.ndim != 3 or decay.shape[:2] != u.shape[:2]:
        raise ValueError(
            "expected u (B, C, T) and decay, frequency (B, C, Nt), "
            f"got {tuple(u.shape)}, {tuple(decay.shape)}, {tuple(frequency.shape)}"
        )
    if decay.shape[-1] == 0 or u.shape[-1] % decay.shape[-1]:
        raise ValueError(f"{u.shape[-1]} frames do not divide into {decay.shape[-1]} patches")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
    if stride < 1 or (u.shape[-1] // decay.shape[-1]) % stride:
        raise ValueError(f"stride {stride} does not divide the patch of {u.shape[-1] // decay.shape[-1]} frames")
    if phase not in PHASES:
        raise ValueError(f"phase must be one of {PHASES}, got {phase!r}")

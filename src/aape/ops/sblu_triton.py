"""SBLU on a CUDA device: the recursions of README.md, one kernel per thread, sums in float32.

A kernel is SBLU's: one channel of one chosen patch. Neighbouring kernels are neighbouring channels, so every load of a
frame is contiguous. The number of frames per patch is known at compile time: what the anti-causal recursion computes
waits in registers for the causal one. The gradient of u is written per chosen patch and then added up in the order of
`patch_index`, without atomics, so that it is the same in every run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from aape.ops.sblu_reference import SbluOptions

KERNELS = 128  # per program, one per thread
CHANNELS = 16  # per program where windows are added up


@triton.jit
def _pole(a_ptr, w_ptr, kernel, ok, TAPS: tl.constexpr):
    """Load a kernel's decay and frequency; return them, l, l^TAPS, and what the gain and its gradient are made of."""
    a = tl.load(a_ptr + kernel, mask=ok, other=1.0).to(tl.float32)
    w = tl.load(w_ptr + kernel, mask=ok, other=1.0).to(tl.float32)
    r = tl.exp(-a)
    series = -a * (1 - a / 2 * (1 - a / 3 * (1 - a / 4 * (1 - a / 5))))
    e = tl.where(a < 0.1, series, r - 1)  # exp(-a) - 1
    s, c = tl.sin(w / 2), tl.cos(w / 2)
    lr, li = r * (1 - 2 * s * s), -2 * r * s * c
    qr, qi = tl.full(a.shape, 1.0, tl.float32), tl.full(a.shape, 0.0, tl.float32)
    pr, pi = lr, li
    for bit in tl.static_range(10):
        if (TAPS >> bit) & 1:
            qr, qi = qr * pr - qi * pi, qr * pi + qi * pr
        pr, pi = pr * pr - pi * pi, 2 * pr * pi
    n = e * e / (4 * r) + s * s  # sinh^2(a / 2) + sin^2(w / 2)
    d = a * a + w * w
    gain = 2 * tl.sqrt(n / d)
    gain_a = -e * (1 + r) / (8 * r * n) - a / d  # d log g / da
    gain_w = s * c / (2 * n) - w / d
    return lr, li, qr, qi, gain, gain_a, gain_w


@triton.jit
def _step(y_re, y_im, lr, li, x_re, x_im):
    """Return l y + x, complex."""
    return x_re + lr * y_re - li * y_im, x_im + lr * y_im + li * y_re


@triton.jit
def _frame(u_ptr, n, num_frames, num_channels, ok):
    """u[n] of every kernel, zero outside the clip."""
    return tl.load(u_ptr + n * num_channels, mask=ok & (n >= 0) & (n < num_frames), other=0.0).to(tl.float32)


@triton.jit
def _kernels(index_ptr, u_ptr, num_kernels, num_frames, num_channels, P: tl.constexpr, KERNELS: tl.constexpr):
    """Return a program's kernels: number, whether it exists, channel, first frame of its patch, frame 0 of its u."""
    kernel = tl.program_id(0).to(tl.int64) * KERNELS + tl.arange(0, KERNELS)
    ok = kernel < num_kernels
    index = tl.load(index_ptr + kernel // num_channels, mask=ok, other=0)
    channel = kernel % num_channels
    frames_ptr = u_ptr + index // (num_frames // P) * num_frames * num_channels + channel
    return kernel, ok, channel, index % (num_frames // P) * P, frames_ptr


@triton.jit
def _advance(re, im, d_re, d_im, x, gone, lr, li, qr, qi, R: tl.constexpr, ORDER: tl.constexpr):
    """Take frame x into y = sum l^k x, with ORDER 1 also y' = sum k l^k x, and let go of the one R + 1 before."""
    if ORDER:
        d_re, d_im = _step(d_re + re, d_im + im, lr, li, -(R + 1) * qr * gone, -(R + 1) * qi * gone)
    re, im = _step(re, im, lr, li, x - qr * gone, -qi * gone)
    return re, im, d_re, d_im


@triton.jit
def _run_up(
    u_ptr, first, num_frames, num_channels, ok, lr, li,
    R: tl.constexpr, DIRECTION: tl.constexpr, ORDER: tl.constexpr, KERNELS: tl.constexpr,
):  # fmt: skip
    """Sum over the R frames in front of a patch, from `first` on: y and y', from zero."""
    re, im = tl.zeros([KERNELS], tl.float32), tl.zeros([KERNELS], tl.float32)
    d_re, d_im = tl.zeros([KERNELS], tl.float32), tl.zeros([KERNELS], tl.float32)
    for i in range(R):
        x = _frame(u_ptr, first + DIRECTION * i, num_frames, num_channels, ok)
        if ORDER:
            d_re, d_im = _step(d_re + re, d_im + im, lr, li, 0.0, 0.0)
        re, im = _step(re, im, lr, li, x, 0.0)
    return re, im, d_re, d_im


@triton.jit
def _forward(
    u_ptr, a_ptr, w_ptr, index_ptr, m_ptr, num_kernels, num_frames, num_channels,
    P: tl.constexpr, R: tl.constexpr, S: tl.constexpr, ANALYTIC: tl.constexpr, KERNELS: tl.constexpr,
):  # fmt: skip
    kernel, ok, channel, start, u_ptr = _kernels(index_ptr, u_ptr, num_kernels, num_frames, num_channels, P, KERNELS)
    lr, li, qr, qi, gain, _, _ = _pole(a_ptr, w_ptr, kernel, ok, R + 1)
    zero = tl.zeros([KERNELS], tl.float32)

    re, im, _, _ = _run_up(u_ptr, start + P + R - 1, num_frames, num_channels, ok, lr, li, R, -1, 0, KERNELS)
    later_re, later_im = (), ()  # C[P - 1], ..., C[0]
    for i in tl.static_range(P):
        x = _frame(u_ptr, start + P - 1 - i, num_frames, num_channels, ok)
        gone = _frame(u_ptr, start + P + R - i, num_frames, num_channels, ok) if i > 0 else zero
        re, im, _, _ = _advance(re, im, zero, zero, x, gone, lr, li, qr, qi, R, 0)
        later_re, later_im = later_re + (re,), later_im + (im,)  # noqa: RUF005

    re, im, _, _ = _run_up(u_ptr, start - R, num_frames, num_channels, ok, lr, li, R, 1, 0, KERNELS)
    m_ptr += kernel // num_channels * (P // S) * num_channels + channel
    for n in tl.static_range(P):
        x = _frame(u_ptr, start + n, num_frames, num_channels, ok)
        gone = _frame(u_ptr, start + n - R - 1, num_frames, num_channels, ok) if n > 0 else zero
        re, im, _, _ = _advance(re, im, zero, zero, x, gone, lr, li, qr, qi, R, 0)
        if n % S == 0:
            s_re = re + later_re[P - 1 - n] - x
            s_im = later_im[P - 1 - n] - im if ANALYTIC else later_im[P - 1 - n] + im
            m = gain * tl.sqrt(s_re * s_re + s_im * s_im)
            tl.store(m_ptr + n // S * num_channels, m.to(m_ptr.dtype.element_ty), mask=ok)


@triton.jit
def _gradients(
    grad_ptr, u_ptr, a_ptr, w_ptr, index_ptr, g_re_ptr, g_im_ptr, grad_a_ptr, grad_w_ptr,
    num_kernels, num_frames, num_channels,
    P: tl.constexpr, R: tl.constexpr, S: tl.constexpr, ANALYTIC: tl.constexpr, KERNELS: tl.constexpr,
):  # fmt: skip
    """Write G = dL/ds at the outputs, and the gradients of decay and frequency."""
    kernel, ok, channel, start, u_ptr = _kernels(index_ptr, u_ptr, num_kernels, num_frames, num_channels, P, KERNELS)
    lr, li, qr, qi, gain, gain_a, gain_w = _pole(a_ptr, w_ptr, kernel, ok, R + 1)
    sign: tl.constexpr = -1 if ANALYTIC else 1  # A enters s conjugated in the analytic phase
    zero = tl.zeros([KERNELS], tl.float32)

    re, im, d_re, d_im = _run_up(u_ptr, start + P + R - 1, num_frames, num_channels, ok, lr, li, R, -1, 1, KERNELS)
    later_re, later_im, later_d_re, later_d_im = (), (), (), ()  # C and C', from the last frame to the first
    for i in tl.static_range(P):
        x = _frame(u_ptr, start + P - 1 - i, num_frames, num_channels, ok)
        gone = _frame(u_ptr, start + P + R - i, num_frames, num_channels, ok) if i > 0 else zero
        re, im, d_re, d_im = _advance(re, im, d_re, d_im, x, gone, lr, li, qr, qi, R, 1)
        later_re, later_im = later_re + (re,), later_im + (im,)  # noqa: RUF005
        later_d_re, later_d_im = later_d_re + (d_re,), later_d_im + (d_im,)  # noqa: RUF005

    re, im, d_re, d_im = _run_up(u_ptr, start - R, num_frames, num_channels, ok, lr, li, R, 1, 1, KERNELS)
    outputs = kernel // num_channels * (P // S) * num_channels + channel
    grad_a, grad_w = tl.zeros([KERNELS], tl.float32), tl.zeros([KERNELS], tl.float32)
    for n in tl.static_range(P):  # A, A', and with them s and its gradient G
        x = _frame(u_ptr, start + n, num_frames, num_channels, ok)
        gone = _frame(u_ptr, start + n - R - 1, num_frames, num_channels, ok) if n > 0 else zero
        re, im, d_re, d_im = _advance(re, im, d_re, d_im, x, gone, lr, li, qr, qi, R, 1)
        if n % S == 0:
            at = outputs + n // S * num_channels
            s_re, s_im = re + later_re[P - 1 - n] - x, sign * im + later_im[P - 1 - n]
            modulus = tl.sqrt(s_re * s_re + s_im * s_im)
            grad_m = gain * tl.load(grad_ptr + at, mask=ok, other=0.0).to(tl.float32)
            unit = grad_m / tl.where(modulus == 0, 1.0, modulus)  # the subgradient 0 at s = 0
            grad_re, grad_im = unit * s_re, unit * s_im
            c_re, c_im = later_d_re[P - 1 - n], later_d_im[P - 1 - n]
            grad_a += grad_m * modulus * gain_a - grad_re * (d_re + c_re) - grad_im * (sign * d_im + c_im)
            grad_w += grad_m * modulus * gain_w + grad_re * (d_im + c_im) - grad_im * (sign * d_re + c_re)
            tl.store(g_re_ptr + at, grad_re, mask=ok)
            tl.store(g_im_ptr + at, grad_im, mask=ok)
    tl.store(grad_a_ptr + kernel, grad_a.to(grad_a_ptr.dtype.element_ty), mask=ok)
    tl.store(grad_w_ptr + kernel, grad_w.to(grad_w_ptr.dtype.element_ty), mask=ok)


@triton.jit
def _adjoint(
    g_re_ptr, g_im_ptr, a_ptr, w_ptr, grad_x_ptr, num_kernels, num_channels,
    P: tl.constexpr, R: tl.constexpr, S: tl.constexpr, ANALYTIC: tl.constexpr, KERNELS: tl.constexpr,
):  # fmt: skip
    """Write each window's gradient, du[n] = Re sum_k conj(G[n-k]) E_k: forward in time, then backward."""
    kernel = tl.program_id(0).to(tl.int64) * KERNELS + tl.arange(0, KERNELS)
    ok = kernel < num_kernels
    channel = kernel % num_channels
    g_re_ptr += kernel // num_channels * (P // S) * num_channels + channel
    g_im_ptr += kernel // num_channels * (P // S) * num_channels + channel
    grad_x_ptr += kernel // num_channels * (P + 2 * R) * num_channels + channel
    lr, li, qr, qi, _, _, _ = _pole(a_ptr, w_ptr, kernel, ok, R + 1)
    sign: tl.constexpr = -1 if ANALYTIC else 1

    re, im = tl.zeros([KERNELS], tl.float32), tl.zeros([KERNELS], tl.float32)
    for n in range(P + R):
        x_re, x_im = _output(g_re_ptr, g_im_ptr, n, num_channels, ok, P, S)
        gone_re, gone_im = _output(g_re_ptr, g_im_ptr, n - R - 1, num_channels, ok, P, S)
        re, im = _step(re, im, lr, li, x_re - qr * gone_re - qi * gone_im, -x_im - qi * gone_re + qr * gone_im)
        tl.store(grad_x_ptr + (R + n) * num_channels, re - x_re, mask=ok)  # k = 0 is in both directions
    re, im = tl.zeros([KERNELS], tl.float32), tl.zeros([KERNELS], tl.float32)
    for i in range(P + R):
        n = P - 1 - i
        x_re, x_im = _output(g_re_ptr, g_im_ptr, n, num_channels, ok, P, S)
        gone_re, gone_im = _output(g_re_ptr, g_im_ptr, n + R + 1, num_channels, ok, P, S)
        x_im, gone_im = sign * x_im, sign * gone_im
        re, im = _step(re, im, lr, li, x_re - qr * gone_re - qi * gone_im, -x_im - qi * gone_re + qr * gone_im)
        at = grad_x_ptr + (R + n) * num_channels
        tl.store(at, re + tl.load(at, mask=ok & (n >= 0), other=0.0), mask=ok)  # what this thread wrote above


@triton.jit
def _output(g_re_ptr, g_im_ptr, n, num_channels, ok, P: tl.constexpr, S: tl.constexpr):
    """G[n] of every kernel, zero where frame n has no output."""
    ok = ok & (n >= 0) & (n < P) & (n % S == 0)
    at = n // S * num_channels
    return tl.load(g_re_ptr + at, mask=ok, other=0.0), tl.load(g_im_ptr + at, mask=ok, other=0.0)


@triton.jit
def _add_up(
    grad_x_ptr, order_ptr, sorted_ptr, first_ptr, grad_u_ptr, num_patches, num_channels,
    P: tl.constexpr, P_POWER: tl.constexpr, R: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sum, for one patch of u, the windows of all chosen patches that reach it, in the order of `patch_index`."""
    patch = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    frame = tl.arange(0, P_POWER)[:, None]
    reach: tl.constexpr = (R + P - 1) // P
    t = patch % num_patches
    first = tl.load(first_ptr + patch - tl.minimum(reach, t))
    last = tl.load(first_ptr + patch + 1 + tl.minimum(reach, num_patches - 1 - t))
    total = tl.zeros([P_POWER, CHANNELS], tl.float32)
    for j in range(first, last):
        chosen = tl.load(order_ptr + j)
        i = frame + R + (patch - tl.load(sorted_ptr + j)) * P  # of this patch's frames in that window
        ok = (frame < P) & (i >= 0) & (i < P + 2 * R) & (channel < num_channels)
        total += tl.load(grad_x_ptr + (chosen * (P + 2 * R) + i) * num_channels + channel, mask=ok, other=0.0)
    at = grad_u_ptr + (patch * P + frame) * num_channels + channel
    tl.store(at, total.to(grad_u_ptr.dtype.element_ty), mask=(frame < P) & (channel < num_channels))


def forward(u: Tensor, decay: Tensor, frequency: Tensor, patch_index: Tensor, *options: Any) -> Tensor:
    """Compute magnitudes (V, P / S, H); arguments as in `sblu_reference_at`."""
    patch_size, kernel_size, stride, phase = SbluOptions(*options)
    u, decay, frequency, patch_index = (x.contiguous() for x in (u, decay, frequency, patch_index))
    m = u.new_empty(len(patch_index), patch_size // stride, u.shape[2])
    if m.numel():
        _forward[(triton.cdiv(decay.numel(), KERNELS),)](
            u, decay, frequency, patch_index, m, decay.numel(), u.shape[1], u.shape[2],
            P=patch_size, R=kernel_size // 2, S=stride, ANALYTIC=phase == "analytic", KERNELS=KERNELS,
        )  # fmt: skip
    return m


def backward(
    grad: Tensor, u: Tensor, decay: Tensor, frequency: Tensor, patch_index: Tensor, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of u, decay and frequency; `grad` is (V, P / S, H)."""
    patch_size, kernel_size, stride, phase = SbluOptions(*options)
    grad, u, decay, frequency, patch_index = (x.contiguous() for x in (grad, u, decay, frequency, patch_index))
    batch, num_frames, num_channels = u.shape
    num_patches, radius = num_frames // patch_size, kernel_size // 2
    if not decay.numel():
        return torch.zeros_like(u), torch.zeros_like(decay), torch.zeros_like(frequency)
    grad_u, grad_a, grad_w = torch.empty_like(u), torch.empty_like(decay), torch.empty_like(frequency)
    g_re, g_im = (torch.empty(grad.shape, dtype=torch.float32, device=u.device) for _ in range(2))
    shape = (len(patch_index), patch_size + 2 * radius, num_channels)
    grad_x = torch.empty(shape, dtype=torch.float32, device=u.device)
    grid = (triton.cdiv(decay.numel(), KERNELS),)
    constants = {"P": patch_size, "R": radius, "S": stride, "ANALYTIC": phase == "analytic", "KERNELS": KERNELS}
    _gradients[grid](
        grad, u, decay, frequency, patch_index, g_re, g_im, grad_a, grad_w,
        decay.numel(), num_frames, num_channels, **constants,
    )  # fmt: skip
    _adjoint[grid](g_re, g_im, decay, frequency, grad_x, decay.numel(), num_channels, **constants)
    in_order, order = patch_index.sort(stable=True)
    first = torch.searchsorted(in_order, torch.arange(batch * num_patches + 1, device=u.device))
    _add_up[(batch * num_patches, triton.cdiv(num_channels, CHANNELS))](
        grad_x, order, in_order, first, grad_u, num_patches, num_channels,
        P=patch_size, P_POWER=triton.next_power_of_2(patch_size), R=radius, CHANNELS=CHANNELS,
    )  # fmt: skip
    return grad_u, grad_a, grad_w

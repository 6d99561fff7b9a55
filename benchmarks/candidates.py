"""Other ways to compute SBLU in plain PyTorch: what the package's forms are measured against.

All take u (B, C, T), decay and frequency (B, C, Nt), and return magnitudes (B, C, T). Gradients are autograd's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def naive(u: Tensor, decay: Tensor, frequency: Tensor, kernel_size: int, phase: str) -> Tensor:
    """Write the equation over (B, C, T, K): the yardstick of the speed-ups."""
    radius, patch = kernel_size // 2, u.shape[-1] // decay.shape[-1]
    a, w = decay.repeat_interleave(patch, -1), frequency.repeat_interleave(patch, -1)
    k = torch.arange(-radius, radius + 1, dtype=u.dtype)
    kernel = torch.exp(-a[..., None] * k.abs() - 1j * w[..., None] * (k.abs() if phase == "bilateral" else k))
    s = (kernel * F.pad(u, (radius, radius)).unfold(-1, kernel_size, 1)).sum(-1)
    return s.abs() * torch.sqrt(2 * (torch.cosh(a) - torch.cos(w)) / (a * a + w * w))


def unfold(u: Tensor, decay: Tensor, frequency: Tensor, kernel_size: int, phase: str) -> Tensor:
    """Taps once per patch, one small matrix product per channel and patch over the unfolded input."""
    radius, patch = kernel_size // 2, u.shape[-1] // decay.shape[-1]
    frames = F.pad(u, (radius, radius)).unfold(-1, kernel_size, 1).unflatten(2, (-1, patch))  # (B, C, Nt, P, K)
    s = frames @ torch.stack(_taps(decay, frequency, kernel_size, phase), -1)  # (B, C, Nt, P, 2)
    return _magnitude(s[..., 0], s[..., 1], decay, frequency)


def grouped_convolution(u: Tensor, decay: Tensor, frequency: Tensor, kernel_size: int, phase: str) -> Tensor:
    """Taps once per patch, one convolution with a group per channel and patch."""
    windows = _windows(u, decay, kernel_size)  # (B, C, Nt, W)
    kernels = decay.numel()
    taps = torch.stack(_taps(decay, frequency, kernel_size, phase), -2).reshape(2 * kernels, 1, kernel_size)
    s = F.conv1d(windows.reshape(1, kernels, -1), taps, groups=kernels).view(*decay.shape, 2, -1)
    return _magnitude(s[..., 0, :], s[..., 1, :], decay, frequency)


def fft(u: Tensor, decay: Tensor, frequency: Tensor, kernel_size: int, phase: str) -> Tensor:
    """Taps once per patch, correlation as a product of spectra."""
    windows = _windows(u, decay, kernel_size)
    num = windows.shape[-1]
    patch = num - kernel_size + 1
    spectrum = torch.fft.rfft(windows, num)
    parts = [
        torch.fft.irfft(spectrum * torch.fft.rfft(taps, num).conj(), num)[..., :patch]
        for taps in _taps(decay, frequency, kernel_size, phase)
    ]
    return _magnitude(*parts, decay, frequency)


def taps_per_patch(u: Tensor, decay: Tensor, frequency: Tensor, kernel_size: int, phase: str) -> Tensor:
    """Taps once per patch, a loop over taps with neighbouring kernels contiguous."""
    windows = _windows(u, decay, kernel_size).permute(3, 0, 1, 2).contiguous()  # (W, B, C, Nt)
    patch = windows.shape[0] - kernel_size + 1
    real = imag = torch.zeros((), dtype=u.dtype)
    for k, (cosine, sine) in enumerate(
        zip(*(x.unbind(-1) for x in _taps(decay, frequency, kernel_size, phase)), strict=True)
    ):
        real = torch.addcmul(real, windows[k : k + patch], cosine)
        imag = torch.addcmul(imag, windows[k : k + patch], sine)
    return _magnitude(real.movedim(0, -1), imag.movedim(0, -1), decay, frequency)


def even_odd(u: Tensor, decay: Tensor, frequency: Tensor, kernel_size: int, phase: str) -> Tensor:
    """The same, with u[n+k] +- u[n-k] folded first: half the multiplications."""
    radius = kernel_size // 2
    windows = _windows(u, decay, kernel_size).permute(3, 0, 1, 2).contiguous()
    patch = windows.shape[0] - kernel_size + 1
    real, imag = windows[radius : radius + patch], torch.zeros((), dtype=u.dtype)
    cosines, sines = (x.unbind(-1) for x in _taps(decay, frequency, kernel_size, phase))
    for k in range(1, radius + 1):
        right, left = windows[radius + k : radius + k + patch], windows[radius - k : radius - k + patch]
        even = right + left
        odd = even if phase == "bilateral" else right - left
        real = torch.addcmul(real, even, cosines[radius + k])
        imag = torch.addcmul(imag, odd, sines[radius + k])
    return _magnitude(real.movedim(0, -1), imag.movedim(0, -1), decay, frequency)


def _taps(decay: Tensor, frequency: Tensor, kernel_size: int, phase: str) -> tuple[Tensor, Tensor]:
    """Return the real and imaginary parts of E_k, (..., K)."""
    k = torch.arange(kernel_size, dtype=decay.dtype) - kernel_size // 2
    envelope = torch.exp(-decay[..., None] * k.abs())
    angle = frequency[..., None] * (k.abs() if phase == "bilateral" else k)
    return envelope * torch.cos(angle), -envelope * torch.sin(angle)


def _windows(u: Tensor, decay: Tensor, kernel_size: int) -> Tensor:
    patch, radius = u.shape[-1] // decay.shape[-1], kernel_size // 2
    return F.pad(u, (radius, radius)).unfold(-1, patch + 2 * radius, patch)


def _magnitude(real: Tensor, imag: Tensor, decay: Tensor, frequency: Tensor) -> Tensor:
    gain = torch.sqrt(2 * (torch.cosh(decay) - torch.cos(frequency)) / (decay.square() + frequency.square()))
    return (gain[..., None] * torch.hypot(real, imag)).flatten(2)

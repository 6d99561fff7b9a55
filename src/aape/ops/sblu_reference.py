"""SBLU written as its equation: the judge of every faster form, and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sblu_reference(
    u: Tensor, decay: Tensor, frequency: Tensor, *, kernel_size: int = 63, stride: int = 1, phase: str = "bilateral"
) -> Tensor:
    """Compute m[n] = g |sum_k E_k u[n+k]| tap by tap (Eq. 2 to 4).

    Args:
        u: subband envelopes (B, C, T), zero outside [0, T).
        decay: a > 0 in nepers per frame (B, C, Nt), constant over a patch of T / Nt frames.
        frequency: w in radians per frame (B, C, Nt).
        kernel_size: K, odd.
        stride: outputs are those at n = 0, stride, 2 stride, ...
        phase: "bilateral", E_k = exp(-(a + jw)|k|), or "analytic", E_k = exp(-a|k|) exp(-jwk).

    Returns:
        Magnitudes (B, C, T // stride).
    """
    radius, num_frames = kernel_size // 2, u.shape[-1]
    a = decay.repeat_interleave(num_frames // decay.shape[-1], -1)  # (B, C, T)
    w = frequency.repeat_interleave(num_frames // frequency.shape[-1], -1)
    padded = F.pad(u, (radius, radius))
    real = imaginary = torch.zeros_like(u)  # of s; apart, because ONNX has no complex numbers
    for k in range(-radius, radius + 1):
        angle = w * (abs(k) if phase == "bilateral" else k)
        damped = torch.exp(-a * abs(k)) * padded[..., radius + k : radius + k + num_frames]
        real, imaginary = real + damped * torch.cos(angle), imaginary - damped * torch.sin(angle)
    gain = torch.sqrt(2 * (torch.cosh(a) - torch.cos(w)) / (a * a + w * w))  # |2 sinh(lambda/2) / lambda|
    return (gain * torch.complex(real, imaginary).abs())[..., ::stride]


def sblu_reference_at(
    u: Tensor,
    decay: Tensor,
    frequency: Tensor,
    requests: Tensor,
    patch_size: int,
    kernel_size: int,
    stride: int,
    phase: str,
) -> Tensor:
    """Compute (R, P / S, H) at requests (R,) of u (B', T, H): each window is a clip of one patch."""
    radius = kernel_size // 2
    windows = F.pad(u, (0, 0, radius, radius)).unfold(1, patch_size + 2 * radius, patch_size)  # (B', Nt, H, W)
    windows = windows.flatten(0, 1)[requests]  # (R, H, W)
    m = sblu_reference(windows, decay[..., None], frequency[..., None], kernel_size=kernel_size, phase=phase)
    return m[..., radius : radius + patch_size : stride].transpose(1, 2)

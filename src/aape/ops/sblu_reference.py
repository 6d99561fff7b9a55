"""SBLU as the paper writes it (Eq. 2 to 4; docs/method.md 3): the judge of every faster form, and no more."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

PHASES = ("bilateral", "analytic")


class SbluOptions(NamedTuple):
    """What the forms of SBLU take beside tensors: P, K = 2 R + 1, the frames between outputs, and the phase of E_k."""

    patch_size: int
    kernel_size: int
    stride: int
    phase: str

    def check(self) -> SbluOptions:
        """Return the options, or raise ValueError where one is out of range."""
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {self.kernel_size}")
        if self.stride < 1 or self.patch_size % self.stride:
            raise ValueError(f"stride {self.stride} does not divide the patch of {self.patch_size} frames")
        if self.phase not in PHASES:
            raise ValueError(f"phase must be one of {PHASES}, got {self.phase!r}")
        return self


def sblu_reference(
    u: Tensor, decay: Tensor, frequency: Tensor, *, kernel_size: int = 63, stride: int = 1, phase: str = "bilateral"
) -> Tensor:
    """Compute m[n] = g |sum_k E_k u[n+k]| tap by tap; arguments and result as in `aape.ops.sblu_magnitude`."""
    radius, num_frames = kernel_size // 2, u.shape[-1]
    a = decay.repeat_interleave(num_frames // decay.shape[-1], -1)  # (B, C, T)
    w = frequency.repeat_interleave(num_frames // frequency.shape[-1], -1)
    padded = F.pad(u, (radius, radius))
    real = imaginary = torch.zeros_like(u)  # of s (Eq. 2); apart, because ONNX has no complex numbers
    for k in range(-radius, radius + 1):
        angle = w * (abs(k) if phase == "bilateral" else k)
        damped = torch.exp(-a * abs(k)) * padded[..., radius + k : radius + k + num_frames]
        real, imaginary = real + damped * torch.cos(angle), imaginary - damped * torch.sin(angle)
    gain = torch.sqrt(2 * (torch.cosh(a) - torch.cos(w)) / (a * a + w * w))  # |2 sinh(lambda/2) / lambda| (Eq. 4)
    return (gain * torch.complex(real, imaginary).abs())[..., ::stride]  # (Eq. 3)


def sblu_reference_at(u: Tensor, decay: Tensor, frequency: Tensor, patch_index: Tensor, *options: Any) -> Tensor:
    """Compute (V, P / S, H) at patches (V,) of u (B', T, H): the window of each is a clip of one patch."""
    patch_size, kernel_size, stride, phase = SbluOptions(*options)
    radius = kernel_size // 2
    windows = F.pad(u, (0, 0, radius, radius)).unfold(1, patch_size + 2 * radius, patch_size)  # (B', Nt, H, P + 2 R)
    windows = windows.flatten(0, 1)[patch_index]  # (V, H, P + 2 R)
    m = sblu_reference(windows, decay[..., None], frequency[..., None], kernel_size=kernel_size, phase=phase)
    return m[..., radius : radius + patch_size : stride].transpose(1, 2)

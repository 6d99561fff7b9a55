"""The zero-phase high-pass in front of SBLU (Figure 3; docs/method.md 5): what a patch cannot represent, no more."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from aape.ops.switches import exportable, use_reference

BLOCK = 64  # frames per matrix product


def high_pass(x: Tensor, *, patch_size: int = 16, taps: int = 63) -> Tensor:
    """Filter along time with a Hamming FIR of cut-off pi / patch_size, applied forward and backward.

    Equal to `scipy.signal.filtfilt(firwin(taps, 1 / patch_size, pass_zero=False), [1.0], x, padlen=taps - 1)` for
    T >= taps; a shorter input is extended by the T - 1 frames there are.

    Args:
        x: any real tensor (..., T), T >= 1.
        patch_size: frames per patch, P.
        taps: length of the filter, odd.

    Returns:
        The filtered tensor (..., T) in the dtype of `x`; float16 and bfloat16 are computed in float32.
    """
    with torch.autocast(x.device.type, enabled=False):
        rows = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(-1, x.shape[-1])
        kernel = torch.tensor(_impulse_response(patch_size, taps), dtype=rows.dtype).to(x.device, non_blocking=True)
        if use_reference.is_on:
            filtered = high_pass_reference(rows, kernel)
        elif exportable.is_on or x.shape[-1] < taps:
            filtered = _any_length(rows, kernel)
        else:  # long enough that neither pass sees a frame beyond the extension: both are one filter
            twice = F.conv1d(kernel[None, None], kernel[None, None], padding=taps - 1).flatten()
            filtered = _correlate(_extend(rows, taps - 1), twice)
    return filtered.reshape(x.shape).to(x.dtype)


def high_pass_reference(rows: Tensor, kernel: Tensor) -> Tensor:
    """Filter rows (N, T) by a symmetric kernel (K,) as filtfilt does: extended, forward in time, backward, and cut."""
    pad = min(len(kernel), rows.shape[1]) - 1
    y = _extend(rows, pad)[:, None]
    for _ in range(2):  # a pass starts as if its first frame had always been there
        y = F.conv1d(F.pad(y, (len(kernel) - 1, 0), mode="replicate"), kernel[None, None]).flip(-1)
    return y[:, 0, pad : pad + rows.shape[1]]


def _extend(rows: Tensor, pad: int) -> Tensor:
    """Put the first and last `pad` frames in front and behind, turned about the ends (N, T) -> (N, T + 2 pad)."""
    left = 2 * rows[:, :1] - rows[:, 1 : pad + 1].flip(-1)
    right = 2 * rows[:, -1:] - rows[:, rows.shape[1] - 1 - pad : -1].flip(-1)
    return torch.cat([left, rows, right], -1)


def _any_length(rows: Tensor, kernel: Tensor) -> Tensor:
    """Filter rows (N, T) in two passes without branching on T, so that one graph holds for every length."""
    reach = kernel.shape[0] - 1
    last = torch.ones_like(rows[0], dtype=torch.int64).sum() - 1  # T - 1, as a tensor
    pad = last.clamp(max=reach)
    frames = torch.arange(-2 * reach, rows.shape[-1] + reach, device=rows.device)
    # Beyond its extension of `pad` frames a row stays at its last value, and so does what the first pass gives
    frames = frames.maximum(-pad).minimum(last + pad)
    mirrored = last - (last - frames.abs()).abs()
    before, after = (frames < 0).to(rows.dtype), (frames > last).to(rows.dtype)
    extended = rows[:, mirrored] * (1 - 2 * (before + after)) + 2 * (rows[:, :1] * before + rows[:, -1:] * after)
    forward = _correlate(extended, kernel)  # from -reach on
    frames = torch.arange(rows.shape[-1] + reach, device=rows.device).minimum(last + pad)
    return _correlate(forward[:, frames + reach], kernel)


def _correlate(rows: Tensor, kernel: Tensor) -> Tensor:
    """Return sum_k kernel[k] rows[n + k] where all taps fit, as a product with a banded matrix per block of frames."""
    # Not a convolution, which with one channel in and one out is 20 times slower on a CPU
    taps, num_out = kernel.shape[0], rows.shape[-1] - kernel.shape[0] + 1
    band = F.pad(kernel, (BLOCK - 1, BLOCK - 1)).unfold(0, BLOCK, 1).flip(-1)  # (BLOCK + taps - 1, BLOCK)
    windows = F.pad(rows, (0, -num_out % BLOCK)).unfold(-1, BLOCK + taps - 1, BLOCK)
    # Flattened, as else there is a product for each row
    return (windows.flatten(0, 1) @ band).view(*windows.shape[:2], BLOCK).flatten(1)[:, :num_out]


def _impulse_response(patch_size: int, taps: int) -> list[float]:
    """Return `scipy.signal.firwin(taps, 1 / patch_size, pass_zero=False)`: windowed sinc, gain 1 at the Nyquist."""
    if taps % 2 == 0 or taps < 3:
        raise ValueError(f"taps must be odd and at least 3, got {taps}")
    h = []
    for k in range(taps):
        n = k - (taps - 1) / 2
        low = math.sin(math.pi * n / patch_size) / (math.pi * n) if n else 1 / patch_size
        hamming = 0.54 - 0.46 * math.cos(2 * math.pi * k / (taps - 1))
        h.append(((n == 0) - low) * hamming)
    gain = sum(value * (-1) ** (k - taps // 2) for k, value in enumerate(h))
    return [value / gain for value in h]

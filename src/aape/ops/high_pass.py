"""The zero-phase high-pass in front of SBLU (method 5): what a 16-frame patch cannot represent, and nothing else."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from aape.ops.sblu import is_reference_used

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
    dtype, num_frames = x.dtype, x.shape[-1]
    with torch.autocast(x.device.type, enabled=False):
        work = x.to(torch.promote_types(dtype, torch.float32))
        kernel = torch.tensor(_impulse_response(patch_size, taps), dtype=work.dtype, device=x.device)
        rows = work.reshape(-1, num_frames)
        if is_reference_used():
            return _forward_and_backward(rows, kernel).reshape(x.shape).to(dtype)
        pad = min(taps - 1, num_frames - 1)
        left = 2 * rows[..., :1] - rows[..., 1 : pad + 1].flip(-1)  # odd extension, as filtfilt does
        right = 2 * rows[..., -1:] - rows[..., num_frames - 1 - pad : -1].flip(-1)
        extended = torch.cat([left, rows, right], -1)
        if pad == taps - 1:  # long enough that neither pass sees a frame beyond the extension: both are one filter
            twice = F.conv1d(kernel[None, None], kernel.flip(0)[None, None], padding=taps - 1).flatten()
            both = _correlate(extended, twice)
        else:
            forward = _correlate(F.pad(extended, (taps - 1, 0), mode="replicate"), kernel.flip(0))
            both = _correlate(F.pad(forward, (0, taps - 1), mode="replicate"), kernel)[..., pad : pad + num_frames]
    return both.reshape(x.shape).to(dtype)


def _forward_and_backward(rows: Tensor, kernel: Tensor) -> Tensor:
    """Filter rows (R, T) in two passes, without a question about T: one graph holds for every length.

    Beyond its odd extension of `pad` frames a row stays at its last value, and so does what the first pass gives: so
    filtfilt starts its passes.
    """
    reach = kernel.shape[0] - 1
    last = torch.ones_like(rows[0], dtype=torch.int64).sum() - 1  # T - 1, as a tensor
    pad = last.clamp(max=reach)
    places = torch.arange(-2 * reach, rows.shape[-1] + reach)
    places = places.maximum(-pad).minimum(last + pad)
    mirrored = last - (last - places.abs()).abs()
    before, after = (places < 0).to(rows.dtype), (places > last).to(rows.dtype)
    extended = rows[:, mirrored] * (1 - 2 * (before + after)) + 2 * (rows[:, :1] * before + rows[:, -1:] * after)
    forward = _correlate(extended, kernel.flip(0))  # from -reach on
    places = torch.arange(rows.shape[-1] + reach).minimum(last + pad)
    return _correlate(forward[:, places + reach], kernel)


def _correlate(rows: Tensor, kernel: Tensor) -> Tensor:
    """Return sum_k kernel[k] rows[n + k] where all taps fit, as one product with a banded matrix per block of frames.

    A convolution of one channel in and one out is 20 times slower on a CPU.
    """
    taps, num_out = kernel.shape[0], rows.shape[-1] - kernel.shape[0] + 1
    band = F.pad(kernel, (BLOCK - 1, BLOCK - 1)).unfold(0, BLOCK, 1).flip(-1)  # (BLOCK + taps - 1, BLOCK)
    windows = F.pad(rows, (0, -num_out % BLOCK)).unfold(-1, BLOCK + taps - 1, BLOCK)
    return (windows @ band).flatten(-2)[..., :num_out]


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

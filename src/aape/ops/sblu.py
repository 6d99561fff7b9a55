"""Structured Bilateral Laplace Unit: the magnitude of a bank of damped complex sinusoids (the paper's Eq. 2 to 4).

The public functions, and the operator that PyTorch dispatches: `sblu.c` on a CPU where it could be compiled, Triton on
a CUDA device, plain PyTorch everywhere else. `sblu_reference.py` is the definition of all of them, README.md derives
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from aape.ops import sblu_cpu, sblu_torch
from aape.ops.sblu_reference import sblu_reference, sblu_reference_at

PHASES = ("bilateral", "analytic")
_reference_only = False


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
        ValueError: if the shapes, dtypes or devices do not fit each other, or an option is out of range.
    """
    if u.ndim != 3 or decay.shape != frequency.shape or decay.ndim != 3 or decay.shape[:2] != u.shape[:2]:
        raise ValueError(
            "expected u (B, C, T) and decay, frequency (B, C, Nt), "
            f"got {tuple(u.shape)}, {tuple(decay.shape)}, {tuple(frequency.shape)}"
        )
    num_clips, num_channels, num_patches = decay.shape
    if num_patches == 0 or u.shape[-1] % num_patches:
        raise ValueError(f"{u.shape[-1]} frames do not divide into {num_patches} patches")
    patch = u.shape[-1] // num_patches
    _check(u, decay, frequency, patch, kernel_size, stride, phase)
    if _reference_only:
        return sblu_reference(u, decay, frequency, kernel_size=kernel_size, stride=stride, phase=phase)
    requests = torch.arange(num_clips * num_patches, device=u.device)
    lanes = [parameter.transpose(1, 2).flatten(0, 1) for parameter in (decay, frequency)]  # (B Nt, C)
    m = torch.ops.aape.sblu(u.transpose(1, 2).contiguous(), *lanes, requests, patch, kernel_size, stride, phase)
    # (B Nt, P / S, C)
    return m.view(num_clips, u.shape[-1] // stride, num_channels).transpose(1, 2).contiguous()


def sblu_magnitude_at(
    u: Tensor,
    requests: Tensor,
    decay: Tensor,
    frequency: Tensor,
    *,
    patch_size: int = 16,
    kernel_size: int = 63,
    stride: int = 1,
    phase: str = "bilateral",
) -> Tensor:
    """Compute the same magnitudes at chosen patches only; the cost is that of the requests.

    Args:
        u: subband envelopes (B', T, H), frames before channels; a row per clip and frequency patch, say.
        requests: b' Nt + t of each wanted patch (R,), in any order, repeated or not.
        decay: a of each request and channel (R, H).
        frequency: w of each request and channel (R, H).
        patch_size: P.
        kernel_size: see `sblu_magnitude`, as for the next two.
        stride: frames between outputs.
        phase: "bilateral" or "analytic".

    Returns:
        Magnitudes (R, P / stride, H) in the dtype of `u`.

    Raises:
        ValueError: if the shapes, dtypes or devices do not fit each other, or an option or request is out of range.
    """
    wanted = (*requests.shape, *u.shape[2:])
    if u.ndim != 3 or requests.ndim != 1 or decay.shape != wanted or frequency.shape != wanted:
        raise ValueError(
            "expected u (B', T, H), requests (R,) and decay, frequency (R, H), got "
            f"{tuple(u.shape)}, {tuple(requests.shape)}, {tuple(decay.shape)}, {tuple(frequency.shape)}"
        )
    if patch_size < 1 or u.shape[1] % patch_size:
        raise ValueError(f"{u.shape[1]} frames do not divide into patches of {patch_size}")
    if requests.is_floating_point() or requests.device != u.device:
        raise ValueError(f"requests must be integers on {u.device}, got {requests.dtype} on {requests.device}")
    _check(u, decay, frequency, patch_size, kernel_size, stride, phase)
    form = sblu_reference_at if _reference_only else torch.ops.aape.sblu
    return form(u, decay, frequency, requests, patch_size, kernel_size, stride, phase)


@contextmanager
def use_reference() -> Iterator[None]:
    """Compute SBLU and the high-pass by their definitions, slowly: to check the fast forms, or to export."""
    global _reference_only
    before, _reference_only = _reference_only, True
    try:
        yield
    finally:
        _reference_only = before


def is_reference_used() -> bool:
    """Say whether `use_reference` is in force."""
    return _reference_only


def _check(u: Tensor, decay: Tensor, frequency: Tensor, patch: int, kernel_size: int, stride: int, phase: str) -> None:
    tensors = (u, decay, frequency)
    if not all(tensor.is_floating_point() for tensor in tensors) or (decay.dtype, u.dtype).count(torch.float64) == 1:
        raise ValueError(
            "expected real u, decay and frequency, all float64 or none of them, "
            f"got {u.dtype}, {decay.dtype}, {frequency.dtype}"
        )
    if decay.dtype != frequency.dtype:
        raise ValueError(f"decay and frequency must share a dtype, got {decay.dtype} and {frequency.dtype}")
    if len({tensor.device for tensor in tensors}) > 1:
        raise ValueError(f"u, decay and frequency are on {u.device}, {decay.device} and {frequency.device}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
    if stride < 1 or patch % stride:
        raise ValueError(f"stride {stride} does not divide the patch of {patch} frames")
    if phase not in PHASES:
        raise ValueError(f"phase must be one of {PHASES}, got {phase!r}")


# The operators themselves. `torch.library.custom_op` would be shorter, but loads the compiler at the first call.
_SHAPES = "Tensor u, Tensor decay, Tensor frequency, Tensor requests"  # (B', T, H), (R, H), (R, H), (R,)
_OPTIONS = "int patch_size, int kernel_size, int stride, str phase"
_library = torch.library.Library("aape", "DEF")
_library.define(f"sblu({_SHAPES}, {_OPTIONS}) -> Tensor")  # (R, P / S, H)
_library.define(f"sblu_backward(Tensor grad, {_SHAPES}, {_OPTIONS}) -> (Tensor, Tensor, Tensor)")


def _register(form: Any, dispatch_key: str) -> None:
    _library.impl("sblu", form.forward, dispatch_key)
    _library.impl("sblu_backward", form.backward, dispatch_key)


def _fake(u: Tensor, decay: Tensor, frequency: Tensor, requests: Tensor, patch_size: int, *options: Any) -> Tensor:
    return u.new_empty(requests.shape[0], patch_size // options[1], u.shape[2])


def _fake_backward(grad: Tensor, u: Tensor, decay: Tensor, frequency: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(u), torch.empty_like(decay), torch.empty_like(frequency)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*torch.ops.aape.sblu_backward(grad, *ctx.saved_tensors, *ctx.options), *[None] * 5)


class _Triton:
    """The Triton form, imported with the first tensor on a CUDA device."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        from aape.ops import sblu_triton

        return sblu_triton.forward(*arguments)

    @staticmethod
    def backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        from aape.ops import sblu_triton

        return sblu_triton.backward(*arguments)


_register(sblu_torch, "CompositeExplicitAutograd")
if sblu_cpu.library() is not None:
    _register(sblu_cpu, "CPU")
if find_spec("triton") is not None:
    _register(_Triton, "CUDA")
torch.library.register_fake("aape::sblu", _fake, lib=_library)
torch.library.register_fake("aape::sblu_backward", _fake_backward, lib=_library)
torch.library.register_autograd("aape::sblu", _backward, setup_context=_keep, lib=_library)

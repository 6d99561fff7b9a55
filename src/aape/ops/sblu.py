"""SBLU, Structured Bilateral Laplace Unit: magnitudes of a bank of damped sinusoids (Eq. 2 to 4; docs/method.md 3).

The public functions, and the operator that PyTorch dispatches: `sblu.c` on a CPU where it could be compiled, Triton on
a CUDA device, plain PyTorch elsewhere. `sblu_reference.py` is the definition of all of them, README.md derives them.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor

from aape.ops import sblu_cpu
from aape.ops.sblu_reference import SbluOptions, sblu_reference_at
from aape.ops.switches import exportable, use_reference


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
    options = SbluOptions(u.shape[-1] // num_patches, kernel_size, stride, phase).check()
    every = torch.arange(num_clips * num_patches, device=u.device)
    m = _magnitude(u.mT.contiguous(), decay.mT.flatten(0, 1), frequency.mT.flatten(0, 1), every, options)
    return m.reshape(num_clips, u.shape[-1] // stride, num_channels).mT.contiguous()  # (B, C, T / S)


def sblu_magnitude_at(
    u: Tensor,
    patch_index: Tensor,
    decay: Tensor,
    frequency: Tensor,
    *,
    patch_size: int = 16,
    kernel_size: int = 63,
    stride: int = 1,
    phase: str = "bilateral",
) -> Tensor:
    """Compute the same magnitudes at chosen patches only; the cost is theirs.

    Args:
        u: subband envelopes (..., T, H); b' counts what is in front, clips and frequency patches, say.
        patch_index: b' Nt + t of each chosen patch (..., V), in any order, repeated or not.
        decay: a of each chosen patch and channel (..., V, H).
        frequency: w likewise.
        patch_size: P.
        kernel_size: as the next two, see `sblu_magnitude`, for what is raised too.
        stride: S.
        phase: "bilateral" or "analytic".

    Returns:
        Magnitudes (..., V, P / S, H) in the dtype of `u`.
    """
    shape = (*patch_index.shape, u.shape[-1])
    if u.ndim < 3 or patch_index.ndim < 1 or decay.shape != shape or frequency.shape != shape:
        raise ValueError(
            "expected u (..., T, H), patch_index (..., V) and decay, frequency (..., V, H), got "
            f"{tuple(u.shape)}, {tuple(patch_index.shape)}, {tuple(decay.shape)}, {tuple(frequency.shape)}"
        )
    if patch_size < 1 or u.shape[-2] % patch_size:
        raise ValueError(f"{u.shape[-2]} frames do not divide into patches of {patch_size}")
    if patch_index.is_floating_point() or patch_index.device != u.device:
        raise ValueError(f"patch_index must be integers on {u.device}, got {patch_index.dtype} on {patch_index.device}")
    options = SbluOptions(patch_size, kernel_size, stride, phase).check()
    flat = u.flatten(0, -3), decay.flatten(0, -2), frequency.flatten(0, -2), patch_index.flatten()
    return _magnitude(*flat, options).unflatten(0, patch_index.shape)


def _magnitude(u: Tensor, decay: Tensor, frequency: Tensor, patch_index: Tensor, options: SbluOptions) -> Tensor:
    """Map u (B', T, H), decay, frequency (V, H) and patch_index (V,) to magnitudes (V, P / S, H)."""
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
    form = sblu_reference_at if use_reference.is_on or exportable.is_on else torch.ops.aape.sblu
    return cast(Tensor, form(u, decay, frequency, patch_index, *options))


# The operator itself. `torch.library.custom_op` would be shorter, but loads the compiler at the first call.
_TENSORS = "Tensor u, Tensor decay, Tensor frequency, Tensor patch_index"  # (B', T, H), (V, H), (V, H), (V,)
_OPTIONS = "int patch_size, int kernel_size, int stride, str phase"
_library = torch.library.Library("aape", "DEF")
_library.define(f"sblu({_TENSORS}, {_OPTIONS}) -> Tensor")  # (V, P / S, H)
_library.define(f"sblu_backward(Tensor grad, {_TENSORS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor)")


def _register(module: str, dispatch_key: str) -> None:
    """Register the form in a module, which is imported when it is called first."""

    def call(name: str, *inputs: Any) -> Any:
        with torch.cuda.device_of(inputs[0]):  # where Triton launches, whatever the current device of this thread is
            return getattr(import_module(module), name)(*inputs)

    _library.impl("sblu", partial(call, "forward"), dispatch_key)
    _library.impl("sblu_backward", partial(call, "backward"), dispatch_key)


def _fake(u: Tensor, decay: Tensor, frequency: Tensor, patch_index: Tensor, *options: Any) -> Tensor:
    patch_size, _, stride, _ = SbluOptions(*options)
    return u.new_empty(patch_index.shape[0], patch_size // stride, u.shape[2])


def _fake_backward(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(tensor) for tensor in inputs[:3])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*torch.ops.aape.sblu_backward(grad, *ctx.saved_tensors, *ctx.options), *[None] * 5)


_register("aape.ops.sblu_torch", "CompositeExplicitAutograd")
if sblu_cpu.library() is not None:
    _register("aape.ops.sblu_cpu", "CPU")
if find_spec("triton") is not None:
    _register("aape.ops.sblu_triton", "CUDA")
torch.library.register_fake("aape::sblu", _fake, lib=_library)
torch.library.register_fake("aape::sblu_backward", _fake_backward, lib=_library)
torch.library.register_autograd("aape::sblu", _backward, setup_context=_keep, lib=_library)

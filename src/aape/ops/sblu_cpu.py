"""SBLU on a CPU by the compiled library (sblu.c), where the installation could build it."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aape.ops.sblu_reference import SbluOptions

KERNELS_PER_THREAD = 16384  # fewer are done before another thread has woken up

INPUTS = ("u", "a", "w", "exp_a", "expm1_a", "half_sin", "half_cos", "patch_index")
SIZES = ("num_chosen", "num_frames", "num_channels", "patch", "radius", "stride", "analytic")
RESULTS = ("m", "grad_m", "grad_u", "grad_a", "grad_w")


class _Job(ctypes.Structure):
    """The struct of sblu.c."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in INPUTS]
        + [(name, ctypes.c_int64) for name in SIZES]
        + [(name, ctypes.c_void_p) for name in RESULTS]
        + [(name, ctypes.c_int64) for name in ("thread", "num_threads")]
    )


@lru_cache
def library() -> ctypes.CDLL | None:
    """Load the compiled library; None where the installation has none, or none of this version."""
    try:
        loaded = ctypes.CDLL(str(Path(__file__).with_name("_sblu.so")))
        size = ctypes.c_int64.in_dll(loaded, "sblu_job_bytes_f32").value
    except (OSError, ValueError):
        return None
    return loaded if size == ctypes.sizeof(_Job) else None


def forward(u: Tensor, *inputs: Any) -> Tensor:
    """Compute magnitudes (V, P / S, H); arguments as in `sblu_reference_at`."""
    tensors, job = _prepare(u, *inputs)
    m = tensors["u"].new_empty(job.num_chosen, job.patch // job.stride, job.num_channels)
    _run(job, {**tensors, "m": m})
    return m.to(u.dtype)


def backward(grad: Tensor, u: Tensor, decay: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of u, decay and frequency; `grad` is (V, P / S, H)."""
    tensors, job = _prepare(u, decay, *inputs)
    grad_m = grad.to(tensors["u"].dtype).contiguous()
    grad_u = torch.zeros_like(tensors["u"])  # which windows are added up in
    grad_a, grad_w = torch.empty_like(tensors["a"]), torch.empty_like(tensors["w"])
    _run(job, {**tensors, "grad_m": grad_m, "grad_u": grad_u, "grad_a": grad_a, "grad_w": grad_w})
    return grad_u.to(u.dtype), grad_a.to(decay.dtype), grad_w.to(decay.dtype)


def _prepare(
    u: Tensor, decay: Tensor, frequency: Tensor, patch_index: Tensor, *options: Any
) -> tuple[dict[str, Tensor], _Job]:
    """Return what the C code reads: tensors, contiguous and in float32 or float64, and a job without pointers."""
    patch_size, kernel_size, stride, phase = SbluOptions(*options)
    num_patches = u.shape[0] * (u.shape[1] // patch_size)
    if len(patch_index) and not 0 <= int(patch_index.min()) <= int(patch_index.max()) < num_patches:
        raise ValueError(f"patch_index must lie in 0..{num_patches - 1}, got {patch_index.min()}..{patch_index.max()}")
    work = torch.promote_types(u.dtype, torch.float32)
    a, w = decay.to(work).contiguous(), frequency.to(work).contiguous()
    functions = torch.exp(-a), torch.expm1(-a), torch.sin(w / 2), torch.cos(w / 2)
    tensors = (u.to(work).contiguous(), a, w, *functions, patch_index.long().contiguous())
    sizes = (len(patch_index), u.shape[1], u.shape[2], patch_size, kernel_size // 2, stride, phase == "analytic")
    return dict(zip(INPUTS, tensors, strict=True)), _Job(**dict(zip(SIZES, sizes, strict=True)))


def _run(job: _Job, tensors: dict[str, Tensor]) -> None:
    """Run a job in as many shares as torch has threads, if it is large enough for that."""
    for name, tensor in tensors.items():
        setattr(job, name, tensor.data_ptr())
    function = getattr(library(), "sblu_f32" if tensors["u"].dtype == torch.float32 else "sblu_f64")
    job.num_threads = max(1, min(torch.get_num_threads(), tensors["a"].numel() // KERNELS_PER_THREAD))
    shares = [_Job.from_buffer_copy(job) for _ in range(job.num_threads)]
    for thread, share in enumerate(shares):
        share.thread = thread
    others = [_threads().submit(function, ctypes.byref(share)) for share in shares[1:]]
    statuses = [function(ctypes.byref(shares[0])), *(other.result() for other in others)]
    if any(statuses):
        raise MemoryError("SBLU: no memory for a thread's buffers")


@lru_cache
def _threads() -> ThreadPoolExecutor:
    """Return threads that stay, because starting one costs more than a job of a few clips."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="sblu")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a child process has no threads but one

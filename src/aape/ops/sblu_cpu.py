"""SBLU on a CPU by the compiled library (sblu.c), where the installation could build it."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

LANES_PER_THREAD = 16384  # fewer are done before another thread has woken up

POINTERS = ("u", "a", "w", "exp_a", "expm1_a", "half_sin", "half_cos", "requests")
SIZES = ("num_requests", "num_frames", "num_channels", "patch", "radius", "stride", "analytic")
RESULTS = ("m", "grad_m", "grad_u", "grad_a", "grad_w")


class _Job(ctypes.Structure):
    """The struct of sblu.c."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in POINTERS]
        + [(name, ctypes.c_int64) for name in SIZES]
        + [(name, ctypes.c_void_p) for name in RESULTS]
        + [(name, ctypes.c_int64) for name in ("thread", "num_threads")]
    )


@lru_cache
def library() -> ctypes.CDLL | None:
    """Load the compiled library; None where the installation has none, or none of this version."""
    try:
        found = ctypes.CDLL(str(Path(__file__).with_name("_sblu.so")))
        size = ctypes.c_int64.in_dll(found, "sblu_job_bytes_f32").value
    except (OSError, ValueError):
        return None
    return found if size == ctypes.sizeof(_Job) else None


def forward(
    u: Tensor,
    decay: Tensor,
    frequency: Tensor,
    requests: Tensor,
    patch_size: int,
    kernel_size: int,
    stride: int,
    phase: str,
) -> Tensor:
    """Compute magnitudes (R, P / S, H); arguments as in `aape.ops.sblu_magnitude_at`."""
    arguments, job = _prepare(u, decay, frequency, requests, patch_size, kernel_size, stride, phase)
    m = arguments["u"].new_empty(len(requests), patch_size // stride, u.shape[-1])
    _run(job, {**arguments, "m": m})
    return m.to(u.dtype)


def backward(
    grad: Tensor,
    u: Tensor,
    decay: Tensor,
    frequency: Tensor,
    requests: Tensor,
    patch_size: int,
    kernel_size: int,
    stride: int,
    phase: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of u, decay and frequency; `grad` is (R, P / S, H)."""
    arguments, job = _prepare(u, decay, frequency, requests, patch_size, kernel_size, stride, phase)
    grad_m = grad.to(arguments["u"].dtype).contiguous()
    grads = torch.zeros_like(arguments["u"]), torch.empty_like(arguments["a"]), torch.empty_like(arguments["w"])
    _run(job, {**arguments, "grad_m": grad_m, **dict(zip(("grad_u", "grad_a", "grad_w"), grads, strict=True))})
    return grads[0].to(u.dtype), grads[1].to(decay.dtype), grads[2].to(frequency.dtype)


def _prepare(
    u: Tensor,
    decay: Tensor,
    frequency: Tensor,
    requests: Tensor,
    patch_size: int,
    kernel_size: int,
    stride: int,
    phase: str,
) -> tuple[dict[str, Tensor], _Job]:
    num_patches = u.shape[0] * (u.shape[1] // patch_size)
    if len(requests) and not 0 <= int(requests.min()) <= int(requests.max()) < num_patches:
        raise ValueError(f"requests must lie in 0..{num_patches - 1}, got {requests.min()}..{requests.max()}")
    work = torch.promote_types(u.dtype, torch.float32)
    a, w = decay.to(work).contiguous(), frequency.to(work).contiguous()
    arguments = {
        "u": u.to(work).contiguous(),
        "a": a,
        "w": w,
        "exp_a": torch.exp(-a),
        "expm1_a": torch.expm1(-a),
        "half_sin": torch.sin(w / 2),
        "half_cos": torch.cos(w / 2),
        "requests": requests.long().contiguous(),
    }
    sizes = (len(requests), u.shape[1], u.shape[2], patch_size, kernel_size // 2, stride, phase == "analytic")
    return arguments, _Job(**dict(zip(SIZES, sizes, strict=True)))


def _run(job: _Job, arguments: dict[str, Tensor]) -> None:
    """Run a job in as many shares as torch has threads, if it is large enough for that."""
    for name, tensor in arguments.items():
        setattr(job, name, tensor.data_ptr())
    function = getattr(library(), "sblu_f32" if arguments["u"].dtype == torch.float32 else "sblu_f64")
    job.num_threads = max(1, min(torch.get_num_threads(), arguments["a"].numel() // LANES_PER_THREAD))
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

"""SBLU: correctness first, then time and peak memory of every form on this machine.

    python benchmarks/operator_speed.py [--turns 7]

Writes results/operator_cpu.json, or results/operator_gpu.json where there is a CUDA device: there with the kernels'
registers, spills and block sizes. --rehearse does all that at the smallest sizes, with TRITON_INTERPRET=1 on a CPU.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import candidates
from aape.ops import sblu_cpu, sblu_magnitude, sblu_magnitude_at, sblu_torch
from aape.ops.sblu_reference import sblu_reference
from measuring import TURNS, ask_gpu, peak_megabytes, time_in_turns, where_time_goes, write

C, T, NT, P = 128, 608, 38, 16
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLAIN = ("naive", "unfold", "grouped_convolution", "fft", "taps_per_patch", "even_odd")
KERNELS = ("_forward", "_gradients", "_adjoint", "_add_up")  # of sblu_triton
LAUNCHES = [(block, None) for block in (64, 128, 256)] + [(64, 168), (128, 168), (128, 128)]  # threads, registers
NAIVE_CLIPS = {31: (1, 4), 63: (1, 4), 127: (1,)}  # more take gigabytes and minutes


class Torch(torch.autograd.Function):
    """The package's form without a compiler, which dispatch hides where there is one."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, decay: Tensor, frequency: Tensor, options: tuple[Any, ...]) -> Tensor:
        ctx.options = (torch.arange(len(decay), device=u.device), *options)
        ctx.save_for_backward(u, decay, frequency)
        return sblu_torch.forward(u, decay, frequency, *ctx.options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*sblu_torch.backward(grad, *ctx.saved_tensors, *ctx.options), None)


def plain_torch(u: Tensor, decay: Tensor, frequency: Tensor, kernel_size: int, phase: str) -> Tensor:
    """Give it the layout of `sblu_magnitude`."""
    kernels = [x.transpose(1, 2).flatten(0, 1) for x in (decay, frequency)]
    patch = u.shape[-1] // decay.shape[-1]
    m = Torch.apply(u.transpose(1, 2).contiguous(), *kernels, (patch, kernel_size, 1, phase))
    return m.view(len(u), u.shape[-1], -1).transpose(1, 2).contiguous()


def inputs(num_clips: int, *, grad: bool = False) -> list[Tensor]:
    """Return u, decay and frequency of the full size, over the range that the constraints allow."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(num_clips, C, T, generator=generator)
    decay = 0.149 + torch.rand(num_clips, C, NT, generator=generator)
    frequency = torch.pi / 16 + (torch.pi - torch.pi / 16) * torch.rand(num_clips, C, NT, generator=generator)
    return [x.to(DEVICE).requires_grad_(grad) for x in (u, decay, frequency)]


def forms() -> dict[str, Any]:
    """Return every form by name: (u, decay, frequency, kernel_size, phase) -> magnitudes."""
    named = {name: getattr(candidates, name) for name in PLAIN} if DEVICE == "cpu" else {}
    named["reference"] = lambda *x: sblu_reference(*x[:3], kernel_size=x[3], phase=x[4])
    named["package, plain PyTorch"] = plain_torch
    if DEVICE == "cuda" or sblu_cpu.library() is not None:
        name = "package, Triton" if DEVICE == "cuda" else "package, compiled"
        named[name] = lambda *x: sblu_magnitude(*x[:3], kernel_size=x[3], phase=x[4])
    return named


def gate(all_forms: dict[str, Any]) -> dict[str, float]:
    """Return the worst relative RMS error of values and gradients against the definition in float64."""
    worst = {}
    for name, form in all_forms.items():
        errors = []
        for phase in ("bilateral", "analytic"):
            args = [x[:1, :8].detach().clone().requires_grad_() for x in inputs(1)]
            wide = [x.detach().double().requires_grad_() for x in args]
            got, expected = form(*args, 63, phase), sblu_reference(*wide, phase=phase)
            got.square().sum().backward()
            expected.square().sum().backward()
            pairs = [(got, expected), *((x.grad, y.grad) for x, y in zip(args, wide, strict=True))]
            errors += [((x.double() - y).square().mean() / y.square().mean()).sqrt().item() for x, y in pairs]
        worst[name] = max(errors)
    bad = {name: error for name, error in worst.items() if error > 1e-5}
    if any(name.startswith("package") for name in bad):
        raise SystemExit(f"no speed is reported of a wrong result: {bad}")
    return worst


def measure(all_forms: dict[str, Any], num_clips: int, kernel_size: int, turns: int) -> dict[str, Any]:
    """Time all forms that fit, forward and forward with backward."""
    chosen = {
        name: form
        for name, form in all_forms.items()
        if not (name in PLAIN or name == "reference") or num_clips in NAIVE_CLIPS[kernel_size]
    }
    frozen, leaves = inputs(num_clips), inputs(num_clips, grad=True)

    def both(form: Any) -> None:
        form(*leaves, kernel_size, "bilateral").sum().backward()

    def alone(form: Any) -> None:
        with torch.no_grad():
            form(*frozen, kernel_size, "bilateral")

    forward = time_in_turns({name: lambda form=form: alone(form) for name, form in chosen.items()}, turns)
    backward = time_in_turns({name: lambda form=form: both(form) for name, form in chosen.items()}, turns)
    return {"clips": num_clips, "kernel_size": kernel_size, "forward": forward, "forward_and_backward": backward}


def memory(all_forms: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the extra peak memory (MB) of one clip at K = 63, forward and forward with backward."""
    frozen, leaves = inputs(1), inputs(1, grad=True)
    peaks = {}
    for name, form in all_forms.items():
        with torch.no_grad():
            forward = peak_megabytes(lambda: form(*frozen, 63, "bilateral"))
        both = peak_megabytes(lambda: form(*leaves, 63, "bilateral").sum().backward())
        peaks[name] = {"forward": forward, "forward_and_backward": both}
    return peaks


class Launch:
    """A kernel with other options of its launch; keeps what Triton compiled."""

    def __init__(self, kernel: Any, **options: Any) -> None:
        self.kernel, self.options, self.compiled = kernel, options, None

    def __getitem__(self, grid: Any) -> Any:
        def launch(*args: Any, **constants: Any) -> None:
            self.compiled = self.kernel[grid](*args, **constants, **self.options)

        return launch

    def resources(self) -> dict[str, int | None]:
        """Return registers a thread, bytes that spill, and bytes of shared memory."""
        metadata = getattr(self.compiled, "metadata", None)
        found = {name: getattr(self.compiled, f"n_{name}", None) for name in ("regs", "spills")}
        return {**found, "shared": getattr(metadata, "shared", None)}


@contextmanager
def launched(module: Any, block: int, max_registers: int | None) -> Iterator[dict[str, Launch]]:
    """Launch programs of `block` threads, a kernel each, with at most so many registers."""
    limit = {} if max_registers is None else {"maxnreg": max_registers}
    launches = {
        name: Launch(getattr(module, name), **({} if name == "_add_up" else {"num_warps": block // 32, **limit}))
        for name in KERNELS
    }
    with mock.patch.multiple(module, KERNELS=block, **launches):
        yield launches


def launches(num_clips: int, num_views: int, dtype: torch.dtype, num_time: int = 38) -> list[dict[str, Any]]:
    """Profile forward and backward of the sparse form for every block size and limit of registers."""
    module, rows = importlib.import_module("aape.ops.sblu_triton"), []
    u, patch_index, _, kernels = sparse_inputs(num_clips, num_views, num_time)
    u, decay, frequency = u.detach().to(dtype), *(x.detach() for x in kernels["visible"])
    grad = torch.randn(len(patch_index), P, 16, device=u.device, dtype=dtype)

    def both() -> None:
        module.forward(u, decay, frequency, patch_index, P, 63, 1, "bilateral")
        module.backward(grad, u, decay, frequency, patch_index, P, 63, 1, "bilateral")

    for block, limit in LAUNCHES if DEVICE == "cuda" else LAUNCHES[-1:]:
        row: dict[str, Any] = {"threads": block, "max_registers": limit}
        try:
            with launched(module, block, limit) as kernels_of:
                both()
                row["resources"] = {name: kernel.resources() for name, kernel in kernels_of.items()}
                row["profile"] = where_time_goes(both, calls=10 if DEVICE == "cuda" else 1)
        except Exception as error:  # a limit that a compiler refuses ends neither the others nor the stage
            row["error"] = f"{type(error).__name__}: {error}"[:300]
        rows.append(row)
        print({key: value for key, value in row.items() if key != "profile"}, flush=True)
    return rows


def sparse_inputs(
    num_clips: int, num_views: int, num_time: int = 38
) -> tuple[Tensor, Tensor, Tensor, dict[str, list[Tensor]]]:
    """Return u of H = 16 channels, the visible patches of all views, all patches, and kernels of both."""
    generator = torch.Generator().manual_seed(0)
    num_patches = 8 * num_time
    u = torch.randn(num_clips * 8, num_time * P, 16, generator=generator).to(DEVICE).requires_grad_()
    visible = torch.rand(num_clips, num_views, num_patches, generator=generator).argsort(-1)[..., :60]
    patch_index = (visible + num_patches * torch.arange(num_clips)[:, None, None]).flatten().to(DEVICE)
    every = torch.arange(num_clips * num_patches).to(DEVICE)
    kernels = {
        key: [(0.2 + torch.rand(len(chosen), 16, generator=generator)).to(DEVICE).requires_grad_() for _ in range(2)]
        for key, chosen in (("visible", patch_index), ("all", every))
    }
    return u, patch_index, every, kernels


def views(turns: int, sizes: tuple[tuple[int, int], ...]) -> list[dict[str, Any]]:
    """Time the sparse form: M views of 60 visible patches per clip."""
    rows = []
    for num_clips, num_views in sizes:
        u, patch_index, every, kernels = sparse_inputs(num_clips, num_views)
        for dtype in (torch.float32,) if DEVICE == "cpu" else (torch.float32, torch.bfloat16):
            typed = u.detach().to(dtype).requires_grad_()
            forms = {
                "visible, forward": lambda typed=typed: sblu_magnitude_at(
                    typed.detach(), patch_index, *kernels["visible"]
                ),
                "visible, forward and backward": lambda typed=typed: (
                    sblu_magnitude_at(typed, patch_index, *kernels["visible"]).sum().backward()
                ),
                "all patches once, forward and backward": lambda typed=typed: (
                    sblu_magnitude_at(typed, every, *kernels["all"]).sum().backward()
                ),
            }
            timed = time_in_turns(forms, turns)
            row = {"clips": num_clips, "views": num_views, "dtype": str(dtype).removeprefix("torch."), "seconds": timed}
            if DEVICE == "cuda":  # of the kernels alone: for the host a call takes longer than for the GPU
                row["profiles"] = {name: where_time_goes(form, calls=10) for name, form in forms.items()}
                row |= floors(len(patch_index), u.numel(), dtype)
            rows.append(row)
    return rows


def floors(num_chosen: int, num_inputs: int, dtype: torch.dtype) -> dict[str, float]:
    """Return the least seconds of forward and backward: every byte once, or the folded multiply-adds.

    Bandwidth is that of a large copy, multiply-adds those of all float32 units at the highest clock. Backward has the
    sums of s, of its derivatives and of the adjoint.
    """
    size, kernels = dtype.itemsize, num_chosen * 16
    large = torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE)
    bandwidth = 2 * len(large) / where_time_goes(lambda: large.clone())["seconds"]
    clock = 1e6 * float(ask_gpu("clocks.max.sm") or 1980)
    products_per_second = torch.cuda.get_device_properties(0).multi_processor_count * 128 * clock
    products = kernels * P * 31 * 3
    forward = (num_inputs + kernels * P) * size + 2 * kernels * 4
    backward = (2 * num_inputs + kernels * P) * size + 4 * kernels * 4
    return {
        "floor_seconds": max(forward / bandwidth, products / products_per_second),
        "floor_backward_seconds": max(backward / bandwidth, 3 * products / products_per_second),
        "bytes_per_second": bandwidth,
        "products_per_second": products_per_second,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=TURNS, help="turns per measurement; the median is reported")
    parser.add_argument("--rehearse", action="store_true", help="what a GPU measures, at the smallest sizes")
    options = parser.parse_args()
    is_rehearsed, turns = options.rehearse, 1 if options.rehearse else options.turns
    all_forms = forms()
    results: dict[str, Any] = {"turns": turns, "relative_rms_error": gate(all_forms), "timings": [], "views": []}
    name = f"operator_{'gpu' if DEVICE == 'cuda' else 'cpu'}"
    sizes = ((1, 1), (4, 16)) if DEVICE == "cpu" else ((1, 16), (32, 16))
    if DEVICE == "cuda" or os.environ.get("TRITON_INTERPRET") == "1":
        dtype = torch.float32 if is_rehearsed else torch.bfloat16
        results["launches"] = launches(*((1, 1, dtype, 1) if is_rehearsed else (*sizes[-1], dtype)))
        write(name, results)
    results["views"] = views(turns, sizes[:1] if is_rehearsed else sizes)
    for kernel_size in (63,) if is_rehearsed else (63, 31, 127):
        for num_clips in (1,) if is_rehearsed else (1, 4, 32):
            print(f"K = {kernel_size}, {num_clips} clips", flush=True)
            results["timings"].append(measure(all_forms, num_clips, kernel_size, turns))
            write(name, results)
    results["timings"].sort(key=lambda row: (row["kernel_size"], row["clips"]))
    if DEVICE == "cpu":
        results["peak_megabytes"] = memory(all_forms)
    write(name, results)


if __name__ == "__main__":
    main()

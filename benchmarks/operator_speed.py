"""SBLU: correctness first, then time and peak memory of every form on this machine.

    python benchmarks/operator_speed.py [--turns 7]

Writes results/operator_cpu.json, or results/operator_gpu.json where there is a CUDA device.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

import candidates
from aape.ops import sblu_cpu, sblu_magnitude, sblu_magnitude_at, sblu_torch
from aape.ops.sblu_reference import sblu_reference
from measuring import TURNS, peak_megabytes, time_in_turns, write

C, T, NT, P = 128, 608, 38, 16
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLAIN = ("naive", "unfold", "grouped_convolution", "fft", "taps_per_patch", "even_odd")
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


def views(turns: int) -> list[dict[str, Any]]:
    """Time the sparse form: M views of 60 visible patches per clip."""
    rows = []
    for num_clips, num_views in ((1, 1), (4, 16)) if DEVICE == "cpu" else ((1, 16), (32, 16)):
        generator = torch.Generator().manual_seed(0)
        u = torch.randn(num_clips * 8, T, 16, generator=generator).to(DEVICE).requires_grad_()
        visible = torch.rand(num_clips, num_views, 304, generator=generator).argsort(-1)[..., :60]
        patch_index = (visible + 304 * torch.arange(num_clips)[:, None, None]).flatten().to(DEVICE)
        every = torch.arange(num_clips * 304).to(DEVICE)
        kernels = {
            key: [
                (0.2 + torch.rand(len(chosen), 16, generator=generator)).to(DEVICE).requires_grad_() for _ in range(2)
            ]
            for key, chosen in (("visible", patch_index), ("all", every))
        }
        for dtype in (torch.float32,) if DEVICE == "cpu" else (torch.float32, torch.bfloat16):
            typed = u.detach().to(dtype).requires_grad_()
            timed = time_in_turns(
                {
                    "visible, forward": lambda typed=typed: sblu_magnitude_at(
                        typed.detach(), patch_index, *kernels["visible"]
                    ),
                    "visible, forward and backward": lambda typed=typed: (
                        sblu_magnitude_at(typed, patch_index, *kernels["visible"]).sum().backward()
                    ),
                    "all patches once, forward and backward": lambda typed=typed: (
                        sblu_magnitude_at(typed, every, *kernels["all"]).sum().backward()
                    ),
                },
                turns,
            )
            row = {"clips": num_clips, "views": num_views, "dtype": str(dtype).removeprefix("torch."), "seconds": timed}
            if DEVICE == "cuda":
                row["floor_seconds"] = floor(len(patch_index), u.numel(), dtype)
            rows.append(row)
    return rows


def floor(num_chosen: int, num_inputs: int, dtype: torch.dtype) -> float:
    """Return the larger of moving every byte once and of the folded multiply-adds, from the device's own figures."""
    size, kernels, device = dtype.itemsize, num_chosen * 16, torch.cuda.get_device_properties(0)
    bandwidth = 2 * device.memory_clock_rate * 1e3 * device.memory_bus_width / 8
    moved = (num_inputs + kernels * P) * size + 2 * kernels * 4
    products_per_second = device.multi_processor_count * 128 * device.clock_rate * 1e3
    return max(moved / bandwidth, kernels * P * 31 * 3 / products_per_second)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=TURNS, help="turns per measurement; the median is reported")
    turns = parser.parse_args().turns
    all_forms = forms()
    errors = gate(all_forms)
    timings = []
    for kernel_size in (31, 63, 127):
        for num_clips in (1, 4, 32):
            print(f"K = {kernel_size}, {num_clips} clips", flush=True)
            timings.append(measure(all_forms, num_clips, kernel_size, turns))
    results = {"turns": turns, "relative_rms_error": errors, "timings": timings, "views": views(turns)}
    if DEVICE == "cpu":
        results["peak_megabytes"] = memory(all_forms)
    write(f"operator_{'gpu' if DEVICE == 'cuda' else 'cpu'}", results)


if __name__ == "__main__":
    main()

"""SBLU against a loop written from the equation, in float64."""

import cmath
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aape.ops import sblu, sblu_magnitude
from aape.ops.sblu_reference import sblu_reference

PHASES = ("bilateral", "analytic")


def brute_force(u, decay, frequency, kernel_size, stride, phase):
    """m[n] = g |sum_k E_k u[n+k]|, one product at a time."""
    batch, channels, frames = u.shape
    patch, radius = frames // decay.shape[-1], kernel_size // 2
    out = torch.zeros(batch, channels, frames // stride, dtype=torch.float64)
    values = u.tolist()
    for b in range(batch):
        for c in range(channels):
            for n in range(0, frames, stride):
                a, w = decay[b, c, n // patch].item(), frequency[b, c, n // patch].item()
                s = 0j
                for k in range(-radius, radius + 1):
                    if 0 <= n + k < frames:
                        s += (
                            cmath.exp(-a * abs(k) - 1j * w * (abs(k) if phase == "bilateral" else k))
                            * values[b][c][n + k]
                        )
                gain = math.sqrt(2 * (math.cosh(a) - math.cos(w)) / (a * a + w * w))
                out[b, c, n // stride] = gain * abs(s)
    return out


def inputs(batch=1, channels=2, num_patches=3, patch=16, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(batch, channels, num_patches * patch, generator=generator, dtype=torch.float64)
    decay = 0.15 + 2 * torch.rand(batch, channels, num_patches, generator=generator, dtype=torch.float64)
    frequency = 0.2 + 2.9 * torch.rand(batch, channels, num_patches, generator=generator, dtype=torch.float64)
    return tuple(x.to(dtype) for x in (u, decay, frequency))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (31, 1), (63, 1), (63, 2), (63, 4), (127, 1), (9, 1)])
def test_equals_the_equation(phase, kernel_size, stride):
    """The numbers of the method, to 1e-6 relative in float32; the reference form too."""
    u, a, w = inputs()
    wanted = brute_force(u, a, w, kernel_size, stride, phase)
    for form, double in ((sblu_magnitude, False), (sblu_magnitude, True), (sblu_reference, True)):
        args = [x.double() for x in (u, a, w)] if double else (u, a, w)
        got = form(*args, kernel_size=kernel_size, stride=stride, phase=phase)
        assert got.dtype == args[0].dtype
        assert (got - wanted).abs().max() / wanted.abs().max() < (1e-12 if double else 1e-6)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("stride", [1, 4])
def test_gradients_of_all_three_inputs(phase, stride):
    """Without right gradients the bank cannot adapt."""
    args = tuple(x.requires_grad_() for x in inputs(1, 2, 2, 8, torch.float64))
    assert torch.autograd.gradcheck(lambda *x: sblu_magnitude(*x, kernel_size=7, stride=stride, phase=phase), args)


@pytest.mark.parametrize("phase", PHASES)
def test_lanes_are_independent_of_how_they_are_divided(phase, monkeypatch):
    """A large batch, computed in several chunks, gives what small ones give, forward and backward."""
    results = []
    for size in (1 << 20, 3):
        monkeypatch.setattr(sblu, "LANES_AT_ONCE", size)
        args = tuple(x.requires_grad_() for x in inputs(2, 3, 3, 16, torch.float64))
        m = sblu_magnitude(*args, kernel_size=31, phase=phase)
        m.square().sum().backward()
        results.append([m, *(x.grad for x in args)])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("a", [0.2, 20.0, 80.0])
def test_magnitude_and_gradients_stay_finite(phase, scale, a):
    """One infinite gradient would end a week of training."""
    u, decay, w = inputs()
    args = tuple(x.requires_grad_() for x in (u * scale, torch.full_like(decay, a), w))
    m = sblu_magnitude(*args, phase=phase)
    m.sum().backward()
    assert m.isfinite().all()
    assert all(x.grad.isfinite().all() for x in args)


def test_half_precision_keeps_its_dtype():
    """Under autocast the operator takes and gives what surrounds it, computed in float32."""
    u, a, w = inputs()
    got = sblu_magnitude(u.bfloat16(), a, w)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), sblu_magnitude(u.bfloat16().float(), a, w), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("phase", PHASES)
def test_never_forms_one_kernel_per_frame(phase):
    """(B, C, T, K) would be 40 MB a clip."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.is_contiguous():
                largest = max(largest, out.numel())
            return out

    args = tuple(x.requires_grad_() for x in inputs(2, 16, 8))
    with Watch():
        sblu_magnitude(*args, phase=phase).sum().backward()
    assert largest < args[0].numel() * 63 / 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel_size": 62}, "odd"),
        ({"stride": 3}, "stride"),
        ({"phase": "both"}, "phase"),
        ({"decay": torch.ones(1, 2, 5), "frequency": torch.ones(1, 2, 5)}, "patches"),
        ({"decay": torch.ones(1, 3, 3)}, "expected u"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    """A wrong shape is named, not broadcast."""
    u, decay, frequency = inputs()
    arguments = {"u": u, "decay": decay, "frequency": frequency, **change}
    with pytest.raises(ValueError, match=message):
        sblu_magnitude(**arguments)

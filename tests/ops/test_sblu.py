"""SBLU against a loop written from the equation, in float64, and every form of it against the definition."""

import cmath
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aape.ops import sblu_cpu, sblu_magnitude, sblu_magnitude_at, sblu_torch, use_reference
from aape.ops.sblu_reference import sblu_reference, sblu_reference_at

PHASES = ("bilateral", "analytic")
compiled = pytest.param(sblu_cpu, marks=pytest.mark.skipif(sblu_cpu.library() is None, reason="no C compiler"))
FORMS = [pytest.param(sblu_torch, id="torch"), pytest.param(*compiled.values, marks=compiled.marks, id="compiled")]


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


def patches_of(dtype=torch.float64, channels=20, num_chosen=23, seed=0):
    """Patches in no order, some twice, some never: (u, decay, frequency, patch_index)."""
    generator = torch.Generator().manual_seed(seed)
    rows, num_patches, patch = 3, 5, 16
    shape = (num_chosen, channels)
    u = torch.randn(rows, num_patches * patch, channels, generator=generator, dtype=torch.float64)
    decay = 0.15 + 2 * torch.rand(shape, generator=generator, dtype=torch.float64)
    frequency = 0.2 + 2.9 * torch.rand(shape, generator=generator, dtype=torch.float64)
    patch_index = torch.randint(rows * num_patches, (num_chosen,), generator=generator)
    return u.to(dtype), decay.to(dtype), frequency.to(dtype), patch_index


def relative_rms(got, expected):
    return ((got.double() - expected.double()).square().mean() / expected.double().square().mean()).sqrt().item()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (31, 1), (63, 1), (63, 2), (63, 4), (127, 1), (9, 1)])
def test_equals_the_equation(phase, kernel_size, stride):
    """The numbers of the method, to 1e-6 relative in float32; the definition too."""
    u, a, w = inputs()
    expected = brute_force(u, a, w, kernel_size, stride, phase)
    for form, double in ((sblu_magnitude, False), (sblu_magnitude, True), (sblu_reference, True)):
        args = [x.double() for x in (u, a, w)] if double else (u, a, w)
        got = form(*args, kernel_size=kernel_size, stride=stride, phase=phase)
        assert got.dtype == args[0].dtype
        assert (got - expected).abs().max() / expected.abs().max() < (1e-12 if double else 1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("kernel_size", "stride", "channels"), [(63, 1, 16), (31, 2, 5), (127, 4, 20), (1, 1, 3), (9, 16, 16)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_form_gives_the_definition_and_its_gradients(form, phase, kernel_size, stride, channels, dtype):
    """A result must not depend on the form that ran: each equals the definition, all gradients too."""
    u, a, w, patch_index = patches_of(channels=channels)
    leaves = [x.requires_grad_() for x in (u, a, w)]
    options = (16, kernel_size, stride, phase)
    expected = sblu_reference_at(*leaves, patch_index, *options)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected.backward(grad)
    args = [x.detach().to(dtype) for x in leaves]
    got = form.forward(*args, patch_index, *options)
    grads = form.backward(grad.to(dtype), *args, patch_index, *options)
    limit = 1e-12 if dtype == torch.float64 else 1e-5
    assert got.dtype == dtype
    assert got.is_contiguous()  # as the operator's fake form promises
    assert relative_rms(got, expected.detach()) < limit
    for mine, leaf in zip(grads, leaves, strict=True):
        assert mine.dtype == dtype
        assert mine.is_contiguous()
        assert relative_rms(mine, leaf.grad) < limit


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("stride", [1, 4])
def test_gradients_of_all_three_inputs(phase, stride):
    """Without right gradients the bank cannot adapt."""
    args = tuple(x.requires_grad_() for x in inputs(1, 2, 2, 8, torch.float64))
    assert torch.autograd.gradcheck(lambda *x: sblu_magnitude(*x, kernel_size=7, stride=stride, phase=phase), args)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("phase", PHASES)
def test_results_do_not_depend_on_chunks_or_threads(form, phase, monkeypatch):
    """The same run on another machine, and a clip in another batch, give the same bits."""
    args = patches_of(torch.float32)
    options = (16, 31, 1, phase)
    grad = torch.ones(len(args[3]), 16, args[0].shape[-1])
    expected = [form.forward(*args, *options), *form.backward(grad, *args, *options)]
    monkeypatch.setattr(sblu_torch, "KERNELS_AT_ONCE", 96)
    monkeypatch.setattr(sblu_cpu, "KERNELS_PER_THREAD", 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    got = [form.forward(*args, *options), *form.backward(grad, *args, *options)]
    assert all(torch.equal(left, right) for left, right in zip(got, expected, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_a_chosen_patch_gives_what_the_whole_clip_gives(form):
    """Masked training sees the numbers that inference sees."""
    u, _, _, patch_index = patches_of(torch.float64, channels=4)
    a, w = (0.2 + x for x in torch.rand(2, 3, 4, 5, dtype=torch.float64))
    dense = sblu_magnitude(u.transpose(1, 2), a, w).unflatten(-1, (5, 16)).permute(0, 2, 3, 1).flatten(0, 1)
    kernels = [x.transpose(1, 2).flatten(0, 1)[patch_index] for x in (a, w)]
    torch.testing.assert_close(form.forward(u, *kernels, patch_index, 16, 63, 1, "bilateral"), dense[patch_index])


def test_the_definition_can_be_forced():
    """To find out whether a strange result comes from a fast form; gradients included."""
    u, a, w, patch_index = patches_of(torch.float64)
    dense = inputs(dtype=torch.float64)
    with use_reference():
        assert torch.equal(
            sblu_magnitude_at(u, patch_index, a, w), sblu_reference_at(u, a, w, patch_index, 16, 63, 1, "bilateral")
        )
        assert torch.equal(sblu_magnitude(*dense), sblu_reference(*dense))
        assert (
            "Sblu"
            not in type(sblu_magnitude(u.mT.requires_grad_(), *(x.new_ones(3, 20, 5) for x in (a, w))).grad_fn).__name__
        )
    torch.testing.assert_close(
        sblu_magnitude_at(u, patch_index, a, w), sblu_reference_at(u, a, w, patch_index, 16, 63, 1, "bilateral")
    )


@pytest.mark.parametrize("phase", PHASES)
def test_pytorch_knows_all_about_the_operator(phase):
    """torch.compile, torch.export and AOT autograd trace it: schema, fake tensors, autograd, dynamic shapes."""
    u, a, w, patch_index = patches_of(torch.float32, channels=4)
    leaves = [x.requires_grad_() for x in (u, a, w)]
    torch.library.opcheck(torch.ops.aape.sblu.default, (*leaves, patch_index, 16, 31, 2, phase))


def test_it_compiles_without_a_break_and_exports():
    """A stem that breaks the graph would cost a compiled model more than the stem itself."""
    args = tuple(x.requires_grad_() for x in inputs())
    compiled_form = torch.compile(sblu_magnitude, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled_form(*args), sblu_magnitude(*args))
    expected = torch.autograd.grad(sblu_magnitude(*args).square().sum(), args)
    got = torch.autograd.grad(compiled_form(*args).square().sum(), args)
    torch.testing.assert_close(got, expected)

    class Bank(torch.nn.Module):
        def forward(self, u, decay, frequency):
            return sblu_magnitude(u, decay, frequency)

    exported = torch.export.export(Bank(), tuple(x.detach() for x in args))
    torch.testing.assert_close(exported.module()(*args), sblu_magnitude(*args))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("a", [0.2, 20.0, 80.0])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_magnitude_and_gradients_stay_finite(form, dtype, phase, scale, a):
    """One infinite gradient would end a week of training."""
    u, decay, w, patch_index = patches_of(torch.float32)
    args = ((u * scale).to(dtype), torch.full_like(decay, a), w, patch_index, 16, 63, 1, phase)
    m = form.forward(*args)
    assert m.dtype == dtype
    assert m.isfinite().all()
    assert all(x.isfinite().all() for x in form.backward(torch.ones_like(m), *args))


@pytest.mark.parametrize("form", FORMS)
def test_float16_up_to_its_own_range(form):
    """At a decay of 20 the gain is 1,101: float16 holds the magnitudes of inputs up to about 50."""
    u, decay, w, patch_index = patches_of(torch.float32)
    args = (u.half(), torch.full_like(decay, 20.0), w, patch_index, 16, 63, 1, "bilateral")
    m = form.forward(*args)
    assert m.dtype == torch.float16
    assert m.isfinite().all()
    assert all(x.isfinite().all() for x in form.backward(torch.ones_like(m), *args))


@pytest.mark.parametrize("form", FORMS)
def test_a_broken_sample_is_not_hidden(form):
    """NaN in gives NaN out: the guards of training look for it."""
    u, decay, w, patch_index = patches_of(torch.float32)
    u[:] = torch.nan
    args = (u, decay, w, patch_index, 16, 63, 1, "bilateral")
    m = form.forward(*args)
    assert m.isnan().all()
    assert form.backward(torch.ones_like(m), *args)[1].isnan().all()


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
        ({"kernel_size": 62}, "odd and positive, got 62"),
        ({"kernel_size": -1}, "odd and positive, got -1"),
        ({"stride": 3}, "stride 3 does not divide the patch of 16"),
        ({"phase": "both"}, "phase must be one of"),
        ({"decay": torch.ones(1, 2, 5), "frequency": torch.ones(1, 2, 5)}, "48 frames do not divide into 5 patches"),
        ({"decay": torch.ones(1, 2, 0), "frequency": torch.ones(1, 2, 0)}, "48 frames do not divide into 0 patches"),
        ({"decay": torch.ones(1, 3, 3)}, r"expected u \(B, C, T\).*got \(1, 2, 48\), \(1, 3, 3\)"),
        ({"u": torch.ones(2, 48)}, "expected u"),
        ({"u": torch.ones(1, 2, 48, dtype=torch.int64)}, "real u.*got torch.int64"),
        ({"u": torch.ones(1, 2, 48, dtype=torch.float64)}, "all float64 or none"),
        ({"decay": torch.ones(1, 2, 3, dtype=torch.bfloat16)}, "share a dtype"),
        ({"u": torch.ones(1, 2, 48, device="meta")}, "are on meta, cpu and cpu"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    """A wrong shape is named, not broadcast."""
    u, decay, frequency = inputs()
    arguments = {"u": u, "decay": decay, "frequency": frequency, **change}
    with pytest.raises(ValueError, match=message):
        sblu_magnitude(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_index": torch.tensor([15] * 23)}, r"0..14, got 15..15"),
        ({"patch_index": torch.tensor([-1] * 23)}, r"0..14, got -1..-1"),
        ({"patch_index": torch.zeros(23)}, "integers"),
        ({"patch_index": torch.tensor([0])}, "expected u"),
        ({"patch_size": 17}, "80 frames do not divide into patches of 17"),
    ],
)
def test_a_patch_index_that_cannot_be_is_refused(change, message):
    """One bad index read from another clip's memory would be the worst kind of bug."""
    u, decay, frequency, patch_index = patches_of(torch.float32)
    arguments = {"u": u, "decay": decay, "frequency": frequency, "patch_index": patch_index, **change}
    if sblu_cpu.library() is None and "0..14" in message:
        pytest.skip("plain PyTorch raises its own IndexError")
    with pytest.raises(ValueError, match=message):
        sblu_magnitude_at(**arguments)


def test_short_empty_and_strided_inputs():
    """A clip of one frame, a batch of none, tensors that are views: right answers."""
    one = torch.tensor([[[2.0]]], dtype=torch.float64)
    assert torch.equal(sblu_magnitude(one, one, one), sblu_reference(one, one, one))
    assert sblu_magnitude(torch.ones(0, 2, 32), torch.ones(0, 2, 2), torch.ones(0, 2, 2)).shape == (0, 2, 32)
    u, a, w = inputs(2, 3, 3, 16, torch.float64)
    wide = torch.stack([u, u], -1)
    views = (wide[..., 1], *(torch.stack([x, x], 0)[1].mT.contiguous().mT for x in (a, w)))
    torch.testing.assert_close(sblu_magnitude(*views), sblu_magnitude(u, a, w))

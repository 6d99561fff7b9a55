"""The Triton form against the definition: under Triton's interpreter (`make test-kernels`), or on a GPU (`-m gpu`)."""

import os

import pytest
import torch

from aape.ops.sblu_reference import sblu_reference_at

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
    pytest.skip("needs TRITON_INTERPRET=1 or a GPU", allow_module_level=True)

from aape.ops import sblu_triton  # noqa: E402  (Triton reads TRITON_INTERPRET when a kernel is defined)

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
pytestmark = [] if DEVICE == "cpu" else [pytest.mark.gpu]


@pytest.fixture(autouse=True)
def _nan_in_fresh_memory(monkeypatch):
    """An output that no thread writes must fail."""
    for name in ("empty", "empty_like"):
        fresh = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *args, fresh=fresh, **kwargs: fresh(*args, **kwargs).fill_(torch.nan))


def arguments(dtype=torch.float64, channels=20, num_chosen=23, patch=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows, num_patches, shape = 3, 5, (num_chosen, channels)
    u = torch.randn(rows, num_patches * patch, channels, generator=generator, dtype=torch.float64)
    decay = 0.05 + 2 * torch.rand(shape, generator=generator, dtype=torch.float64)
    frequency = 0.2 + 2.9 * torch.rand(shape, generator=generator, dtype=torch.float64)
    patch_index = torch.randint(rows * num_patches, (num_chosen,), generator=generator)
    return [x.to(DEVICE, dtype) for x in (u, decay, frequency)], patch_index.to(DEVICE)


def relative_rms(got, expected):
    return ((got.double() - expected.double()).square().mean() / expected.double().square().mean()).sqrt().item()


@pytest.mark.parametrize("phase", ["bilateral", "analytic"])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "channels", "patch"),
    [(63, 1, 16, 16), (31, 2, 5, 16), (127, 4, 20, 16), (1, 1, 3, 16), (9, 16, 16, 16), (15, 2, 7, 6)],
)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 6e-3), (torch.float16, 1e-3)])
def test_equals_the_definition_and_its_gradients(phase, kernel_size, stride, channels, patch, dtype, limit):
    """A GPU trains the model that the equations define; half precision loses only what its own rounding loses."""
    (u, a, w), patch_index = arguments(channels=channels, patch=patch)
    u = u.to(dtype).double()
    options = (patch, kernel_size, stride, phase)
    leaves = [x.requires_grad_() for x in (u, a, w)]
    expected = sblu_reference_at(*leaves, patch_index, *options)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(DEVICE)
    grad = grad.to(dtype).double()
    expected.backward(grad)
    inputs = [u.detach().to(dtype), a.detach().float(), w.detach().float()]
    got = sblu_triton.forward(*inputs, patch_index, *options)
    assert got.dtype == dtype
    assert relative_rms(got, expected.detach()) < limit
    for mine, leaf in zip(sblu_triton.backward(grad.to(dtype), *inputs, patch_index, *options), leaves, strict=True):
        assert relative_rms(mine, leaf.grad) < limit


@pytest.mark.parametrize("a", [0.2, 20.0, 80.0])
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_magnitude_and_gradients_stay_finite(scale, a):
    """Silence and loud clips, at decays a training may pass through."""
    (u, decay, w), patch_index = arguments(torch.float32)
    inputs = (u * scale, torch.full_like(decay, a), w, patch_index, 16, 63, 1, "bilateral")
    m = sblu_triton.forward(*inputs)
    assert m.isfinite().all()
    assert all(x.isfinite().all() for x in sblu_triton.backward(torch.ones_like(m), *inputs))


def test_no_patches_and_unvisited_rows():
    """A view that shows nothing of a frequency patch; its part of u gets the gradient zero."""
    (u, a, w), patch_index = arguments(torch.float32)
    none = sblu_triton.forward(u, a[:0], w[:0], patch_index[:0], 16, 63, 1, "bilateral")
    assert none.shape == (0, 16, 20)
    assert not sblu_triton.backward(none, u, a[:0], w[:0], patch_index[:0], 16, 63, 1, "bilateral")[0].any()
    patch_index = torch.zeros_like(patch_index)
    m = sblu_triton.forward(u, a, w, patch_index, 16, 63, 1, "bilateral")
    assert not sblu_triton.backward(m, u, a, w, patch_index, 16, 63, 1, "bilateral")[0][1:].any()

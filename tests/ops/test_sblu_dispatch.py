"""SBLU as a model calls it, on this machine's fastest device: through PyTorch's dispatch, and inside torch.compile."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from aape.ops import sblu_magnitude_at, sblu_torch, use_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []
FORMS = ["eager", "aot_eager", "inductor"] if DEVICE == "cuda" else ["eager", "aot_eager"]


def inputs(clips=2, views=3, num_time=6, visible=10, channels=16):
    """Return u of 8 frequency patches, the visible patches of every view, decays and frequencies."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(clips, 8, 16 * num_time, channels, generator=generator)
    patch_index = torch.rand(clips, views, 8 * num_time, generator=generator).argsort(-1)[..., :visible]
    patch_index = patch_index + 8 * num_time * torch.arange(clips)[:, None, None]
    decay, frequency = (torch.rand(*patch_index.shape, channels, generator=generator) for _ in range(2))
    return [u, patch_index, 0.15 + decay, 0.2 + 2.9 * frequency]


def values_and_gradients(form, tensors, **options):
    u, patch_index, decay, frequency = tensors
    leaves = [x.clone().requires_grad_() for x in (u, decay, frequency)]
    m = form(leaves[0], patch_index, *leaves[1:], **options)
    m.float().square().sum().backward()
    return [m.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("phase", ["bilateral", "analytic"])
@pytest.mark.parametrize("kernel_size", [31, 63, 127])
@pytest.mark.parametrize("backend", FORMS)
def test_views_on_this_device_are_those_of_the_definition(phase, kernel_size, backend):
    """A form that dispatch never reaches, or a graph that breaks at it, would be slow or wrong without a word."""
    torch._dynamo.reset()
    tensors, options = inputs(), {"kernel_size": kernel_size, "phase": phase}
    form = sblu_magnitude_at
    if backend != "eager":
        form = torch.compile(form, fullgraph=True, dynamic=False, backend=backend)
    results = values_and_gradients(form, [x.to(DEVICE) for x in tensors], **options)
    with use_reference():
        wide = [x.double() if x.is_floating_point() else x for x in tensors]
        expected = values_and_gradients(lambda *x, **more: sblu_magnitude_at(*x, **more), wide, **options)
    for result, exact in zip(results, expected, strict=True):
        assert (result.cpu().double() - exact).norm() < 1e-5 * exact.norm()


def test_the_form_without_a_compiler_can_be_counted():
    """FlopCounterMode keeps autograd from recording inside an operator, and a count would end in an error."""
    u, patch_index, decay, frequency = (x.flatten(0, 1) for x in inputs())
    arguments = (u, decay.flatten(0, 1), frequency.flatten(0, 1), patch_index.flatten(), 16, 63, 1, "bilateral")
    grad = torch.ones(patch_index.numel(), 16, u.shape[-1])
    expected = sblu_torch.backward(grad, *arguments)
    with FlopCounterMode(display=False):
        results = sblu_torch.backward(grad, *arguments)
    assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))

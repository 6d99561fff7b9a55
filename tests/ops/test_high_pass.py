"""The high-pass is scipy's filtfilt, whatever the length and the form."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy.signal import filtfilt, firwin

from aape.ops import exportable, high_pass, use_reference

FORMS = {"fast": nullcontext, "definition": use_reference, "traced": exportable}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("frames", [2, 20, 62, 63, 64, 112, 128, 300, 608, 1024])
def test_equals_filtfilt(frames, form):
    """Anyone can check it against the textbook; a short clip pads by what there is."""
    x = np.random.default_rng(frames).normal(size=(3, 2, frames)) * 3
    expected = filtfilt(firwin(63, 1 / 16, pass_zero=False), [1.0], x, padlen=min(62, frames - 1))
    with FORMS[form]():
        assert np.abs(high_pass(torch.from_numpy(x)).numpy() - expected).max() < 1e-10
        assert np.abs(high_pass(torch.from_numpy(x).float()).numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("frames", [1, 40, 100])
def test_gradients_and_options(frames, form):
    """A stem that is trained on short clips, on other patches, learns from the same filter."""
    x = torch.randn(2, frames, dtype=torch.float64, requires_grad=True)
    with FORMS[form]():
        assert torch.autograd.gradcheck(lambda x: high_pass(x, patch_size=8, taps=31), x)
    with use_reference():
        expected = high_pass(x, patch_size=8, taps=31)
    torch.testing.assert_close(high_pass(x, patch_size=8, taps=31), expected)


def test_a_single_frame_and_half_precision():
    """The shortest clip passes, and the dtype stays."""
    single = high_pass(torch.ones(2, 1))
    assert single.abs().max() < 0.01  # nearly nothing of a constant passes
    for switch in (use_reference, exportable):
        with switch():
            torch.testing.assert_close(high_pass(torch.ones(2, 1)), single)
    assert high_pass(torch.ones(2, 40, dtype=torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="taps must be odd"):
        high_pass(torch.ones(2, 40), taps=62)

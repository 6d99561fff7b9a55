"""The high-pass is scipy's filtfilt, whatever the length."""

import numpy as np
import pytest
import torch
from scipy.signal import filtfilt, firwin

from aape.ops import high_pass, use_reference


@pytest.mark.parametrize("frames", [2, 20, 62, 63, 64, 112, 128, 300, 608, 1024])
def test_equals_filtfilt(frames):
    """Anyone can check it against the textbook; a short clip pads by what there is."""
    x = np.random.default_rng(frames).normal(size=(3, 2, frames)) * 3
    wanted = filtfilt(firwin(63, 1 / 16, pass_zero=False), [1.0], x, padlen=min(62, frames - 1))
    assert np.abs(high_pass(torch.from_numpy(x)).numpy() - wanted).max() < 1e-10
    assert np.abs(high_pass(torch.from_numpy(x).float()).numpy() - wanted).max() < 1e-5
    with use_reference():
        assert np.abs(high_pass(torch.from_numpy(x)).numpy() - wanted).max() < 1e-10


def test_a_single_frame_and_half_precision():
    """The shortest clip passes, and the dtype stays."""
    single = high_pass(torch.ones(2, 1))
    assert single.abs().max() < 0.01  # nearly nothing of a constant passes
    with use_reference():
        torch.testing.assert_close(high_pass(torch.ones(2, 1)), single)
    assert high_pass(torch.ones(2, 40, dtype=torch.bfloat16)).dtype == torch.bfloat16

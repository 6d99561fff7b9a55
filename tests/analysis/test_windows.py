"""The paper's Figure 2 and the experiment behind it, with the kernels of the operator."""

import math

import numpy as np
import pytest
import torch

from aape.analysis.windows import (
    KERNELS,
    LEARNING_RATES,
    RADIANS_TO_HERTZ,
    WINDOW_EDGES,
    kernel_angle,
    kernel_window,
    recover_tones,
    spectra,
    success_by_distance,
    summarise,
    wilson_interval,
)
from aape.ops import sblu_magnitude


@pytest.mark.parametrize(("kernel", "phase"), [("two-sided", "analytic"), ("bilateral", "bilateral")])
def test_kernels_are_those_of_the_operator(kernel, phase):
    """A figure about other kernels than the stem's would explain nothing."""
    frequency, edge = 0.9, WINDOW_EDGES[0]
    sound = torch.cos(0.7 * torch.arange(63, dtype=torch.float64) + 0.3)
    taps = kernel_window(kernel, edge) * torch.polar(
        torch.ones(63).double(), -kernel_angle(kernel, torch.tensor(frequency, dtype=torch.float64))
    )
    decay = -math.log(edge) / 31
    gain = math.sqrt(2 * (math.cosh(decay) - math.cos(frequency)) / (decay**2 + frequency**2))
    one = [torch.full((1, 1, 1), value, dtype=torch.float64) for value in (decay, frequency)]
    m = sblu_magnitude(sound.view(1, 1, 63), *one, phase=phase)[0, 0, 31] / gain
    total = sum(edge ** (abs(k) / 31) for k in range(-31, 32))  # the operator's windows have a peak of 1
    assert torch.isclose((taps * sound).sum().abs() * total, m)


def test_slopes_are_the_derivative_of_the_magnitudes():
    """The gradient panel must belong to the magnitude panel beside it, in its units."""
    windows = spectra(num_points=5001)
    step = windows.detuning[1] - windows.detuning[0]
    numeric = np.gradient(windows.magnitudes, step, axis=1)
    assert np.abs(numeric - windows.slopes)[:, 1:-1].max() < 5e-3
    assert windows.magnitudes.max() == 1
    far = np.abs(windows.detuning) > 15
    assert windows.magnitudes[2, far].max() < 0.1 * windows.magnitudes[1, far].min()  # the Gaussian has no tails


def test_recovery_counts_what_descent_reaches():
    """A success rate that another seed or another window's tones could change says nothing about windows."""
    first, again = (recover_tones(5, 3, seed=3) for _ in range(2))
    assert all(np.array_equal(first.ends[key], again.ends[key]) for key in first.ends)
    recovery = recover_tones(60, 100, seed=3)
    assert recovery.tones.min() > 3.125
    assert recovery.tones.max() < math.pi * RADIANS_TO_HERTZ + 1e-9
    rows = {(row["kernel"], row["window_edge"]): row for row in summarise(recovery)}
    assert len(rows) == len(KERNELS) * len(WINDOW_EDGES)
    wide, narrow = rows["two-sided", WINDOW_EDGES[0]], rows["gaussian", WINDOW_EDGES[0]]
    assert wide["success_rate"] > narrow["success_rate"] + 0.2
    assert wide["success_rate"] == max(wide["success_rate_by_learning_rate"].values())
    assert set(wide["success_rate_by_learning_rate"]) == {f"{rate:g}" for rate in LEARNING_RATES}
    assert wide["interval_95"][0] < wide["success_rate"] < wide["interval_95"][1] + 1e-9
    assert wide["median_error_of_found_hz"] < 0.5


def test_success_by_distance_and_its_interval():
    """Curves are shares of the starts in each bin; an empty bin is no zero."""
    is_recovered, distance = np.array([True, True, False]), np.array([1.0, 2.0, 7.0])
    rates, low, high = success_by_distance(is_recovered, distance, np.array([0.0, 5.0, 10.0, 15.0]))
    assert rates[:2].tolist() == [1.0, 0.0]
    assert np.isnan([rates[2], low[2], high[2]]).all()
    assert wilson_interval(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)

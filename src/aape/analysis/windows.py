"""Figure 2: three windows, their spectra and gradients, and whether descent finds a tone with each.

A kernel is a window times a complex sinusoid, E_k = v_k exp(-j w k). Its magnitude on a tone of frequency w0 is the
window's spectrum at w - w0, and what moves w is the slope of that. Letters: K taps, N tones, T outputs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aape.analysis.figures import make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KERNEL_SIZE, PATCH_SIZE, FRAMES_PER_SECOND = 63, 16, 100  # the paper's setting
RADIANS_TO_HERTZ = FRAMES_PER_SECOND / (2 * math.pi)
LOWEST = math.pi / PATCH_SIZE  # radians per frame: what the patches themselves can represent ends here
WINDOW_EDGES = (1e-2, 1e-4)  # of the peak, at the last tap; the first is the widest window that the stem can choose
LEARNING_RATES = (0.01, 0.05, 0.2)
TOLERANCE_HERTZ = 0.5  # of a tone that counts as found
FAR_HERTZ = 10.0  # between tone and start, above which a start is a far one
_NUM_OUTPUTS = 64

WINDOWS = {"one-sided": "one-sided exponential", "two-sided": "two-sided exponential", "gaussian": "Gaussian"}
KERNELS = {**WINDOWS, "bilateral": "SBLU, bilateral"}  # E_k = exp(-(a + jw)|k|): see docs/method.md 3
COLOURS = dict(zip(KERNELS, ("tab:orange", "tab:blue", "tab:green", "tab:purple"), strict=True))
_FLOOR = 1e-12  # a gradient below this is not drawn: the figure would be all floor


def window(kernel: str, edge: float) -> Tensor:
    """Return the window of a kernel of `KERNELS`, peak 1, fallen to `edge` at the last of K taps: (K,), float64.

    The one-sided one has its peak at the first tap, the others in the middle.
    """
    radius = KERNEL_SIZE // 2
    k = torch.arange(-radius, radius + 1, dtype=torch.float64)
    if kernel == "one-sided":
        return edge ** ((k + radius) / (KERNEL_SIZE - 1))
    return edge ** ((k / radius).square() if kernel == "gaussian" else (k / radius).abs())


def kernel_angle(kernel: str, frequency: Tensor) -> Tensor:
    """Return the phase (..., K) by which a kernel of frequencies (...) turns back each tap, in radians."""
    k = torch.arange(KERNEL_SIZE, dtype=torch.float64) - KERNEL_SIZE // 2
    return frequency[..., None] * (k.abs() if kernel == "bilateral" else k)


def kernel_window(kernel: str, edge: float) -> Tensor:
    """Return the `window` of a kernel with a sum of 1: (K,)."""
    return window(kernel, edge) / window(kernel, edge).sum()


@dataclass(frozen=True)
class Spectra:
    """Kernels and what they make of a tone at half the band, 25 Hz; one row per name of `KERNELS`."""

    taps: NDArray[np.integer]  # (K,), -R .. R
    shapes: NDArray[np.float64]  # (4, K)
    detuning: NDArray[np.float64]  # (F,), kernel less tone, in Hz
    magnitudes: NDArray[np.float64]  # (4, F), 1 at the peak
    slopes: NDArray[np.float64]  # (4, F), per Hz


def spectra(edge: float = WINDOW_EDGES[0], num_points: int = 1001) -> Spectra:
    """Compute kernels' magnitudes and slopes on a tone, from -25 to 25 Hz beside it (the paper's Figure 2)."""
    detuning = torch.linspace(-25, 25, num_points, dtype=torch.float64)
    tone = torch.tensor(math.pi / 2, dtype=torch.float64)
    magnitudes, slopes = [], []
    for kernel in KERNELS:
        frequency = (tone + detuning / RADIANS_TO_HERTZ).requires_grad_()
        phase = kernel_angle("two-sided", tone) - kernel_angle(kernel, frequency)
        response = (kernel_window(kernel, edge) * torch.polar(torch.ones_like(phase), phase)).sum(-1).abs()
        (slope,) = torch.autograd.grad(response.sum(), frequency)
        magnitudes.append((response / response.max()).detach().numpy())
        slopes.append((slope / response.max()).detach().numpy() / RADIANS_TO_HERTZ)
    shapes = [window(kernel, edge).numpy() for kernel in KERNELS]
    taps = np.arange(KERNEL_SIZE) - KERNEL_SIZE // 2
    return Spectra(taps, np.stack(shapes), detuning.numpy(), np.stack(magnitudes), np.stack(slopes))


@dataclass(frozen=True)
class Recovery:
    """Random tones and where descent from random starts ended, per kernel, window edge and learning rate."""

    tones: NDArray[np.float64]  # (N,), in Hz
    starts: NDArray[np.float64]  # (N,), in Hz
    ends: dict[tuple[str, float, float], NDArray[np.float64]]  # (kernel, edge, learning rate) -> (N,), in Hz

    def hits(self, kernel: str, edge: float) -> tuple[dict[float, NDArray[np.bool_]], float]:
        """Return which tones a kernel found (N,) at each learning rate, and the rate at which it found most."""
        hits = {rate: np.abs(self.ends[kernel, edge, rate] - self.tones) < TOLERANCE_HERTZ for rate in LEARNING_RATES}
        return hits, max(hits, key=lambda rate: hits[rate].sum())


def recover_tones(
    num_tones: int, steps: int, seed: int, *, progress: Callable[[int, int], None] | None = None
) -> Recovery:
    """Let Adam raise the mean magnitude of kernels on random tones, by their frequency alone, from random starts.

    Tones cos(w0 n + phase) and starts are drawn uniformly from pi/16 to pi radians per frame (3.125 to 50 Hz); the
    frequency is the sigmoid of a raw value, as in the stem. Every kernel meets the same N tones and starts.
    `progress` is called with (done, total) after each run, of `steps` for a kernel, window edge and learning rate.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(3, num_tones, generator=generator, dtype=torch.float64)
    tones = LOWEST + (math.pi - LOWEST) * draws[0]
    n = torch.arange(_NUM_OUTPUTS + KERNEL_SIZE - 1, dtype=torch.float64)
    sound = torch.cos(tones[:, None] * n + 2 * math.pi * draws[1][:, None])  # (N, T + K - 1)
    runs = list(itertools.product(KERNELS, WINDOW_EDGES, LEARNING_RATES))
    ends = {}
    for done, (kernel, edge, rate) in enumerate(runs, start=1):
        raw = torch.logit(draws[2]).requires_grad_()
        optimiser = torch.optim.Adam([raw], lr=rate)
        for _ in range(steps):
            optimiser.zero_grad()
            loss = -_magnitude(kernel, edge, sound, _frequency(raw)).sum()
            loss.backward()
            optimiser.step()
        ends[kernel, edge, rate] = (_frequency(raw.detach()) * RADIANS_TO_HERTZ).numpy()
        if progress is not None:
            progress(done, len(runs))
    starts = _frequency(torch.logit(draws[2])) * RADIANS_TO_HERTZ
    return Recovery((tones * RADIANS_TO_HERTZ).numpy(), starts.numpy(), ends)


def summarise(recovery: Recovery) -> list[dict[str, Any]]:
    """Return a row per kernel and window edge: its success rate, the 95 % interval, the median error of tones found.

    The learning rate is the one that found most; the success rates of all are in the row.
    """
    rows = []
    is_far = np.abs(recovery.starts - recovery.tones) > FAR_HERTZ
    for kernel, edge in itertools.product(KERNELS, WINDOW_EDGES):
        hits, best = recovery.hits(kernel, edge)
        errors = np.abs(recovery.ends[kernel, edge, best] - recovery.tones)
        rows.append(
            {
                "kernel": kernel,
                "window_edge": edge,
                "success_rate": _mean(hits[best]),
                "interval_95": wilson_interval(int(hits[best].sum()), len(errors)),
                "success_rate_of_far_starts": _mean(hits[best][is_far]),
                "median_error_of_found_hz": float(np.median(errors[hits[best]])) if hits[best].any() else math.nan,
                "learning_rate": best,
                "success_rate_by_learning_rate": {f"{rate:g}": _mean(each) for rate, each in hits.items()},
            }
        )
    return rows


def success_by_distance(
    hits: NDArray[np.bool_], distance: NDArray[np.float64], edges: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return success rate and its 95 % interval for starts at distances between `edges`; NaN where there are none."""
    rows = []
    for low, high in itertools.pairwise(edges):
        inside = hits[(distance >= low) & (distance < high)]
        bounds = wilson_interval(int(inside.sum()), len(inside)) if len(inside) else (math.nan, math.nan)
        rows.append((_mean(inside), *bounds))
    rates, lows, highs = np.array(rows).T
    return rates, lows, highs


def wilson_interval(hits: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson's score)."""
    centre = (hits + z * z / 2) / (trials + z * z)
    half = z * math.sqrt(hits * (trials - hits) / trials + z * z / 4) / (trials + z * z)
    return max(0.0, centre - half), min(1.0, centre + half)


def plot_windows(windows: Spectra, recovery: Recovery) -> Figure:
    """Draw windows, spectra and gradients (Figure 2), and how often descent finds a tone with each."""
    figure = make_figure(11, 8.5)
    panels = figure.subplots(2, 3)
    _draw_spectra(panels[0], windows)
    _draw_recovery(panels[1], recovery)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[1][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _style(kernel: str) -> dict[str, Any]:
    # Dashed, because the window of the bilateral kernel is the two-sided one and would hide it
    return {"color": COLOURS[kernel], "linewidth": 1.4, "linestyle": "-" if kernel in WINDOWS else (0, (4, 4))}


def _draw_spectra(panels: Any, windows: Spectra) -> None:
    shape, magnitude, slope = panels
    milliseconds = windows.taps * 1000 / FRAMES_PER_SECOND
    for row, kernel in enumerate(KERNELS):
        style = _style(kernel)
        shape.plot(milliseconds, windows.shapes[row], **style)
        magnitude.plot(windows.detuning, 20 * np.log10(np.maximum(windows.magnitudes[row], _FLOOR)), **style)
        slope.plot(windows.detuning, np.maximum(np.abs(windows.slopes[row]), _FLOOR), **style)
    shape.set(title=f"Windows of {KERNEL_SIZE} taps, {WINDOW_EDGES[0]:g} at the edge", xlabel="time (ms)")
    shape.set(ylabel="weight")
    detuning = "kernel frequency - tone (Hz)"
    magnitude.set(title="Magnitude on a tone of 25 Hz", xlabel=detuning, ylabel="magnitude (dB)", ylim=(-80, 3))
    slope.set(title="Gradient of the magnitude", xlabel=detuning, ylabel="|gradient| (per Hz)")
    slope.set(yscale="log", ylim=(1e-6, 1))


def _draw_recovery(panels: Any, recovery: Recovery) -> None:
    *curves, bars = panels
    distances = np.abs(recovery.starts - recovery.tones)
    edges = np.arange(0, 41, 5.0)
    for offset, (kernel, label) in enumerate(KERNELS.items()):
        shares = []
        for axes, window_edge in zip(curves, WINDOW_EDGES, strict=True):
            by_rate, best = recovery.hits(kernel, window_edge)
            rates, low, high = success_by_distance(by_rate[best], distances, edges)
            middle = (edges[:-1] + edges[1:]) / 2 + 0.3 * (offset - 1.5)
            axes.errorbar(middle, 100 * rates, 100 * np.stack([rates - low, high - rates]), **_style(kernel),
                          marker="o", markersize=4, elinewidth=0.8, label=label)  # fmt: skip
            shares.append(100 * by_rate[best].mean())
        drawn = bars.bar(np.arange(2) + 0.2 * (offset - 1.5), shares, 0.19, color=COLOURS[kernel], label=label)
        bars.bar_label(drawn, fmt="%.0f", fontsize="small")
    for axes, window_edge in zip(curves, WINDOW_EDGES, strict=True):
        axes.set(title=f"Tones found by distance, edge {window_edge:g}", xlabel="from start to tone (Hz)")
        axes.set(ylabel="found (%)", ylim=(-3, 103))
    bars.set_xticks(range(2), [f"{window_edge:g}" for window_edge in WINDOW_EDGES])
    bars.set(title="Tones found, all starts", xlabel="window edge", ylabel="found (%)", ylim=(0, 110))


def _mean(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean()) if len(hits) else math.nan


def _frequency(raw: Tensor) -> Tensor:
    return LOWEST + (math.pi - LOWEST) * torch.sigmoid(raw)


def _magnitude(kernel: str, edge: float, sound: Tensor, frequency: Tensor) -> Tensor:
    """Return the mean magnitude (N,) of a kernel with frequencies (N,) on sounds (N, T + K - 1)."""
    angle = kernel_angle(kernel, frequency)
    kernels = torch.polar(kernel_window(kernel, edge).expand_as(angle), -angle)  # (N, K)
    windows = sound.unfold(1, KERNEL_SIZE, 1)  # (N, T, K)
    real, imaginary = (torch.einsum("nk,ntk->nt", part, windows) for part in (kernels.real, kernels.imag))
    return torch.sqrt(real.square() + imaginary.square() + 1e-300).mean(1)

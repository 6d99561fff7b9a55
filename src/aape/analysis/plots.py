"""Figures from arrays. Nothing here touches pyplot's global state; save with `figure.savefig(path)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aape.analysis.numbers import FRAMES_PER_SECOND, ChosenKernels
from aape.errors import AapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSSES = {
    "loss": "total",
    "loss_mask": "masked tokens",
    "loss_utterance": "utterance",
    "loss_contrastive": "contrastive",
}
VARIANCES = {
    "target_variance_tokens": "targets, over tokens",
    "target_variance_batch": "targets, over clips",
    "prediction_variance_tokens": "predictions, over tokens",
    "prediction_variance_batch": "predictions, over clips",
}


def plot_pretraining(metrics: Mapping[str, NDArray[np.floating]]) -> Figure:
    """Draw losses and variances of a run against its steps.

    Args:
        metrics: one array per field, as `aape.analysis.numbers.read_metrics` gives.
    """
    figure = _figure(10, 4)
    panels = figure.subplots(1, 2)
    for axes, names, title in zip(
        panels, (LOSSES, VARIANCES), ("Losses", "Variances: near 0 is collapse"), strict=True
    ):
        for name, label in names.items():
            axes.plot(metrics["step"], metrics[name], label=label)
        axes.set(title=title, xlabel="step", ylabel="variance" if names is VARIANCES else "loss", yscale="log")
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    return figure


def plot_kernels(spectrogram: NDArray[np.floating], kernels: ChosenKernels, title: str = "") -> Figure:
    """Draw a clip's spectrogram above the frequencies and decays its stem chose (the paper's Figure 4).

    Args:
        spectrogram: standardised log-mel (F, T).
        kernels: of the same clip; medians over the kernels and their middle half are drawn per frequency patch.
        title: of the figure.
    """
    figure = _figure(9, 9)
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    seconds = spectrogram.shape[1] / FRAMES_PER_SECOND
    shown = top.imshow(spectrogram, origin="lower", aspect="auto", extent=(0, seconds, 0, len(spectrogram)))
    figure.colorbar(shown, ax=top, label="log-mel (standard deviations)", pad=0.01)
    top.set(title=title or "Spectrogram", ylabel="mel bin")
    num_freq, num_time, _ = kernels.frequencies.shape
    patch_seconds = (
        len(spectrogram) / num_freq / FRAMES_PER_SECOND
    )  # patches are square; the last may reach past the end
    times = (np.arange(num_time) + 0.5) * patch_seconds
    from matplotlib import colormaps

    for axes, values, label in (
        (middle, kernels.frequencies, "modulation frequency (Hz)"),
        (bottom, kernels.decays, "decay (nepers per second)"),
    ):
        for row in range(num_freq):
            colour = colormaps["viridis"](row / max(1, num_freq - 1))
            low, mid, high = np.percentile(values[row], (25, 50, 75), axis=-1)
            axes.plot(times, mid, color=colour, marker=".", label=f"patch {row}")
            axes.fill_between(times, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set(ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(title="frequency", fontsize="x-small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    middle.set_title("Frequencies of the kernels: median and middle half of each frequency patch")
    bottom.set_title("Decays of the kernels")
    bottom.set(xlabel="time (s)", xlim=(0, max(seconds, times[-1])))
    return figure


def require_matplotlib() -> None:
    """Fail now rather than when the first figure is due.

    Raises:
        AapeError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise AapeError("figures need matplotlib: pip install 'aape[plots]'") from error


def _figure(width: float, height: float) -> Figure:
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=110)

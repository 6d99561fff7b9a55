"""Curves of pre-training runs, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aape.analysis.plots import make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# title, unit, logarithmic, fields: the first drawn solid, the second dashed
PANELS: tuple[tuple[str, str, bool, tuple[str, ...]], ...] = (
    ("Loss, total", "loss", True, ("loss",)),
    ("Loss of masked tokens, of utterances (dashed)", "loss", True, ("loss_mask", "loss_utterance")),
    ("Contrastive loss", "loss", True, ("loss_contrastive",)),
    ("Gradient norm", "norm", True, ("grad_norm",)),
    (
        "Targets over tokens, over clips (dashed); near 0 is collapse",
        "variance",
        True,
        ("target_variance_tokens", "target_variance_batch"),
    ),
    (
        "Predictions over tokens, over clips (dashed)",
        "variance",
        True,
        ("prediction_variance_tokens", "prediction_variance_batch"),
    ),
    ("Learning rate", "learning rate", False, ("learning_rate",)),
    ("Throughput", "clips per second", False, ("clips_per_second",)),
)


def plot_runs(runs: Mapping[str, Mapping[str, NDArray[np.floating]]]) -> Figure:
    """Draw losses, variances, learning rate and throughput of one run or several against their steps.

    Args:
        runs: by name, one array per field, as `aape.analysis.numbers.read_metrics` gives.
    """
    figure = make_figure(16, 7.5)
    for axes, (title, unit, is_logarithmic, fields) in zip(figure.subplots(2, 4).flat, PANELS, strict=True):
        for i, (name, metrics) in enumerate(runs.items()):
            for field, style in zip(fields, ("-", "--"), strict=False):
                if field in metrics:
                    label = name if style == "-" else None
                    axes.plot(metrics["step"], metrics[field], style, color=f"C{i}", label=label, linewidth=1.2)
        axes.set(xlabel="step", ylabel=unit, yscale="log" if is_logarithmic else "linear")
        axes.set_title(title, fontsize="small")
        axes.grid(alpha=0.3)
    if len(runs) > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(runs)), fontsize="small")
    return figure

"""Curves of pre-training runs, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aape.analysis.figures import make_figure
from aape.errors import DataError
from aape.runs.files import Records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# title, unit, fields: the first drawn solid, the second dashed
PANELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Loss, total", "loss", ("loss",)),
    ("Loss of masked tokens, of utterances (dashed)", "loss", ("loss_mask", "loss_utterance")),
    ("Contrastive loss", "loss", ("loss_contrastive",)),
    ("Gradient norm", "norm", ("grad_norm",)),
    ("Targets over tokens, over clips (dashed); near 0 is collapse", "variance",
     ("target_variance_tokens", "target_variance_batch")),
    ("Predictions over tokens, over clips (dashed)", "variance",
     ("prediction_variance_tokens", "prediction_variance_batch")),
    ("Learning rate", "learning rate", ("learning_rate",)),
    ("Throughput", "clips per second", ("clips_per_second",)),
)  # fmt: skip


def read_metrics(path: str | Path) -> dict[str, NDArray[np.float64]]:
    """Read a run's metrics.jsonl as one array per field; NaN where a line lacks it.

    Raises:
        DataError: not the metrics of a pre-training; a line is no JSON object, or has no step, or a value no number.
    """
    lines = Records(path).read()
    if not any("loss_mask" in line for line in lines):
        raise DataError(f"{Path(path).parent}: no metrics.jsonl of a pre-training run in it, or no line yet")
    arrays = {}
    for name in sorted({name for line in lines for name in line}):
        try:
            arrays[name] = np.array([line.get(name, np.nan) for line in lines], dtype=np.float64)
        except (OverflowError, TypeError, ValueError) as error:
            raise DataError(f"{path}: {name}: a value is not a number") from error
    if not np.isfinite(arrays.get("step", np.nan)).all():
        raise DataError(f"{path}: a line has no step")
    return arrays


def plot_runs(runs: Mapping[str, Mapping[str, NDArray[np.floating]]]) -> Figure:
    """Draw runs by name, each with the arrays of `read_metrics`, against their steps."""
    figure = make_figure(16, 7.5)
    for axes, (title, unit, fields) in zip(figure.subplots(2, 4).flat, PANELS, strict=True):
        for i, (name, metrics) in enumerate(runs.items()):
            for field, style in zip(fields, ("-", "--"), strict=False):
                if field in metrics:
                    label = name if style == "-" else None
                    axes.plot(metrics["step"], metrics[field], style, color=f"C{i}", label=label, linewidth=1.2)
        axes.set(xlabel="step", ylabel=unit, yscale="log" if unit in ("loss", "norm", "variance") else "linear")
        axes.set_title(title, fontsize="small")
        axes.grid(alpha=0.3)
    if len(runs) > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(runs)), fontsize="small")
    return figure

"""`aape plot WHAT`: numbers, their figure as PNG and SVG, and a JSON beside it with all that was drawn."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aape.analysis import windows
from aape.analysis.numbers import FRAMES_PER_SECOND, chosen_kernels, read_metrics
from aape.analysis.plots import figure_path, plot_kernels, require_matplotlib, save_figure
from aape.analysis.plots import plot_windows as draw_windows
from aape.analysis.runs import plot_runs
from aape.config import PlotClipConfig, PlotRunConfig, PlotWindowsConfig
from aape.data.audio import read_audio
from aape.errors import AudioError, ConfigError, DataError
from aape.inference import load_model
from aape.layers.aape import AaPE
from aape.training.results import describe_environment, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_windows(config: PlotWindowsConfig) -> None:
    """Draw the paper's Figure 2, and run and draw the experiment behind it: tones found by descent, per window.

    Raises:
        AapeError: matplotlib is missing.
    """
    require_matplotlib()
    with _progress("tones") as report:
        recovery = windows.recover_tones(config.tones, config.steps, config.seed, progress=report)
    spectra = windows.spectra()
    rows = windows.summarise(recovery)
    print(f"Tones found within {windows.TOLERANCE_HERTZ:g} Hz, of {config.tones}, {config.steps} steps of Adam:")
    for row in rows:
        low, high = (100 * bound for bound in row["interval_95"])
        print(
            f"  {windows.KERNELS[row['kernel']]:<23} window edge {row['window_edge']:<6g}  "
            f"{100 * row['success_rate']:5.1f} % ({low:.0f} to {high:.0f}), of starts over {windows.FAR_HERTZ:g} Hz "
            f"away {100 * row['success_rate_of_far_starts']:5.1f} %"
        )
    ends = [
        {"kernel": kernel, "window_edge": edge, "learning_rate": rate, "ends_hz": found}
        for (kernel, edge, rate), found in recovery.ends.items()
    ]
    numbers = {
        "tolerance_hz": windows.TOLERANCE_HERTZ,
        "far_hz": windows.FAR_HERTZ,
        "kernel_size": windows.KERNEL_SIZE,
        "success": rows,
        "recovery": {"tones_hz": recovery.tones, "starts_hz": recovery.starts, "runs": ends},
        "spectra": {"kernels": list(windows.KERNELS), **_lists(spectra)},
    }
    _write(config, draw_windows(spectra, recovery), numbers)


def plot_clip(config: PlotClipConfig) -> None:
    """Draw the paper's Figure 4 of a sound: its spectrogram, and the frequencies and decays chosen for it over time.

    Raises:
        AapeError: matplotlib is missing.
        AudioError: the sound cannot be used, or ends before `start`.
        CheckpointError: there is no such model.
        ConfigError: the model's stem has no kernels.
    """
    require_matplotlib()
    model = load_model(config.model, config.device)
    if not isinstance(model.encoder.stem, AaPE):
        raise ConfigError(f"model: {config.model} has the standard stem, which has no kernels to show")
    rate = model.front_end.sample_rate
    wave = read_audio(config.file, sample_rate=rate)
    first = round(config.start * rate)
    if first >= len(wave):
        raise AudioError(config.file, f"is {len(wave) / rate:.2f} s long: nothing is left at {config.start:g} s")
    # One sample less than whole frames, because the frames are centred and there is one more than hops.
    part = wave[first : first + round(config.seconds * rate)]
    part = part[: max(1, len(part) - 1)]
    spectrogram = model.log_mel(torch.from_numpy(part)[None].to(model.device))
    kernels = chosen_kernels(model.encoder, spectrogram)
    name = os.path.basename(config.file)
    if len(part) < len(wave) - first - 1:
        print(f"{name}: {len(part) / rate:.2f} s of {len(wave) / rate:.2f} s are shown; --start moves on")
    band = (model.front_end.f_min, model.front_end.f_max)
    figure = plot_kernels(
        spectrogram[0, 0].cpu().numpy(), kernels, f"{name}, by {config.model}", band=band, start=config.start
    )
    patch_seconds = model.encoder.patch_size / FRAMES_PER_SECOND
    centres = config.start + patch_seconds * (np.arange(kernels.frequencies.shape[1]) + 0.5)
    numbers = {
        "axes": "frequency patch (low first), time patch, kernel",
        "seconds": centres,
        "frequencies_hz": kernels.frequencies,
        "decays_nepers_per_second": kernels.decays,
    }
    _write(config, figure, numbers)


def plot_run(config: PlotRunConfig) -> None:
    """Draw the curves of pre-training runs, side by side.

    Raises:
        AapeError: matplotlib is missing.
        DataError: a folder without metrics.jsonl, or without a line in it.
    """
    require_matplotlib()
    metrics = {}
    for run in config.runs:
        found = read_metrics(Path(run) / "metrics.jsonl")
        if "loss_mask" not in found:
            raise DataError(f"{run}: no metrics.jsonl of a pre-training run in it, or no line yet")
        metrics[run] = found
    print("-> " + ", ".join(str(file) for file in save_figure(plot_runs(metrics), config.out)))


def _write(config: Any, figure: Figure, numbers: dict[str, Any]) -> None:
    """Write the figure, and its numbers with the configuration and the environment, and say where."""
    files = save_figure(figure, config.out)
    path = figure_path(config.out)
    json_file = path.with_name(path.name + ".json")
    header = {"config": dataclasses.asdict(config), "environment": describe_environment()}
    write_json(json_file, {**header, **numbers})
    print("-> " + ", ".join(str(file) for file in [*files, json_file]))


def _lists(arrays: Any) -> dict[str, Any]:
    return {field.name: getattr(arrays, field.name) for field in dataclasses.fields(arrays)}


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on standard error, and give what moves it: a function of (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def plot_aliasing(config: object) -> None:
    """Draw later."""

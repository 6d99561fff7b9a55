"""`aape plot WHAT`: numbers, their figure as PNG and SVG, and a JSON beside it with all that was drawn."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from aape.analysis import aliasing, windows
from aape.analysis.numbers import FRAMES_PER_SECOND, chosen_kernels, read_metrics
from aape.analysis.plots import figure_path, plot_kernels, require_matplotlib, save_figure
from aape.analysis.plots import plot_aliasing as draw_aliasing
from aape.analysis.plots import plot_windows as draw_windows
from aape.analysis.runs import plot_runs
from aape.commands.plot import PlotAliasingConfig, PlotClipConfig, PlotRunConfig, PlotWindowsConfig
from aape.data.audio.decoding import read_audio
from aape.data.clips import Clip, load_clip, read_manifest
from aape.data.demo import AUDIO
from aape.errors import AudioError, ConfigError, DataError, one_line
from aape.inference import load_model
from aape.layers.aape import AaPE
from aape.runs.files import write_json
from aape.runs.folder import describe_environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORDING_SECONDS = aliasing.SHIFTED_SAMPLES / aliasing.FRONT_END.sample_rate


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
    part = wave[first : first + max(1, round(config.seconds * rate))]
    part = part[: max(1, len(part) - 1)]
    spectrogram = model.log_mel(torch.from_numpy(part)[None].to(model.device))
    kernels = chosen_kernels(model.encoder, spectrogram)
    name = one_line(os.path.basename(config.file))
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


def plot_aliasing(config: PlotAliasingConfig) -> None:
    """Measure and draw aliasing: folded modulation rates read from tokens, and tokens under shifts below a patch.

    Raises:
        AapeError: matplotlib is missing.
        CheckpointError: there is no such model.
        ConfigError: a model has another front end or other patches.
        DataError: fewer than two recordings are long enough.
    """
    require_matplotlib()
    models = [_token_map(name) for name in dict.fromkeys(config.models)]
    clips = read_manifest(config.data or AUDIO)
    bad: dict[str, str] = {}
    recordings = [_recordings(clips, config.sounds, seed, bad) for seed in range(config.seeds)]
    decoded: list[tuple[NDArray[np.int64], aliasing.Said]] = []
    shifted: dict[str, list[dict[tuple[str, str], NDArray[np.float64]]]] = {"AM tones": [], "recordings": []}
    with _progress("experiments") as report:
        for seed in range(config.seeds):
            report(3 * seed, 3 * config.seeds)
            decoded.append(aliasing.decode_rates(config.clips, seed, models))
            report(3 * seed + 1, 3 * config.seeds)
            tones = aliasing.random_tones(config.sounds, seed)
            shifted["AM tones"].append(aliasing.shift_sounds(tones, seed, models))
            report(3 * seed + 2, 3 * config.seeds)
            shifted["recordings"].append(aliasing.shift_sounds(recordings[seed], seed, models))
        report(3 * config.seeds, 3 * config.seeds)
    for name, reason in list(bad.items())[:1]:
        print(f"left out: {len(bad)} of the recordings, the first {one_line(name)}: {reason}", file=sys.stderr)
    rates = aliasing.summarise_decoding(decoded)
    shifts = {name: aliasing.summarise_shifts(runs) for name, runs in shifted.items()}
    _print_aliasing(rates, shifts)
    numbers = {
        "rates_hz": aliasing.RATES,
        "apparent_hz": aliasing.APPARENT_HERTZ,
        "chance": 1 / len(aliasing.RATES),
        "decoding": rates,
        "shifts_ms": [1000 * shift / FRAMES_PER_SECOND for shift in aliasing.SHIFTS],
        "distance": "cosine distance from the unshifted sound, over the mean cosine distance between sounds",
        "stability": shifts,
        "left_out": [{"name": name, "reason": reason} for name, reason in bad.items()],
    }
    _write(config, draw_aliasing(rates, shifts), numbers)


def plot_run(config: PlotRunConfig) -> None:
    """Draw the curves of pre-training runs, side by side.

    Raises:
        AapeError: matplotlib is missing.
        DataError: a folder without metrics.jsonl, without a line in it, or with one that is not of a run.
    """
    require_matplotlib()
    metrics = {}
    for run in config.runs:
        found = read_metrics(Path(run) / "metrics.jsonl")
        if "loss_mask" not in found:
            raise DataError(f"{run}: no metrics.jsonl of a pre-training run in it, or no line yet")
        metrics[run] = found
    print("-> " + ", ".join(str(file) for file in save_figure(plot_runs(metrics), config.out)))


def _token_map(name: str) -> aliasing.TokenMap:
    model = load_model(name, "cpu")
    front_end = model.front_end
    same = dataclasses.replace(aliasing.FRONT_END, mean=front_end.mean, std=front_end.std)
    if front_end != same or model.encoder.patch_size != aliasing.PATCH_SIZE:
        raise ConfigError(f"models: {name} has not the paper's front end and patches, for which the rates are chosen")
    return aliasing.model_tokens(name, model.encoder, front_end.mean, front_end.std)


def _recordings(clips: Sequence[Clip], count: int, seed: int, bad: dict[str, str]) -> torch.Tensor:
    """Read the middle of `count` recordings, drawn at random; `bad` gets the names and reasons of those left out."""
    found: list[torch.Tensor] = []
    for row in np.random.default_rng(seed).permutation(len(clips)):
        try:
            wave = load_clip(clips[row], sample_rate=aliasing.FRONT_END.sample_rate, duration=10.0)
        except AudioError as error:
            bad[clips[row].name] = error.reason
            continue
        spare = len(wave) - aliasing.SHIFTED_SAMPLES
        if spare < 0 or not wave.any():
            bad[clips[row].name] = "silent" if spare >= 0 else f"shorter than {RECORDING_SECONDS:.2f} s"
            continue
        found.append(torch.from_numpy(wave[spare // 2 : spare // 2 + aliasing.SHIFTED_SAMPLES].copy()))
        if len(found) == count:
            break
    if len(found) < 2:
        raise DataError(
            f"data: {len(found)} of {len(clips)} recordings can be used; two of {RECORDING_SECONDS:.2f} s are needed"
        )
    return torch.stack(found)


def _print_aliasing(rates: Sequence[dict[str, Any]], shifts: dict[str, list[dict[str, Any]]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    half = aliasing.PATCH_SIZE // 2
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("tokens", no_wrap=True)
    for column in (*aliasing.READ_OUTS, *(f"{sounds}:\n{kind}" for sounds in shifts for kind in ("mean", "token"))):
        table.add_column(column, justify="right")
    cells: dict[str, list[str]] = {}
    for row in rates:
        spread = "" if row["lowest"] == row["highest"] else f" ({100 * row['lowest']:.0f}-{100 * row['highest']:.0f})"
        cells.setdefault(row["tokens"], []).append(f"{100 * row['accuracy']:.0f}{spread}")
    for name, line in cells.items():
        line += ["-"] * (len(aliasing.READ_OUTS) - len(line))
        for rows in shifts.values():
            moved = [f"{100 * row['median'][half]:.2g}" for row in rows if row["tokens"] == name]
            line += moved + ["-"] * (2 - len(moved))
        table.add_row(name, *line)
    print(
        f"mean, token, spread: of {len(aliasing.RATES)} modulation rates, {aliasing.RATES[0]:g} to "
        f"{aliasing.RATES[-1]:g} Hz, all folded to {aliasing.APPARENT_HERTZ:g} Hz by the patches, %\n"
        f"that a linear decoder hears right (chance {100 / len(aliasing.RATES):.1f}) from the mean of all tokens, from "
        "a single token,\nand from the standard deviation of tokens over time; in brackets the lowest and highest seed."
        "\nBehind: how far a shift of half a patch moves the mean token, and tokens place by place, in % of the\n"
        "distance between sounds (median)."
    )
    Console(width=130).print(table)


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

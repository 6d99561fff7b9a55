"""`aape plot WHAT`: numbers, their figure as PNG and SVG, and a JSON beside it with all that was drawn."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape.commands.options import Device
from aape.errors import (
    MAX_CLIPS,
    MAX_SEEDS,
    MAX_STEPS,
    AudioError,
    ConfigError,
    DataError,
    one_line,
    require_at_most,
    require_positive,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from torch import Tensor

    from aape.analysis.aliasing import TokenMap
    from aape.data.clips import Clip

MAX_START = 14_400.0  # seconds, as much as is read of a sound
PAGE = ".html"


@dataclass(frozen=True)
class PlotWindowsConfig:
    """`aape plot windows`: spectra and gradients of three windows, and how often gradient descent finds a tone.

    Args:
        out: figure to write, as .png and .svg, with the numbers beside it as .json.
        seed: random seed for tones and starts.
        tones: random tones, each with a random start.
        steps: gradient descent steps.
    """

    out: str = "windows"
    seed: int = 0
    tones: int = 200
    steps: int = 300

    def __post_init__(self) -> None:
        require_positive(self, "tones", "steps")
        require_at_most(self, tones=MAX_CLIPS, steps=MAX_STEPS)


@dataclass(frozen=True)
class PlotClipConfig:
    """`aape plot clip`: a sound's spectrogram, and the frequencies and decays that a stem chose for it over time.

    Args:
        file: sound file.
        model: a name (tiny is part of the package) or a saved folder.
        out: figure to write, as .png and .svg, with the numbers beside it as .json.
        start: where to begin, in seconds.
        seconds: how much to show; by default all that the model encodes in one pass (10.24 for tiny).
        device: where to run.
    """

    file: str = field(metadata={"positional": True})
    model: str = "tiny"
    out: str = "clip"
    start: float = 0.0
    seconds: float | None = None
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "seconds")
        require_at_most(self, start=MAX_START)


@dataclass(frozen=True)
class PlotAliasingConfig:
    """`aape plot aliasing`: how well stems' tokens encode folded modulation rates, and how far small shifts move them.

    Args:
        out: figure to write, as .png and .svg, with the numbers beside it as .json.
        data: recordings to shift: a folder, CSV or tar shard; by default those of the package.
        models: names (tiny is part of the package) or saved folders to measure too, as in tiny,runs/mine; [] for none.
        seeds: repetitions, each with other weights and sounds.
        clips: sounds of each modulation rate to train a decoder with; half as many test it.
        sounds: recordings, and modulated tones, to shift in each repetition.
    """

    out: str = "aliasing"
    data: str | None = None
    models: tuple[str, ...] = ("tiny",)
    seeds: int = 3
    clips: int = 24
    sounds: int = 12

    def __post_init__(self) -> None:
        require_positive(self, "seeds", "clips")
        require_at_most(self, seeds=MAX_SEEDS, clips=MAX_CLIPS, sounds=MAX_CLIPS)
        if self.sounds < 2:
            raise ConfigError(f"sounds: at least 2, to have a distance between them, got {self.sounds}")


@dataclass(frozen=True)
class PlotRunConfig:
    """`aape plot run`: losses, variances, learning rate and throughput of pre-training runs.

    Args:
        runs: run folders, finished or running.
        out: figure to write, as .png and .svg; with a name that ends in .html instead a page that opens in a browser,
            with alarms, skipped steps, bad files, probes and the options in which runs differ.
    """

    runs: list[str] = field(metadata={"positional": True})
    out: str = "run"


def plot_windows(config: PlotWindowsConfig) -> None:
    """Draw the paper's Figure 2, and run and draw the experiment behind it: tones found by descent, per window.

    Raises:
        AapeError: matplotlib is missing.
    """
    from aape.analysis import windows
    from aape.analysis.figures import require_matplotlib
    from aape.runs.progress import progress_bar

    require_matplotlib(config.out)
    with progress_bar("tones", config.tones) as progress:
        recovery = windows.recover_tones(config.tones, config.steps, config.seed, progress=progress)
    spectra, rows = windows.spectra(), windows.summarise(recovery)
    print(f"Tones found within {windows.TOLERANCE_HERTZ:g} Hz, of {config.tones}, {config.steps} steps of Adam:")
    for row in rows:
        low, high = (100 * bound for bound in row["interval_95"])
        print(
            f"  {windows.KERNELS[row['kernel']]:<23} window edge {row['window_edge']:<6g}  "
            f"{100 * row['success_rate']:5.1f} % ({low:.0f} to {high:.0f}), of starts over {windows.FAR_HERTZ:g} Hz "
            f"away {100 * row['success_rate_of_far_starts']:5.1f} %"
        )
    names = ("kernel", "window_edge", "learning_rate", "ends_hz")
    ends = [dict(zip(names, (*run, hertz), strict=True)) for run, hertz in recovery.ends.items()]
    numbers = {
        "tolerance_hz": windows.TOLERANCE_HERTZ,
        "far_hz": windows.FAR_HERTZ,
        "kernel_size": windows.KERNEL_SIZE,
        "success": rows,
        "recovery": {"tones_hz": recovery.tones, "starts_hz": recovery.starts, "runs": ends},
        "spectra": {"kernels": list(windows.KERNELS), **vars(spectra)},
    }
    _write(config, windows.plot_windows(spectra, recovery), numbers)


def plot_clip(config: PlotClipConfig) -> None:
    """Draw the paper's Figure 4 of a sound: its spectrogram, and the frequencies and decays chosen for it over time.

    Raises:
        AapeError: matplotlib is missing.
        AudioError: the sound cannot be used, or ends before `start`.
        CheckpointError: there is no such model.
        ConfigError: the model's stem has no kernels, or more is asked for than is encoded in one pass.
    """
    import numpy as np

    from aape.analysis.figures import require_matplotlib
    from aape.analysis.kernels import chosen_kernels, load_with_kernels, plot_kernels
    from aape.data.audio.decoding import read_audio
    from aape.inference.segments import MAX_FRAMES

    require_matplotlib(config.out)
    model = load_with_kernels("model", config.model, config.device)
    rate = model.front_end.sample_rate
    most = MAX_FRAMES * model.front_end.hop_length / rate
    seconds = most if config.seconds is None else config.seconds
    if seconds > most:
        raise ConfigError(f"seconds: at most {most:g}, which is what this model encodes in one pass, got {seconds:g}")
    wave = read_audio(config.file, sample_rate=rate)
    part = wave[round(config.start * rate) :]
    if not len(part):
        raise AudioError(config.file, f"is {len(wave) / rate:.2f} s long: nothing is left at {config.start:g} s")
    # One sample less than whole frames, because the frames are centred and there is one more than hops.
    size = max(1, min(round(seconds * rate), len(part)) - 1)
    name = one_line(Path(config.file).name)
    if size < len(part) - 1:
        print(f"{name}: {size / rate:.2f} s of {len(wave) / rate:.2f} s are shown; --start shows more")
    kernels = chosen_kernels(model, part[:size])
    numbers = {
        "axes": "frequency patch (low first), time patch, kernel",
        "seconds": config.start + kernels.patch_seconds * (np.arange(kernels.frequencies.shape[1]) + 0.5),
        "folded_band_hz": kernels.folded_band,
        "frequencies_hz": kernels.frequencies,
        "decays_nepers_per_second": kernels.decays,
    }
    _write(config, plot_kernels(kernels, f"{name}, by {config.model}", start=config.start), numbers)


def plot_aliasing(config: PlotAliasingConfig) -> None:
    """Measure and draw aliasing: folded modulation rates read from tokens, and tokens under shifts below a patch.

    Raises:
        AapeError: matplotlib is missing.
        CheckpointError: there is no such model.
        ConfigError: a model has another front end or other patches.
        DataError: fewer than two recordings are long enough.
    """
    from aape.analysis import aliasing
    from aape.analysis.aliasing_figure import plot_aliasing as draw
    from aape.analysis.figures import require_matplotlib
    from aape.data.demo import AUDIO
    from aape.data.manifest import read_manifest
    from aape.runs.progress import progress_bar

    require_matplotlib(config.out)
    models = [_token_map(name) for name in dict.fromkeys(config.models)]
    clips = read_manifest(config.data or AUDIO)
    bad: dict[str, str] = {}
    recordings = [_recordings(clips, config.sounds, seed, bad) for seed in range(config.seeds)]
    with progress_bar("experiments", 3 * config.seeds) as progress:
        rates, shifts = aliasing.measure(recordings, config.clips, config.sounds, models, progress)
    for name, reason in list(bad.items())[:1]:
        print(f"left out: {len(bad)} of the recordings, the first {one_line(name)}: {reason}", file=sys.stderr)
    _print_aliasing(rates, shifts)
    numbers = {
        "rates_hz": aliasing.RATES,
        "apparent_hz": aliasing.APPARENT_HERTZ,
        "chance": 1 / len(aliasing.RATES),
        "decoding": rates,
        "shifts_ms": [1000 * shift / aliasing.FRAMES_PER_SECOND for shift in aliasing.SHIFTS],
        "distance": "cosine distance from the unshifted sound, over the mean cosine distance between sounds",
        "stability": shifts,
        "left_out": [{"name": name, "reason": reason} for name, reason in bad.items()],
    }
    _write(config, draw(rates, shifts), numbers)


def plot_run(config: PlotRunConfig) -> None:
    """Draw the curves of pre-training runs, side by side, or write their page.

    Raises:
        AapeError: matplotlib is missing.
        ConfigError: `out` is named like another kind of file, or cannot be written.
        DataError: a folder without metrics.jsonl, without a line in it, or with one that is not of a pre-training; or,
            for the page, another damaged file in it.
    """
    from aape.analysis.curves import plot_runs, read_metrics
    from aape.analysis.figures import require_matplotlib, save_figure

    if (out := Path(config.out)).suffix.lower() == PAGE:
        from aape.analysis.run_page import make_run_page, read_run
        from aape.runs.files import folder_for, require_ending, write_atomically

        require_ending(out, PAGE)
        with folder_for(out):
            write_atomically(out, make_run_page([read_run(run) for run in dict.fromkeys(config.runs)]))
        print(f"-> {out}")
        return
    require_matplotlib(config.out, PAGE)
    metrics = {run: read_metrics(Path(run) / "metrics.jsonl") for run in config.runs}
    print("-> " + ", ".join(str(file) for file in save_figure(plot_runs(metrics), config.out)))


def _token_map(name: str) -> TokenMap:
    from dataclasses import replace

    from aape.analysis import aliasing
    from aape.inference import load_model

    model = load_model(name, "cpu")
    front_end = model.front_end
    expected = replace(aliasing.FRONT_END, mean=front_end.mean, std=front_end.std)
    if front_end != expected or model.encoder.patch_size != aliasing.PATCH_SIZE:
        raise ConfigError(f"models: {name} has not the paper's front end and patches, for which the rates are chosen")
    return aliasing.model_tokens(name, model.encoder, front_end.mean, front_end.std)


def _recordings(clips: Sequence[Clip], count: int, seed: int, bad: dict[str, str]) -> Tensor:
    """Read the middle of `count` recordings, drawn at random; `bad` gets the names and reasons of those left out."""
    import numpy as np
    import torch

    from aape.analysis.aliasing import FRONT_END, SHIFTED_SAMPLES
    from aape.data.clips import load_clip

    length = f"{SHIFTED_SAMPLES / FRONT_END.sample_rate:.2f} s"
    kept: list[Tensor] = []
    for row in np.random.default_rng(seed).permutation(len(clips)):
        name = clips[row].name
        try:
            wave = load_clip(clips[row], sample_rate=FRONT_END.sample_rate, duration=10.0)
            spare = len(wave) - SHIFTED_SAMPLES
            if spare < 0 or not wave.any():
                raise AudioError(name, "silent" if spare >= 0 else f"shorter than {length}")
        except AudioError as error:
            bad[name] = error.reason
            continue
        kept.append(torch.from_numpy(wave[spare // 2 : spare // 2 + SHIFTED_SAMPLES].copy()))
        if len(kept) == count:
            break
    if len(kept) < 2:
        raise DataError(f"data: {len(kept)} of {len(clips)} recordings can be used; two of {length} are needed")
    return torch.stack(kept)


def _print_aliasing(rates: Sequence[dict[str, Any]], shifts: dict[str, list[dict[str, Any]]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from aape.analysis.aliasing import APPARENT_HERTZ, PATCH_SIZE, RATES, READ_OUTS

    columns = [*READ_OUTS, *(f"{sounds}:\n{kind}" for sounds in shifts for kind in ("mean", "token"))]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("tokens", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    cells: dict[str, dict[str, str]] = {}
    for row in rates:
        spread = "" if row["lowest"] == row["highest"] else f" ({100 * row['lowest']:.0f}-{100 * row['highest']:.0f})"
        cells.setdefault(row["tokens"], {})[row["read_out"]] = f"{100 * row['accuracy']:.0f}{spread}"
    for sounds, rows in shifts.items():
        for row in rows:
            cells[row["tokens"]][f"{sounds}:\n{row['compared']}"] = f"{100 * row['median'][PATCH_SIZE // 2]:.2g}"
    for name, line in cells.items():
        table.add_row(name, *(line.get(column, "-") for column in columns))
    print(
        f"mean, token, spread: of {len(RATES)} modulation rates, {RATES[0]:g} to {RATES[-1]:g} Hz, all folded to "
        f"{APPARENT_HERTZ:g} Hz by the patches, %\nthat a linear decoder reads correctly (chance "
        f"{100 / len(RATES):.1f}) from the mean of all tokens, from a single token,\nand from the standard deviation "
        "of tokens over time; in brackets the lowest and highest seed.\nRight: how far a shift of half a patch moves "
        "the mean token, and tokens place by place, in % of the\ndistance between sounds (median)."
    )
    Console(width=130).print(table)


def _write(config: Any, figure: Figure, numbers: dict[str, Any]) -> None:
    """Write the figure, and its numbers with the configuration and the environment, and say where."""
    from aape.analysis.figures import save_figure
    from aape.runs.files import write_json
    from aape.runs.folder import describe_environment

    files = save_figure(figure, config.out)
    json_file = files[0].with_suffix(".json")
    write_json(json_file, {"config": asdict(config), "environment": describe_environment(), **numbers})
    print("-> " + ", ".join(map(str, [*files, json_file])))

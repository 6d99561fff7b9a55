"""Figures from arrays. Nothing here touches pyplot's global state; save with `figure.savefig(path)`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aape.analysis.aliasing import APPARENT_HERTZ, RATES, READ_OUTS, SHIFTS
from aape.analysis.numbers import FRAMES_PER_SECOND, ChosenKernels, mel_position
from aape.analysis.windows import KERNELS, WINDOW_EDGES, WINDOWS, Recovery, Spectra, success_by_distance
from aape.errors import AapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSSES = {
    "loss": "total",
    "loss_mask": "masked tokens",
    "loss_utterance": "utterance",
    "loss_contrastive": "contrastive",
}
COLOURS = {"one-sided": "tab:orange", "two-sided": "tab:blue", "gaussian": "tab:green", "bilateral": "tab:purple"}
FORMATS = (".png", ".svg")
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
    figure = make_figure(10, 4)
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


def plot_kernels(
    spectrogram: NDArray[np.floating],
    kernels: ChosenKernels,
    title: str = "",
    *,
    band: tuple[float, float] = (50.0, 8000.0),
    start: float = 0.0,
) -> Figure:
    """Draw a clip's spectrogram above the frequencies and decays that its stem chose over time (the paper's Figure 4).

    Args:
        spectrogram: standardised log-mel (F, T).
        kernels: of the same clip; what is drawn is the share of each time patch's kernels in every bin.
        title: of the figure.
        band: what the mel bins span, in Hz.
        start: time of the first frame, in seconds.
    """
    figure = make_figure(9, 9)
    from matplotlib.ticker import LogLocator

    panels = figure.subplots(3, 1, sharex=True)
    num_bins, num_frames = spectrogram.shape
    num_freq, num_time, _ = kernels.frequencies.shape
    patch_seconds = num_bins / num_freq / FRAMES_PER_SECOND  # patches are square; the last may reach past the end
    times = start + patch_seconds * np.arange(num_time + 1)
    extent = (start, start + num_frames / FRAMES_PER_SECOND, 0, num_bins)
    shown = panels[0].imshow(spectrogram, origin="lower", aspect="auto", extent=extent, cmap="magma")
    figure.colorbar(shown, ax=panels[0], label="log-mel (standard deviations)", pad=0.01)
    ticks = {f"{hertz:,}": mel_position(hertz, band, num_bins) for hertz in (100, 250, 500, 1000, 2000, 4000, 8000)}
    panels[0].set_yticks(list(ticks.values()), list(ticks))
    panels[0].set(title=title or "Spectrogram", ylabel="audio frequency (Hz)", ylim=(0, num_bins), facecolor="0.85")
    _draw_shares(panels[1], times, kernels.frequencies, np.linspace(0, FRAMES_PER_SECOND / 2, 51))
    nyquist = 0.5 / patch_seconds
    panels[1].axhline(nyquist, color="tab:red", linewidth=1, label=f"{nyquist:.4g} Hz: what the patches can represent")
    panels[1].legend(loc="upper right", fontsize="small", framealpha=0.9)
    panels[1].set(title=f"Modulation frequencies that the {num_freq} x {kernels.frequencies.shape[2]} kernels of each "
                  "time patch look for", ylabel="modulation frequency (Hz)")  # fmt: skip
    low, high = kernels.decays.min() * (1 - 1e-6), kernels.decays.max()
    _draw_shares(panels[2], times, kernels.decays, np.geomspace(low, max(high, 10 * low) * (1 + 1e-6), 41))
    panels[2].set(title="Decays of their windows", ylabel="decay (nepers per second)", xlabel="time (s)")
    panels[2].set_xlim(start, max(times[-1], extent[1]))
    panels[2].set(yscale="log", ylim=(0.7 * low, None))
    panels[2].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[2].yaxis.set_major_formatter("{x:g}")
    panels[2].yaxis.set_minor_formatter("")
    return figure


def _draw_shares(axes: Any, times: NDArray[np.floating], values: NDArray[np.floating], bins: NDArray[Any]) -> None:
    """Draw how values (Nf, Nt, H) are distributed over bins in each time patch, as a map of percentages."""
    shares = np.stack([np.histogram(column, bins)[0] / column.size for column in values.swapaxes(0, 1)])  # (Nt, bins)
    from matplotlib.colors import LogNorm

    norm = LogNorm(100 / values[:, 0].size, 100)  # from a single kernel to all of them
    drawn = axes.pcolormesh(times, bins, np.where(shares > 0, 100 * shares, np.nan).T, cmap="viridis_r", norm=norm)
    axes.figure.colorbar(drawn, ax=axes, label="share of the kernels (%)", pad=0.01, format="{x:g}")


def plot_windows(windows: Spectra, recovery: Recovery) -> Figure:
    """Draw windows, spectra and gradients (the paper's Figure 2), and how often descent finds a tone with each.

    Args:
        windows: of `aape.analysis.windows.spectra`.
        recovery: of `aape.analysis.windows.recover_tones`.
    """
    figure = make_figure(11, 8.5)
    panels = figure.subplots(2, 3)
    (shape, magnitude, slope), (near, sharp, bars) = panels
    tiny = 1e-12  # a gradient below this is not drawn: the figure would be all floor
    milliseconds = windows.taps * 1000 / FRAMES_PER_SECOND
    # Dashed, because the window of the bilateral kernel is the two-sided one and would hide it
    styles: dict[str, dict[str, Any]] = {
        name: {"color": COLOURS[name], "linewidth": 1.4, "linestyle": "-" if name in WINDOWS else (0, (4, 4))}
        for name in KERNELS
    }
    for row, style in enumerate(styles.values()):
        shape.plot(milliseconds, windows.shapes[row], **style)
        magnitude.plot(windows.detuning, 20 * np.log10(np.maximum(windows.magnitudes[row], tiny)), **style)
        slope.plot(windows.detuning, np.maximum(np.abs(windows.slopes[row]), tiny), **style)
    shape.set(title=f"Windows of 63 taps, {WINDOW_EDGES[0]:g} at the edge", xlabel="time (ms)", ylabel="weight")
    magnitude.set(
        title="Magnitude on a tone of 25 Hz",
        xlabel="kernel frequency - tone (Hz)",
        ylabel="magnitude (dB)",
        ylim=(-80, 3),
    )
    slope.set(title="Gradient of the magnitude", xlabel="kernel frequency - tone (Hz)", ylabel="|gradient| (per Hz)")
    slope.set(yscale="log", ylim=(1e-6, 1))
    distances = np.abs(recovery.starts - recovery.tones)
    edges = np.arange(0, 41, 5.0)
    for axes, edge in ((near, WINDOW_EDGES[0]), (sharp, WINDOW_EDGES[1])):
        for offset, (name, label) in enumerate(KERNELS.items()):
            hits, best = recovery.found(name, edge)
            rates, low, high = success_by_distance(hits[best], distances, edges)
            middle = (edges[:-1] + edges[1:]) / 2 + 0.3 * (offset - 1.5)
            axes.errorbar(middle, 100 * rates, 100 * np.stack([rates - low, high - rates]), **styles[name],
                          marker="o", markersize=4, elinewidth=0.8, label=label)  # fmt: skip
        axes.set(title=f"Tones found by distance, edge {edge:g}", xlabel="from start to tone (Hz)", ylabel="found (%)")
        axes.set(ylim=(-3, 103))
    for offset, (name, label) in enumerate(KERNELS.items()):
        shares = []
        for edge in WINDOW_EDGES:
            hits, best = recovery.found(name, edge)
            shares.append(100 * hits[best].mean())
        drawn = bars.bar(np.arange(2) + 0.2 * (offset - 1.5), shares, 0.19, color=COLOURS[name], label=label)
        bars.bar_label(drawn, fmt="%.0f", fontsize="small")
    bars.set_xticks(range(2), [f"{edge:g}" for edge in WINDOW_EDGES])
    bars.set(title="Tones found, all starts", xlabel="window edge", ylabel="found (%)", ylim=(0, 110))
    for axes in panels.flat:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*near.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def plot_aliasing(decoded: Sequence[Mapping[str, Any]], shifted: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw what linear decoders read from tokens, and how far shifts below a patch move them.

    Args:
        decoded: rows of `aape.analysis.aliasing.summarise_decoding`.
        shifted: rows of `aape.analysis.aliasing.summarise_shifts`, by the sounds that were shifted.
    """
    figure = make_figure(16, 9.5)
    names = list(dict.fromkeys(row["tokens"] for row in decoded))
    styles = _token_styles(names)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    top, bottom = parts
    heard = [row for row in decoded if row["tokens"] in _confusions(names) and "confusion" in row]
    accuracy, *maps = top.subplots(1, 1 + len(heard), width_ratios=[1.55, *[1] * len(heard)])
    chance = 100 / len(RATES)
    accuracy.axvline(chance, color="0.4", linewidth=1, linestyle=":", label=f"chance, {chance:.1f} %")
    for offset, (kind, marker, colour) in enumerate(
        zip(READ_OUTS, "os^", ("#0072b2", "#56b4e9", "#d55e00"), strict=True)
    ):
        rows = [row for row in decoded if row["read_out"] == kind]
        shares, low, high = (100 * np.array([row[key] for row in rows]) for key in ("accuracy", "lowest", "highest"))
        places = np.array([names.index(row["tokens"]) for row in rows]) + 0.22 * (offset - 1)
        accuracy.errorbar(shares, places, xerr=[shares - low, high - shares], fmt=marker, color=colour, markersize=5,
                          elinewidth=1, label=READ_OUTS[kind])  # fmt: skip
    accuracy.set_yticks(range(len(names)), names)
    accuracy.set(xlim=(0, 103), ylim=(len(names) - 0.4, -0.6), xlabel="heard right (%)")
    accuracy.set_title(
        f"{len(RATES)} modulation rates that all fold to {APPARENT_HERTZ:g} Hz,\nread by a linear decoder"
    )
    accuracy.grid(axis="x", alpha=0.3)
    accuracy.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.3, -0.12), ncols=2, frameon=False)
    ticks = range(0, len(RATES), 2)
    for axes, row in zip(maps, heard, strict=True):
        shares = 100 * row["confusion"] / row["confusion"].sum(1, keepdims=True)
        drawn = axes.imshow(shares, cmap="viridis", vmin=0, vmax=100, origin="lower")
        axes.set_title(f"{row['tokens']}:\nmean of all tokens")
        axes.set_xticks(ticks, [f"{RATES[tick]:g}" for tick in ticks], rotation=90)
        axes.set_yticks(ticks, [f"{RATES[tick]:g}" for tick in ticks])
        axes.set(xlabel="rate heard (Hz)", ylabel="rate played (Hz)" if axes is maps[0] else "")
    top.colorbar(drawn, ax=maps, label="of the sounds of a rate (%)", shrink=0.7, pad=0.01)
    milliseconds = 1000 / FRAMES_PER_SECOND * np.arange(1, len(SHIFTS))
    panels = bottom.subplots(1, 4, sharex=True)
    for axes, (sounds, kind) in zip(panels, itertools.product(shifted, ("mean", "token")), strict=True):
        for row in shifted[sounds]:
            if row["compared"] == kind:
                low, median, high = (100 * row[key][1:] for key in ("lower_quartile", "median", "upper_quartile"))
                axes.plot(milliseconds, median, **styles[row["tokens"]], label=row["tokens"])
                if styles[row["tokens"]]["linestyle"] == "-":  # more shades than that hide each other
                    axes.fill_between(milliseconds, low, high, color=styles[row["tokens"]]["color"], alpha=0.15, lw=0)
        what = "mean token" if kind == "mean" else "tokens, place by place"
        axes.set(title=f"{sounds}: {what}", xlabel="shift (ms)", yscale="log", xticks=range(0, 161, 40))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("cosine distance moved, % of that\nbetween sounds (median, quartiles)")
    handles, labels = panels[0].get_legend_handles_labels()
    bottom.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), frameon=False)
    return figure


def _confusions(names: Sequence[str]) -> list[str]:
    """Choose the tokens whose confusions are drawn: both stems, and the stem of the first model if there is one."""
    return ["standard", "AaPE bilateral", *[name for name in names if name.endswith(": stem")][:1]]


def _token_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Give each kind of tokens a line: a colour per family (Okabe and Ito's palette), a dash per member."""
    styles = {
        "log-mel frames": ("0.55", ":"),
        "log-mel patches": ("0.55", "--"),
        "standard": ("#e69f00", "-"),
        "standard + GELU": ("#e69f00", "--"),
        "AaPE bilateral": ("#0072b2", "-"),
        "AaPE bilateral, long windows": ("#0072b2", "-."),
        "AaPE bilateral, long + averaging": ("#0072b2", ":"),
        "AaPE bilateral, fixed": ("#0072b2", "--"),
        "AaPE analytic": ("#56b4e9", "-"),
        "AaPE analytic, long windows": ("#56b4e9", "-."),
        "AaPE analytic, long + averaging": ("#56b4e9", ":"),
    }
    models = [name for name in names if name not in styles]
    colours = ("#d55e00", "#009e73", "#cc79a7", "#000000")
    for place, name in enumerate(models):  # three of each model
        styles[name] = (colours[place // 3 % len(colours)], ("-", "--", ":")[place % 3])
    return {name: {"color": styles[name][0], "linestyle": styles[name][1], "linewidth": 1.6} for name in names}


def save_figure(figure: Figure, out: str | os.PathLike[str]) -> list[Path]:
    """Write a figure as PNG and as SVG, and return both files.

    Args:
        figure: what to write.
        out: where to, with or without one of the two endings; folders are made.
    """
    path = figure_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(path.name + ending) for ending in FORMATS]
    for file in files:
        # Without dates and random names, the same numbers give the same bytes.
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files


def figure_path(out: str | os.PathLike[str]) -> Path:
    """Return a figure's path without the ending of a picture."""
    path = Path(out)
    return path.with_suffix("") if path.suffix in FORMATS else path


def require_matplotlib() -> None:
    """Fail now rather than when the first figure is due.

    Raises:
        AapeError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise AapeError("figures need matplotlib: pip install 'aape[plots]'") from error


def make_figure(width: float, height: float) -> Figure:
    """Make an empty figure of so many inches."""
    require_matplotlib()
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["svg.hashsalt"] = "aape"
    return Figure(figsize=(width, height), layout="constrained", dpi=110)

"""The figure of the aliasing laboratory: what decoders read from tokens, and how far shifts move them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aape.analysis.aliasing import APPARENT_HERTZ, FRAMES_PER_SECOND, MODEL_TOKENS, RATES, READ_OUTS, SHIFTS
from aape.analysis.figures import make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"log-mel": "0.55", "standard": "#e69f00", "AaPE bilateral": "#0072b2", "AaPE analytic": "#56b4e9"}
MODEL_COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#000000")  # Okabe and Ito's palette
DASHES = {"frames": ":", "patches": "--", "GELU": "--", "long windows": "-.", "long + averaging": ":", "fixed": "--"}


def plot_aliasing(decoded: Sequence[Mapping[str, Any]], shifted: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw rows of `summarise_decoding`, and rows of `summarise_shifts` by the sounds that were shifted."""
    figure = make_figure(16, 9.5)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    names = list(dict.fromkeys(row["tokens"] for row in decoded))
    # Confusions of both stems, and of the stem of the first model if there is one
    chosen = ["standard", "AaPE bilateral", *[name for name in names if name.endswith(": stem")][:1]]
    confused = [row for row in decoded if row["tokens"] in chosen and "confusion" in row]
    accuracy, *maps = parts[0].subplots(1, 1 + len(confused), width_ratios=[1.55, *[1] * len(confused)])
    _draw_accuracy(accuracy, decoded, names)
    ticks = range(0, len(RATES), 2)
    for axes, row in zip(maps, confused, strict=True):
        shares = 100 * row["confusion"] / row["confusion"].sum(1, keepdims=True)
        drawn = axes.imshow(shares, cmap="viridis", vmin=0, vmax=100, origin="lower")
        axes.set_title(f"{row['tokens']}:\nmean of all tokens")
        axes.set_xticks(ticks, [f"{RATES[tick]:g}" for tick in ticks], rotation=90)
        axes.set_yticks(ticks, [f"{RATES[tick]:g}" for tick in ticks])
        axes.set(xlabel="rate read (Hz)", ylabel="rate played (Hz)" if axes is maps[0] else "")
    parts[0].colorbar(drawn, ax=maps, label="of the sounds of a rate (%)", shrink=0.7, pad=0.01)
    _draw_shifts(parts[1], shifted, _styles(names))
    return figure


def _draw_accuracy(axes: Any, decoded: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    chance = 100 / len(RATES)
    axes.axvline(chance, color="0.4", linewidth=1, linestyle=":", label=f"chance, {chance:.1f} %")
    lines = zip(READ_OUTS, "os^", ("#0072b2", "#56b4e9", "#d55e00"), strict=True)
    for offset, (kind, marker, colour) in enumerate(lines):
        rows = [row for row in decoded if row["read_out"] == kind]
        shares, low, high = (100 * np.array([row[key] for row in rows]) for key in ("accuracy", "lowest", "highest"))
        heights = np.array([names.index(row["tokens"]) for row in rows]) + 0.22 * (offset - 1)
        axes.errorbar(shares, heights, xerr=[shares - low, high - shares], fmt=marker, color=colour, markersize=5,
                      elinewidth=1, label=READ_OUTS[kind])  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(0, 103), ylim=(len(names) - 0.4, -0.6), xlabel="read correctly (%)")
    axes.set_title(f"{len(RATES)} modulation rates that all fold to {APPARENT_HERTZ:g} Hz,\nread by a linear decoder")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.3, -0.12), ncols=2, frameon=False)


def _draw_shifts(part: Any, shifted: Mapping[str, Sequence[Mapping[str, Any]]], styles: dict[str, Any]) -> None:
    milliseconds = 1000 / FRAMES_PER_SECOND * np.arange(1, len(SHIFTS))
    panels = part.subplots(1, 4, sharex=True)
    for axes, (sounds, kind) in zip(panels, itertools.product(shifted, ("mean", "token")), strict=True):
        for row in shifted[sounds]:
            if row["compared"] == kind:
                style = styles[row["tokens"]]
                low, median, high = (100 * row[key][1:] for key in ("lower_quartile", "median", "upper_quartile"))
                axes.plot(milliseconds, median, **style, label=row["tokens"])
                if style["linestyle"] == "-":  # more shades than that hide each other
                    axes.fill_between(milliseconds, low, high, color=style["color"], alpha=0.15, lw=0)
        what = "mean token" if kind == "mean" else "tokens, place by place"
        axes.set(title=f"{sounds}: {what}", xlabel="shift (ms)", yscale="log", xticks=range(0, 161, 40))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("cosine distance moved, % of that\nbetween sounds (median, quartiles)")
    handles, labels = panels[0].get_legend_handles_labels()
    part.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), frameon=False)


def _styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Give each kind of tokens a line: a colour per family, a dash per member."""
    styles = {}
    models = [name for name in names if name.endswith(MODEL_TOKENS)]
    for name in names:
        if name in models:  # three kinds of tokens of each
            index = models.index(name)
            colour, dash = MODEL_COLOURS[index // 3 % len(MODEL_COLOURS)], ("-", "--", ":")[index % 3]
        else:
            colour = next(colour for family, colour in COLOURS.items() if name.startswith(family))
            dash = next((dash for member, dash in DASHES.items() if name.endswith(member)), "-")
        styles[name] = {"color": colour, "linestyle": dash, "linewidth": 1.6}
    return styles

"""Draws docs/tone.svg, one modulated tone on its way through the stem, step by step: python tools/draw_tone.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from aape.data.log_mel import LogMel
from aape.ops import high_pass
from aape.ops.sblu_reference import sblu_reference

RATE, FRAME_RATE, PATCH, KERNEL_SIZE = 16000, 100, 16, 63
CARRIER, MODULATION, DEPTH = 1000.0, 10.0, 0.4  # Hz, Hz
FOLDED = abs(MODULATION - 2 * FRAME_RATE / PATCH)  # Hz: what 6.25 tokens a second make of it
AWAY = 25.0  # Hz, of the kernel that does not fit
SECONDS, FIRST, NUM_PATCHES = 2.56, 4, 8  # the sound, and which patches are shown
SLOWEST = -2 * math.log(0.01) / (KERNEL_SIZE - 1)  # nepers per frame, the least decay that the stem can choose

WIDTH, LEFT, RIGHT, HEIGHT, GAP, TOP = 1000, 20, 20, 84, 44, 40  # of the figure, and of a row and the words above it
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"
HALO = 'stroke="white" stroke-width="4" paint-order="stroke"'  # words are read where they cross a line
Points = list[tuple[float, float]]  # frame of those shown, value


@dataclass(frozen=True)
class Row:
    """A row of the figure: words, and lines and dots over the frames, all on one scale."""

    title: str
    about: str
    lines: list[tuple[str, str, Points]]  # colour, dashes or "", points
    dots: list[tuple[str, float, Points]]  # colour, radius, points
    labels: list[tuple[str, float, float, str]]  # colour, frame, value, text


def band() -> Tensor:
    """Return the mel band with most of the tone (1, 1, T), in float64."""
    time = torch.arange(round(SECONDS * RATE) - 1, dtype=torch.float64) / RATE
    level = 1 + DEPTH * torch.sin(2 * math.pi * MODULATION * time)
    log_mel = LogMel()(0.1 * (level * torch.sin(2 * math.pi * CARRIER * time))[None])[0, 0]  # (F, T)
    return log_mel[log_mel.mean(1).argmax()][None, None]


def magnitude(x: Tensor, hertz: float, phase: str) -> Tensor:
    """Return what SBLU measures of a band (1, 1, T) with a kernel of this frequency and the slowest decay."""
    decay, frequency = x.new_tensor([[[SLOWEST]]]), x.new_tensor([[[2 * math.pi * hertz / FRAME_RATE]]])
    return sblu_reference(x, decay, frequency, kernel_size=KERNEL_SIZE, phase=phase)


def slow_wave(samples: Tensor) -> Tensor:
    """Return the wave of the folded frequency that fits one sample a patch (n,) best, for every frame shown."""

    def parts(frames: Tensor) -> Tensor:
        angle = 2 * math.pi * FOLDED / FRAME_RATE * frames
        return torch.stack([torch.ones_like(angle), angle.cos(), angle.sin()], 1)

    middles = PATCH * torch.arange(len(samples), dtype=torch.float64) + PATCH // 2
    weights = torch.linalg.lstsq(parts(middles), samples[:, None]).solution
    return (parts(torch.arange(PATCH * len(samples), dtype=torch.float64)) @ weights)[:, 0]


def rows() -> list[Row]:
    """Compute the figure with the operators of the package."""
    shown = slice(FIRST * PATCH, (FIRST + NUM_PATCHES) * PATCH)
    x = band()
    frames, samples = x[0, 0, shown], x[0, 0, shown][PATCH // 2 :: PATCH]
    wave, passed = _points(frames), high_pass(x)
    middles = [(PATCH * patch + PATCH // 2 + 0.5, value) for patch, value in enumerate(samples.tolist())]
    magnitudes = [
        (colour, dashes, _points(magnitude(passed, hertz, phase)[0, 0, shown]))
        for colour, hertz in ((BLUE, MODULATION), (GREY, AWAY))
        for dashes, phase in (("", "analytic"), ("6 4", "bilateral"))
    ]
    top = max(value for _, _, points in magnitudes for _, value in points)
    quarter = NUM_PATCHES * PATCH // 4
    windows = [(BLUE, MODULATION, quarter), (GREY, AWAY, 3 * quarter)]  # colour, frequency, frame in the middle
    return [
        Row("1  A mel band of the tone: 100 frames a second",
            f"1 kHz, 40 % louder and softer {MODULATION:g} times a second",
            [(BLUE, "", wave)], [(BLUE, 1.6, wave)], []),
        Row("2  The standard token: 6.25 values a second",
            f"of each patch, one weighted sum (here its middle frame); a wave of {FOLDED:g} Hz fits them, too",
            [("#bbbbbb", "", wave), (ORANGE, "6 4", _points(slow_wave(samples)))], [(ORANGE, 5, middles)], []),
        Row("3  The high-passed band",
            f"above {FRAME_RATE / 2 / PATCH:g} Hz: what the patches fold, before they do",
            [(BLUE, "", _points(passed[0, 0, shown]))], [], []),
        Row("4  Windows of SBLU",
            "63 frames, with a frequency of their own; here with the slowest decay there is",
            [(colour, "", _window(hertz, centre)) for colour, hertz, centre in windows], [],
            [(colour, centre + 14, 0.6, f"{hertz:g} Hz") for colour, hertz, centre in windows]),
        Row("5  Their magnitudes, which say which frequency it was",
            "solid: analytic; dashed: bilateral, the paper's, which swings with the phase",
            magnitudes, [],
            [(BLUE, 0.4, 0.7 * top, f"{MODULATION:g} Hz"), (GREY, 0.4, 0.2 * top, f"{AWAY:g} Hz")]),
    ]  # fmt: skip


def draw() -> str:
    """Return the figure as SVG."""
    drawn = rows()
    bottom = TOP + len(drawn) * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 30}" font-family="sans-serif" '
        'font-size="13" role="img">',
        f"<title>A tone modulated at {MODULATION:g} Hz: its frames, the standard token's samples, which a wave of "
        f"{FOLDED:g} Hz fits as well, the high-passed band, and the magnitudes of SBLU at {MODULATION:g} and "
        f"{AWAY:g} Hz</title>",
        f'<rect width="{WIDTH}" height="{bottom + 30}" rx="8" fill="white"/>',
    ]
    for patch in range(NUM_PATCHES + 1):
        x = _x(patch * PATCH)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{TOP - 14}" y2="{bottom - GAP + 8}" stroke="#dddddd"/>')
        anchor = {0: "start", NUM_PATCHES: "end"}.get(patch, "middle")
        parts.append(_text(x, bottom - GAP + 26, f"{1000 * patch * PATCH // FRAME_RATE} ms", anchor=anchor, size=11))
    for number, row in enumerate(drawn):
        parts += _draw_row(row, TOP + number * (HEIGHT + GAP))
    caption = "grey lines: patches of 16 frames, 160 ms · computed with the operators of the package"
    parts.append(_text(WIDTH / 2, bottom + 14, caption, anchor="middle", size=12))
    return "\n".join([*parts, "</svg>", ""])


def _draw_row(row: Row, top: float) -> list[str]:
    values = [value for _, _, points in [*row.lines, *row.dots] for _, value in points]
    low, high = min(values), max(values)  # of magnitudes, the lowest is near 0

    def y(value: float) -> str:
        return f"{top + 12 + HEIGHT * (high - value) / (high - low):.1f}"

    bold = f'<tspan font-weight="bold">{escape(row.title)}</tspan>'
    words = f'{bold}<tspan dx="12" font-size="12">{escape(row.about)}</tspan>'
    parts = [f'<text x="{LEFT}" y="{top - 4:g}" fill="#222" {HALO}>{words}</text>']
    for colour, dashes, points in row.lines:
        path = " ".join(f"{_x(frame)},{y(value)}" for frame, value in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dashed}/>')
    for colour, radius, points in row.dots:
        parts += [f'<circle cx="{_x(frame)}" cy="{y(value)}" r="{radius:g}" fill="{colour}"/>'
                  for frame, value in points]  # fmt: skip
    parts += [
        _text(_x(frame), y(value), text, colour=colour, weight="bold") for colour, frame, value, text in row.labels
    ]
    return parts


def _points(values: Tensor) -> Points:
    return [(frame + 0.5, value) for frame, value in enumerate(values.tolist())]


def _window(hertz: float, centre: int) -> Points:
    """Return the real part of a kernel about a frame."""
    taps = range(-(KERNEL_SIZE // 2), KERNEL_SIZE // 2 + 1)
    radians = 2 * math.pi * hertz / FRAME_RATE
    return [(centre + k, math.exp(-SLOWEST * abs(k)) * math.cos(radians * k)) for k in taps]


def _x(frame: float) -> str:
    return f"{LEFT + (WIDTH - LEFT - RIGHT) * frame / (NUM_PATCHES * PATCH):.1f}"


def _text(x: float | str, y: float | str, text: str, *, colour: str = "#222", anchor: str = "start", size: int = 13,
          weight: str = "normal") -> str:  # fmt: skip
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{colour}" '
        f"{HALO}>"
        f"{escape(text)}</text>"
    )


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "docs/tone.svg"
    target.write_text(draw(), encoding="utf-8")
    print(f"-> {target}")

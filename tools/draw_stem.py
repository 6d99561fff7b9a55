"""Draws docs/stem.svg, the stem as in the paper's Figure 3: python tools/draw_stem.py."""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 1000, 330
BOX = 46  # height of a box
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#555555"

# name: centre x, centre y, width, colour, first line, second line
BOXES = {
    "patch": (215, 60, 150, GREY, "Conv2d 16 by 16", "patch embedding"),
    "lambda": (470, 150, 150, BLUE, "Lambda Encoder", "3 ViT blocks"),
    "high": (215, 255, 150, BLUE, "high-pass, π/16", "zero phase, 63 taps"),
    "b": (358, 255, 76, BLUE, "B", "16 → H"),
    "sblu": (470, 255, 90, BLUE, "SBLU", "Eq. 2 to 4"),
    "c": (655, 255, 210, BLUE, "C · GroupNorm · depthwise", "H → Z, 16 frames → 1"),
    "norm_e": (840, 60, 90, GREY, "LayerNorm", ""),
    "norm_z": (840, 255, 90, BLUE, "LayerNorm", ""),
    "fuse": (840, 150, 110, ORANGE, "Linear", "D + Z → D"),
}
# points of a line, where its name stands, its name
ARROWS = (
    ([(95, 60), (140, 60)], None, ""),
    ([(75, 83), (75, 255), (140, 255)], None, ""),
    ([(290, 60), (795, 60)], (560, 52), "e   standard tokens (B, N, D)"),
    ([(470, 60), (470, 127)], None, ""),
    ([(470, 173), (470, 232)], (478, 207), "decay, frequency of every kernel"),
    ([(290, 255), (320, 255)], (305, 247), "x"),
    ([(396, 255), (425, 255)], (410, 247), "u"),
    ([(515, 255), (550, 255)], (535, 247), "m"),
    ([(760, 255), (795, 255)], (775, 247), "z"),
    ([(840, 83), (840, 127)], None, ""),
    ([(840, 232), (840, 173)], None, ""),
    ([(895, 150), (925, 150)], None, ""),
)


def draw() -> str:
    """Return the figure as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13" text-anchor="middle" role="img">',
        "<title>The AaPE stem: standard patch tokens, and beside them what SBLU measures above their Nyquist "
        "frequency, fused into one token</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#333"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="white"/>',
        _text(55, 55, "X", weight="bold"),
        _text(55, 73, "log-mel, F by T", size=11),
        _text(960, 146, "tokens", weight="bold"),
        _text(960, 163, "(B, N, D)", size=11),
    ]
    for points, at, name in ARROWS:
        path = " ".join(f"{x},{y}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="#333" marker-end="url(#tip)"/>')
        if at is not None:
            parts.append(_text(*at, name, size=12, anchor="start" if len(name) > 30 else "middle"))
    for x, y, width, colour, first, second in BOXES.values():
        parts.append(
            f'<rect x="{x - width / 2:g}" y="{y - BOX / 2:g}" width="{width}" height="{BOX}" rx="5" '
            f'fill="{colour}" fill-opacity="0.08" stroke="{colour}"/>'
        )
        parts.append(_text(x, y - 3 if second else y + 5, first, weight="bold"))
        if second:
            parts.append(_text(x, y + 14, second, size=11))
    caption = "grey: the standard stem · blue: the band above 3.125 Hz, which its stride folds · orange: fusion"
    parts.append(_text(WIDTH / 2, 315, caption, size=12))
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, text: str, *, size: int = 13, weight: str = "normal", anchor: str = "middle") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="#222">'
        f"{escape(text)}</text>"
    )


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "docs/stem.svg"
    target.write_text(draw(), encoding="utf-8")
    print(f"-> {target}")

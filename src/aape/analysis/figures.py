"""Figures as files: equal numbers give equal bytes."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from aape.errors import AapeError, ConfigError
from aape.runs.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")


def require_matplotlib(out: str = "figure", *more: str) -> None:
    """Fail before the work rather than when its figure, which is to go to `out`, is due.

    `more` are endings of `out` that are no figure's, and that the caller has dealt with.

    Raises:
        AapeError: matplotlib is not installed, or the figure is to be of another kind than those of `FORMATS`.
    """
    if Path(out).suffix.lower() not in ("", *FORMATS):
        endings = " or ".join((*FORMATS, *more))
        raise ConfigError(f"out: {out}: name a file that ends in {endings}, or without an ending")
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


def save_figure(figure: Figure, out: str | os.PathLike[str]) -> list[Path]:
    """Write a figure as PNG and as SVG, with or without such an ending in `out`, and return both files."""
    path = Path(out)
    path = path.with_suffix("") if path.suffix.lower() in FORMATS else path
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(path.name + ending) for ending in FORMATS]
    for file in files:
        content = io.BytesIO()
        kind = file.suffix.removeprefix(".")
        figure.savefig(content, format=kind, metadata={"Date": None} if kind == "svg" else None)
        write_atomically(file, content.getvalue())
    return files

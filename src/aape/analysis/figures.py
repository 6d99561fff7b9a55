"""Figures as files: equal numbers give equal bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from aape.errors import AapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")


def require_matplotlib() -> None:
    """Fail before the work rather than when its figure is due.

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


def save_figure(figure: Figure, out: str | os.PathLike[str]) -> list[Path]:
    """Write a figure as PNG and as SVG, with or without such an ending in `out`, and return both files."""
    path = Path(out)
    path = path.with_suffix("") if path.suffix in FORMATS else path
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(path.name + ending) for ending in FORMATS]
    for file in files:
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files

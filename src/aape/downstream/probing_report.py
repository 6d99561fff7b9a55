"""A probe's result for people: a table in the terminal, and the same numbers as a CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape.downstream.probing import METRICS, SCORES
from aape.runs.files import write_atomically

if TYPE_CHECKING:
    from rich.table import Table

CAPTION = (
    "Per cent, accuracy and balanced accuracy; ± standard deviation over seeds. `best` selects on test data, as the "
    "paper does; `best val.` on validation data. "
    "Interval: 95 % bootstrap over test clips, of the last step."
)
NOT_AVAILABLE = "n/a"
COLUMNS = {"best": "best", "best_on_validation": "best val.", "last": "last"}


def score_table(rows: Mapping[str, Mapping[str, Any]], title: str = "") -> Table:
    """Return the table of a probe.

    Args:
        rows: by name, the summaries of `aape.downstream.probing.score` (`rows` in `result.json`).
        title: shown above it.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=title, caption=CAPTION, title_justify="left", caption_justify="left",
        box=SIMPLE_HEAD, padding=(0, 0, 0, 0), pad_edge=False,
    )  # fmt: skip
    # On a narrow terminal cells break into lines: a number that is cut short could be read as another.
    table.add_column("features", overflow="fold", min_width=10)
    for name in SCORES:
        for metric in ("acc.", "bal."):
            table.add_column(f"{COLUMNS[name]}\n{metric}", justify="right", overflow="fold")
    table.add_column("interval\nacc.", justify="right", overflow="fold")
    for row_name, row in rows.items():
        cells = [_cell((row["scores"][name] or {}).get(metric)) for name in SCORES for metric in METRICS]
        low, high = row["scores"]["last"]["accuracy"]["interval"]
        table.add_row(row_name, *cells, f"{100 * low:.1f}-{100 * high:.1f}")
    return table


def write_csv(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Write one line per feature set, score and metric; fractions, not per cent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ("features", "score", "metric", "mean", "std_seeds", "std_folds", "low", "high", "learning_rate")
    writer.writerow(header)
    for row_name, row in rows.items():
        for name in SCORES:
            for metric in METRICS:
                values = (row["scores"][name] or {}).get(metric) or {}
                numbers = [values.get(key) for key in ("mean", "std_seeds", "std_folds")]
                numbers += values.get("interval", [None, None])
                shown = [NOT_AVAILABLE if number is None else f"{number:.6f}" for number in numbers]
                writer.writerow([row_name, name, metric, *shown, row["learning_rate"]])
    write_atomically(path, text.getvalue().encode())


def _cell(values: Mapping[str, Any] | None) -> str:
    if values is None:
        return NOT_AVAILABLE
    spread = "" if values["std_seeds"] is None else f"±{100 * values['std_seeds']:.1f}"
    return f"{100 * values['mean']:.1f}{spread}"

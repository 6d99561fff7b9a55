"""`aape table`: the paper's tables, in the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from aape.commands.table import TableConfig
from aape.downstream.tables import Cell, Grid, collect
from aape.runs.files import write_atomically

NOT_RUN, NOT_AVAILABLE = "not run", "n/a"
CAPTION = (
    "Per cent where not said otherwise, ± standard deviation over seeds. Beside a paper's value, which stands behind "
    "the bar, ours is the best step of the test data, as the paper reports it, (and the last); elsewhere the last."
)


def table(config: TableConfig) -> None:
    """Show the tables, and write them where a folder is given.

    Raises:
        ConfigError: the tables or a recipe cannot be read.
        DataError: a run is damaged.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    grids = collect(Path(config.tables), Path(config.runs))
    console = Console()
    for grid in grids:
        shown = Table(title=grid.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        shown.add_column("", overflow="fold")
        for cell in grid.rows[0]:
            shown.add_column(cell.column, justify="right", overflow="fold")
        for row in grid.rows:
            cells = [f"{show(cell)} | {show_paper(cell)}" if grid.has_paper else show(cell) for cell in row]
            shown.add_row(row[0].row, *cells)
        console.print(shown)
    console.print(CAPTION, highlight=False)
    for run, notes in collect_notes(grids).items():
        console.print(f"* {run}: {'; '.join(notes)}", highlight=False, markup=False)
    if config.out is not None:
        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "tables.md", markdown(grids).encode())
        write_atomically(out / "tables.csv", as_csv(grids).encode())
        print(f"-> {out / 'tables.md'}, {out / 'tables.csv'}")


def show(cell: Cell) -> str:
    """Return our value in words; a * says that the run is not the recipe's, or its data not all that was published."""
    if cell.scores is None:
        return NOT_RUN
    if "value" in cell.scores:
        return f"{cell.scores['value']:.2f}{'*' if cell.notes else ''}"
    value, spread = cell.scores.get(cell.shown), cell.std.get(cell.shown)
    if value is None:
        return NOT_AVAILABLE
    text = f"{value:.1f}" + ("" if spread is None else f" ± {spread:.1f}")
    last = "" if cell.shown == "last" else f" ({cell.scores['last']:.1f})"
    return f"{text}{last}{'*' if cell.notes else ''}"


def show_paper(cell: Cell) -> str:
    """Return the paper's value in words."""
    if cell.paper is None:
        return "-"
    return f"{cell.paper:.2f}" if cell.is_measured else f"{cell.paper:.1f}"


def collect_notes(grids: list[Grid]) -> dict[str, tuple[str, ...]]:
    """Return what there is to say of each run."""
    return {cell.run: cell.notes for grid in grids for row in grid.rows for cell in row if cell.notes}


def markdown(grids: list[Grid]) -> str:
    """Return a table per grid: beside the paper's values a line per cell with its command, else rows and columns."""
    parts = []
    for grid in grids:
        lines = [f"### {grid.title}", ""]
        if grid.has_paper:
            lines += ["| row | column | command | paper | ours |", "|---|---|---|---|---|"]
            for cell in (cell for row in grid.rows for cell in row):
                command = f"`aape {cell.verb} --config recipes/paper/{cell.run}.yaml`"
                lines.append(f"| {cell.row} | {cell.column} | {command} | {show_paper(cell)} | {show(cell)} |")
        else:
            columns = [cell.column for cell in grid.rows[0]]
            lines += [f"| | {' | '.join(columns)} |", f"|---{'|---' * len(columns)}|"]
            lines += [f"| {row[0].row} | {' | '.join(map(show, row))} |" for row in grid.rows]
        parts.append("\n".join(lines))
    notes = "\n".join(f"\\* {run}: {'; '.join(own)}" for run, own in collect_notes(grids).items())
    return "\n\n".join([*parts, notes] if notes else parts) + "\n"


def as_csv(grids: list[Grid]) -> str:
    """Return one line per cell, in per cent or the column's own unit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("best", "best_on_validation", "last", "value")
    writer.writerow(["table", "row", "column", "run", "paper", *names, "best_std_seeds", "last_std_seeds", "notes"])
    for grid in grids:
        for row in grid.rows:
            for cell in row:
                own = [(cell.scores or {}).get(name) for name in names]
                spread = [cell.std.get("best"), cell.std.get("last")]
                numbers = ["" if value is None else f"{value:.4f}" for value in (*own, *spread)]
                state = "; ".join(cell.notes) if cell.scores is not None else NOT_RUN
                paper = "" if cell.paper is None else cell.paper
                writer.writerow([grid.title, cell.row, cell.column, cell.run, paper, *numbers, state])
    return text.getvalue()

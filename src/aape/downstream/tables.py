"""Tables of finished runs: what each cell says beside the paper's value, as Markdown and as CSV."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aape.data.corpora import CORPORA
from aape.errors import DataError
from aape.runs.files import Records
from aape.runs.folder import read_config

Scores = dict[str, float | None]
FRAMES = 608  # of a crop: what the paper counts operations for
NOT_RUN, NOT_AVAILABLE = "not run", "n/a"


@dataclass(frozen=True)
class Cell:
    """One cell. Its scores have names: "best", "best_on_validation" and "last", or "value" for what is measured."""

    row: str  # titles
    column: str
    verb: str  # of the run
    recipe: str  # of the run, by name
    run: str  # its folder, below that of all runs
    paper: float | None
    scores: Scores | None  # None: not run
    std: Scores  # over seeds, of the scores
    notes: tuple[str, ...]  # how the run differs from the recipe, and the data from what was published
    score: str  # the score that the table is about


@dataclass(frozen=True)
class Table:
    """One table: its cells by row and column."""

    title: str
    rows: list[list[Cell]]

    @property
    def has_paper(self) -> bool:
        """Whether the paper has any of it."""
        return any(cell.paper is not None for row in self.rows for cell in row)


def read_result(run: Path) -> dict[str, Any] | None:
    """Return the `result.json` of a finished run, or None.

    Raises:
        DataError: it is damaged.
    """
    path = run / "result.json"
    if not path.exists():
        return None
    with contextlib.suppress(OSError, ValueError):
        if isinstance(result := json.loads(path.read_text(encoding="utf-8")), dict):
            return result
    raise DataError(f"{path}: not the result of a run")


def read_settings(run: Path) -> dict[str, Any]:
    """Return the settings that a run was made with, by dotted key.

    Raises:
        DataError: they cannot be read.
    """
    settings = read_config(run)
    if settings is None:
        raise DataError(f"{run / 'config.yaml'}: cannot be read")
    return flatten(settings)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested sections into dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def scores_of(result: Mapping[str, Any], verb: str, metric: str, features: str) -> tuple[Scores, Scores] | None:
    """Return scores by name, and their deviations over seeds, in per cent, from the result of fine-tuning or a probe.

    `features` are those probed, such as "encoder", and of no account for fine-tuning; None where the probe lacks them.
    """
    part = result if verb == "finetune" else result["rows"].get(features)
    if part is None:
        return None

    def percent(key: str) -> Scores:
        values = {name: ((of or {}).get(metric) or {}).get(key) for name, of in part["scores"].items()}
        return {name: None if value is None else 100 * value for name, value in values.items()}

    return percent("mean"), percent("std_seeds")


def notes_on_data(result: Mapping[str, Any]) -> list[str]:
    """Say how the data of a run differ from what was published."""
    task = result.get("task", "")
    title = CORPORA[task].title if task in CORPORA else task
    counts = (result.get("counts") or {}).items()
    notes = [f"{title}: {ours:,} of {published:,} clips ({part})"
             for part, (ours, published) in counts if ours != published]  # fmt: skip
    return notes + ([f"{result['num_bad']} clips could not be read"] if result.get("num_bad") else [])


def _parameters(settings: Mapping[str, Any], _: Path) -> float:
    """Count the stem's parameters, in millions."""
    import torch

    from aape.models.encoder import build_stem

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_stem(_encoder(settings)).parameters()) / 1e6


def _operations(settings: Mapping[str, Any], _: Path) -> float:
    """Count what the paper counts of the adaptive convolution, C T K, in millions."""
    encoder = _encoder(settings)
    channels = encoder.n_mels // encoder.patch_size * encoder.hidden_dim
    return channels * FRAMES * encoder.kernel_size / 1e6 if encoder.stem == "aape" else 0.0


def _batches_per_second(_: Mapping[str, Any], run: Path) -> float | None:
    """Return the median speed of a pre-training run, in optimiser steps."""
    records = Records(run / "metrics.jsonl").read()
    if read_result(run) is None or not records:
        return None
    return statistics.median(record["clips_per_second"] for record in records) / read_settings(run)["clips"]


def _encoder(settings: Mapping[str, Any]) -> Any:
    from aape.models.config import encoder_config

    fields = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith("encoder.")}
    return encoder_config(settings["model"], **fields)


# What is measured of an encoder, from the settings of its recipe or from the folder of its run.
MEASURES: dict[str, Callable[[Mapping[str, Any], Path], float | None]] = {
    "parameters": _parameters,
    "operations": _operations,
    "batches_per_second": _batches_per_second,
}


def show(cell: Cell) -> str:
    """Return our value in words; a * says that the run is not the recipe's, or its data not all that was published."""
    if cell.scores is None:
        return NOT_RUN
    if "value" in cell.scores:
        return f"{cell.scores['value']:.2f}{'*' if cell.notes else ''}"
    value, spread = cell.scores.get(cell.score), cell.std.get(cell.score)
    if value is None:
        return NOT_AVAILABLE
    text = f"{value:.1f}" + ("" if spread is None else f" ± {spread:.1f}")
    last = "" if cell.score == "last" else f" ({cell.scores['last']:.1f})"
    return f"{text}{last}{'*' if cell.notes else ''}"


def show_paper(cell: Cell) -> str:
    """Return the paper's value in words."""
    if cell.paper is None:
        return "-"
    return f"{cell.paper:.2f}" if cell.verb == "pretrain" else f"{cell.paper:.1f}"  # measured of the encoder


def collect_notes(tables: list[Table]) -> dict[str, tuple[str, ...]]:
    """Return what there is to say of each run."""
    return {cell.run: cell.notes for table in tables for row in table.rows for cell in row if cell.notes}


def markdown(tables: list[Table]) -> str:
    """Return each table: beside the paper's values a line per cell with its command, else rows and columns."""
    parts = []
    for table in tables:
        lines = [f"### {table.title}", ""]
        if table.has_paper:
            lines += ["| row | column | command | paper | ours |", "|---|---|---|---|---|"]
            for cell in (cell for row in table.rows for cell in row):
                command = f"`aape {cell.verb} --config {cell.recipe}`"
                lines.append(f"| {cell.row} | {cell.column} | {command} | {show_paper(cell)} | {show(cell)} |")
        else:
            columns = [cell.column for cell in table.rows[0]]
            lines += [f"| | {' | '.join(columns)} |", f"|---{'|---' * len(columns)}|"]
            lines += [f"| {row[0].row} | {' | '.join(map(show, row))} |" for row in table.rows]
        parts.append("\n".join(lines))
    notes = "\n".join(f"\\* {run}: {'; '.join(texts)}" for run, texts in collect_notes(tables).items())
    return "\n\n".join([*parts, notes] if notes else parts) + "\n"


def csv_rows(tables: list[Table]) -> list[list[Any]]:
    """Return a heading, and one row per cell, in per cent or the column's unit."""
    names = ("best", "best_on_validation", "last", "value")
    heading = ["table", "row", "column", "run", "paper", *names, "best_std_seeds", "last_std_seeds", "notes"]
    rows: list[list[Any]] = [heading]
    for table, cell in ((one, cell) for one in tables for row in one.rows for cell in row):
        values = [*map((cell.scores or {}).get, names), cell.std.get("best"), cell.std.get("last")]
        numbers = ["" if value is None else f"{value:.4f}" for value in values]
        state = "; ".join(cell.notes) if cell.scores is not None else NOT_RUN
        rows.append([table.title, cell.row, cell.column, cell.run, cell.paper, *numbers, state])
    return rows

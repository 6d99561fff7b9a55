"""`aape table`: what the finished runs say, cell by cell, beside the paper's values."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aape.config import encoder_config
from aape.errors import ConfigError
from aape.tables.runs import differences, expected, flatten, read_result, read_settings, title_of

FRAMES = 608  # of a crop: what the paper counts operations for


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        row: title of the row.
        column: title of the column.
        verb: of the run.
        run: its folder below that of all runs, and without its ending the recipe beside the tables.
        paper: the paper's value, if it has one.
        scores: ours by name ("best", "best_on_validation", "last"), or under "value" what is measured; None: not run.
        std: over seeds, of the same.
        shown: the score that the table is about, "best" as in the paper's tables or another.
        notes: how the run differs from the recipe, and the data from what was published.
    """

    row: str
    column: str
    verb: str
    run: str
    paper: float | None
    scores: dict[str, float | None] | None
    std: dict[str, float | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    shown: str = "best"

    @property
    def is_measured(self) -> bool:
        """Whether the value belongs to the pre-trained model, not to a score on a task."""
        return self.verb == "pretrain"


@dataclass(frozen=True)
class Grid:
    """One table: its cells by row and column."""

    title: str
    rows: list[list[Cell]]

    @property
    def has_paper(self) -> bool:
        """Whether the paper has any of it."""
        return any(cell.paper is not None for row in self.rows for cell in row)


def read_tables(path: Path) -> dict[str, Any]:
    """Read the file that says which run belongs into which cell.

    Raises:
        ConfigError: it cannot be read, or lacks a part.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        columns = content["columns"]
        for table in content["tables"]:
            for row in table["rows"]:
                unknown = set(table["columns"]) - set(columns) | set(row.get("paper", ())) - set(table["columns"])
                if unknown:
                    raise ConfigError(f"{path}: {table['title']}: unknown column {', '.join(sorted(unknown))}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the tables {path}: {error}") from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a file of tables ({error!r})".splitlines()[0]) from error
    return dict(content)


def collect(tables: Path, runs: Path) -> list[Grid]:
    """Fill the tables with what has been run.

    Args:
        tables: the YAML file; its recipes lie beside it.
        runs: folder of the runs, `VERB/NAME`, as the recipes' `out` names them.
    """
    content = read_tables(tables)
    grids = []
    for table in content["tables"]:
        rows = [
            [
                _cell(row, key, content["columns"][key], table.get("score", "best"), tables.parent, runs)
                for key in table["columns"]
            ]
            for row in table["rows"]
        ]
        grids.append(Grid(table["title"], rows))
    return grids


def _cell(row: Mapping[str, Any], key: str, column: Mapping[str, str], shown: str, recipes: Path, runs: Path) -> Cell:
    paper = row.get("paper", {}).get(key)
    if "measure" in column:
        run = f"pretrain/{row['run']}"
        value = MEASURES[column["measure"]](recipes / f"{run}.yaml", runs / run)
        return Cell(row["title"], column["title"], "pretrain", run, paper, None if value is None else {"value": value})
    verb = column["verb"]
    run = column.get("run", f"{verb}/{{run}}-{key}").format(run=row["run"])
    cell = Cell(row["title"], column["title"], verb, run, paper, None, shown=shown)
    result = read_result(runs / run)
    features = column.get("features", "encoder")
    if result is None or (verb == "probe" and features not in result["rows"]):
        return cell
    summary = result["scores"] if verb == "finetune" else result["rows"][features]["scores"]
    own = {name: (values or {}).get(column["metric"]) for name, values in summary.items()}
    scores = {name: 100 * values["mean"] if values else None for name, values in own.items()}
    spread = {name: (values or {}).get("std_seeds") for name, values in own.items()}
    std = {name: None if value is None else 100 * value for name, value in spread.items()}
    notes = _notes(result, cell, recipes, runs, recipes / f"pretrain/{row['run']}.yaml")
    return dataclasses.replace(cell, scores=scores, std=std, notes=notes)


def _notes(result: Mapping[str, Any], cell: Cell, recipes: Path, runs: Path, encoder: Path) -> tuple[str, ...]:
    notes = differences(expected(recipes / f"{cell.run}.yaml", cell.verb), read_settings(runs / cell.run))
    before = flatten(result.get("pretraining") or {})
    if before and encoder.exists():  # else any encoder will do
        pretraining = differences(expected(encoder, "pretrain"), before)
        notes += [f"pre-training: {note}" for note in pretraining]
    elif not before:
        notes.append("pre-training: unknown")
    for part, (found, published) in (result.get("counts") or {}).items():
        if found != published:
            notes.append(f"{title_of(result['task'])}: {found:,} of {published:,} clips ({part})")
    if result.get("num_bad"):
        notes.append(f"{result['num_bad']} clips could not be read")
    return tuple(notes)


def _parameters(recipe: Path, _: Path) -> float | None:
    """Count the stem's parameters, in millions."""
    import torch

    from aape.models.encoder import build_stem

    with torch.device("meta"):
        stem = build_stem(_encoder(recipe))
    return sum(parameter.numel() for parameter in stem.parameters()) / 1e6


def _operations(recipe: Path, _: Path) -> float | None:
    """Count what the paper counts of the adaptive convolution, C T K, in millions."""
    encoder = _encoder(recipe)
    if encoder.stem != "aape":
        return 0.0
    channels = encoder.n_mels // encoder.patch_size * encoder.hidden_dim
    return channels * FRAMES * encoder.kernel_size / 1e6


def _batches_per_second(_: Path, run: Path) -> float | None:
    """Return the median speed of a pre-training run, in optimiser steps."""
    path = run / "metrics.jsonl"
    if read_result(run) is None or not path.exists():
        return None
    speeds = [json.loads(line)["clips_per_second"] for line in path.read_text(encoding="utf-8").splitlines()]
    return statistics.median(speeds) / read_settings(run)["clips"]


def _encoder(recipe: Path) -> Any:
    settings = expected(recipe, "pretrain")
    own = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith("encoder.")}
    return encoder_config(settings["model"], **own)


MEASURES = {"parameters": _parameters, "operations": _operations, "batches_per_second": _batches_per_second}

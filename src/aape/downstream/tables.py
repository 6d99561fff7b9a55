"""`aape table`: what the finished runs say, cell by cell, beside the paper's values."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aape.downstream.table_runs import differences, expected, flatten, read_result, read_settings, title_of
from aape.errors import ConfigError
from aape.models.config import encoder_config
from aape.models.saved import model_name

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
        tables: the YAML file; its recipes lie beside it. Its `pretraining_clips`, if given, is how many the encoders
            should have been pre-trained on.
        runs: folder of the runs, `VERB/NAME`, as the recipes' `out` names them.
    """
    content = read_tables(tables)
    grids = []
    for table in content["tables"]:
        rows = [
            [_cell(row, key, content, table.get("score", "best"), tables.parent, runs) for key in table["columns"]]
            for row in table["rows"]
        ]
        grids.append(Grid(table["title"], rows))
    return grids


def _cell(row: Mapping[str, Any], key: str, content: Mapping[str, Any], shown: str, recipes: Path, runs: Path) -> Cell:
    paper, column = row.get("paper", {}).get(key), content["columns"][key]
    name, num_clips = f"pretrain/{row['run']}", content.get("pretraining_clips")
    encoder = recipes / f"{name}.yaml"
    if "measure" in column:
        measure = MEASURES[column["measure"]]
        value = measure(encoder, runs / name)
        cell = Cell(row["title"], column["title"], "pretrain", name, paper, None if value is None else {"value": value})
        if value is None or measure is not _batches_per_second:  # the others belong to the recipe
            return cell
        found = {**read_settings(runs / name), "num_clips": (read_result(runs / name) or {}).get("num_clips")}
        return dataclasses.replace(cell, notes=tuple(_notes_on_pretraining(found, encoder, num_clips)))
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
    notes = differences(expected(recipes / f"{run}.yaml", verb), read_settings(runs / run), verb)
    before = flatten(result.get("pretraining") or {})
    notes += [f"pre-training: {note}" for note in _notes_on_pretraining(before, encoder, num_clips)]
    return dataclasses.replace(cell, scores=scores, std=std, notes=(*notes, *_notes_on_data(result)))


def _notes_on_pretraining(found: Mapping[str, Any], recipe: Path, num_clips: int | None) -> list[str]:
    """Say how an encoder's pre-training differs from its recipe, and its clips from those it should have."""
    if not found:
        return ["unknown"]
    if not recipe.exists():  # any encoder will do
        return []
    # Where a run has a path, the model that it saved has the name alone.
    wanted, own = (
        {**settings, "init": settings.get("init") and model_name(settings["init"])}
        for settings in (expected(recipe, "pretrain"), found)
    )
    clips = own.pop("num_clips", None)
    notes = differences(wanted, own, "pretrain")
    if num_clips is not None and clips != num_clips:
        notes.append(f"{'unknown' if clips is None else f'{clips:,}'} of {num_clips:,} clips")
    return notes


def _notes_on_data(result: Mapping[str, Any]) -> list[str]:
    notes = []
    for part, (found, published) in (result.get("counts") or {}).items():
        if found != published:
            notes.append(f"{title_of(result['task'])}: {found:,} of {published:,} clips ({part})")
    if result.get("num_bad"):
        notes.append(f"{result['num_bad']} clips could not be read")
    return notes


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

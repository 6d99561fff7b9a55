"""`aape table` and `aape table run`: a grid of runs, one after the other, and the tables of what they gave."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape.commands.options import option_table, parse
from aape.commands.recipe import GRID_NAME, Grid, Recipe, find_grid
from aape.commands.recipes import RUNS, resolved, settings_of, with_protocol
from aape.errors import AapeError, ConfigError
from aape.runs.signals import TERMINATING, Stopped, raising

if TYPE_CHECKING:
    from aape.downstream.tables import Cell, Scores, Table

# How a run is carried out: by this alone its numbers do not change, rounding apart.
EXECUTION = {
    "out", "resume", "workers", "device", "save_every", "keep_checkpoints", "keep_every", "log_every", "tensorboard",
    "track", "watch", "watch_every", "max_bad_fraction", "clips_at_once", "optim.precision", "optim.accumulate",
}  # fmt: skip
# What may differ from the recipe without making it another experiment.
MAY_DIFFER = EXECUTION | {"data", "checkpoint", "stats", "yardsticks", "selection_runs"}
PATHS = {"data", "checkpoint", "init", "stats"}
STOPPING = (signal.SIGINT, *TERMINATING)  # a run that one of them has ended stops the list too; a crash is a failure
CAPTION = (
    "Per cent where not said otherwise, ± standard deviation over seeds or draws. Beside a paper's value, which stands "
    "behind the bar, ours is the best step of the test data, as the paper reports it, (and the last); elsewhere the "
    "last."
)


@dataclass(frozen=True)
class TableConfig:
    """`aape table`: collect finished runs into the paper's tables, the paper's value beside each.

    Args:
        tables: which tables, paper or a folder with a grid.yaml.
        runs: folder of the runs; by default where the recipes leave them.
        out: folder to write tables.md and tables.csv into; default: print only.
    """

    tables: str = "paper"
    runs: str | None = None
    out: str | None = None


@dataclass(frozen=True)
class QueueConfig:
    """`aape table run`: work through a list of runs; started again, it continues where it stopped.

    Args:
        lists: paper, a folder with a grid.yaml, or a text file with a line for each run, as typed after `aape`.
        keep_going: after a run that fails, go on with the others.
    """

    lists: list[str] = field(metadata={"positional": True})
    keep_going: bool = True


def table(config: TableConfig) -> None:
    """Show the tables, and write them where a folder is given.

    Raises:
        ConfigError: the tables or a recipe cannot be read, or `out` is named like a file.
        DataError: a run is damaged.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable

    from aape.downstream.scores import write_csv
    from aape.downstream.tables import collect_notes, csv_rows, markdown, show, show_paper
    from aape.runs.files import write_atomically

    if config.out is not None and Path(config.out).suffix.lower() in (".md", ".csv"):
        raise ConfigError(f"out: {config.out}: name a folder, for tables.md and tables.csv")
    tables = collect(find_grid(config.tables), config.runs)
    console = Console()
    for one in tables:
        view = RichTable(title=one.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        view.add_column("", overflow="fold")
        for cell in one.rows[0]:
            view.add_column(cell.column, justify="right", overflow="fold")
        for row in one.rows:
            cells = [f"{show(cell)} | {show_paper(cell)}" if one.has_paper else show(cell) for cell in row]
            view.add_row(row[0].row, *cells)
        console.print(view)
    console.print(CAPTION, highlight=False)
    for name, notes in collect_notes(tables).items():
        console.print(f"* {name}: {'; '.join(notes)}", highlight=False, markup=False)
    if config.out is not None:
        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "tables.md", markdown(tables).encode())
        write_csv(out / "tables.csv", csv_rows(tables))
        print(f"-> {out / 'tables.md'}, {out / 'tables.csv'}")


def collect(grid: Grid, runs: str | None = None) -> list[Table]:
    """Fill the tables of a grid with what has been run, in a folder of runs or where the recipes leave them.

    Raises:
        ConfigError: the tables are damaged, or name what the grid does not hold.
        DataError: a run is damaged.
    """
    from aape.downstream.tables import Table

    root = Path(grid.content["out"].partition("{")[0])
    try:
        return [
            Table(one["title"], [
                [_cell(grid, row, key, one.get("score", "best"), root, Path(runs or root)) for key in one["columns"]]
                for row in one["rows"]
            ])
            for one in grid.content["tables"]
        ]  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{grid.path}: no tables, or damaged ones ({error!r})") from error


def _cell(grid: Grid, row: Mapping[str, Any], key: str, score: str, root: Path, runs: Path) -> Cell:
    from aape.downstream.tables import MEASURES, Cell, notes_on_data, read_result, read_settings, scores_of

    column, paper = grid.content["columns"][key], row.get("paper", {})
    template = "{row}" if "measure" in column else column.get("recipe", f"{{row}}-{key}")
    recipe, encoder = grid.recipes[template.replace("{row}", row["name"])], grid.recipes.get(row["name"])
    verb, name = str(recipe.verb), Path(recipe.out).relative_to(root)
    run, result = runs / name, read_result(runs / name)
    scores: Scores | None = None
    std: Scores = {}
    notes: list[str] = []
    if "measure" in column:
        if (value := MEASURES[column["measure"]](resolved(recipe), run)) is not None:
            scores = {"value": value}
            if column["measure"] == "batches_per_second":  # the others belong to the recipe
                settings = {**read_settings(run), "num_clips": (result or {}).get("num_clips")}
                notes = _notes_on_pretraining(settings, recipe, grid)
    elif result is not None and (pair := scores_of(result, verb, column["metric"], column.get("features", "encoder"))):
        scores, std = pair
        before = _notes_on_pretraining(result.get("pretraining") or {}, encoder, grid)
        notes = differences(resolved(recipe), read_settings(run), verb)
        notes += [*(f"pre-training: {note}" for note in before), *notes_on_data(result)]
    published = float(paper[key]) if key in paper else None
    return Cell(row["title"], column["title"], verb, recipe.name, name.as_posix(), published, scores, std,
                tuple(notes), score)  # fmt: skip


def _notes_on_pretraining(settings: Mapping[str, Any], recipe: Recipe | None, grid: Grid) -> list[str]:
    """Say how an encoder's pre-training differs from its recipe, and its clips from the grid's `pretraining_clips`."""
    from aape.downstream.tables import flatten
    from aape.models.saved import model_name

    if recipe is None or not settings:  # without a recipe, any encoder will do
        return [] if settings else ["unknown"]
    asked, measured = resolved(recipe), flatten(settings)
    for each in (asked, measured):  # where a run has a path, the model that it saved has the name alone
        each["init"] = each.get("init") and model_name(each["init"])
    clips, num_clips = measured.pop("num_clips", None), grid.content.get("pretraining_clips")
    notes = differences(asked, measured, "pretrain")
    if num_clips is not None and clips != int(num_clips):
        notes.append(f"{'unknown' if clips is None else f'{clips:,}'} of {int(num_clips):,} clips")
    return notes


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], verb: str, *, apart: Collection[str] = MAY_DIFFER
) -> list[str]:
    """Say how settings of a verb changed: "steps 300000 -> 300"; an option that one leaves out has its default.

    Settings are by dotted key; keys and sections in `apart` may differ.
    """
    first, second = _complete(before, verb), _complete(now, verb)
    keys = [key for key in {**before, **now} if not {key, key.partition(".")[0]} & set(apart)]
    changed = [key for key in keys if first.get(key) != second.get(key)]
    return [f"{key} {first.get(key, 'not set')} -> {second.get(key, 'not set')}" for key in changed]


def _complete(settings: Mapping[str, Any], verb: str) -> dict[str, Any]:
    """Add to settings what they leave out, as a run has it then: an option's default, the encoder's of its size."""
    from aape.models.config import MODEL_SIZES
    from aape.runs.files import plain

    options = option_table(RUNS[verb], with_fixed=True).values()
    full = {option.key: plain(option.default) for option in options if not option.is_required}
    size = MODEL_SIZES.get(str(settings.get("model", full.get("model"))), {})
    return with_protocol({**full, **{f"encoder.{key}": value for key, value in size.items()}, **settings}, verb)


@dataclass(frozen=True)
class Entry:
    """A run of the list: `aape` with these arguments, which are those of this configuration."""

    arguments: list[str]
    config: Any

    @classmethod
    def of(cls, arguments: list[str]) -> Entry:
        """Read arguments, as typed after `aape`.

        Raises:
            ConfigError: they are no run, or their options are wrong.
        """
        verb, *options = (argument for argument in arguments if argument != "--debug")
        if verb not in RUNS:
            raise ConfigError(f"{verb!r} is no run: choose one of {', '.join(RUNS)}")
        return cls(arguments, parse(RUNS[verb], options, verb=verb))

    @property
    def out(self) -> Path:
        """The folder of the run."""
        return Path(self.config.out)

    def is_done(self) -> bool:
        """Return whether the run has ended; with other options, its numbers would pass for the line's.

        Raises:
            ConfigError: it had other options; names them, with both values.
            DataError: its options cannot be read.
        """
        if not (self.out / "result.json").exists():
            return False
        from aape.downstream.tables import read_settings
        from aape.models.saved import shipped_models
        from aape.runs.folder import is_same_location

        verb, names = self.arguments[0], shipped_models()
        now = settings_of(self.config, verb)
        known = option_table(RUNS[verb], with_fixed=True)
        before = {key: value for key, value in read_settings(self.out).items() if key in known}
        before |= {key: now[key] for key in PATHS & now.keys() if is_same_location(before.get(key), now[key], names)}
        if changed := "; ".join(differences(before, now, verb, apart=EXECUTION)):
            other = f"{self.out} holds a run of other options than aape {shlex.join(self.arguments)}"
            raise ConfigError(f"{other} ({changed}): choose another --out")
        return True

    def command(self) -> list[str]:
        """Return what is to be executed: a run that was begun is continued."""
        is_begun = hasattr(self.config, "resume") and (self.out / "config.yaml").exists()
        more = ["--resume"] if is_begun and not self.config.resume else []
        return [sys.executable, "-m", "aape", *self.arguments, *more]


def run(config: QueueConfig) -> None:
    """Work through lists of runs.

    Raises:
        ConfigError: a line that is no run, or that asks for other options than its finished run had; nothing is started
            then.
        AapeError: a run failed; with `keep_going` after all others have had their turn.
        SystemExit: 128 + the signal that stopped a run.
    """
    entries = [entry for name in config.lists for entry in read_list(name)]
    if not entries:
        raise ConfigError(f"{', '.join(config.lists) or 'no list given'}: no runs to work through")
    for entry in entries:
        entry.is_done()
    failed = []
    for number, entry in enumerate(entries, start=1):
        head = f"[{number}/{len(entries)}] aape {shlex.join(entry.arguments)}"
        if entry.is_done():  # perhaps by a line above
            print(f"{head}: done already", flush=True)
            continue
        print(head, flush=True)
        status = execute(entry)
        for number in STOPPING:
            if status in (128 + number, -number):
                raise Stopped(number)
        if status:
            failed.append(str(entry.out))
            if not config.keep_going:
                break
    if failed:
        raise AapeError(f"{len(failed)} of {len(entries)} runs failed: {', '.join(failed)}")


def execute(entry: Entry) -> int:
    """Run a line of the list to its end, and return its exit status; who stops the queue stops its run.

    A run whose queue was killed may live on: its folder is its own for as long, and another is refused there.
    """
    with subprocess.Popen(entry.command()) as process, _terminating(process):
        return process.wait()


@contextlib.contextmanager
def _terminating(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let a process end with this one: SIGTERM, SIGHUP and Ctrl-C are passed on, and waited for."""
    with raising():
        try:
            yield
        except BaseException:
            process.terminate()
            process.wait()
            raise


def read_list(name: str) -> list[Entry]:
    """Read what is to be run: a grid's recipes, or a file of lines; blank lines and what follows a # are left out.

    Raises:
        ConfigError: the list cannot be read, or a line in it is no run.
    """
    path = Path(name)
    if path.name == GRID_NAME or not (path.suffix or path.is_file()):
        recipes = find_grid(name).recipes.values()
        return [Entry.of([str(recipe.verb), "--config", recipe.name]) for recipe in recipes]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the list {path}: {error}") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            if arguments := shlex.split(line, comments=True):
                entries.append(Entry.of(arguments))
        except (ValueError, ConfigError) as error:
            raise ConfigError(f"{path}, line {number}: {error}") from error
    return entries

"""`aape table` and `aape table run`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TableConfig:
    """`aape table`: collect finished runs into the paper's tables, the paper's value beside each.

    Args:
        tables: YAML file that says which run belongs into which cell.
        runs: folder of the runs.
        out: folder to write tables.md and tables.csv into; only shown where not given.
    """

    tables: str = "recipes/paper/tables.yaml"
    runs: str = "runs/paper"
    out: str | None = None


@dataclass(frozen=True)
class QueueConfig:
    """`aape table run`: work through a list of runs; started again, it goes on where it stopped.

    Args:
        lists: text files with a line for each run, as typed behind `aape`: VERB --config RECIPE [options].
        keep_going: after a run that fails, go on with the others.
    """

    lists: list[str] = field(metadata={"positional": True})
    keep_going: bool = True


def table(config: TableConfig) -> None:
    """Run the verb."""
    from aape.commands.table_run import table as run

    run(config)


def run_queue(config: QueueConfig) -> None:
    """Run the verb."""
    from aape.runs.queue import run_queue as run

    run(config)

"""What `aape embed` and `aape classify` show on the terminal while they work; all of it on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aape.errors import DataError, one_line


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Show a bar; yields what is to be called with (done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def list_bad(bad: list[tuple[str, str]], num_inputs: int) -> None:
    """Print one line for each input that was left out.

    Raises:
        DataError: nothing was left.
    """
    if num_inputs == 1 and bad:
        raise DataError(": ".join(bad[0]))
    for name, reason in bad:
        print(f"left out: {one_line(name)}: {reason}", file=sys.stderr)
    if len(bad) == num_inputs:
        raise DataError(f"none of {num_inputs} inputs could be read; the first: {': '.join(bad[0])}")

"""What verbs show on the terminal while they work, all of it on standard error. A bar only draws."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from aape.errors import DataError, one_line

if TYPE_CHECKING:
    from rich.progress import Progress


def _bar(title: str, *notes: str) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), *map(TextColumn, notes))
    return Progress(*columns, console=Console(stderr=True))


@contextmanager
def progress_bar(title: str, total: int, *, is_shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show a bar, if this rank draws; yields what is to be called with (done, total)."""
    bar = _bar(title)
    bar.disable = not is_shown
    with bar:
        task = bar.add_task(title, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class TrainingBar:
    """A bar with the time left on a terminal; elsewhere a line per note. `is_shown`: whether this rank draws."""

    def __init__(self, title: str, total: int, *, is_shown: bool = True) -> None:
        self.total, self.is_shown, self.bar = total, is_shown, _bar(title, "{task.fields[note]}")
        self.console = self.bar.console
        self.bar.disable = not (is_shown and self.console.is_terminal)
        self.task = self.bar.add_task(title, total=total, note="")

    def __enter__(self) -> TrainingBar:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.bar.stop()

    def advance(self, done: int) -> None:
        """Draw so many steps as done."""
        self.bar.update(self.task, completed=done)

    def note(self, done: int, text: str) -> None:
        """Show a few numbers beside the bar, or on a line of their own."""
        if self.is_shown and self.console.is_terminal:
            self.bar.update(self.task, note=text)
        elif self.is_shown:
            self.console.print(f"step {done}/{self.total}  {text}", highlight=False, markup=False, soft_wrap=True)


def list_bad(bad: list[tuple[str, str]], num_inputs: int) -> None:
    """Print one line for each input that was left out; DataError if nothing was left."""
    if num_inputs == 1 and bad:
        raise DataError(": ".join(bad[0]))
    for name, reason in bad:
        print(f"left out: {one_line(name)}: {reason}", file=sys.stderr)
    if len(bad) == num_inputs:
        raise DataError(f"none of {num_inputs} inputs could be read; the first: {': '.join(bad[0])}")

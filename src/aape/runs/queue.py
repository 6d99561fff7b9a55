"""`aape table run`: one run after the other, each in a process of its own, finished ones left alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aape.commands.options import parse
from aape.commands.recipe import load_recipe, option_table
from aape.commands.table import QueueConfig
from aape.downstream.table_runs import HOW, VERBS, check_verb, differences, read_settings, settings_of
from aape.errors import AapeError, ConfigError
from aape.runs.folder import RESULT_NAME, is_same_place

RESUMABLE = ("pretrain", "finetune")
PATHS = {"data", "checkpoint", "init", "stats"}
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)  # by Ctrl-C, by SIGTERM: the list stops too; a crash is a failure


@dataclass(frozen=True)
class Entry:
    """A line of the list: `aape` with these arguments leaves its run in `out`."""

    arguments: list[str]
    out: Path

    @property
    def is_done(self) -> bool:
        """Whether the run has ended."""
        return (self.out / RESULT_NAME).exists()

    def check(self) -> None:
        """Refuse a line whose run has ended, but was given other options: its numbers would pass for the line's.

        Raises:
            ConfigError: names them, with both values.
            DataError: the run's own cannot be read.
        """
        if not self.is_done:
            return
        verb, *options = (argument for argument in self.arguments if argument != "--debug")
        now = settings_of(parse(VERBS[verb], options), verb)
        before = {key: value for key, value in read_settings(self.out).items() if key in option_table(VERBS[verb])}
        before |= {key: now[key] for key in PATHS & now.keys() if is_same_place(before.get(key), now[key])}
        changed = "; ".join(differences(before, now, verb, apart=HOW))
        if changed:
            line = shlex.join(self.arguments)
            raise ConfigError(
                f"{self.out} holds a run of other options than aape {line} ({changed}): choose another --out"
            )

    def command(self) -> list[str]:
        """Return what is to be executed: a run that was begun is continued."""
        begun = self.arguments[0] in RESUMABLE and (self.out / "config.yaml").exists()
        wanted = ["--resume"] if begun and "--resume" not in self.arguments else []
        return [sys.executable, "-m", "aape", *self.arguments, *wanted]


def run_queue(config: QueueConfig) -> None:
    """Work through lists of runs.

    Raises:
        ConfigError: a line that is no run, or that asks for other options than its finished run had; nothing is started
            then.
        AapeError: a run failed; with `keep_going` after all others have had their turn.
    """
    entries = [entry for path in config.lists for entry in read_list(Path(path))]
    if not entries:
        raise ConfigError(f"{', '.join(config.lists) or 'no list given'}: no runs to work through")
    for entry in entries:
        entry.check()
    failed = []
    for number, entry in enumerate(entries, start=1):
        head = f"[{number}/{len(entries)}] aape {shlex.join(entry.arguments)}"
        if entry.is_done:
            entry.check()  # it may be that of a line above
            print(f"{head}: done already", flush=True)
            continue
        print(head, flush=True)
        status = execute(entry)
        if status in STOPPED:
            raise KeyboardInterrupt
        if status:
            failed.append(str(entry.out))
            if not config.keep_going:
                break
    if failed:
        raise AapeError(f"{len(failed)} of {len(entries)} runs failed: {', '.join(failed)}")


def execute(entry: Entry) -> int:
    """Run a line of the list to its end, and return its exit status; who stops the queue stops its run.

    A run whose queue was killed may live on: its folder stays locked for as long as it does, and two processes never
    write into one.
    """
    entry.out.mkdir(parents=True, exist_ok=True)
    folder = os.open(entry.out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with subprocess.Popen(entry.command(), pass_fds=(folder,)) as process, _terminating(process):
            return process.wait()
    except BlockingIOError:
        print(f"{entry.out}: another process is still at work there", file=sys.stderr)
        return 2
    finally:
        os.close(folder)


@contextlib.contextmanager
def _terminating(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let a process end with this one: SIGTERM and Ctrl-C are passed on, and waited for."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def read_list(path: Path) -> list[Entry]:
    """Read a list of runs: a line each, as typed behind `aape`; blank lines and what follows a # are left out.

    Raises:
        ConfigError: the list cannot be read, or a line in it is no run.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the list {path}: {error}") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            arguments = shlex.split(line, comments=True)
            if arguments:
                entries.append(_entry(arguments))
        except (ValueError, ConfigError) as error:
            raise ConfigError(f"{path}, line {number}: {error}") from error
    return entries


def _entry(arguments: list[str]) -> Entry:
    check_verb(arguments[0])
    recipe, out = _option(arguments, "--config"), _option(arguments, "--out")
    values = load_recipe(recipe, VERBS[arguments[0]]) if recipe is not None else {}
    out = out if out is not None else values.get("out")
    if not isinstance(out, str):
        raise ConfigError("where does the run go? give --out, or `out` in the recipe")
    return Entry(arguments, Path(out))


def _option(arguments: list[str], name: str) -> str | None:
    """Return the last value given to an option."""
    value = None
    for place, argument in enumerate(arguments):
        if argument == name and place + 1 < len(arguments):
            value = arguments[place + 1]
        elif argument.startswith(f"{name}="):
            value = argument.partition("=")[2]
    return value

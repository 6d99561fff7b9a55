"""A folder that results grow in belongs to one process at a time, and goes again if nothing has come of it."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from aape.errors import ConfigError, one_line, writing
from aape.runs.files import make_folder, sweep

LOCK_NAME = ".lock"
SHARED_NAME = ".shared"  # how the names of what processes share in a folder begin, see aape.runs.chunks
# What a run writes before its first step
_HEADER = {LOCK_NAME, "config.yaml", "environment.json", "data.sha256", "stats.json", "hparams.yml",
           ".plan.json", "aape-demo"}  # fmt: skip
_held: set[tuple[int, int]] = set()  # device and inode of this process's locks


@contextlib.contextmanager
def locked(out: str | os.PathLike[str]) -> Iterator[None]:
    """Keep a folder, made if need be, for this process: no other one writes there until it ends, however it ends.

    What killed processes have left half-written is removed. A folder that was made here goes again when an error comes
    before the first result. Of torchrun's processes the main one acts for all.

    Raises:
        ConfigError: another process is at work there, and which; or the folder cannot be made.
    """
    if ranks()[0] > 0:
        yield
        return
    folder = Path(out)
    made = make_folder(folder)
    descriptor, path = -1, folder / LOCK_NAME
    try:
        descriptor = _lock(folder)
        sweep(folder)
        yield
    except BaseException as error:
        if descriptor < 0:
            _remove(made)
            raise
        sweep(folder)
        names = {path.name for path in folder.rglob("*") if path.is_file()}
        is_header = all(name in _HEADER or name.startswith(("events.out.tfevents", SHARED_NAME)) for name in names)
        if (
            folder.absolute() in made
            and is_header
            and (isinstance(error, Exception) or all(name.startswith((LOCK_NAME, SHARED_NAME)) for name in names))
        ):
            shutil.rmtree(folder)
            _remove(made[1:])
        raise
    finally:
        if descriptor >= 0:
            path.unlink(missing_ok=True)
            _release(descriptor)


def _remove(made: list[Path]) -> None:
    """Remove folders that were made for nothing, unless they are somebody else's by now."""
    for folder in made:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _lock(folder: Path) -> int:
    """Lock a folder's lock file, and write into it who has it."""
    path = folder / LOCK_NAME
    while True:
        if _identity(path) in _held:  # closing a second descriptor would end the first lock
            raise ConfigError(f"{folder} is in use by this process: choose another --out")
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        if not acquire(descriptor):
            os.close(descriptor)
            raise ConfigError(
                f"{folder} is in use by {_holder(path)}: wait until it has ended, or choose another --out"
            )
        status = os.fstat(descriptor)
        if _identity(path) == (status.st_dev, status.st_ino):
            break
        os.close(descriptor)  # its holder has just removed it
    _held.add((status.st_dev, status.st_ino))
    since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    about = {"pid": os.getpid(), "host": platform.node(), "since": since, "command": shlex.join(sys.orig_argv)}
    with contextlib.suppress(OSError):  # at a full disk the lock holds, and whoever meets it is told less
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(about).encode())
    return descriptor


def acquire(descriptor: int, first: int = 0, count: int = 0, *, waits: bool = False, is_shared: bool = False) -> bool:
    """Take a lock of bytes of an open file, there or not, 0 for all behind; returns whether no other process has it.

    A record lock, of the process and not of the open file: data workers that are forked do not inherit it, and so do
    not keep it when their parent is killed. It goes when the process closes the file, by any descriptor. Windows and
    some network file systems have none: there, nothing is held.
    """
    try:
        import fcntl
    except ImportError:
        return True
    kind = (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | (0 if waits else fcntl.LOCK_NB)
    try:
        fcntl.lockf(descriptor, kind, count, first)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def release(descriptor: int, first: int, count: int) -> None:
    """Give up the lock of bytes."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_UN, count, first)


def ranks() -> tuple[int, int]:
    """Return the number of this process among those that torchrun has started, and how many these are.

    Raises:
        ConfigError: the environment makes no sense.
    """
    texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, world = map(int, texts)
        if not 0 <= rank < world:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"RANK={texts[0]} of WORLD_SIZE={texts[1]}: start processes with torchrun, or unset both"
        ) from None
    return rank, world


def _release(descriptor: int) -> None:
    status = os.fstat(descriptor)
    _held.discard((status.st_dev, status.st_ino))
    os.close(descriptor)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _holder(path: Path) -> str:
    """Say who has a lock, as far as it has written that yet."""
    try:
        about = json.loads(path.read_bytes())
        who = f"process {about['pid']} on {about['host']} since {about['since']} ({about['command']})"
        return one_line(who)
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

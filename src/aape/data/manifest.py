"""Which clips a data set consists of: a folder, a table or tar shards become a list of `Clip`.

The list is the whole data set, so resuming a run is index arithmetic.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

from aape.data.audio.decoding import AUDIO_EXTENSIONS
from aape.data.clips import Clip
from aape.data.rows import read_rows
from aape.data.shards import has_extension, index_tar
from aape.data.tables import TABLE_EXTENSIONS, text_encoding
from aape.errors import DataError

BadInputs: TypeAlias = list[tuple[str, str]]  # name and reason
PathT = TypeVar("PathT")
_EXTENSIONS = " ".join(AUDIO_EXTENSIONS)


def read_manifest(
    path: str | os.PathLike[str],
    *,
    label: str | None = None,
    split: str | None = None,
    fold: str | None = None,
    group: str | None = None,
    where: tuple[str, str] | None = None,
    needs_labels: bool = True,
) -> list[Clip]:
    """List the clips of a data set.

    Args:
        path: a folder (searched with its subfolders, in sorted order, tar shards included, hidden files left out), a
            tar shard, a sound file, or a table (.csv, .tsv, .txt; commas, semicolons, tabs or bars). A table has a
            column `file` or `filename` (paths relative to the table), or columns `shard` (likewise) and `name` (tar
            member). Columns `start` and `end`, in seconds, make a clip of a part; a row where both are empty is the
            whole sound. Columns `seconds`, and `offset` and `size` of a member in bytes, are used where they are: with
            them no shard is scanned. Names of columns are the same in any case.
        label: the table's column of labels.
        split: its column of splits, which every row must fill.
        fold: likewise of the folds.
        group: likewise of the groups.
        where: a column and a value: only rows where it has that value.
        needs_labels: whether every row must fill the column of labels.

    Warns:
        UserWarning: names columns that are not used, and folders of another machine that were dropped from all paths.

    Raises:
        DataError: nothing there, a missing file or column, an empty cell where a value was asked for, one sound twice,
            a part outside its sound, or a file that is not what it should be.
    """
    source = Path(path)
    asked = {"label": label, "split": split, "fold": fold, "group": group}
    columns = {key: column for key, column in asked.items() if column is not None}
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if not (source.is_file() or source.is_dir()):  # a named pipe would never end
        raise DataError(f"{source}: a device or pipe, not a file")
    if _is_table(source):
        return read_rows(source, columns, where=where, needs_labels=needs_labels)
    for key, column in (*columns.items(), *([("where", where[0])] if where else [])):
        raise DataError(f"{source}: {key} column {column!r} asked for, but only a CSV has columns")
    if source.is_dir():
        return _read_folder(source)
    if source.suffix.lower() == ".tar":
        clips = _shard_clips(source, source.name)
        if not clips:
            raise DataError(f"{source}: no audio in it (looked for {_EXTENSIONS})")
        return clips
    if has_extension(source.name):
        return [Clip(str(source), source.name)]
    raise DataError(f"{source}: not a folder, a table ({' '.join(TABLE_EXTENSIONS)}), a .tar or a sound file")


def read_inputs(inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> tuple[list[Clip], BadInputs]:
    """List what is to be embedded or classified, in input order, under names that lead to it from here.

    Args:
        inputs: sound files, folders, tables and tar shards, as for `read_manifest`; `-` for names of such on standard
            input, one in a line, or with NUL between them as from `find -print0`.

    Returns:
        The clips, and name and reason of the inputs, and of what lies in folders, that cannot be listed. What does not
        exist is among the clips: reading it says so.

    Raises:
        DataError: a table that cannot be read, no names on standard input, or what is not a path.
    """
    clips: list[Clip] = []
    bad: BadInputs = []

    def is_closed(error: OSError) -> None:
        bad.append((str(error.filename), f"a folder that cannot be read: {error.strerror or error}"))

    is_list = isinstance(inputs, Iterable) and not (isinstance(inputs, (str, bytes)) or hasattr(inputs, "read"))
    for item in expanded(inputs if is_list else [inputs]):  # type: ignore[arg-type]
        if not isinstance(item, (str, os.PathLike)):
            raise DataError(f"{type(item).__name__}: not a path; `embed` and `classify` take arrays and open files")
        entry = os.fspath(item)
        if os.path.isdir(entry):
            count = len(clips) + len(bad)
            for file in _walk(Path(entry), (*AUDIO_EXTENSIONS, ".tar"), is_closed):
                _add_file(str(file), clips, bad)
            if len(clips) + len(bad) == count:
                bad.append((entry, f"a folder, and no sound file in it (looked for {_EXTENSIONS})"))
        elif _is_table(Path(entry)) and os.path.isfile(entry):
            folder = os.path.dirname(entry)
            try:
                listed = read_rows(Path(entry), {})
            except DataError as error:
                bad.append((entry, str(error).removeprefix(entry).lstrip(":, ")))
                continue
            clips += [dataclasses.replace(clip, name=os.path.join(folder, clip.name)) for clip in listed]
        else:
            _add_file(entry, clips, bad)
    return clips, bad


def _add_file(file: str, clips: list[Clip], bad: BadInputs) -> None:
    """Add a sound file, or all members of a shard."""
    if not (file.lower().endswith(".tar") and os.path.isfile(file)):
        clips.append(Clip(file, file))
        return
    try:
        members = _shard_clips(Path(file), file)
    except DataError as error:
        bad.append((file, str(error).removeprefix(f"{file}: ")))
        return
    clips += members
    if not members:
        bad.append((file, f"no audio in it (looked for {_EXTENSIONS})"))


def expanded(inputs: Iterable[PathT]) -> list[PathT | str]:
    """Return inputs with the names on standard input in place of `-`; DataError if there are none."""
    return [name for item in inputs for name in (_names_on_stdin() if str(item) == "-" else [item])]


def _names_on_stdin() -> list[str]:
    content = sys.stdin.buffer.read()
    encoding = text_encoding(content[:4])
    if encoding != "utf-8":  # as PowerShell writes lists
        content = os.fsencode(content.decode(encoding, "replace"))
    names = content.split(b"\0") if b"\0" in content else content.splitlines()
    names = [name for name in names if name.strip() not in (b"", b"-")]
    if not names:
        raise DataError("-: no names on standard input")
    return [os.fsdecode(name) for name in names]


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLE_EXTENSIONS and not path.is_dir()


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror or error}") from error


def _walk(folder: Path, extensions: tuple[str, ...], on_error: Callable[[OSError], object] = _refuse) -> Iterator[Path]:
    """Yield the files below a folder, sorted, linked folders included, each once; `on_error` gets what is closed."""
    seen = set()
    paths: list[Path] = []
    for root, folders, files in os.walk(folder, followlinks=True, onerror=on_error):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:  # a link back up would never end
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(root, name) for name in files if has_extension(name, extensions)]
    yield from sorted(paths)


def _read_folder(folder: Path) -> list[Clip]:
    clips = []
    for file in _walk(folder, (*AUDIO_EXTENSIONS, ".tar")):
        name = file.relative_to(folder).as_posix()
        if name.lower().endswith(".tar"):
            clips += _shard_clips(file, name)
        else:
            clips.append(Clip(str(file), name))
    if not clips:
        raise DataError(f"{folder}: no audio in it (looked for {_EXTENSIONS} and such files in .tar shards)")
    return clips


def _shard_clips(path: Path, name: str) -> list[Clip]:
    location = str(path)  # one string for all clips of the shard
    return [Clip(location, f"{name}/{member}", *extent) for member, extent in index_tar(path, has_extension).items()]

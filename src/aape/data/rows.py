"""Rows of a table as clips: which sound each is about, and which part of it. What is wrong is said with its line."""

from __future__ import annotations

import math
import os
import posixpath
import unicodedata
import warnings
from pathlib import Path
from typing import NamedTuple, TypeAlias

from aape.data.audio.decoding import audio_seconds
from aape.data.clips import Clip, clip_source, part_suffix
from aape.data.lookup import Lookup, Names, split_path
from aape.data.shards import has_extension, index_tar
from aape.data.tables import Table, open_table
from aape.errors import AudioError, DataError

ROUNDING = 0.01  # seconds that the end of a part may lie behind that of the file
SHORTEST = 0.001  # seconds of sound that a part must have
Extent: TypeAlias = tuple[int, int]  # offset and size in bytes of a member


def read_rows(
    path: Path,
    columns: dict[str, str],
    *,
    where: tuple[str, str] | None = None,
    needs_labels: bool = True,
    num_dropped: int | None = None,
) -> list[Clip]:
    """Read a table as `aape.data.manifest.read_manifest` does.

    Args:
        path: of the table.
        columns: the column of each of label, split, fold and group that was asked for.
        where: see there.
        needs_labels: see there.
        num_dropped: folders of another machine that all paths begin with and that are not here.
    """
    with open_table(path) as table:
        rows = _Rows(path, table, columns, where, needs_labels, num_dropped)
        clips = rows.clips()
    if not clips:
        raise DataError(f"{path}: no rows in it")
    if rows.missing:
        num_dropped = rows.foreign_root()
        return read_rows(path, columns, where=where, needs_labels=needs_labels, num_dropped=num_dropped)
    table.warn_unused()
    return clips


class _Sound(NamedTuple):
    """What a row is about."""

    name: str
    path: str
    listed: str
    key: tuple[object, ...]  # equal for one sound under several names; empty if it is not there
    extent: Extent | tuple[None, None]


class _Rows:
    """The rows of a table as clips."""

    def __init__(
        self,
        path: Path,
        table: Table,
        columns: dict[str, str],
        where: tuple[str, str] | None,
        needs_labels: bool,
        num_dropped: int | None,
    ) -> None:
        self.path, self.table, self.lookup, self.where = path, table, Lookup(path.parent), where
        self.needs_labels, self.num_dropped = needs_labels, num_dropped
        self.missing: list[tuple[str, str]] = []  # name and listed path
        self.num_clips = self.line = 0
        self.file = table.find("file")
        if self.file is None:
            self.file = table.find("filename")
        self.shard, self.member = (table.find(name) if self.file is None else None for name in ("shard", "name"))
        if self.file is None and (self.shard is None or self.member is None):
            described = table.describe()
            raise DataError(f"{path}: no column `file` or `filename`, nor `shard` and `name`; {described}")
        self.columns = {key: table.require(column, f"{key} ") for key, column in columns.items()}
        self.value = None if where is None else table.require(where[0], "where ")
        self.extent = self._both("offset", "size") if self.file is None else None
        self.part = self._both("start", "end")
        self.seconds = table.find("seconds") if self.part is None else None
        self.shards: dict[str, tuple[str, int, tuple[object, ...], dict[str, Extent], Names]] = {}
        self.lengths: dict[tuple[object, ...], float] = {}  # of sounds, in seconds

    def clips(self) -> list[Clip]:
        """Read all rows."""
        clips: list[Clip] = []
        lines: dict[tuple[object, ...], tuple[int, str]] = {}  # line and name by sound and part
        values: set[str] = set()
        for line, cells in self.table.rows():
            self.line = line
            if self.where is not None and self.value is not None and cells[self.value].strip() != self.where[1]:
                values.add(cells[self.value].strip())
                continue
            sound = self._member(cells) if self.file is None else self._file(cells)
            start, end = self._part(cells, sound)
            name = sound.name + part_suffix(start, end)
            key = (*(sound.key or (sound.path,)), start, end)
            if key in lines:
                earlier, first = lines[key]
                what = "was already listed" if first == name else f"is the same sound as {first!r}, listed"
                raise self._error(f"{name!r} {what} in line {earlier}")
            lines[key] = line, name
            if not sound.key:
                self.missing.append((sound.name, sound.listed))
            seconds = self._seconds(cells) if end is None else end - start
            label, split, fold, group = (self._value(key, cells) for key in ("label", "split", "fold", "group"))
            offset, size = sound.extent
            clips.append(Clip(sound.path, name, offset, size, seconds, label, split, fold, group, start, end))
        if not clips and self.where is not None:
            raise self._no_such_value(values)
        self.num_clips = len(clips)
        return clips

    def foreign_root(self) -> int:
        """Return how many folders of another machine all paths begin with; DataError where files are just missing."""
        listed = [path for _, path in self.missing]
        is_new = self.file is not None and self.num_dropped is None and len(listed) == self.num_clips
        root = self.lookup.foreign_root(listed) if is_new else None
        if root is not None:
            text = f"{'/'.join(root) or 'the root'!r} is not here, and is left out of all {len(listed)} paths"
            warnings.warn(f"{self.path}: {text}", stacklevel=2)
            return len(root)
        hint = self.lookup.hint(listed[0]) if self.file is not None else ""
        count = f"{len(listed)} of {self.num_clips} listed files are missing"
        raise DataError(f"{self.path}: {count}, the first is {self.missing[0][0]!r}{hint}")

    def _file(self, cells: list[str]) -> _Sound:
        listed = self._cell(cells, self.file)
        if os.path.lexists(os.path.join(self.lookup.base, raw := cells[self.file or 0])):  # with its spaces
            listed = raw
        if self.num_dropped is not None:
            listed = "/".join(split_path(listed)[self.num_dropped :])
        there = self.lookup.find(listed)
        location = os.path.join(self.lookup.base, listed)
        if there and there[0] != location:  # what it is called here
            location = there[0]
            listed = os.path.relpath(location, self.lookup.base).replace(os.sep, "/")
        key = (there[1].st_dev, there[1].st_ino) if there else ()
        return _Sound(_plain_path(listed), location, listed, key, (None, None))

    def _member(self, cells: list[str]) -> _Sound:
        shard, member = self._cell(cells, self.shard), posixpath.normpath(self._cell(cells, self.member))
        if shard not in self.shards:
            self.shards[shard] = self._open_shard(shard)
        location, length, key, index, names = self.shards[shard]
        name = f"{_plain_path(shard)}/{member}"
        extent: Extent | tuple[None, None]
        if self.extent is not None:
            extent = self._extent(cells, shard, length)
        else:
            extent = index.get(names.find(member) or "", (None, None))
        return _Sound(name, location, member, () if extent[0] is None else (*key, extent[0]), extent)

    def _open_shard(self, shard: str) -> tuple[str, int, tuple[object, ...], dict[str, Extent], Names]:
        """Return path, length and identity of a shard; unless the table has them, offset and size of its members."""
        there = self.lookup.find(shard)
        if there is None:
            raise DataError(f"{self.path}: shard {shard!r} is missing{self.lookup.hint(shard)}")
        location, status = there
        index = index_tar(Path(location), has_extension) if self.extent is None else {}
        return location, status.st_size, (status.st_dev, status.st_ino), index, Names(index)

    def _extent(self, cells: list[str], shard: str, length: int) -> Extent:
        """Read a member's offset and size, which must lie within its shard."""
        texts = [self._cell(cells, index) for index in self.extent or ()]
        if not all(text.isascii() and text.isdigit() and len(text) < 19 for text in texts):
            raise self._error(f"offset {texts[0]!r} and size {texts[1]!r} are not numbers of bytes")
        offset, size = map(int, texts)
        if size == 0 or offset + size > length:
            raise self._error(f"{shard!r} has {length} bytes, the member is said to end at {offset + size}")
        return offset, size

    def _part(self, cells: list[str], sound: _Sound) -> tuple[float, float | None]:
        """Read start and end of a part, which must lie within its sound."""
        texts = [cells[index].strip() for index in self.part or ()]
        if not any(texts):
            return 0.0, None
        start, end = (self.table.number(text) for text in texts)
        if start is None or end is None or start < 0:
            raise self._error(f"start {texts[0]!r} and end {texts[1]!r} are not both times in seconds")
        if end <= start:
            raise self._error(f"nothing lies between start {texts[0]} and end {texts[1]}")
        if sound.key:
            if sound.key not in self.lengths:
                try:
                    source = clip_source(Clip(sound.path, sound.name, *sound.extent))
                    self.lengths[sound.key] = audio_seconds(source, name=sound.name)
                except AudioError:  # left out, and listed, when it is read
                    self.lengths[sound.key] = math.inf
            length = self.lengths[sound.key]
            if end > length + ROUNDING or start > length - SHORTEST:
                raise self._error(f"{start:g} to {end:g} s is outside {sound.name!r}, which is {length:.3f} s long")
        return start, end

    def _seconds(self, cells: list[str]) -> float | None:
        if self.seconds is None or not cells[self.seconds].strip():
            return None
        seconds = self.table.number(cells[self.seconds])
        if seconds is None or seconds <= 0:
            raise self._error(f"{cells[self.seconds]!r} is not a length in seconds")
        return seconds

    def _value(self, key: str, cells: list[str]) -> str | None:
        index = self.columns.get(key)
        if index is None:
            return None
        text = cells[index].strip() if key == "label" and not self.needs_labels else self._cell(cells, index)
        return unicodedata.normalize("NFC", text)  # `é` is one class, however it is composed

    def _cell(self, cells: list[str], index: int | None) -> str:
        assert index is not None
        if not (text := cells[index].strip()):
            raise self._error(f"column {self.table.header[index]!r} is empty")
        return text

    def _both(self, first: str, second: str) -> tuple[int, int] | None:
        """Return the numbers of two columns that belong together, or None."""
        there = [name for name in (first, second) if self.table.has(name)]
        if len(there) == 2:
            return self.table.require(first), self.table.require(second)
        if there:
            absent = second if there == [first] else first
            raise DataError(f"{self.path}: a column `{there[0]}` and no `{absent}`: one needs the other")
        return None

    def _no_such_value(self, values: set[str]) -> DataError:
        column, value = self.where or ("", "")
        listed = ", ".join(sorted(values)[:10]) + (", ..." if len(values) > 10 else "")
        return DataError(f"{self.path}: no clip has {column} = {value!r}; there are {listed}")

    def _error(self, reason: str) -> DataError:
        return DataError(f"{self.path}, line {self.line}: {reason}")


def _plain_path(listed: str) -> str:
    """Return a path without what does not matter; `..` stays, as it may lead through a link."""
    parts = [part for part in listed.split("/") if part not in ("", ".")]
    return "/" * listed.startswith("/") + "/".join(parts)

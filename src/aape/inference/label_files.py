"""Labels and events as files: JSON, tables, and label tracks for Audacity."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aape.data.clips import Clip
from aape.errors import ConfigError
from aape.inference.events import Event, label_track
from aape.inference.labels import Classification
from aape.runs.columns import write_table
from aape.runs.files import make_folder, require_ending, write_atomically, write_json

EVENT_FILES = "a folder, or a file that ends in .csv, .parquet or, for one recording, .txt"
_FORMATS = {"start": ".3f", "end": ".3f", "seconds": ".3f", "score": ".6f"}  # of the columns of a CSV


class Labelled(NamedTuple):
    """What is kept of a clip."""

    clip: Clip
    result: Classification
    events: list[Event]


class EventFiles:
    """Where events go: a table, the label track of a recording, or a folder of label tracks."""

    def __init__(self, name: str) -> None:
        self.path = Path(name)
        self.is_folder = self.path.is_dir() or not self.path.suffix or name.endswith(("/", os.sep))
        self.is_track = not self.is_folder and self.path.suffix.lower() == ".txt"
        self.names: dict[str, str] = {}  # of the label tracks in a folder, by recording
        is_file = self.is_folder and self.path.is_file()
        if is_file or not (self.is_folder or self.path.suffix.lower() in (".csv", ".parquet", ".txt")):
            raise ConfigError(f"events: {name}{' is a file' if is_file else ''}: name {EVENT_FILES}")
        if not self.is_folder:
            require_ending(self.path, ".csv", ".parquet", ".txt", option="events")  # and what writes it is installed

    @property
    def any_file(self) -> Path:
        """A file that lies where the events go."""
        return self.path / "a.txt" if self.is_folder else self.path

    def plan(self, inputs: Sequence[str], clips: Sequence[Clip]) -> None:
        """Name the label tracks before the work; ConfigError where there would be several in one file."""
        files = list(dict.fromkeys(clip.file for clip in clips))
        if self.is_track and len(files) > 1:
            rule = f"the label track of one recording, and there are {len(files)}"
            raise ConfigError(f"events: {self.path} is {rule}: name {EVENT_FILES}")
        if self.is_folder:
            self.names = track_names(inputs, files)
            parents = {parent for path in self.paths() for parent in path.parents}
            for path in self.paths():
                if path in parents or path.is_dir():
                    raise ConfigError(f"events: {path} would be a label track and a folder: name another folder")
                if path.exists() and not _is_track(path):
                    raise ConfigError(f"events: {path} is there, and is no label track: name another folder")

    def paths(self) -> list[Path]:
        """Return the files that will be written."""
        return [self.path / name for name in self.names.values()] if self.is_folder else [self.path]

    def write(self, done: Sequence[Labelled]) -> None:
        """Write each file whole or not at all."""
        if not (self.is_folder or self.is_track):
            rows = ((item.clip.file, e.start, e.end, e.label, e.score) for item in done for e in item.events)
            _write_rows(self.path, ["file", "start", "end", "label", "score"], rows)
            return
        tracks: dict[Path, list[Event]] = {}
        for item in done:
            track = self.path / self.names[item.clip.file] if self.is_folder else self.path
            tracks.setdefault(track, []).extend(item.events)
        for track, events in tracks.items():
            make_folder(track.parent, "events")
            text = label_track(sorted(set(events), key=lambda event: (event.start, event.label)))
            write_atomically(track, text.encode(errors="backslashreplace"))


def _is_track(path: Path) -> bool:
    """Say whether a file may be a label track, of which it takes one line or none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            line = file.readline(1000)
        return not line or len([float(cell) for cell in line.split("\t")[:2]]) == 2
    except (OSError, ValueError):
        return False


def track_names(inputs: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """Name the label track of each file after its path below the folder in which all inputs are.

    Where two would have one name, as those of `a.wav` and `a.flac`, all keep the ending of their file.
    """
    paths = {file: os.path.abspath(file) for file in files}
    folders = [entry if os.path.isdir(entry) else os.path.dirname(entry) for entry in inputs]
    try:
        base = os.path.commonpath([*map(os.path.abspath, folders), *map(os.path.dirname, paths.values())])
    except ValueError as error:
        raise ConfigError("events: the inputs are on several drives: start a run for each of them") from error
    names = {path: os.path.relpath(path, base) for path in paths.values()}
    stems = {path: os.path.splitext(name)[0] for path, name in names.items()}
    is_unique = len({stem.casefold() for stem in stems.values()}) == len(stems)
    return {file: f"{(stems if is_unique else names)[path]}.txt" for file, path in paths.items()}


def write_labels(path: Path, done: Sequence[Labelled], *, has_windows: bool) -> None:
    """Write labels as JSON or a table, of files or of their windows."""
    if path.suffix.lower() == ".json":
        write_json(path, [{"file": item.clip.file, **asdict(item.result)} for item in done])
        return
    has_parts = any(item.clip.end is not None for item in done)
    columns = ["file", *["start", "end"] * (has_parts or has_windows), *["seconds"] * (not has_windows)]

    def rows() -> Iterator[Iterable[str | float]]:
        """Yield a row for each piece and label, best label first."""
        for clip, result, _ in done:
            for piece in result.windows if has_windows else [result]:
                values: dict[str, str | float] = {"file": clip.file}
                values |= {"start": piece.start, "end": piece.end, "seconds": piece.end - piece.start}
                head = [values[column] for column in columns]
                for rank, pair in enumerate(zip(piece.labels, piece.scores, strict=True), start=1):
                    yield (*head, rank, *pair)

    _write_rows(path, [*columns, "rank", "label", "score"], rows())


def _write_rows(path: Path, columns: Sequence[str], rows: Iterable[Iterable[str | float]]) -> None:
    """Write a table, in a CSV with times to the millisecond."""
    if path.suffix.lower() == ".parquet":
        _write_parquet(path, columns, [tuple(row) for row in rows])
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    formats = [_FORMATS.get(column, "") for column in columns]
    writer.writerows(map(format, row, formats) for row in rows)
    write_atomically(path, text.getvalue().encode(errors="backslashreplace"))  # a name may be no Unicode


def _write_parquet(path: Path, columns: Sequence[str], rows: Sequence[tuple[str | float, ...]]) -> None:
    fields = []
    for column, cells in zip(columns, zip(*rows, strict=True) if rows else [()] * len(columns), strict=True):
        width = max((len(str(cell)) for cell in cells), default=0) or 1
        fields.append((column, {"file": f"<U{width}", "label": f"<U{width}", "rank": "<i4"}.get(column, "<f8")))
    dtype, step = np.dtype(fields), 1 << 14
    blocks = (np.array(rows[first : first + step], dtype) for first in range(0, len(rows), step))
    write_table(path, dtype, len(rows), lambda: blocks)

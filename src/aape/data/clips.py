"""Which clips a data set consists of: a folder, a CSV or tar shards become a list of `Clip`.

A clip in a tar shard is a byte range of it, never extracted. The list is the whole data set, so resuming a run is
index arithmetic.
"""

from __future__ import annotations

import csv
import math
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aape.data.audio.decoding import (
    AUDIO_EXTENSIONS,
    MAX_CONTENT_BYTES,
    audio_format,
    audio_seconds,
    read_audio,
    stream_audio,
)
from aape.data.shards import index_tar
from aape.errors import AudioError, DataError

_EXTENSIONS = " ".join(AUDIO_EXTENSIONS)


@dataclass(frozen=True, slots=True)
class Clip:
    """One sound file, or one member of a tar shard. There may be millions: it stays small and picklable."""

    path: str  # the file, or the shard that holds it
    name: str  # unique in its manifest and what the user knows: a relative path, or shard/member
    offset: int | None = None  # of the member's content in the shard, bytes
    size: int | None = None  # of the member, bytes
    seconds: float | None = None
    label: str | None = None
    split: str | None = None
    fold: str | None = None


def read_manifest(
    path: str | os.PathLike[str], *, label: str | None = None, split: str | None = None, fold: str | None = None
) -> list[Clip]:
    """List the clips of a data set.

    Args:
        path: a folder (searched with its subfolders, in sorted order, tar shards included, hidden files left out), a
            tar shard, or a CSV with a column `file` or `filename` (paths relative to the CSV), or columns `shard`
            (likewise) and `name` (tar member). Columns `seconds`, and `offset` and `size` of a member in bytes, are
            used where they are: with them no shard is scanned.
        label: the CSV's column of labels, which every row must fill.
        split: likewise of the splits.
        fold: likewise of the folds.

    Raises:
        DataError: nothing there, a missing file or column, an empty cell where a value was asked for, duplicates, or a
            file that is not what it should be.
    """
    source = Path(path)
    columns = {"label": label, "split": split, "fold": fold}
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if not (source.is_file() or source.is_dir()):  # a named pipe would never end
        raise DataError(f"{source}: a device or pipe, not a file")
    if source.suffix.lower() == ".csv":
        return _read_csv(source, {key: column for key, column in columns.items() if column is not None})
    for key, column in columns.items():
        if column is not None:
            raise DataError(f"{source}: {key} column {column!r} asked for, but only a CSV has columns")
    if source.is_dir():
        return _read_folder(source)
    if source.suffix.lower() == ".tar":
        clips = _shard_clips(source, source.name)
        if not clips:
            raise DataError(f"{source}: no audio in it (looked for {_EXTENSIONS})")
        return clips
    raise DataError(f"{source}: not a folder, a .csv or a .tar")


def find_audio(inputs: Sequence[str | os.PathLike[str]]) -> list[str]:
    """List sound files in input order: files as they are, folders replaced by the sound files in them, sorted.

    What does not exist, and a folder without audio or that may not be read, at any depth, stays in the list, so that
    reading it says what is wrong with it and the rest is still done.
    """
    files: list[str] = []
    for item in inputs:
        entry = os.fspath(item)
        inner: list[str] = []
        if os.path.isdir(entry):
            closed: list[OSError] = []
            inner = [str(file) for file in _walk(Path(entry), AUDIO_EXTENSIONS, closed.append)]
            inner += sorted(error.filename for error in closed)
        files += inner or [entry]
    return files


def load_clip(clip: Clip, *, sample_rate: int = 16000, start: float = 0.0, duration: float | None = None) -> np.ndarray:
    """Read a clip, or a part of it, as `read_audio` does: mono float32 samples (T,), or an AudioError."""
    return read_audio(clip_source(clip), sample_rate=sample_rate, start=start, duration=duration, name=clip.name)


def stream_clip(clip: Clip, *, sample_rate: int = 16000) -> Iterator[np.ndarray]:
    """Read a clip of any length in blocks, as `stream_audio` does: mono float32 samples (T,), or an AudioError."""
    if os.path.isdir(clip.path):  # `find_audio` leaves those in the list that hold nothing or cannot be read
        try:
            os.scandir(clip.path).close()
        except OSError as error:
            raise AudioError(clip.name, f"a folder that cannot be read: {error.strerror or error}") from error
        raise AudioError(clip.name, f"a folder, and no sound file in it (looked for {_EXTENSIONS})")
    yield from stream_audio(clip_source(clip), sample_rate=sample_rate, name=clip.name)


@dataclass(frozen=True)
class AudioInfo:
    """What a clip holds."""

    seconds: float
    sample_rate: int  # Hz
    channels: int
    format: str  # such as "WAV PCM_16"
    peak: float  # largest absolute sample of the mono mix


def check_clip(clip: Clip) -> AudioInfo:
    """Decode a whole clip, block by block, and describe it, or raise an AudioError."""
    sample_rate, channels, kind = audio_format(clip_source(clip), name=clip.name)
    length, peak = 0, 0.0
    for block in stream_clip(clip, sample_rate=sample_rate):
        length, peak = length + len(block), max(peak, float(np.abs(block).max(initial=0.0)))
    return AudioInfo(length / sample_rate, sample_rate, channels, kind, peak)


def clip_seconds(clip: Clip) -> float:
    """Return the length of a clip in seconds, the manifest's if that states it, else the file's, or an AudioError."""
    return audio_seconds(clip_source(clip), name=clip.name) if clip.seconds is None else clip.seconds


def clip_source(clip: Clip) -> str | bytes:
    """Return what a clip is read from: the path of a file, or the content of a tar member."""
    if clip.offset is None or clip.size is None:
        return clip.path
    if clip.size > MAX_CONTENT_BYTES:
        reason = f"{clip.size} bytes in a shard, the most is {MAX_CONTENT_BYTES}: put it beside the shard as a file"
        raise AudioError(clip.name, reason)
    try:
        with open(clip.path, "rb", buffering=0) as shard:
            shard.seek(clip.offset)
            content = shard.read(clip.size)
    except OSError as error:
        raise AudioError(clip.name, f"its shard cannot be read: {error.strerror or error}") from error
    if len(content) < clip.size:
        raise AudioError(clip.name, "truncated: its shard has become shorter")
    return content


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
        paths += [Path(root, name) for name in files if _has_extension(name, extensions)]
    yield from sorted(paths)


def _has_extension(name: str, extensions: tuple[str, ...] = AUDIO_EXTENSIONS) -> bool:
    return name.lower().endswith(extensions) and not name.startswith(".")


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
    return [Clip(location, f"{name}/{member}", *extent) for member, extent in index_tar(path, _has_extension).items()]


def _read_csv(path: Path, columns: dict[str, str]) -> list[Clip]:
    """Read a CSV; `columns` names the column of each of label, split and fold that was asked for."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            clips = _read_rows(path, csv.DictReader(file, strict=True), columns)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not clips:
        raise DataError(f"{path}: no rows in it")
    return clips


def _read_rows(path: Path, reader: csv.DictReader[str], columns: dict[str, str]) -> list[Clip]:
    header = list(reader.fieldnames or [])
    if not header:
        raise DataError(f"{path}: empty")
    file_column = next((column for column in ("file", "filename") if column in header), None)
    if file_column is None and not {"shard", "name"} <= set(header):
        raise DataError(f"{path}: no column `file` or `filename`, nor `shard` and `name`; it has {', '.join(header)}")
    for key, column in columns.items():
        if column not in header:
            raise DataError(f"{path}: no {key} column {column!r}; it has {', '.join(header)}")
    has_extents = {"offset", "size"} <= set(header)
    shards: dict[str, tuple[str, int, dict[str, tuple[int, int]]]] = {}
    clips: list[Clip] = []
    lines: dict[str, int] = {}  # of each name
    missing: list[str] = []
    extent: tuple[int | None, int | None]
    for row in reader:
        line = reader.line_num
        if None in row or None in row.values():
            raise DataError(f"{path}, line {line}: not as many fields as the header has")
        labels: dict[str, Any] = {key: _cell(path, line, row, column) for key, column in columns.items()}
        seconds = _seconds(path, line, row.get("seconds", ""))
        if file_column is not None:
            listed = _cell(path, line, row, file_column)
            name, extent = posixpath.normpath(listed), (None, None)
            location = str(path.parent / listed)
            is_there = os.path.isfile(location)
        else:
            shard, member = _cell(path, line, row, "shard"), posixpath.normpath(_cell(path, line, row, "name"))
            if shard not in shards:
                shards[shard] = _open_shard(path, shard, scan=not has_extents)
            location, length, index = shards[shard]
            name = f"{posixpath.normpath(shard)}/{member}"
            extent = _extent(path, line, row, length) if has_extents else index.get(member, (None, None))
            is_there = has_extents or member in index
        if name in lines:
            raise DataError(f"{path}, line {line}: {name!r} was already listed in line {lines[name]}")
        lines[name] = line
        if not is_there:
            missing.append(name)
        clips.append(Clip(location, name, *extent, seconds, **labels))
    if missing:
        raise DataError(f"{path}: {len(missing)} of {len(clips)} listed files are missing, the first is {missing[0]!r}")
    return clips


def _open_shard(path: Path, shard: str, *, scan: bool) -> tuple[str, int, dict[str, tuple[int, int]]]:
    """Return the path of a shard, its length, and with `scan` the offset and size of its members."""
    location = path.parent / shard
    if not location.is_file():
        raise DataError(f"{path}: shard {shard!r} is missing")
    return str(location), location.stat().st_size, index_tar(location, _has_extension) if scan else {}


def _extent(path: Path, line: int, row: dict[str, str], length: int) -> tuple[int, int]:
    """Read a member's offset and size, which must lie within its shard."""
    texts = [_cell(path, line, row, column) for column in ("offset", "size")]
    if not all(text.isascii() and text.isdigit() for text in texts):
        raise DataError(f"{path}, line {line}: offset {texts[0]!r} and size {texts[1]!r} are not numbers of bytes")
    offset, size = map(int, texts)
    if size == 0 or offset + size > length:
        shard = row["shard"].strip()
        reason = f"{shard!r} has {length} bytes, the member is said to end at {offset + size}"
        raise DataError(f"{path}, line {line}: {reason}")
    return offset, size


def _cell(path: Path, line: int, row: dict[str, str], column: str) -> str:
    value = row[column].strip()
    if not value:
        raise DataError(f"{path}, line {line}: column {column!r} is empty")
    return value


def _seconds(path: Path, line: int, text: str) -> float | None:
    if not text.strip():
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise DataError(f"{path}, line {line}: {text!r} is not a length in seconds")
    return seconds

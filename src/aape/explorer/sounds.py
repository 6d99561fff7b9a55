"""Which sounds a page shows, what they are called there, and what is known about them: folder and columns of tables."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aape.data.clips import Clip
from aape.data.manifest import read_inputs
from aape.data.tables import TABLE_EXTENSIONS, open_table
from aape.errors import ConfigError
from aape.inference.chunks import chunked
from aape.inference.encoding import BATCH_SIZE, Progress
from aape.inference.labels import Classification
from aape.inference.model import AudioModel, BadClips
from aape.inference.segments import End

FOLDER, PREDICTED = "folder", "predicted label"
# Columns of a table that say which sound a row is about, and not what it is like; some only where there are shards.
_KEYS, _SHARD_KEYS = {"file", "filename", "start", "end", "seconds"}, {"shard", "name", "offset", "size"}


@dataclass
class Sounds:
    """Clips, and the values of each column for them; a clip of another input than a table has "" there."""

    clips: list[Clip]
    columns: dict[str, list[str]]
    bad: BadClips

    @property
    def names(self) -> list[str]:
        """Names without the folders that all have in common."""
        common = _common_folder(self.clips)
        return [clip.name.removeprefix(common).lstrip("/") or clip.name for clip in self.clips]

    def keep(self, rows: Sequence[int]) -> None:
        """Leave out all but some clips."""
        self.clips = [self.clips[row] for row in rows]
        self.columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}

    def color(self, asked: str | None) -> str:
        """Return the column that the page begins with: the one asked for, or the first that tells sounds apart.

        Raises:
            ConfigError: there is no such column.
        """
        if asked is not None:
            same = [name for name in self.columns if name.casefold() == asked.strip().casefold()]
            if not same:
                raise ConfigError(f"color: no column {asked!r}; there are {', '.join(self.columns)}")
            return same[0]
        num_values = {name: len(set(values)) for name, values in self.columns.items()}
        telling = [name for name, number in num_values.items() if 1 < number < max(3, len(self.clips))]
        return telling[0] if telling else FOLDER


def gather(inputs: Sequence[str]) -> Sounds:
    """List the sounds of files, folders, tables and tar shards, as `aape.data.manifest.read_inputs`, with all columns.

    Raises:
        DataError: a table that cannot be read.
    """
    sounds = Sounds([], {}, [])
    rows: list[dict[str, str]] = []
    for entry in inputs:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*columns that are not used")  # here they are
            clips, bad = read_inputs([entry])
        cells = _cells(entry) if clips and os.path.splitext(entry)[1].lower() in TABLE_EXTENSIONS else []
        rows += cells if len(cells) == len(clips) else [{}] * len(clips)
        sounds.clips += clips
        sounds.bad += bad
    common = _common_folder(sounds.clips)
    sounds.columns[FOLDER] = [_folder(clip, common) for clip in sounds.clips]
    for name in dict.fromkeys(name for row in rows for name in row):
        sounds.columns[name] = [row.get(name, "") for row in rows]
    return sounds


def _cells(path: str) -> list[dict[str, str]]:
    """Return the cells of every row of a table that say what its sound is like, by the name of the column."""
    with open_table(path) as table:
        keys = _KEYS if table.has("file") or table.has("filename") else _KEYS | _SHARD_KEYS
        plain = ["".join(char for char in name.casefold() if char not in " _-") for name in table.header]
        named = [(index, name) for index, name in enumerate(table.header) if name and plain[index] not in keys]
        return [{name: cells[index].strip() for index, name in named} for _, cells in table.rows()]


def in_order(values: Iterable[str]) -> list[str]:
    """Return different values, each once: numbers by size, then texts."""

    def key(value: str) -> tuple[bool, float, str]:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        return not math.isfinite(number), number if math.isfinite(number) else 0.0, value

    return sorted(set(values), key=key)


def _common_folder(clips: Sequence[Clip]) -> str:
    """Return the folder that all clips lie below, "" if there is none."""
    try:
        return os.path.commonpath([os.path.dirname(clip.file) for clip in clips])
    except ValueError:  # no clips, or some by absolute and some by relative paths
        return ""


def _folder(clip: Clip, common: str) -> str:
    folder = os.path.dirname(clip.file)
    return folder.removeprefix(common).strip("/") or os.path.basename(folder) or "."


@dataclass
class Points:
    """The dots of a map: a sound each, or a window of one."""

    source: NDArray[np.uint32]  # the sound, (n,)
    start: NDArray[np.float32]  # in it, in seconds
    end: NDArray[np.float32]
    vectors: NDArray[np.float32]  # (n, E)


def embed(
    model: AudioModel,
    sounds: Sounds,
    *,
    window: float | None,
    hop: float | None,
    num_workers: int,
    progress: Progress,
) -> Points:
    """Embed sounds, or windows of them; what cannot be read goes from `sounds.clips` to `sounds.bad`.

    No more than the vectors is held in memory.
    """
    clips = sounds.clips
    vectors = np.empty((max(1, len(clips)), model.embed_dim), np.float32)
    spans: list[tuple[int, float, float]] = []
    bad: dict[int, str] = {}
    for item in model.embed_chunks(
        chunked(clips, BATCH_SIZE), window=window, hop=hop, num_workers=num_workers, progress=progress
    ):
        if isinstance(item, End):
            bad[item.row] = str(item.error and item.error.reason)
            while spans and spans[-1][0] == item.row:  # windows before the fault
                spans.pop()
            continue
        if len(spans) == len(vectors):
            vectors.resize((2 * len(vectors), vectors.shape[1]), refcheck=False)
        vectors[len(spans)] = item.vector
        spans.append((item.row, item.start, item.end))
    vectors.resize((len(spans), vectors.shape[1]), refcheck=False)
    sounds.bad += [(clips[row].name, reason) for row, reason in bad.items()]
    kept = [row for row in range(len(clips)) if row not in bad]
    number = {row: index for index, row in enumerate(kept)}
    sounds.keep(kept)
    source = np.array([number[row] for row, _, _ in spans], np.uint32)
    start, end = (np.array([span[side] for span in spans], np.float32) for side in (1, 2))
    return Points(source, start, end, vectors)


def classify(
    model: AudioModel,
    sounds: Sounds,
    *,
    window: float | None,
    hop: float | None,
    num_workers: int,
    progress: Progress,
) -> list[Classification | None]:
    """Label every sound with its five likeliest classes, and make the first a column; None if it became unreadable."""
    found = model.classify_chunks(
        chunked(sounds.clips, BATCH_SIZE), window=window, hop=hop, num_workers=num_workers, progress=progress
    )
    results = [None if isinstance(item, End) else item for item in found]
    first = [result.labels[0] if result is not None and result.labels else "" for result in results]
    sounds.columns.setdefault(PREDICTED, first)
    return results

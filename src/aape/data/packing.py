"""Clips into tar shards: mono, resampled once, FLAC or Opus, with an index that spares scanning the shards."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from aape.data.clips import Clip, load_clip, part_suffix
from aape.errors import AudioError, writing

FORMATS = {"flac": ("FLAC", "PCM_16", ".flac"), "opus": ("OGG", "OPUS", ".opus")}
INDEX_NAME = "clips.csv"
COLUMNS = ("shard", "name", "offset", "size", "seconds", "label", "split", "fold")


class Packed(NamedTuple):
    """One finished shard."""

    rows: list[tuple[str, ...]]  # of the index, values in the order of `COLUMNS`
    bad: list[tuple[str, str]]  # name and reason of the clips left out


def encode(wave: np.ndarray, sample_rate: int, kind: str) -> bytes:
    """Encode samples (T,) as a "flac" (16 bits) or "opus" file; louder than full scale, they are scaled down to it."""
    import soundfile

    container, subtype, _ = FORMATS[kind]
    peak = float(np.abs(wave).max(initial=0.0))
    content = io.BytesIO()
    soundfile.write(content, wave / peak if peak > 1 else wave, sample_rate, format=container, subtype=subtype)
    return content.getvalue()


def pack_shard(clips: Sequence[Clip], names: Sequence[str], path: Path, kind: str, sample_rate: int) -> Packed:
    """Write clips as the members `names` of one shard, `*.tar`, which appears under its name when it is whole."""
    rows: list[tuple[str, ...]] = []
    bad: list[tuple[str, str]] = []
    with _whole(path) as partial, tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as shard:
        for clip, name in zip(clips, names, strict=True):
            try:
                wave = load_clip(clip, sample_rate=sample_rate)
            except AudioError as error:
                bad.append((error.name, error.reason))
                continue
            content = encode(wave, sample_rate, kind)
            offset = add_member(shard, name, content)
            seconds = f"{len(wave) / sample_rate:.3f}"
            labels = (clip.label or "", clip.split or "", clip.fold or "")
            rows.append((path.name, name, str(offset), str(len(content)), seconds, *labels))
    return Packed(rows, bad)


def add_member(shard: tarfile.TarFile, name: str, content: bytes) -> int:
    """Write a member of a shard; returns where its content starts, in bytes from the start of the shard."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    shard.addfile(member, io.BytesIO(content))
    return shard.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def member_names(clips: Sequence[Clip], kind: str) -> list[str]:
    """Name the member of each clip: its own name with the new ending; where two would be called alike, added to it.

    Names are UTF-8, stay within the shard and are all different, as `read_manifest` asks of them.
    """
    ending = FORMATS[kind][2]
    paths = [_inner_path(clip.file) for clip in clips]
    parts = [part_suffix(clip.start, clip.end) for clip in clips]
    plain = [f"{path.with_suffix('')}{part}{ending}" for path, part in zip(paths, parts, strict=True)]
    counts = Counter(plain)
    names: dict[str, None] = {}
    for path, part, name in zip(paths, parts, plain, strict=True):
        numbered = (f"{path}{part}.{number}{ending}" for number in itertools.count(2))
        choices = itertools.chain([name] * (counts[name] == 1), [f"{path}{part}{ending}"], numbered)
        names[next(choice for choice in choices if choice not in names)] = None
    return list(names)


def _inner_path(name: str) -> PurePosixPath:
    """Return a name as a path that does not lead out of the folder it is put in."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace").strip()
    return PurePosixPath(*(part for part in PurePosixPath(text).parts if part != ".." and not part.startswith("/")))


def write_index(path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    """Write the CSV that `read_manifest` takes; columns that no clip fills are left out."""
    used = [i for i, name in enumerate(COLUMNS) if i < 5 or any(row[i] for row in rows)]
    with _whole(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([COLUMNS[i] for i in used])
        writer.writerows([[row[i] for i in used] for row in rows])


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give the name that a file has while it is written; it gets its own when it is whole, and goes on an error."""
    partial = path.with_name(f".{path.name}.aape-partial")
    try:
        with writing(path, lambda: partial.stat().st_size if partial.exists() else 0):
            yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise

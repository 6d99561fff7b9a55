"""`aape data pack` and `aape data check`: a corpus as shards that train fast, and what there is in a corpus."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from aape.commands.data import DataCheckConfig, DataPackConfig
from aape.data.clips import Clip, read_manifest
from aape.data.packing import INDEX_NAME, Packed, member_names, pack_shard, write_index
from aape.data.survey import AudioInfo, check_clip
from aape.errors import ConfigError, DataError, one_line
from aape.runs.files import make_folder_for, write_json

MAX_BAD_SHOWN = 20
T = TypeVar("T")
R = TypeVar("R")


def pack(config: DataPackConfig) -> None:
    """Write a corpus as tar shards with an index, `clips.csv`; a run that was stopped goes on where it was.

    Raises:
        ConfigError: the folder holds something else.
        DataError: no audio, or more than `max_bad_fraction` of it is bad.
    """
    out = Path(config.out)
    clips = read_manifest(config.data, label=config.label, split=config.split, fold=config.fold)
    plan = {"format": config.format, "clips_per_shard": config.clips_per_shard, "sample_rate": config.sample_rate,
            "data": str(Path(config.data).resolve()), "num_clips": len(clips),
            "label": config.label, "split": config.split, "fold": config.fold, "digest": _digest(clips)}  # fmt: skip
    _claim(out, plan)
    names = member_names(clips, config.format)
    parts = [slice(i, i + config.clips_per_shard) for i in range(0, len(clips), config.clips_per_shard)]
    jobs = [(clips[part], names[part], out / f"shard-{i:05d}.tar") for i, part in enumerate(parts)]
    work = functools.partial(_pack_once, kind=config.format, sample_rate=config.sample_rate)
    rows, bad = [], []
    with _progress("packing", len(clips)) as advance:
        for job, packed in zip(jobs, _each(work, jobs, config.workers), strict=True):
            rows += packed.rows
            bad += packed.bad
            advance(len(job[0]))
    _list_bad(bad)
    write_json(out / "report.json", {**plan, "num_packed": len(rows), "bad": _as_dicts(bad)})
    if len(bad) > config.max_bad_fraction * len(clips):
        raise DataError(
            f"{config.data}: {len(bad)} of {len(clips)} clips cannot be read, more than max_bad_fraction = "
            f"{config.max_bad_fraction:g} allows; they are listed in {out / 'report.json'}"
        )
    write_index(out / INDEX_NAME, rows)
    size = sum(path.stat().st_size for path in out.glob("shard-*.tar"))
    print(f"{len(rows)} clips in {len(jobs)} shards, {size / 1e6:.1f} MB -> {out / INDEX_NAME}")


def check(config: DataCheckConfig) -> None:
    """Decode every clip of a corpus, and report lengths, rates, formats, classes and what cannot be read.

    Raises:
        ConfigError: the report cannot be written.
        DataError: no audio.
    """
    if config.out is not None:
        if os.path.isdir(config.out):
            raise ConfigError(f"out: {config.out} is a folder: name the JSON file to write")
        make_folder_for(Path(config.out))
    clips = read_manifest(config.data, label=config.label, split=config.split, fold=config.fold)
    with _progress("checking", len(clips)) as advance:
        infos, bad = [], []
        for clip, info in zip(clips, _each(_check_once, clips, config.workers), strict=True):
            advance(1)
            if isinstance(info, AudioInfo):
                infos.append((clip, info))
            else:
                bad.append((clip.name, info))
    report = _describe(infos, bad)
    print(_as_text(report))
    _list_bad(bad)
    if config.out is not None:
        write_json(Path(config.out), {"data": config.data, **report})
        print(f"-> {config.out}")


def _pack_once(job: tuple[list[Clip], list[str], Path], *, kind: str, sample_rate: int) -> Packed:
    """Pack a shard, unless an earlier run finished it: its record is written after it."""
    clips, names, path = job
    record = path.with_name(f".{path.stem}.json")
    if path.exists() and (before := _read_json(record)):
        return Packed([tuple(row) for row in before["rows"]], [(name, reason) for name, reason in before["bad"]])
    packed = pack_shard(clips, names, path, kind, sample_rate)
    write_json(record, {"rows": packed.rows, "bad": packed.bad})
    return packed


def _check_once(clip: Clip) -> AudioInfo | str:
    from aape.errors import AudioError

    try:
        return check_clip(clip)
    except AudioError as error:
        return error.reason


def _claim(out: Path, plan: dict[str, Any]) -> None:
    """Make the folder; go on only with shards of the same corpus and settings."""
    path = out / ".plan.json"
    if path.exists() and _read_json(path) != plan:
        raise ConfigError(f"{out} holds shards of another or changed corpus or other settings: choose another --out")
    if not path.exists() and out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, plan)


def _read_json(path: Path) -> Any:
    """Return what a file holds; None where there is none, or no JSON in it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _digest(clips: list[Clip]) -> str:
    """Return a digest of what clips are: names, places, labels, and the sizes and times of their files."""

    @functools.cache
    def state(path: str) -> tuple[int, int] | None:
        try:
            status = os.stat(path)
        except OSError:  # reading it will say so
            return None
        return status.st_size, status.st_mtime_ns

    digest = hashlib.sha256()
    for clip in clips:
        digest.update(repr((clip.name, clip.offset, clip.label, clip.split, clip.fold, state(clip.path))).encode())
    return digest.hexdigest()


def _describe(infos: list[tuple[Clip, AudioInfo]], bad: list[tuple[str, str]]) -> dict[str, Any]:
    seconds = [info.seconds for _, info in infos]
    lengths = {}
    if seconds:
        lengths = {"least": min(seconds), "median": statistics.median(seconds), "most": max(seconds)}
    return {
        "num_clips": len(infos) + len(bad),
        "hours": sum(seconds) / 3600,
        "seconds": lengths,
        "sample_rates": _counts(info.sample_rate for _, info in infos),
        "channels": _counts(info.channels for _, info in infos),
        "formats": _counts(info.format for _, info in infos),
        "silent": [clip.name for clip, info in infos if info.peak == 0],
        "classes": _counts(clip.label for clip, _ in infos if clip.label is not None),
        "splits": _counts(clip.split for clip, _ in infos if clip.split is not None),
        "folds": _counts(clip.fold for clip, _ in infos if clip.fold is not None),
        "bad": _as_dicts(bad),
    }


def _as_text(report: dict[str, Any]) -> str:
    lines = [f"{report['num_clips']} clips, {report['hours']:.2f} h, {len(report['bad'])} cannot be read"]
    if report["seconds"]:
        lines.append("length: {least:.2f} to {most:.2f} s, median {median:.2f} s".format(**report["seconds"]))
    for key in ("sample_rates", "channels", "formats", "classes", "splits", "folds"):
        if report[key]:
            counts = ", ".join(f"{one_line(name)}: {count}" for name, count in report[key].items())
            lines.append(f"{key.replace('_', ' ')}: {counts}")
    if report["silent"]:
        lines.append(f"silent: {len(report['silent'])}, the first is {one_line(report['silent'][0])}")
    return "\n".join(lines)


def _counts(values: Iterable[Any]) -> dict[str, int]:
    return {str(value): count for value, count in Counter(values).most_common()}


def _as_dicts(bad: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "reason": reason} for name, reason in bad]


def _list_bad(bad: list[tuple[str, str]]) -> None:
    for name, reason in bad[:MAX_BAD_SHOWN]:
        print(f"cannot be read: {one_line(name)}: {reason}", file=sys.stderr)
    if len(bad) > MAX_BAD_SHOWN:
        print(f"cannot be read: and {len(bad) - MAX_BAD_SHOWN} more", file=sys.stderr)


def _each(function: Callable[[T], R], jobs: list[T], workers: int) -> Iterator[R]:
    """Apply a function to every job, in `workers` processes, in order."""
    if workers == 0:
        yield from map(function, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, jobs, chunksize=max(1, min(32, len(jobs) // (4 * workers))))


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)

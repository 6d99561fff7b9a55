"""`aape data pack` and `aape data check`: a corpus as shards that train fast, and what there is in a corpus."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from aape.errors import (
    MAX_WORKERS,
    AudioError,
    AudioWarning,
    ConfigError,
    DataError,
    PlainWarnings,
    RangeWarning,
    one_line,
    require_at_most,
    require_positive,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from aape.data.clips import AudioInfo, Clip
    from aape.data.packing import Packed
    from aape.runs.guards import BadFiles

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Hz, all that the format has
FLAC_RATES = range(1000, 655351)  # Hz, as far as the format goes and as little as is read
MAX_SHOWN = 20  # of the clips that are in both, in the terminal
T = TypeVar("T")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class DataPackConfig:
    """`aape data pack`: a corpus as tar shards, resampled once, with an index.

    Args:
        data: folder, CSV or tar shards.
        out: folder of the shards and of clips.csv, their index.
        format: flac: lossless at 16 bits; opus: lossy, a fifth of the size.
        sample_rate: sample rate of the packed clips, in Hz.
        clips_per_shard: clips in each shard.
        label: column of the labels, carried over.
        split: column of the splits, carried over.
        fold: column of the folds, carried over.
        workers: processes that pack; 0 for this one.
        max_bad_fraction: stop when more than this share of the files cannot be read.
    """

    data: str
    out: str
    format: Literal["flac", "opus"] = "flac"
    sample_rate: int = 16000
    clips_per_shard: int = 1000
    label: str | None = None
    split: str | None = None
    fold: str | None = None
    workers: int = 2
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        require_positive(self, "sample_rate", "clips_per_shard")
        require_at_most(self, max_bad_fraction=1)
        require_at_most(self, workers=MAX_WORKERS)
        if self.format == "opus" and self.sample_rate not in OPUS_RATES:
            raise ConfigError(f"sample_rate of opus must be one of {', '.join(map(str, OPUS_RATES))}")
        if self.format == "flac" and self.sample_rate not in FLAC_RATES:
            raise ConfigError(f"sample_rate of flac must be within {FLAC_RATES[0]} and {FLAC_RATES[-1]}")


@dataclass(frozen=True)
class DataCheckConfig:
    """`aape data check`: lengths, rates, formats, classes and bad files of a corpus.

    Args:
        data: folder, CSV or tar shards.
        out: JSON file to write the report to.
        label: column of the labels.
        split: column of the splits.
        fold: column of the folds.
        against: another corpus, such as that of pre-training: clips that are in both are named, with exit status 1.
        workers: processes that decode; 0 for this one.
    """

    data: str
    out: str | None = None
    label: str | None = None
    split: str | None = None
    fold: str | None = None
    against: str | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        require_at_most(self, workers=MAX_WORKERS)


def pack(config: DataPackConfig) -> None:
    """Write a corpus as tar shards with an index, `clips.csv`; a run that was stopped continues where it was.

    Raises:
        ConfigError: the folder holds something else.
        DataError: no audio, or more than `max_bad_fraction` of it is bad.
    """
    from aape.data.manifest import read_manifest
    from aape.data.packing import INDEX_NAME, member_names, write_index
    from aape.runs.files import write_json
    from aape.runs.guards import BadFiles
    from aape.runs.lock import LOCK_NAME, locked

    out = Path(config.out)
    columns = _columns(config)
    clips = read_manifest(config.data, **columns, needs_labels=False)
    plan = {"format": config.format, "clips_per_shard": config.clips_per_shard, "sample_rate": config.sample_rate,
            "data": str(Path(config.data).resolve()), "num_clips": len(clips),
            **columns, "digest": _digest(clips)}  # fmt: skip
    plan_file = out / ".plan.json"  # go on only with shards of the same corpus and settings
    names = member_names(clips, config.format)
    parts = [slice(i, i + config.clips_per_shard) for i in range(0, len(clips), config.clips_per_shard)]
    jobs = [(clips[part], names[part], out / f"shard-{i:05d}.tar") for i, part in enumerate(parts)]
    work = functools.partial(_pack_once, kind=config.format, sample_rate=config.sample_rate)
    with locked(out):
        if plan_file.exists() and _read_json(plan_file) != plan:
            raise ConfigError(
                f"{out} holds shards of another or changed corpus or other settings: choose another --out"
            )
        if not plan_file.exists() and any(path.name != LOCK_NAME for path in out.iterdir()):
            raise ConfigError(f"{out} is not empty: choose another --out")
        write_json(plan_file, plan)
        shards = list(_each("packing", work, jobs, config.workers, sizes=[len(clips[part]) for part in parts]))
        rows = [row for shard in shards for row in shard.rows]
        bad = BadFiles(len(clips), config.max_bad_fraction)
        try:
            bad.add(item for shard in shards for item in shard.bad)
        finally:
            bad.print_new()
            write_json(out / "report.json", {**plan, "num_packed": len(rows), "bad": bad.as_dicts()})
        write_index(out / INDEX_NAME, rows)
    size = sum(path.stat().st_size for path in out.glob("shard-*.tar"))
    print(f"{len(rows)} clips in {len(jobs)} shards, {size / 1e6:.1f} MB -> {out / INDEX_NAME}")


def check(config: DataCheckConfig) -> None:
    """Decode every clip of a corpus, and report lengths, rates, formats, classes and what cannot be read.

    Raises:
        ConfigError: the report cannot be written.
        DataError: no audio, or with `against` a corpus without a clip that can be read.
        SystemExit: 1, after the report, where a clip is also in `against`.
    """
    from aape.data.manifest import read_manifest
    from aape.runs.files import folder_for, require_ending, write_json

    out = None if config.out is None else Path(config.out)
    if out is not None:
        require_ending(out, ".json")
    with contextlib.nullcontext() if out is None else folder_for(out):
        clips = read_manifest(config.data, **_columns(config), needs_labels=False)
        others = [] if config.against is None else read_manifest(config.against)
        checked = list(_each("checking", _check_once, [*clips, *others], config.workers))
        infos = [info for info, _ in checked]
        readable, bad = _readable(clips, infos)
        report = _describe(readable, bad.as_dicts()) | _describe_warnings(clips, [noted for _, noted in checked])
        if config.against is not None:
            compared, bad_others = _readable(others, infos[len(clips) :])
            for corpus, usable, unread in ((config.data, readable, bad), (config.against, compared, bad_others)):
                if not usable:
                    reason = next(iter(unread.reasons.values()))
                    raise DataError(f"{corpus}: none of its clips can be read, so nothing is compared ({reason})")
            report |= {"against": config.against, "against_num_clips": len(others)}
            report |= {"in_both": _in_both(readable, compared), "against_bad": bad_others.as_dicts()}
        print(_as_text(report))
        bad.print_new()
        if config.against is not None:
            bad_others.print_new()
        if out is not None:
            write_json(out, {"data": config.data, **report})
            print(f"-> {out}")
    if report.get("in_both"):
        raise SystemExit(1)


def _readable(clips: Sequence[Clip], infos: Sequence[AudioInfo | str]) -> tuple[list[tuple[Clip, AudioInfo]], BadFiles]:
    """Divide clips into those that can be read, with what they hold, and the others."""
    from aape.runs.guards import BadFiles

    pairs = list(zip(clips, infos, strict=False))
    bad = BadFiles(len(clips), 1.0)
    bad.add((clip.name, info) for clip, info in pairs if isinstance(info, str))
    return [(clip, info) for clip, info in pairs if not isinstance(info, str)], bad


def _in_both(clips: Sequence[tuple[Clip, AudioInfo]], others: Sequence[tuple[Clip, AudioInfo]]) -> list[dict[str, Any]]:
    """Return for each clip that is also among others the one that is nearest, how, and how many there are."""
    from aape.data.same_sound import NEAR, SAME, matches

    entries = []
    matched = matches(_sketches(info for _, info in clips), _sketches(info for _, info in others), NEAR)
    for (clip, info), same in zip(clips, matched, strict=True):
        if same:
            equal = [index for index in same if others[index][1].digest == info.digest]
            best = equal[0] if equal else max(same, key=same.__getitem__)
            how = "same sound" if same[best] > 1 - SAME / 2 else "near-identical"
            entries.append({
                "file": clip.name, "other": others[best][0].name, "how": "identical samples" if equal else how,
                "correlation": 1.0 if equal else round(same[best], 4), "num_others": len(same),
            })  # fmt: skip
    return entries


def _columns(config: DataPackConfig | DataCheckConfig) -> dict[str, Any]:
    return {"label": config.label, "split": config.split, "fold": config.fold}


def _describe_warnings(clips: list[Clip], noted: list[list[AudioWarning]]) -> dict[str, Any]:
    pairs = [(clip.name, warning) for clip, warnings in zip(clips, noted, strict=False) for warning in warnings]
    return {
        "out_of_range": [name for name, warning in pairs if isinstance(warning, RangeWarning)],
        "warnings": [{"file": name, "reason": str(warning).removeprefix(f"{name}: ")} for name, warning in pairs],
    }


def _pack_once(job: tuple[list[Clip], list[str], Path], *, kind: str, sample_rate: int) -> Packed:
    """Pack a shard, unless an earlier run finished it: its record is written after it."""
    from aape.data.packing import Packed, pack_shard
    from aape.runs.files import write_json

    clips, names, path = job
    record = path.with_name(f".{path.stem}.json")
    if path.exists() and (before := _read_json(record)):
        return Packed([tuple(row) for row in before["rows"]], [(name, reason) for name, reason in before["bad"]])
    packed = pack_shard(clips, names, path, kind, sample_rate)
    write_json(record, {"rows": packed.rows, "bad": packed.bad})
    return packed


def _check_once(clip: Clip) -> tuple[AudioInfo | str, list[AudioWarning]]:
    """Return what a clip holds, or why it cannot be read, and each warning once."""
    import warnings

    from aape.data.clips import check_clip

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            info: AudioInfo | str = check_clip(clip)
        except AudioError as error:
            info = error.reason
    noted = {str(warning.message): warning.message for warning in caught}
    return info, [warning for warning in noted.values() if isinstance(warning, AudioWarning)]


def _read_json(path: Path) -> Any:
    """Return what a file holds; None where there is none, or no JSON in it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _digest(clips: list[Clip]) -> str:
    """Return a digest of what clips are: names, offsets, labels, and the sizes and times of their files."""
    import hashlib

    from aape.runs.files import file_state

    state = functools.cache(file_state)
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(repr((clip.name, clip.offset, clip.label, clip.split, clip.fold, state(clip.path))).encode())
    return digest.hexdigest()


def _describe(infos: list[tuple[Clip, AudioInfo]], bad: list[dict[str, str]]) -> dict[str, Any]:
    import statistics

    seconds = [info.seconds for _, info in infos]
    lengths = {"least": min(seconds), "median": statistics.median(seconds), "most": max(seconds)} if seconds else {}
    return {
        "num_clips": len(infos) + len(bad),
        "hours": sum(seconds) / 3600,
        "seconds": lengths,
        "sample_rates": _counts(info.sample_rate for _, info in infos),
        "channels": _counts(info.channels for _, info in infos),
        "formats": _counts(info.format for _, info in infos),
        "silent": [clip.name for clip, info in infos if info.peak == 0],
        **_twins(infos),
        "classes": _counts(clip.label for clip, _ in infos),
        "splits": _counts(clip.split for clip, _ in infos),
        "folds": _counts(clip.fold for clip, _ in infos),
        "bad": bad,
    }


def _twins(infos: list[tuple[Clip, AudioInfo]]) -> dict[str, Any]:
    """Return which clips are the same sound, silence apart, and how many such groups lie across splits or folds."""
    from aape.data.same_sound import matches

    sketches = _sketches(info for _, info in infos)
    groups: dict[int, list[Clip]] = {}
    for (clip, _), same in zip(infos, matches(sketches, sketches), strict=True):
        if same:
            groups.setdefault(min(same), []).append(clip)
    twins = [clips for clips in groups.values() if len(clips) > 1]
    num_across = sum(len({(clip.split, clip.fold) for clip in clips}) > 1 for clips in twins)
    return {"same_sound": [[clip.name for clip in clips] for clips in twins], "same_sound_across_splits": num_across}


def _sketches(infos: Iterable[AudioInfo]) -> NDArray[np.float32]:
    """Stack the sketches of clips (n, NUM)."""
    import numpy as np

    from aape.data.same_sound import NUM

    sketches = [info.sketch for info in infos]
    return np.stack(sketches) if sketches else np.zeros((0, NUM), np.float32)


def _as_text(report: dict[str, Any]) -> str:
    lines = [f"{report['num_clips']} clips, {report['hours']:.2f} h, {len(report['bad'])} cannot be read"]
    if report["seconds"]:
        lines.append("length: {least:.2f} to {most:.2f} s, median {median:.2f} s".format(**report["seconds"]))
    for key in ("sample_rates", "channels", "formats", "classes", "splits", "folds"):
        if counts := ", ".join(f"{one_line(name)}: {count}" for name, count in report[key].items()):
            lines.append(f"{key.replace('_', ' ')}: {counts}")
    if report["silent"]:
        lines.append(f"silent: {len(report['silent'])}, the first is {one_line(report['silent'][0])}")
    if twins := report["same_sound"]:
        across = report["same_sound_across_splits"]
        first = one_line(" = ".join(twins[0]))
        lines.append(f"same sound under several names: {len(twins)}, {across} across splits or folds, first {first}")
    if both := report.get("in_both"):
        lines.append(f"warning: {len(both)} of {report['num_clips']} clips are also in {report['against']}")
        lines += [one_line(f"  {pair['file']} = {pair['other']}: {pair['how']}") for pair in both[:MAX_SHOWN]]
        if len(both) > MAX_SHOWN:
            lines.append(f"  and {len(both) - MAX_SHOWN} others: --out lists all")
    elif both is not None:
        lines.append(f"no clip is also in {report['against']}, of {report['against_num_clips']} clips")
    if names := report["out_of_range"]:
        lines.append(f"out of the range of a front end of 16 kHz: {len(names)}, the first is {one_line(names[0])}")
    if noted := [warning for warning in report["warnings"] if warning["file"] not in report["out_of_range"]]:
        first = f"{one_line(noted[0]['file'])}: {noted[0]['reason']}"
        lines.append(f"read in spite of their headers: {len(noted)}, the first is {first}")
    return "\n".join(lines)


def _counts(values: Iterable[Any]) -> dict[str, int]:
    return {str(value): count for value, count in Counter(values).most_common() if value is not None}


def _start_worker() -> None:
    """Have a new process end with this one, and show warnings as this one does."""
    import warnings

    from aape.runs.signals import follow_parent

    follow_parent()
    warnings.formatwarning = PlainWarnings()  # type: ignore[assignment]


def _each(
    title: str, function: Callable[[T], ResultT], jobs: list[T], workers: int, sizes: list[int] | None = None
) -> Iterator[ResultT]:
    """Apply a function to every job in `workers` processes, in order, with a bar that a job moves by its size."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from aape.runs.progress import progress_bar
    from aape.runs.signals import held

    sizes = sizes or [1] * len(jobs)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(progress_bar(title, sum(sizes)))
        results: Iterable[ResultT] = map(function, jobs)
        if workers:
            with held():
                pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
            stack.enter_context(pool)
            with held():
                results = pool.map(function, jobs, chunksize=max(1, min(32, len(jobs) // (4 * workers))))
        for done, result in zip(itertools.accumulate(sizes), results, strict=True):
            progress(done, sum(sizes))
            yield result

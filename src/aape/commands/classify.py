"""`aape classify`: labels for sound files, for windows of them, and what sounds when."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from aape.commands.options import Device
from aape.errors import ConfigError, one_line, require_positive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import TypeVar

    from aape.data.clips import Clip
    from aape.inference import AudioModel, Classification, Event, Prediction
    from aape.inference.model import BadClips

    PredictionT = TypeVar("PredictionT", bound=Prediction)

EVENT_THRESHOLD = 0.5  # of events, where none is asked for
EVENT_FILES = "a folder, or a file that ends in .csv, .parquet or, for one recording, .txt"
_FORMATS = {"start": ".3f", "end": ".3f", "seconds": ".3f", "score": ".6f"}  # of the columns of a CSV


@dataclass(frozen=True)
class ClassifyConfig:
    """`aape classify`: sound files in, their labels out.

    Args:
        inputs: sound files, folders of them, tables (as for `--data`), tar shards, or - for names on standard input.
        model: the folder of a model with a classifier, or of the run that trained it.
        top: labels per file, and per window, at most; events are of all labels.
        threshold: leave out labels that score less than this (0 to 1); with --events by default 0.5.
        thresholds: table with columns label and threshold; labels that it does not name have that of --threshold.
        window: length in seconds of windows; by default files of up to 10.24 s are one, and others have some of 6.08 s.
        hop: seconds from one window to the next; by default the window's length.
        out: file to write, .json (with the labels and times of each window), or .csv or .parquet (with them if there is
            --window).
        events: what sounds when, by label the windows that reach its threshold, joined; a .csv or .parquet, or label
            tracks for Audacity, a .txt of one recording or a folder of them.
        min_duration: leave out events that are shorter, in seconds.
        min_gap: join windows of a label that are less than this apart, in seconds.
        batch: clips per forward pass, at most; on a CPU never more than 4.
        device: where to run.
    """

    inputs: list[str] = field(metadata={"positional": True})
    model: str
    top: int = 5
    threshold: float | None = None
    thresholds: str | None = None
    window: float | None = None
    hop: float | None = None
    out: str | None = None
    events: str | None = None
    min_duration: float = 0.0
    min_gap: float = 0.0
    batch: int = 16
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "batch")
        for name in ("min_duration", "min_gap"):
            if getattr(self, name) and self.events is None:
                raise ConfigError(f"{name}: it is of events: give --events, too")


def classify(config: ClassifyConfig) -> None:
    """Print the likeliest classes of each file, and write them, and events, to files if asked to.

    What cannot be read is listed on standard error with the reason, and the rest is done.

    Raises:
        ConfigError: no input, a threshold, `top` or windows that make no sense, or an output of no known kind.
        CheckpointError: the model cannot be loaded, or has no classifier.
        DataError: nothing could be read, or the table of thresholds cannot be used.
    """
    from pathlib import Path

    from aape.data.manifest import read_inputs
    from aape.inference import load_model
    from aape.inference.labels import check_request
    from aape.inference.segments import cutting
    from aape.runs.files import folder_for, require_ending
    from aape.runs.progress import list_bad

    if not config.inputs:
        raise ConfigError("nothing to classify: name sound files, folders, tables or tar shards")
    out = None if config.out is None else Path(config.out)
    if out is not None:
        require_ending(out, ".json", ".csv", ".parquet")
    event_files = None if config.events is None else _EventFiles(config.events)
    _refuse_overwriting(config)
    check_request(config.top, config.threshold)
    with ExitStack() as folders:
        if out is not None:
            folders.enter_context(folder_for(out))
        if event_files is not None:
            folders.enter_context(folder_for(event_files.any_file, "events"))
        model = load_model(config.model, config.device)
        model.require_head()
        cutting(model.front_end, model.encoder.patch_size, config.window, config.hop)
        clips, unlisted = read_inputs(config.inputs)
        if event_files is not None:
            event_files.plan(config.inputs, clips)
        done, bad = _classify(config, model, clips)
        bad = unlisted + bad
        list_bad(bad, len(clips) + len(unlisted))
        _print_table(done)
        left_out = f", {len(bad)} left out" if bad else ""
        if event_files is not None:
            event_files.write(done)
            num_events = sum(len(item.events) for item in done)
            print(f"{num_events} events in {len(done)} files -> {event_files.path}{left_out}")
        if out is not None:
            _write_labels(out, done, has_windows=config.window is not None)
            print(f"{len(done)} files -> {out}{left_out}")


class _Done(NamedTuple):
    """What is kept of a clip."""

    clip: Clip
    result: Classification
    events: list[Event]


def _classify(config: ClassifyConfig, model: AudioModel, clips: Sequence[Clip]) -> tuple[list[_Done], BadClips]:
    from aape.inference.events import events
    from aape.inference.labels import read_thresholds
    from aape.inference.segments import End
    from aape.runs.progress import progress_bar

    labels, has_events = model.labels or [], config.events is not None
    default = EVENT_THRESHOLD if has_events and config.threshold is None else config.threshold
    has_windows = config.out is not None and (config.window is not None or config.out.lower().endswith(".json"))
    done: list[_Done] = []
    bad: BadClips = []
    with progress_bar("classifying", len(clips)) as progress:
        results = model.classify_chunks(
            [clips],
            top=len(labels) if has_events else config.top,
            threshold=default if config.thresholds is None else read_thresholds(config.thresholds, labels, default),
            window=config.window,
            hop=config.hop,
            batch_size=config.batch,
            progress=progress,
        )
        for clip, item in zip(clips, results, strict=True):
            if isinstance(item, End):
                bad.append((clip.name, str(item.error and item.error.reason)))
                continue
            result = _in_file(item, clip)
            lengths = {"min_duration": config.min_duration, "min_gap": config.min_gap}
            joined = events(result.windows, **lengths) if has_events else []
            done.append(_Done(clip, _shortened(result, config.top, has_windows=has_windows), joined))
    return done, bad


def _refuse_overwriting(config: ClassifyConfig) -> None:
    """Refuse an output that is an input, or the other output: ConfigError."""
    uses = {os.path.realpath(path): "an input" for path in config.inputs}
    for name in ("thresholds", "out", "events"):
        path = getattr(config, name)
        if path is None or os.path.isdir(path):
            continue
        use = uses.setdefault(os.path.realpath(path), name)
        if use != name and name != "thresholds":
            raise ConfigError(f"{name}: {path} is {use}, too: it would be overwritten")


def _in_file(result: Classification, clip: Clip) -> Classification:
    """Return a result whose times are those of the file, of which a clip may be a part."""

    def shifted(piece: PredictionT) -> PredictionT:
        return replace(piece, start=clip.start + piece.start, end=clip.start + piece.end)

    return replace(shifted(result), windows=[shifted(window) for window in result.windows])


def _shortened(result: Classification, top: int, *, has_windows: bool) -> Classification:
    """Return a result with the best labels only, and without windows if nobody will read them."""

    def best(piece: PredictionT) -> PredictionT:
        return replace(piece, labels=piece.labels[:top], scores=piece.scores[:top])

    return replace(best(result), windows=[best(window) for window in result.windows] if has_windows else [])


def _print_table(done: Sequence[_Done]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("file", overflow="fold")
    table.add_column("s", justify="right")
    table.add_column("label", overflow="fold")
    table.add_column("score", justify="right")
    for clip, result, _ in done:
        length = result.end - result.start
        lines = [(label, f"{score:.3f}") for label, score in zip(result.labels, result.scores, strict=True)]
        for index, line in enumerate(lines or [("(none above the threshold)", "")]):
            name = (clip.name, f"{length:.1f}") if index == 0 else ("", "")
            table.add_row(*(Text(one_line(cell)) for cell in (*name, *line)))  # a name may hold [brackets], or codes
    Console().print(table)


class _EventFiles:
    """Where events go: a table, the label track of a recording, or a folder of label tracks."""

    def __init__(self, name: str) -> None:
        from pathlib import Path

        from aape.runs.files import require_ending

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
            self.names = _track_names(inputs, files)

    def write(self, done: Sequence[_Done]) -> None:
        """Write each file whole or not at all."""
        from aape.inference import label_track
        from aape.runs.files import make_folder, write_atomically

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
            text = label_track(sorted(events, key=lambda event: (event.start, event.label)))
            write_atomically(track, text.encode(errors="backslashreplace"))


def _track_names(inputs: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """Name the label track of each file after its path below the folder in which all inputs are.

    Where two would have one name, as those of `a.wav` and `a.flac`, all keep the ending of their file.
    """
    paths = {file: os.path.abspath(file) for file in files}
    folders = [entry if os.path.isdir(entry) else os.path.dirname(entry) for entry in inputs if entry != "-"]
    try:
        base = os.path.commonpath([*map(os.path.abspath, folders), *map(os.path.dirname, paths.values())])
    except ValueError as error:
        raise ConfigError("events: the inputs are on several drives: start a run for each of them") from error
    names = {path: os.path.relpath(path, base) for path in paths.values()}
    stems = {path: os.path.splitext(name)[0] for path, name in names.items()}
    is_unique = len({stem.casefold() for stem in stems.values()}) == len(stems)
    return {file: f"{(stems if is_unique else names)[path]}.txt" for file, path in paths.items()}


def _write_labels(path: Path, done: Sequence[_Done], *, has_windows: bool) -> None:
    from aape.runs.files import write_json

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
    import csv
    import io

    from aape.runs.files import write_atomically

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
    import numpy as np

    from aape.runs.columns import write_table

    fields = []
    for column, cells in zip(columns, zip(*rows, strict=True) if rows else [()] * len(columns), strict=True):
        width = max((len(str(cell)) for cell in cells), default=0) or 1
        fields.append((column, {"file": f"<U{width}", "label": f"<U{width}", "rank": "<i4"}.get(column, "<f8")))
    dtype, step = np.dtype(fields), 1 << 14
    blocks = (np.array(rows[first : first + step], dtype) for first in range(0, len(rows), step))
    write_table(path, dtype, len(rows), lambda: blocks)

"""`aape classify`: labels for sound files, for windows of them, and what sounds when."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from aape.commands.options import Device
from aape.errors import MAX_WORKERS, ConfigError, one_line, require_at_most, require_positive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import TypeVar

    from aape.data.clips import Clip
    from aape.inference import AudioModel, Classification, Event, Prediction
    from aape.inference.encoding import Progress
    from aape.inference.label_files import Labelled
    from aape.inference.model import BadClips
    from aape.inference.segments import End
    from aape.runs.chunks import Chunks, Growing

    PieceT = TypeVar("PieceT", Prediction, Classification, Event)
    PredictionT = TypeVar("PredictionT", bound=Prediction)

EVENT_THRESHOLD = 0.5  # of events, where none is asked for


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
        precision: arithmetic; auto is bfloat16 on a GPU and float32 elsewhere.
        compile: compile the encoder's blocks with torch.compile.
        batch: clips per forward pass, at most; on a CPU no more than 12 s of sound.
        workers: processes that read and resample ahead of the model; 0 for this one.
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
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    batch: int = 16
    workers: int = 0
    device: Device = "auto"

    @property
    def is_kept(self) -> bool:
        """Whether there is a file, and with it what is finished after a kill."""
        return self.out is not None or self.events is not None

    def __post_init__(self) -> None:
        require_positive(self, "batch")
        require_at_most(self, workers=MAX_WORKERS)
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
    from tempfile import TemporaryDirectory

    from aape.data.manifest import read_inputs
    from aape.inference import load_model
    from aape.inference.chunks import chunk_key, named_inputs
    from aape.inference.label_files import EventFiles, write_labels
    from aape.inference.labels import check_request
    from aape.inference.segments import cutting
    from aape.models.saved import find_model
    from aape.runs.chunks import Chunks
    from aape.runs.files import folder_for, refuse_overwriting, require_ending
    from aape.runs.progress import list_bad, progress_bar

    if not config.inputs:
        raise ConfigError("nothing to classify: name sound files, folders, tables or tar shards")
    out = None if config.out is None else Path(config.out)
    if out is not None:
        require_ending(out, ".json", ".csv", ".parquet")
    event_files = None if config.events is None else EventFiles(config.events)
    check_request(config.top, config.threshold)
    with ExitStack() as stack:
        if out is not None:
            stack.enter_context(folder_for(out))
        if event_files is not None:
            stack.enter_context(folder_for(event_files.any_file, "events"))
        results = event_files.path if out is None and event_files is not None else out
        chunks = Chunks(results or Path(stack.enter_context(TemporaryDirectory(prefix="aape-"))) / "results")
        inputs = named_inputs(config.inputs, chunks.world)
        if results is None and chunks.world > 1:
            raise ConfigError("several processes: name a file for their results, --out or --events")
        model = load_model(config.model, config.device, precision=config.precision, compile=config.compile)
        model.require_head()
        cutting(model.front_end, model.encoder.patch_size, config.window, config.hop)
        clips, unlisted = read_inputs(inputs)
        read = [*inputs, *(clip.path for clip in clips), *filter(None, [config.thresholds])]
        folder = find_model(config.model)
        refuse_overwriting("out", [] if out is None else [out], read, folder)
        if event_files is not None:
            event_files.plan(inputs, clips)
            refuse_overwriting("events", event_files.paths(), [*read, *filter(None, [config.out])], folder)
        work = _Work(config, model, clips)
        with chunks.opened(work.settings(), map(chunk_key, work.pieces)):
            with progress_bar("classifying", len(clips), is_shown=chunks.is_lead and bool(clips)) as progress:
                chunks.fill(work.pieces, work.compute, work.keep, progress)
            if not chunks.is_lead:
                return
            done, bad = work.read(chunks)
            if done and event_files is not None:
                event_files.write(done)
            if done and out is not None:
                write_labels(out, done, has_windows=config.window is not None)
        bad = unlisted + bad
        list_bad(bad, len(clips) + len(unlisted))
    _print_table(done)
    left_out = f", {len(bad)} left out" if bad else ""
    if event_files is not None:
        print(f"{sum(len(item.events) for item in done)} events in {len(done)} files -> {event_files.path}{left_out}")
    if out is not None:
        print(f"{len(done)} files -> {out}{left_out}")


class _Work:
    """What a run does: the clips of each chunk, and the chunks, whose notes are what is kept of each clip."""

    def __init__(self, config: ClassifyConfig, model: AudioModel, clips: Sequence[Clip]) -> None:
        from aape.inference.chunks import chunked
        from aape.inference.labels import read_thresholds

        labels = model.labels or []
        self.config, self.model, self.pieces = config, model, list(chunked(clips, config.batch))
        self.has_events = config.events is not None
        self.has_windows = config.out is not None and (
            config.window is not None or config.out.lower().endswith(".json")
        )
        default = EVENT_THRESHOLD if self.has_events and config.threshold is None else config.threshold
        self.options: dict[str, Any] = {
            "top": len(labels) if self.has_events else config.top,
            "threshold": default if config.thresholds is None else read_thresholds(config.thresholds, labels, default),
            "window": config.window,
            "hop": config.hop,
        }

    def settings(self) -> dict[str, object]:
        """Return what every result depends on besides its clip."""
        from aape import __version__

        model, config = self.model, self.config
        return {
            "version": __version__,
            "model": [model.fingerprint(with_head=True), model.labels, model.multi_label],
            "device": model.device.type,
            **self.options,
            **{name: getattr(config, name) for name in ("top", "min_duration", "min_gap", "batch")},
            "outputs": [self.has_events, self.has_windows],
        }

    def compute(
        self, pieces: Iterable[Sequence[Clip]], progress: Progress
    ) -> Iterator[tuple[int, Classification | End]]:
        """Label the clips of chunks."""
        config = self.config
        options = self.options | {"batch_size": config.batch, "num_workers": config.workers, "progress": progress}
        return enumerate(self.model.classify_chunks(pieces, **options))

    def keep(self, items: Iterable[tuple[int, Classification | End]], chunk: Growing) -> None:
        """Keep results, or why there is none."""
        from aape.inference.events import events
        from aape.inference.segments import End

        chunk.notes = []
        lengths = {"min_duration": self.config.min_duration, "min_gap": self.config.min_gap}
        for _, item in items:
            if isinstance(item, End):
                chunk.notes.append(str(item.error and item.error.reason))
                continue
            joined = events(item.windows, **lengths) if self.has_events else []
            result = _shortened(item, self.config.top, has_windows=self.has_windows)
            chunk.notes.append([asdict(result), [asdict(event) for event in joined]])

    def read(self, chunks: Chunks) -> tuple[list[Labelled], BadClips]:
        """Read the results back; times are those of the file, of which a clip may be a part."""
        from aape.inference import Classification, Event, Prediction
        from aape.inference.label_files import Labelled

        done: list[Labelled] = []
        bad: BadClips = []
        for index, piece in enumerate(self.pieces):
            with chunks.read(index) as (_, _, notes):
                for clip, note in zip(piece, notes, strict=True):
                    if isinstance(note, str):
                        bad.append((clip.name, note))
                        continue
                    values, events = note
                    windows = [_in_file(Prediction(**window), clip) for window in values.pop("windows")]
                    result = _in_file(Classification(**values, windows=windows), clip)
                    done.append(Labelled(clip, result, [_in_file(Event(**event), clip) for event in events]))
        return done, bad


def _in_file(piece: PieceT, clip: Clip) -> PieceT:
    """Return a piece of a clip as one of its file."""
    return replace(piece, start=clip.start + piece.start, end=clip.start + piece.end)


def _shortened(result: Classification, top: int, *, has_windows: bool) -> Classification:
    """Return a result with the best labels only, and without windows if nobody will read them."""

    def best(piece: PredictionT) -> PredictionT:
        return replace(piece, labels=piece.labels[:top], scores=piece.scores[:top])

    return replace(best(result), windows=[best(window) for window in result.windows] if has_windows else [])


def _print_table(done: Sequence[Labelled]) -> None:
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

"""`aape classify`: labels for sound files."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from aape.commands.options import Device
from aape.errors import ConfigError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    from aape.data.clips import Clip
    from aape.inference.labels import Classification, Prediction

    PredictionT = TypeVar("PredictionT", bound=Prediction)


@dataclass(frozen=True)
class ClassifyConfig:
    """`aape classify`: sound files in, their labels out.

    Args:
        inputs: sound files, folders of them, tables (as for `--data`), tar shards, or - for names on standard input.
        model: the folder of a model with a classifier, or of the run that trained it.
        top: labels per file, at most.
        threshold: leave out labels that score less than this (0 to 1).
        out: file to write, .json (with the labels and times of each window) or .csv.
        batch: clips per forward pass, at most; on a CPU never more than 4.
        device: where to run.
    """

    inputs: list[str] = field(metadata={"positional": True})
    model: str
    top: int = 5
    threshold: float | None = None
    out: str | None = None
    batch: int = 16
    device: Device = "auto"


def classify(config: ClassifyConfig) -> None:
    """Print the likeliest classes of each file, and write them to a file if asked to.

    What cannot be read is listed on standard error with the reason, and the rest is done.

    Raises:
        ConfigError: no input, a threshold or `top` that makes no sense, or an output that is neither JSON nor CSV.
        CheckpointError: the model cannot be loaded, or has no classifier.
        DataError: nothing could be read.
    """
    from dataclasses import asdict
    from pathlib import Path

    from aape.data.manifest import read_inputs
    from aape.inference import load_model
    from aape.inference.labels import check_request
    from aape.inference.recordings import readable_clips
    from aape.runs.files import folder_for, require_ending, write_atomically, write_json
    from aape.runs.progress import list_bad, progress_bar

    if not config.inputs:
        raise ConfigError("nothing to classify: name sound files, folders, tables or tar shards")
    out = None if config.out is None else Path(config.out)
    if out is not None:
        require_ending(out, ".json", ".csv")
    check_request(config.top, config.threshold)
    with nullcontext() if out is None else folder_for(out):
        model = load_model(config.model, config.device)
        model.require_head()
        clips, unlisted = read_inputs(config.inputs)
        with progress_bar("classifying", len(clips)) as progress:
            results, bad = model.classify_clips(
                clips, top=config.top, threshold=config.threshold, batch_size=config.batch, progress=progress
            )
        bad = unlisted + bad
        list_bad(bad, len(clips) + len(unlisted))
        done = readable_clips(clips, bad)
        results = [_in_file(result, clip) for result, clip in zip(results, done, strict=True)]
        _print_table([clip.name for clip in done], results)
        if out is None:
            return
        if out.suffix.lower() == ".json":
            write_json(out, [{"file": clip.file, **asdict(result)} for clip, result in zip(done, results, strict=True)])
        else:
            write_atomically(out, _csv(done, results))
    print(f"{len(done)} files -> {out}" + (f", {len(bad)} left out" if bad else ""))


def _in_file(result: Classification, clip: Clip) -> Classification:
    """Return a result whose times are those of the file, of which a clip may be a part."""

    def shifted(piece: PredictionT) -> PredictionT:
        return replace(piece, start=clip.start + piece.start, end=clip.start + piece.end)

    return replace(shifted(result), windows=[shifted(window) for window in result.windows])


def _print_table(files: Sequence[str], results: Sequence[Classification]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("file", overflow="fold")
    table.add_column("s", justify="right")
    table.add_column("label", overflow="fold")
    table.add_column("score", justify="right")
    for file, result in zip(files, results, strict=True):
        length = result.end - result.start
        lines = [(label, f"{score:.3f}") for label, score in zip(result.labels, result.scores, strict=True)]
        for index, line in enumerate(lines or [("(none above the threshold)", "")]):
            name = (file, f"{length:.1f}") if index == 0 else ("", "")
            table.add_row(*(Text(one_line(cell)) for cell in (*name, *line)))  # a name may hold [brackets], or codes
    Console().print(table)


def _csv(clips: Sequence[Clip], results: Sequence[Classification]) -> bytes:
    """Lay out one line per clip and label, best label first; start and end where there are parts of files."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    has_parts = any(clip.end is not None for clip in clips)
    writer.writerow(["file", *["start", "end"] * has_parts, "seconds", "rank", "label", "score"])
    for clip, result in zip(clips, results, strict=True):
        times = [f"{time:.3f}" for time in (result.start, result.end)] * has_parts
        head = [clip.file, *times, f"{result.end - result.start:.3f}"]
        for rank, (label, score) in enumerate(zip(result.labels, result.scores, strict=True), start=1):
            writer.writerow([*head, rank, label, f"{score:.6f}"])
    return text.getvalue().encode(errors="backslashreplace")  # a name may be no Unicode

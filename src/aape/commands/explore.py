"""`aape explore`: sounds on a map, in one page to look at and listen to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aape.commands.options import Device
from aape.errors import MAX_WORKERS, ConfigError, require, require_at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from aape.explorer.sounds import Points, Sounds
    from aape.inference import AudioModel, Classification

TIME = "time"  # column of the windows' starts, in seconds
MAX_PICTURES = 2500  # spectrograms in a page: 2,500 of 3 s take 18 MB


@dataclass(frozen=True)
class ExploreConfig:
    """`aape explore`: one page to see and hear sounds by: a map, nearest neighbours, spectrograms.

    Args:
        inputs: sound files, folders of them, tables (as for `--data`), tar shards, or - for names on standard input.
        model: a name (tiny is part of the package) or a saved folder.
        out: page to write, .html.
        color: column of a table to colour by at first; folder for the folder, time for windows; the page offers all.
        window: length in seconds of windows, for a dot of each; without it one for each file.
        hop: seconds from one window to the next; by default the window's length.
        embed_limit: megabytes of sound in the page; what is beyond plays from its file, by its path from the page.
        seed: random seed of t-SNE.
        workers: processes that read and resample ahead of the model; 0 for this one.
        device: where to run.
    """

    inputs: list[str] = field(metadata={"positional": True})
    model: str = "tiny"
    out: str = "sounds.html"
    color: str | None = None
    window: float | None = None
    hop: float | None = None
    embed_limit: float = 50.0
    seed: int = 0
    workers: int = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_at_most(self, workers=MAX_WORKERS, embed_limit=1000)
        require(self, "below 2^32", lambda value: value < 2**32, "seed")


def explore(config: ExploreConfig) -> None:
    """Embed sounds and write a page that shows them on a map.

    What cannot be read is listed on standard error with the reason and in the page, and the rest is done.

    Raises:
        AapeError: no input, an output of no known ending, no such model, windows or column, or nothing that could be
            read.
    """
    from pathlib import Path

    from aape.explorer import sounds as gathering
    from aape.inference import load_model
    from aape.inference.chunks import named_inputs
    from aape.inference.segments import cutting
    from aape.models.saved import find_model
    from aape.runs.files import folder_for, refuse_overwriting, replacing, require_ending
    from aape.runs.progress import list_bad, progress_bar

    out = Path(config.out)
    require_ending(out, ".html", ".htm")
    if not config.inputs:
        raise ConfigError("nothing to explore: name sound files, folders, tables or tar shards")
    inputs = named_inputs(config.inputs, 1)
    with folder_for(out):
        model = load_model(config.model, config.device)
        cutting(model.front_end, model.encoder.patch_size, config.window, config.hop)
        sounds = gathering.gather(inputs)
        total = len(sounds.clips) + len(sounds.bad)
        if config.window is not None:
            sounds.columns[TIME] = [""] * len(sounds.clips)  # the windows have it, and it can be coloured by
        if config.color != gathering.PREDICTED or model.head is None:
            sounds.color(config.color)
        refuse_overwriting("out", [out], [*inputs, *(clip.path for clip in sounds.clips)], find_model(config.model))
        options: dict[str, Any] = {"window": config.window, "hop": config.hop, "num_workers": config.workers}
        with progress_bar("embedding", len(sounds.clips), is_shown=bool(sounds.clips)) as progress:
            points = gathering.embed(model, sounds, **options, progress=progress)
        list_bad(sounds.bad, total)
        labels: list[Classification | None] = []
        if model.head is not None:
            with progress_bar("classifying", len(sounds.clips)) as progress:
                labels = gathering.classify(model, sounds, **options, progress=progress)
        page = _Page(config, model, sounds, points, labels, out)
        data = page.data()
        with replacing(out) as file:
            page.write(file, data)
    page.report(out)


class _Page:
    """What goes into the page."""

    def __init__(
        self,
        config: ExploreConfig,
        model: AudioModel,
        sounds: Sounds,
        points: Points,
        labels: list[Classification | None],
        out: Path,
    ) -> None:
        from aape.explorer.media import Painter, Recorder

        self.config, self.model, self.sounds, self.points, self.labels = config, model, sounds, points, labels
        self.painter, self.recorder = Painter(model), Recorder(out, 1e6 * config.embed_limit)
        self.totals: dict[str, Any] = {}
        self.notes: list[str] = []

    def data(self) -> dict[str, Any]:
        """Return all that the page shows at once."""
        from aape import __version__
        from aape.explorer import media

        sounds, model, num = self.sounds, self.model, len(self.sounds.clips)
        has_windows = self.config.window is not None
        is_one = has_windows and num == 1  # recording, whose folder says nothing
        rate = self.painter.frame_rate
        return {
            "version": __version__,
            "model": self._model_name(),
            "names": sounds.names,
            "columns": [self._column(name, values) for name, values in self._columns().items()],
            "color": TIME if is_one and self.config.color is None else sounds.color(self.config.color),
            "windows": has_windows,
            **self._spans(),
            **self._maps(),
            "bad": sounds.bad,
            "notes": self.notes,
            "pictures": min(num, MAX_PICTURES),
            "kernels": self.painter.has_kernels,
            "classifier": model.head is not None,
            "ticks": media.mel_ticks(model),
            "patch_rate": 0.5 * rate / model.encoder.patch_size,
            "highest_rate": rate / 2,
            "decay_range": media.DECAYS,
        }

    def _model_name(self) -> str:
        """Return the name of the model, or of its folder: where that lies is not for all who see the page."""
        from pathlib import Path

        path = Path(self.config.model)
        return path.absolute().parent.name if path.name == "model" else path.name

    def _columns(self) -> dict[str, list[str]]:
        """Return the value of each dot in each column; windows have their time, and their own label."""
        from aape.explorer.sounds import PREDICTED

        points = self.points
        columns = {name: [values[row] for row in points.source] for name, values in self.sounds.columns.items()}
        if self.config.window is not None:
            columns[TIME] = [f"{start:.2f}" for start in points.start]
            first = {
                (row, f"{window.start:.2f}"): window.labels[0]
                for row, result in enumerate(self.labels)
                for window in (result.windows if result is not None else [])
                if window.labels
            }
            if first:
                places = zip(points.source.tolist(), columns[TIME], strict=True)
                columns[PREDICTED] = [first.get(place, "") for place in places]
        return columns

    def _column(self, name: str, values: list[str]) -> dict[str, Any]:
        """Return the values of a column, each once, in order, and which of them every dot has."""
        import numpy as np

        from aape.explorer.page import packed
        from aape.explorer.sounds import in_order

        distinct = in_order(values)
        number = {value: index for index, value in enumerate(distinct)}
        return {"name": name, "values": distinct, "codes": packed(np.array([number[v] for v in values]), "<u4")}

    def _spans(self) -> dict[str, Any]:
        from aape.explorer.page import packed

        points = self.points
        spans = {"source": packed(points.source, "<u4"), "start": packed(points.start, "<f4")}
        return {"points": len(points.source), **spans, "end": packed(points.end, "<f4")}

    def _maps(self) -> dict[str, Any]:
        """Return maps, neighbours, and the reduced vectors with how well they agree."""
        from aape.explorer import maps
        from aape.explorer.page import packed

        points = self.points
        maps.normalise(points.vectors)
        components = maps.principal_components(points.vectors)
        rows, cosines = maps.neighbours(points)
        reduced = maps.reduce(points.vectors, components)
        placed: dict[str, NDArray[np.float32]] = {"PCA": maps.flat(components)}
        reason = maps.why_no_tsne(components)
        if reason is None:
            placed["t-SNE"] = maps.tsne(components, self.config.seed)
        else:
            self.notes.append(reason)
        return {
            "maps": {name: packed(xy, "<f4") for name, xy in placed.items()},
            "explained": components.explained[:2].tolist(),
            "neighbours": {"count": rows.shape[1], "rows": packed(rows, "<u4"), "cosines": packed(cosines, "<f4")},
            "reduced": {
                "rows": packed(reduced.rows, "i1"),
                "scale": reduced.scale.tolist(),
                "offset": packed(reduced.offset, "<f4"),
                "square": reduced.square,
                "agreement": maps.agreement(reduced, points, rows),
            },
        }

    def write(self, file: Any, data: dict[str, Any]) -> None:
        """Write the page, and forget the vectors, which have become its data."""
        from aape.errors import writing
        from aape.explorer.page import write_page

        self.points.vectors = self.points.vectors[:0]
        with writing(self.config.out):
            write_page(file, data, self._media(), self.totals)

    def _media(self) -> Iterator[dict[str, Any]]:
        """Yield what is shown and played of every sound."""
        import warnings
        from contextlib import suppress

        import numpy as np

        from aape.errors import AudioError, AudioWarning
        from aape.runs.progress import progress_bar

        clips = self.sounds.clips
        drawn = set(np.linspace(0, len(clips) - 1, min(len(clips), MAX_PICTURES)).round().astype(int).tolist())
        lengths = np.zeros(len(clips))
        np.maximum.at(lengths, self.points.source, self.points.end)
        with progress_bar("drawing", len(clips)) as progress, warnings.catch_warnings():
            warnings.simplefilter("ignore", AudioWarning)  # they were given while the sounds were embedded
            for row, sound in enumerate(self.recorder.sounds(clips, lengths)):
                item = {"seconds": lengths[row], **self._labels(row), **sound}
                with suppress(AudioError):  # a file that is gone by now is silent, too, and that says why
                    item |= self.painter.pictures(clips[row]) if row in drawn else {}
                yield item
                progress(row + 1, len(clips))
        self.totals |= {"embedded": self.recorder.num_embedded, "linked": self.recorder.num_linked}

    def _labels(self, row: int) -> dict[str, Any]:
        result = self.labels[row] if self.labels else None
        if result is None:
            return {}
        windows = [[w.start, w.end, list(zip(w.labels, w.scores, strict=True))] for w in result.windows]
        return {"labels": list(zip(result.labels, result.scores, strict=True)), "spans": windows}

    def report(self, out: Path) -> None:
        """Say on standard output what the page holds, and what it does not."""
        num, recorder = len(self.sounds.clips), self.recorder
        what = f"{num} sound{'s' * (num != 1)}"
        if self.config.window is not None:
            what += f" in {len(self.points.source)} windows"
        left_out = f", {len(self.sounds.bad)} left out" if self.sounds.bad else ""
        print(f"{what} -> {out} ({out.stat().st_size / 1e6:.1f} MB){left_out}")
        if recorder.num_embedded < num:
            how = f"{recorder.num_linked} play from their files, which must stay where they are from the page"
            print(f"{recorder.num_embedded} are in the page, {how}; --embed-limit sets how many")
        if num > MAX_PICTURES:
            print(f"{MAX_PICTURES} of {num} have a spectrogram in the page")
        for note in self.notes:
            print(note)

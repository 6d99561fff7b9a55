"""`aape embed`: many files to one of their vectors, restartable, by one process or several.

Files are embedded in chunks, each by itself, and every finished chunk is kept in a folder beside the output until the
whole is written. A chunk is known by all that its vectors depend on, so a restart uses what still holds and nothing
else, and the result has the bytes of an unbroken run. No more than a block of vectors is held in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from aape.commands.options import Device
from aape.errors import MAX_WORKERS, ConfigError, require_at_most, require_positive
from aape.models.config import Pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from aape.data.clips import Clip
    from aape.inference.encoding import Embedded, Progress
    from aape.inference.model import AudioModel, BadClips
    from aape.inference.segments import End
    from aape.runs.chunks import Chunks, Growing


@dataclass(frozen=True)
class EmbedConfig:
    """`aape embed`: sound files in, their vectors out.

    Args:
        inputs: sound files, folders of them, tables (as for `--data`), tar shards, or - for names on standard input.
        model: a name (tiny is part of the package) or a saved folder.
        out: file to write, .npz (`embedding` (n, E) and `file` (n,), of windows and parts of files also `start` and
            `end` in seconds), .csv or .parquet; started again after a kill, it continues where it was.
        pool: what a vector is, cls_mean, the paper's class token and mean patch token, frequency, the mean over time of
            each frequency patch, frequency_std, the same and its standard deviation, cls or mean; by default the
            model's.
        layers: blocks, counted from 1, whose outputs are averaged before, [] for the last; by default the model's.
        window: length in seconds of windows, for a vector of each; without it one for each file.
        hop: seconds from one window to the next; by default the window's length.
        loop_to: length in seconds that shorter sounds are looped to; 0 takes them as they are. By default the model's.
        precision: arithmetic; auto is bfloat16 on a GPU and float32 elsewhere.
        compile: compile the encoder's blocks with torch.compile.
        root: folder that the names in `file` are relative to; by default they are as in the inputs.
        batch: clips per forward pass, at most; on a CPU no more than 12 s of sound.
        workers: processes that read and resample ahead of the model; 0 for this one.
        device: where to run.
    """

    inputs: list[str] = field(metadata={"positional": True})
    model: str
    out: str
    pool: Pool | None = None
    layers: tuple[int, ...] | None = None
    window: float | None = None
    hop: float | None = None
    loop_to: float | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    root: str | None = None
    batch: int = 16
    workers: int = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "batch")
        require_at_most(self, workers=MAX_WORKERS)


def embed(config: EmbedConfig) -> None:
    """Embed sound files into one file, rows in input order.

    Its columns are `file`, `start` and `end` in seconds where there are windows or parts of files (of a whole file 0
    and NaN), and `embedding`, float32; see `aape.runs.columns`.

    What cannot be read is listed on standard error with the reason, and the rest is done. Processes that torchrun has
    started share the work, and rank 0 writes.

    Raises:
        AapeError: no input, an output of no known ending, no such model, windows, pool or blocks, a file outside
            `root`, or nothing that could be read.
    """
    from pathlib import Path

    from aape.data.manifest import read_inputs
    from aape.inference import load_model
    from aape.inference.chunks import chunk_key, chunked, named_inputs
    from aape.inference.segments import cutting
    from aape.models.saved import find_model
    from aape.runs.chunks import Chunks
    from aape.runs.columns import ENDINGS
    from aape.runs.files import folder_for, refuse_overwriting, require_ending
    from aape.runs.progress import list_bad, progress_bar

    out = Path(config.out)
    require_ending(out, *ENDINGS)
    if not config.inputs:
        raise ConfigError("nothing to embed: name sound files, folders, tables or tar shards")
    chunks = Chunks(out)
    inputs = named_inputs(config.inputs, chunks.world)
    if config.root is not None and not Path(config.root).is_dir():
        raise ConfigError(f"root: {config.root}: no such folder")
    options = {name: getattr(config, name) for name in ("pool", "layers", "loop_to", "precision", "compile")}
    with folder_for(out):
        model = load_model(config.model, config.device, **options)
        cutting(model.front_end, model.encoder.patch_size, config.window, config.hop)
        clips, unlisted = read_inputs(inputs)
        names = [clip.file for clip in clips]
        refuse_overwriting("out", [out], [*inputs, *(clip.path for clip in clips)], find_model(config.model))
        if config.root is not None:
            names = _relative(names, config.root)
        work = _Work(config, model, list(chunked(clips, config.batch)), names, chunks)
        with chunks.opened(work.settings(), map(chunk_key, work.pieces)):
            with progress_bar("embedding", len(clips), is_shown=chunks.is_lead and bool(clips)) as progress:
                chunks.fill(work.pieces, work.compute, work.keep, progress)
            if not chunks.is_lead:
                return
            count, bad = work.write(out)
        bad = unlisted + bad
        list_bad(bad, len(clips) + len(unlisted))
    print(f"{count} vectors of {model.embed_dim} numbers -> {out}" + (f", {len(bad)} left out" if bad else ""))


def _relative(names: Sequence[str], root: str) -> list[str]:
    """Return names of files relative to a folder, with slashes."""
    import functools
    import os

    target = os.path.realpath(root)

    @functools.cache
    def below(folder: str) -> str:
        at, parts = os.path.realpath(folder) if ".." in folder else os.path.abspath(folder), [""]
        while os.path.realpath(at) != target:  # a folder may be known by a link
            at, part = os.path.split(at)
            if not part:
                raise ConfigError(f"root: {folder or '.'} does not lie in {root}")
            parts.append(part)
        return "/".join(reversed(parts))

    return [below(folder) + file for folder, file in map(os.path.split, names)]


@dataclass
class _Work:
    """What a run does: the clips of each chunk, all their names, and the chunks.

    The body of a chunk is a row for each vector, its notes are which clips are bad, and why.
    """

    config: EmbedConfig
    model: AudioModel
    pieces: Sequence[Sequence[Clip]]
    names: Sequence[str]
    chunks: Chunks

    def settings(self) -> dict[str, object]:
        """Return what every vector depends on besides its clip."""
        from aape import __version__

        settings = {"version": __version__, "model": self.model.fingerprint(), "device": self.model.device.type}
        return settings | {name: getattr(self.config, name) for name in ("window", "hop", "batch", "root")}

    @property
    def row(self) -> np.dtype:
        """The type of a row of a chunk."""
        import numpy as np

        numbers = ("vector", "<f4", (self.model.embed_dim,))
        return np.dtype([("clip", "<u4"), ("start", "<f8"), ("end", "<f8"), numbers])

    def compute(self, pieces: Iterable[Sequence[Clip]], progress: Progress) -> Iterator[tuple[int, Embedded | End]]:
        """Embed the clips of chunks."""
        config = self.config
        items = self.model.embed_chunks(
            pieces,
            window=config.window,
            hop=config.hop,
            batch_size=config.batch,
            num_workers=config.workers,
            progress=progress,
        )
        return ((item.row, item) for item in items)

    def keep(self, items: Iterable[tuple[int, Embedded | End]], chunk: Growing) -> None:
        """Write vectors as they come, and without those of a clip that turns out bad."""
        import numpy as np

        from aape.inference.segments import End

        row, bad, last, start = self.row, list[tuple[int, str]](), -1, 0
        for clip, item in items:
            if clip != last:
                last, start = clip, chunk.size
            if isinstance(item, End):
                chunk.cut(start)
                bad.append((clip, str(item.error and item.error.reason)))
            else:
                chunk.write(np.array((clip, item.start, item.end, item.vector), row).tobytes())
        chunk.notes = bad

    def write(self, out: Path) -> tuple[int, BadClips]:
        """Make one file of the finished chunks; return how many vectors there are, and the bad clips."""
        import numpy as np

        from aape.runs.columns import write_table

        count, bad = 0, list[tuple[str, str]]()
        for index, piece in enumerate(self.pieces):
            with self.chunks.read(index) as (_, size, notes):
                count += size // self.row.itemsize
                bad += [(piece[clip].name, reason) for clip, reason in notes]
        if count:
            has_times = self.config.window is not None or any(c.end is not None for piece in self.pieces for c in piece)
            times = [("start", "<f8"), ("end", "<f8")] if has_times else []
            numbers = ("embedding", "<f4", (self.model.embed_dim,))
            dtype = np.dtype([("file", f"<U{max(map(len, self.names))}"), *times, numbers])
            write_table(out, dtype, count, lambda: self._blocks(dtype), folder=self.chunks.folder)
        return count, bad

    def _blocks(self, dtype: np.dtype) -> Iterator[NDArray[Any]]:
        """Read the rows of the output back."""
        import numpy as np

        from aape.runs.columns import BLOCK_BYTES

        first, step = 0, max(1, BLOCK_BYTES // self.row.itemsize) * self.row.itemsize
        for index, piece in enumerate(self.pieces):
            names = np.array(self.names[first : first + len(piece)])
            starts = np.array([clip.start for clip in piece])
            ends = np.array([clip.end for clip in piece], np.float64)  # None, the whole, becomes NaN
            first += len(piece)
            with self.chunks.read(index) as (file, size, _):
                for at in range(0, size, step):
                    rows = np.frombuffer(file.read(min(step, size - at)), self.row)
                    clip = rows["clip"]
                    block = np.empty(len(rows), dtype)
                    block["file"], block["embedding"] = names[clip], rows["vector"]
                    if "start" in (dtype.names or ()):
                        has_windows = self.config.window is not None
                        block["start"] = starts[clip] + (rows["start"] if has_windows else 0)
                        block["end"] = starts[clip] + rows["end"] if has_windows else ends[clip]
                    yield block

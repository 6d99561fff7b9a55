"""`aape embed`: many files to one of their vectors, restartable.

Files are embedded in chunks, each by itself, and every finished chunk is kept in a folder beside the output until the
whole is written. A chunk is known by all that its vectors depend on, so a restart uses what still holds and nothing
else, and the result has the bytes of an unbroken run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aape.commands.options import Device
from aape.errors import ConfigError, require_positive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from aape.data.clips import Clip
    from aape.inference.model import AudioModel, BadClips, Progress
    from aape.inference.segments import FloatArray

CHUNK_BATCHES = 4  # forward passes' worth of files whose vectors are kept together


@dataclass(frozen=True)
class EmbedConfig:
    """`aape embed`: sound files in, one vector per file out.

    Args:
        inputs: sound files, folders of them, tables (as for `--data`), tar shards, or - for names on standard input.
        model: a name (tiny is part of the package) or a saved folder.
        out: file to write, .npz (`embedding` (n, 2D) and `file` (n,), of parts of files also `start` and `end` in
            seconds) or .csv; started again after a kill, it continues where it was.
        loop_to: length in seconds that shorter sounds are looped to; 0 takes them as they are. By default the model's.
        batch: clips per forward pass, at most; on a CPU never more than 4.
        device: where to run.
    """

    inputs: list[str] = field(metadata={"positional": True})
    model: str
    out: str
    loop_to: float | None = None
    batch: int = 16
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "batch")


def embed(config: EmbedConfig) -> None:
    """Embed sound files into one file, rows in input order.

    NPZ has `embedding` (n, 2D) float32 and `file` (n,); CSV a column `file` and one for each number, exact to the bit.

    Where inputs are parts of files, there are also `start` and `end` (n,), in seconds; of a whole file 0 and NaN.

    What cannot be read is listed on standard error with the reason, and the rest is done.

    Raises:
        AapeError: no input, an output that is neither NPZ nor CSV, no such model, or nothing that could be read.
    """
    import shutil
    from pathlib import Path

    from aape.data.manifest import read_inputs
    from aape.inference import load_model
    from aape.inference.recordings import readable_clips
    from aape.runs.files import folder_for, npz, require_ending, write_atomically
    from aape.runs.lock import locked
    from aape.runs.progress import list_bad, progress_bar

    out = Path(config.out)
    require_ending(out, ".npz", ".csv")
    if not config.inputs:
        raise ConfigError("nothing to embed: name sound files, folders, tables or tar shards")
    with folder_for(out):
        model = load_model(config.model, config.device, loop_to=config.loop_to)
        clips, unlisted = read_inputs(config.inputs)
        partial = out.with_name(f"{out.name}.partial")
        with locked(partial):
            with progress_bar("embedding", len(clips)) as progress:
                vectors, bad = _embed_in_chunks(model, clips, config.batch, partial, progress)
            done = readable_clips(clips, bad)
            if done:
                is_csv = out.suffix.lower() == ".csv"
                rows = _rows(done)
                write_atomically(out, _csv(rows, vectors) if is_csv else npz(embedding=vectors, **rows))
            shutil.rmtree(partial, ignore_errors=True)
        bad = unlisted + bad
        list_bad(bad, len(clips) + len(unlisted))
    print(f"{len(done)} vectors of {vectors.shape[1]} numbers -> {out}" + (f", {len(bad)} left out" if bad else ""))


def _rows(clips: Sequence[Clip]) -> dict[str, NDArray[Any]]:
    """Return the columns that say what each vector is of."""
    import numpy as np

    columns = {"file": np.asarray([clip.file for clip in clips], dtype=np.str_)}
    if any(clip.end is not None for clip in clips):
        columns["start"] = np.asarray([clip.start for clip in clips])
        columns["end"] = np.asarray([clip.end for clip in clips], dtype=np.float64)  # None, the whole, becomes NaN
    return columns


def _embed_in_chunks(
    model: AudioModel, clips: Sequence[Clip], batch_size: int, partial: Path, progress: Progress
) -> tuple[FloatArray, BadClips]:
    """Embed clips, using the finished chunks in a folder and leaving there what is finished."""
    import hashlib
    import json

    import numpy as np

    from aape import __version__
    from aape.runs.files import file_state, npz, read_npz, write_atomically

    parts: list[FloatArray] = [np.empty((0, model.embed_dim), np.float32)]
    bad: BadClips = []
    settings = [__version__, model.fingerprint(), model.device.type, batch_size]
    size = CHUNK_BATCHES * batch_size
    for first in range(0, len(clips), size):
        chunk = clips[first : first + size]
        states = [[c.name, c.path, file_state(c.path), c.offset, c.size, c.start, c.end] for c in chunk]
        key = json.dumps([*settings, states])
        path = partial / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()}.npz"
        arrays = read_npz(path)
        if arrays is None or arrays.keys() != {"embedding", "bad"}:

            def shift(done: int, _: int, first: int = first) -> None:
                progress(first + done, len(clips))

            vectors, refused = model.embed_clips(chunk, batch_size=batch_size, progress=shift)
            arrays = {"embedding": vectors, "bad": np.asarray(refused, np.str_).reshape(-1, 2)}
            write_atomically(path, npz(**arrays))
        parts.append(arrays["embedding"])
        bad += [(str(name), str(reason)) for name, reason in arrays["bad"]]
        progress(first + len(chunk), len(clips))
    return np.concatenate(parts), bad


def _csv(rows: dict[str, NDArray[Any]], vectors: FloatArray) -> bytes:
    """Lay out one line per vector; a number's shortest text that is read back as the same float32."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*rows, *range(vectors.shape[1])])
    for *cells, vector in zip(*rows.values(), vectors, strict=True):
        writer.writerow([*cells, *map(str, vector)])
    return text.getvalue().encode(errors="backslashreplace")  # a name may be no Unicode

"""`aape embed`: many files to one NPZ file, restartable.

Files are embedded in chunks, each by itself, and every finished chunk is kept in a folder beside the output until the
whole is written. A chunk is known by all that its vectors depend on, so a restart uses what still holds and nothing
else, and the result has the bytes of an unbroken run.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aape import __version__
from aape.commands.embed import EmbedConfig
from aape.data.clips import Clip
from aape.errors import ConfigError
from aape.inference.model import AudioModel, BadClips, Progress, load_model
from aape.inference.recordings import file_clips, readable_names
from aape.inference.segments import FloatArray
from aape.runs.files import make_folder_for, write_atomically
from aape.runs.progress import list_bad, progress_bar

CHUNK_BATCHES = 4  # forward passes' worth of files whose vectors are kept together


def embed_command(config: EmbedConfig) -> None:
    """Embed sound files into an NPZ file: `embedding` (n, 2D) float32 and `file` (n,), rows in input order.

    What cannot be read is listed on standard error with the reason, and the rest is done.

    Raises:
        ConfigError: no input, or the output is a folder.
        CheckpointError: the model cannot be loaded.
        DataError: nothing could be read.
    """
    out = Path(config.out)
    if out.is_dir():
        raise ConfigError(f"{out} is a folder: name the NPZ file to write, such as {out / 'vectors.npz'}")
    if not config.inputs:
        raise ConfigError("nothing to embed: name sound files, or folders of them")
    make_folder_for(out)
    model = load_model(config.model, config.device, loop_to=config.loop_to)
    clips = file_clips(config.inputs)
    partial = out.with_name(f"{out.name}.partial")
    partial.mkdir(exist_ok=True)
    with progress_bar("embedding", len(clips)) as progress:
        vectors, bad = _embed_in_chunks(model, clips, config.batch, partial, progress)
    files = readable_names(clips, bad)
    if files:
        write_atomically(out, _npz(embedding=vectors, file=np.asarray(files, dtype=np.str_)))
    shutil.rmtree(partial, ignore_errors=True)
    list_bad(bad, len(clips))
    print(f"{len(files)} vectors of {vectors.shape[1]} numbers -> {out}" + (f", {len(bad)} left out" if bad else ""))


def _embed_in_chunks(
    model: AudioModel, clips: Sequence[Clip], batch_size: int, partial: Path, progress: Progress
) -> tuple[FloatArray, BadClips]:
    """Embed clips, using the finished chunks in a folder and leaving there what is finished."""
    parts: list[FloatArray] = [np.empty((0, model.embed_dim), np.float32)]
    bad: BadClips = []
    settings = [__version__, model.fingerprint(), model.device.type, batch_size]
    size = CHUNK_BATCHES * batch_size
    for first in range(0, len(clips), size):
        chunk = clips[first : first + size]
        key = json.dumps([*settings, [_identity(clip.path) for clip in chunk]])
        path = partial / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()}.npz"
        finished = _read_chunk(path)
        if finished is None:

            def shift(done: int, _: int, first: int = first) -> None:
                progress(first + done, len(clips))

            finished = model.embed_clips(chunk, batch_size=batch_size, progress=shift)
            arrays = {"embedding": finished[0], "bad": np.asarray(finished[1], np.str_).reshape(-1, 2)}
            write_atomically(path, _npz(**arrays))
        vectors, refusals = finished
        parts.append(vectors)
        bad += refusals
        progress(first + len(chunk), len(clips))
    return np.concatenate(parts), bad


def _read_chunk(path: Path) -> tuple[FloatArray, BadClips] | None:
    """Read a finished chunk; None if there is none, or it is damaged."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["embedding"], [(str(name), str(reason)) for name, reason in arrays["bad"]]
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def _identity(path: str) -> list[Any]:
    """Return what tells one state of a file from another."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return [path, None]
    return [path, status.st_size, status.st_mtime_ns]


def _npz(**arrays: NDArray[Any]) -> bytes:
    """Pack arrays as `numpy.savez` does; equal arrays give equal bytes."""
    # Not `savez` itself, which has a parameter called `file` and would refuse an array of that name.
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return content.getvalue()

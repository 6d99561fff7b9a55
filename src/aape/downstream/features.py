"""What a probe sees of every clip: the frozen encoder's embeddings, or statistics of the log-mel. Computed once.

n clips, D width of the encoder, F mel bins, T frames.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from aape.data.clips import Clip, load_clip
from aape.data.log_mel import time_statistics
from aape.errors import AudioError, DataError
from aape.runs.files import write_atomically

if TYPE_CHECKING:
    from aape.data.log_mel import LogMel
    from aape.inference import AudioModel

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Features:
    """One vector per readable clip.

    Attributes:
        values: float32, (number of readable clips, width), in the order of the clips.
        bad: name and reason of each clip that could not be read.
        from_cache: whether an earlier run had computed them.
    """

    values: NDArray[np.float32]
    bad: list[tuple[str, str]]
    from_cache: bool = False

    def of(self, names: Sequence[str], wanted: set[str]) -> NDArray[np.float32]:
        """Return the vectors of the `wanted` clips, in order; `names` are those of all clips, bad ones included."""
        unreadable = {name for name, _ in self.bad}
        readable = [name for name in names if name not in unreadable]
        return self.values[[name in wanted for name in readable]]


def embeddings(model: AudioModel, clips: Sequence[Clip], *, cache: Path, progress: Progress | None = None) -> Features:
    """Return class token and mean patch token of every clip, (n, 2D), from a file if they are in it.

    Args:
        model: the frozen encoder.
        clips: what to embed.
        cache: NPZ file; used if it was written for this encoder, front end and these sound files, else replaced.
        progress: called with (done, total).
    """

    def compute() -> Features:
        return Features(*model.embed_clips(list(clips), progress=progress))

    return _cached(cache, f"embeddings {model.fingerprint()}", clips, compute)


def log_mel_statistics(
    log_mel: LogMel, clips: Sequence[Clip], *, cache: Path, progress: Progress | None = None
) -> Features:
    """Return mean, standard deviation, maximum and delta standard deviation over time of every mel bin, (n, 4F).

    Args:
        log_mel: the front end of the encoder that this is the yardstick of.
        clips: the sound files.
        cache: NPZ file, as in `embeddings`.
        progress: called with (done, total).
    """

    def compute() -> Features:
        values, bad = [], []
        for done, clip in enumerate(clips, start=1):
            try:
                wave = load_clip(clip, sample_rate=log_mel.sample_rate)
            except AudioError as error:
                bad.append((clip.name, error.reason))
            else:
                with torch.inference_mode():
                    values.append(time_statistics(log_mel(torch.from_numpy(wave)[None])[0, 0]).numpy())
            if progress is not None:
                progress(done, len(clips))
        width = 4 * log_mel.n_mels
        return Features(np.stack(values) if values else np.empty((0, width), np.float32), bad)

    names = ("sample_rate", "n_fft", "win_length", "hop_length", "n_mels", "f_min", "f_max", "mean", "std")
    front_end = json.dumps({name: getattr(log_mel, name) for name in names})
    return _cached(cache, f"log-mel statistics {front_end}", clips, compute)


def _cached(path: Path, what: str, clips: Sequence[Clip], compute: Callable[[], Features]) -> Features:
    fingerprint = _fingerprint(what, clips)
    cached = _read(path, fingerprint)
    if cached is not None:
        return cached
    features = compute()
    values = np.asarray(features.values, dtype=np.float32)
    if len(values) + len(features.bad) != len(clips):
        raise DataError(f"{len(clips)} clips gave {len(values)} vectors and {len(features.bad)} refusals")
    if not np.isfinite(values).all():
        raise DataError(f"{path.stem}: the features are not finite: the model is damaged")
    content = io.BytesIO()
    bad = np.asarray(features.bad, dtype=np.str_).reshape(-1, 2)
    np.savez(content, features=values, bad=bad, fingerprint=np.asarray(fingerprint))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())
    return Features(values, features.bad)


def _read(path: Path, fingerprint: str) -> Features | None:
    try:
        # Opened here, since numpy leaves a file open that turns out to be damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["fingerprint"]) != fingerprint:
                return None
            bad = [(str(name), str(reason)) for name, reason in arrays["bad"]]
            return Features(arrays["features"], bad, from_cache=True)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # absent, damaged, or not ours: computing again is always right


def _fingerprint(what: str, clips: Sequence[Clip]) -> str:
    """Hash what the features depend on. Labels are not part of it; size and date of every sound file are."""
    digest = hashlib.sha256(what.encode())
    for clip in clips:
        try:
            status = os.stat(clip.path)
            state = (status.st_size, status.st_mtime_ns)
        except OSError:
            state = (-1, -1)
        digest.update(repr((clip.name, clip.offset, clip.size, state)).encode())
    return digest.hexdigest()

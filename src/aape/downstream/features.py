"""What a probe sees of every clip, computed once: frozen features in a file that names what they were made from.

n clips, D width of the encoder, F mel bins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray

from aape.data.clips import Clip, load_clip
from aape.data.log_mel import time_statistics
from aape.errors import AudioError, DataError
from aape.runs.files import file_state, npz, read_npz, write_atomically

if TYPE_CHECKING:
    from accelerate import Accelerator

    from aape.data.log_mel import LogMel
    from aape.inference import AudioModel

Progress = Callable[[int, int], None]
Bad = list[tuple[str, str]]  # name and reason


@dataclass(frozen=True)
class Features:
    """One vector per readable clip.

    Attributes:
        values: float32, (number of readable clips, width), in the order of the clips.
        bad: name and reason of each clip that could not be read.
        from_cache: whether an earlier run had computed them.
    """

    values: NDArray[np.float32]
    bad: Bad
    from_cache: bool = False

    def of(self, names: Sequence[str], kept: set[str]) -> NDArray[np.float32]:
        """Return the vectors of the `kept` clips, in order; `names` are those of all clips, bad ones included."""
        unreadable = {name for name, _ in self.bad}
        readable = [name for name in names if name not in unreadable]
        return self.values[[name in kept for name in readable]]


def embeddings(
    model: AudioModel,
    clips: Sequence[Clip],
    *,
    cache: Path,
    ranks: Accelerator | None = None,
    progress: Progress | None = None,
) -> Features:
    """Return class token and mean patch token of every clip, (n, 2D), from a file if they are in it.

    Args:
        model: the frozen encoder.
        clips: what to embed.
        cache: NPZ file; used if it was written for this encoder, front end and these sound files, else replaced.
        ranks: the processes to divide the clips among, each of which has to call and gets all; None for this one.
        progress: called with (done, total).

    Raises:
        DataError: a vector is not finite.
    """

    def compute(share: Sequence[Clip]) -> tuple[NDArray, Bad]:
        return model.embed_clips(list(share), progress=progress)

    return _cached(cache, f"embeddings {model.fingerprint()}", clips, compute, ranks)


def log_mel_statistics(
    log_mel: LogMel,
    clips: Sequence[Clip],
    *,
    cache: Path,
    ranks: Accelerator | None = None,
    progress: Progress | None = None,
) -> Features:
    """Return mean, standard deviation, maximum and delta standard deviation over time of every mel bin, (n, 4F).

    Args:
        log_mel: the front end of the encoder that this is the yardstick of.
        clips: the sound files.
        cache: NPZ file, as in `embeddings`.
        ranks: as in `embeddings`.
        progress: called with (done, total).
    """

    def compute(share: Sequence[Clip]) -> tuple[NDArray, Bad]:
        values, bad = [np.empty((0, 4 * log_mel.n_mels), np.float32)], []
        for done, clip in enumerate(share, start=1):
            try:
                wave = load_clip(clip, sample_rate=log_mel.sample_rate)
            except AudioError as error:
                bad.append((clip.name, error.reason))
            else:
                with torch.inference_mode():
                    values.append(time_statistics(log_mel(torch.from_numpy(wave)[None])[0]).numpy())
            if progress is not None:
                progress(done, len(share))
        return np.concatenate(values), bad

    names = ("sample_rate", "n_fft", "win_length", "hop_length", "n_mels", "f_min", "f_max", "mean", "std")
    front_end = json.dumps({name: getattr(log_mel, name) for name in names})
    return _cached(cache, f"log-mel statistics {front_end}", clips, compute, ranks)


def read_features(path: Path, fingerprint: str) -> Features | None:
    """Read a file of features; None if it is absent, damaged or another's: computing again is always right."""
    arrays = read_npz(path)
    try:
        if arrays is None or str(arrays["fingerprint"]) != fingerprint:
            return None
        bad = [(str(name), str(reason)) for name, reason in arrays["bad"]]
        return Features(arrays["features"], bad, from_cache=True)
    except (KeyError, TypeError, ValueError):
        return None


def _cached(
    path: Path,
    what: str,
    clips: Sequence[Clip],
    compute: Callable[[Sequence[Clip]], tuple[NDArray, Bad]],
    ranks: Accelerator | None,
) -> Features:
    fingerprint = _fingerprint(what, clips)
    rank, num_ranks = (0, 1) if ranks is None else (ranks.process_index, ranks.num_processes)
    cached = [read_features(path, fingerprint) if rank == 0 else None]
    if num_ranks > 1:
        torch.distributed.broadcast_object_list(cached, src=0)
    if cached[0] is not None:
        return cached[0]
    shares = [compute(clips[len(clips) * rank // num_ranks : len(clips) * (rank + 1) // num_ranks])]
    if num_ranks > 1:
        shares = gather_object(shares)
    values = np.concatenate([np.asarray(own, dtype=np.float32) for own, _ in shares])
    bad = [pair for _, own in shares for pair in own]
    if len(values) + len(bad) != len(clips):
        raise DataError(f"{len(clips)} clips gave {len(values)} vectors and {len(bad)} refusals")
    if not np.isfinite(values).all():
        raise DataError(f"{path.stem}: the features are not finite: the model is damaged")
    if rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        named = np.asarray(bad, dtype=np.str_).reshape(-1, 2)
        write_atomically(path, npz(features=values, bad=named, fingerprint=np.asarray(fingerprint)))
    return Features(values, bad)


def _fingerprint(what: str, clips: Sequence[Clip]) -> str:
    """Hash what the features depend on. Labels are not part of it; size and date of every sound file are."""
    digest = hashlib.sha256(what.encode())
    for clip in clips:
        digest.update(
            repr((clip.name, clip.offset, clip.size, file_state(clip.path))).encode(errors="backslashreplace")
        )
    return digest.hexdigest()

"""Frozen features of every clip, computed once and kept in a file that knows what they were made from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray

from aape.data.clips import Clip
from aape.errors import DataError
from aape.runs.files import file_state, npz, read_npz, write_atomically

if TYPE_CHECKING:
    from accelerate import Accelerator

    from aape.inference import AudioModel

Progress = Callable[[int, int], None]
Vectors = tuple[NDArray, list[tuple[str, str]]]  # one per readable clip; name and reason of the others


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
    accelerator: Accelerator | None = None,
    progress: Progress | None = None,
) -> Features:
    """Return the vector of every clip, (n, E), as `compute_once` does."""

    def compute(share: Sequence[Clip]) -> Vectors:
        return model.embed_clips(list(share), progress=progress)

    return compute_once(f"embeddings {model.fingerprint()}", clips, compute, cache, accelerator)


def compute_once(
    what: str,
    clips: Sequence[Clip],
    compute: Callable[[Sequence[Clip]], Vectors],
    cache: Path,
    accelerator: Accelerator | None = None,
) -> Features:
    """Read features from a file, or compute and write them.

    Args:
        what: all that they depend on but the sound files.
        clips: the sound files; their labels do not matter, size and date do.
        compute: called with this process's share of the clips.
        cache: NPZ file; replaced if it is damaged, or was written for anything else.
        accelerator: the processes that share the work: each has to call, and gets all. None: this one alone.

    Raises:
        DataError: a vector is not finite.
    """
    fingerprint = _fingerprint(what, clips)
    rank, num_ranks = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    cached = [read_features(cache, fingerprint) if rank == 0 else None]
    if num_ranks > 1:
        torch.distributed.broadcast_object_list(cached, src=0)
    if cached[0] is not None:
        return cached[0]
    shares = [compute(clips[len(clips) * rank // num_ranks : len(clips) * (rank + 1) // num_ranks])]
    if num_ranks > 1:
        shares = gather_object(shares)
    values = np.concatenate([np.asarray(vectors, dtype=np.float32) for vectors, _ in shares])
    bad = [pair for _, pairs in shares for pair in pairs]
    if len(values) + len(bad) != len(clips):
        raise DataError(f"{len(clips)} clips gave {len(values)} vectors and {len(bad)} refusals")
    if not np.isfinite(values).all():
        raise DataError(f"{cache.stem}: the features are not finite: the model is damaged")
    if rank == 0:
        cache.parent.mkdir(parents=True, exist_ok=True)
        pairs = np.asarray(bad, dtype=np.str_).reshape(-1, 2)
        write_atomically(cache, npz(features=values, bad=pairs, fingerprint=np.asarray(fingerprint)))
    return Features(values, bad)


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


def _fingerprint(what: str, clips: Sequence[Clip]) -> str:
    digest = hashlib.sha256(what.encode())
    for clip in clips:
        state = (clip.name, clip.offset, clip.size, file_state(clip.path))
        digest.update(repr(state).encode(errors="backslashreplace"))
    return digest.hexdigest()

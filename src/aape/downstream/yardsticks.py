"""What a probed encoder is compared with: the untrained encoder, and log-mel statistics (docs/method.md 9)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from aape.data.clips import Clip, load_clip
from aape.data.log_mel import LogMel, time_statistics
from aape.downstream.features import Features, Progress, Vectors, compute_once, embeddings
from aape.errors import AudioError
from aape.inference.loading import random_model

if TYPE_CHECKING:
    from accelerate import Accelerator

    from aape.inference import AudioModel

ENCODER, UNTRAINED, STATISTICS = "encoder", "untrained encoder", "log-mel statistics"


def compute_features(
    model: AudioModel,
    clips: Sequence[Clip],
    folder: Path,
    *,
    seeds: int = 0,
    accelerator: Accelerator | None = None,
    progress_bar: Callable[[str, int], AbstractContextManager[Progress]],
) -> dict[str, list[Features]]:
    """Compute, or read from a folder, the features of every row of a probe's table: one matrix, or one per seed.

    Args:
        model: the encoder.
        clips: of the set.
        folder: one NPZ file for each matrix.
        seeds: random encoders, one for each seed, and with them the statistics; 0 for the encoder alone.
        accelerator: see `compute_once`.
        progress_bar: such as `aape.runs.progress.progress_bar`.
    """

    def compute(title: str, extract: Callable[..., Features], file: str) -> Features:
        with progress_bar(title, len(clips)) as progress:
            return extract(clips, cache=folder / file, accelerator=accelerator, progress=progress)

    rows = {ENCODER: [compute(ENCODER, partial(embeddings, model), "encoder.npz")]}
    for seed in range(seeds):
        untrained = partial(embeddings, random_model(model, seed))
        features = compute(f"{UNTRAINED}, seed {seed}", untrained, f"untrained-{seed}.npz")
        rows.setdefault(UNTRAINED, []).append(features)
    if seeds:
        statistics = partial(log_mel_statistics, model.log_mel)
        rows[STATISTICS] = [compute(STATISTICS, statistics, "log-mel-statistics.npz")]
    return rows


def log_mel_statistics(
    log_mel: LogMel,
    clips: Sequence[Clip],
    *,
    cache: Path,
    accelerator: Accelerator | None = None,
    progress: Progress | None = None,
) -> Features:
    """Return mean, standard deviation, maximum and delta standard deviation over time of every mel bin, (n, 4F)."""

    def compute(share: Sequence[Clip]) -> Vectors:
        vectors, bad = [np.empty((0, 4 * log_mel.n_mels), np.float32)], []
        for done, clip in enumerate(share, start=1):
            try:
                wave = load_clip(clip, sample_rate=log_mel.sample_rate)
                with torch.inference_mode():
                    vectors.append(time_statistics(log_mel(torch.from_numpy(wave)[None])[0]).numpy())
            except AudioError as error:
                bad.append((clip.name, error.reason))
            if progress is not None:
                progress(done, len(share))
        return np.concatenate(vectors), bad

    names = ("sample_rate", "n_fft", "win_length", "hop_length", "n_mels", "f_min", "f_max", "mean", "std")
    front_end = json.dumps({name: getattr(log_mel, name) for name in names})
    return compute_once(f"log-mel statistics {front_end}", clips, compute, cache, accelerator)

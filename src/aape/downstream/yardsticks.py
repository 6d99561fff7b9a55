"""What a probed encoder is held against: the same encoder untrained, and statistics of the log-mel (method 9)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from aape.data.clips import Clip
from aape.downstream.features import Features, Progress, embeddings, log_mel_statistics
from aape.inference.model import random_model

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
    ranks: Accelerator | None = None,
    progress_bar: Callable[[str, int], AbstractContextManager[Progress]],
) -> dict[str, list[Features]]:
    """Compute, or read from a folder, the features of every row of a probe's table.

    Args:
        model: the encoder.
        clips: of the set.
        folder: one NPZ file for each matrix.
        seeds: random encoders, one for each seed, and with them the statistics; 0 for the encoder alone.
        ranks: the processes to divide the clips among; None for this one.
        progress_bar: such as `aape.runs.progress.progress_bar`.

    Returns:
        By row, one matrix, or one per seed.
    """
    with progress_bar(ENCODER, len(clips)) as progress:
        found = {ENCODER: [embeddings(model, clips, cache=folder / "encoder.npz", ranks=ranks, progress=progress)]}
    if not seeds:
        return found
    found[UNTRAINED] = []
    for seed in range(seeds):
        untrained, cache = random_model(model, seed), folder / f"untrained-{seed}.npz"
        with progress_bar(f"{UNTRAINED}, seed {seed}", len(clips)) as progress:
            found[UNTRAINED].append(embeddings(untrained, clips, cache=cache, ranks=ranks, progress=progress))
    cache = folder / "log-mel-statistics.npz"
    with progress_bar(STATISTICS, len(clips)) as progress:
        found[STATISTICS] = [log_mel_statistics(model.log_mel, clips, cache=cache, ranks=ranks, progress=progress)]
    return found

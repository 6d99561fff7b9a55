"""`aape stats`: the mean and standard deviation that a corpus is standardised with, as a file for pre-training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aape.commands.options import Device
from aape.errors import require_at_most
from aape.models.config import FrontEndConfig


@dataclass(frozen=True)
class StatsConfig:
    """`aape stats`: mean and standard deviation of the log-mel values of a corpus.

    Args:
        data: folder, CSV or tar shards.
        out: JSON file to write, for `aape pretrain --stats`.
        max_bad_fraction: stop when more than this share of the files cannot be read.
        device: where to compute the spectrograms.
    """

    data: str
    out: str
    max_bad_fraction: float = 0.01
    device: Device = "auto"

    def __post_init__(self) -> None:
        require_at_most(self, max_bad_fraction=1)


def stats(config: StatsConfig) -> None:
    """Measure a corpus and write its statistics, as `aape.models.stats.measure_stats`.

    Raises:
        ConfigError: the output cannot be written, or there is no such device.
        DataError: there is no audio, or more than `max_bad_fraction` of it is bad.
    """
    from aape.models.stats import measure_stats
    from aape.runs.files import folder_for, require_ending

    out, front_end = Path(config.out), FrontEndConfig()
    require_ending(out, ".json")
    with folder_for(out):
        result = measure_stats(
            out, config.data, front_end, max_bad_fraction=config.max_bad_fraction, device=config.device
        )
    hours = result.num_frames * front_end.hop_length / front_end.sample_rate / 3600
    print(f"mean {result.mean:.4f}, std {result.std:.4f} over {result.num_clips} clips ({hours:.2f} h) -> {out}")

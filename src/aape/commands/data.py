"""`aape data pack` and `aape data check`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aape.errors import ConfigError, require_positive

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Hz, all that the format has
FLAC_RATES = range(1000, 655351)  # Hz, as far as the format goes and as little as is read


@dataclass(frozen=True)
class DataPackConfig:
    """`aape data pack`: a corpus as tar shards, resampled once, with an index.

    Args:
        data: folder, CSV or tar shards.
        out: folder of the shards and of clips.csv, their index.
        format: flac keeps every sample, opus takes a fifth of the room.
        sample_rate: of the packed clips, in Hz.
        clips_per_shard: clips in each shard.
        label: column of the labels, carried over.
        split: column of the splits, carried over.
        fold: column of the folds, carried over.
        workers: processes that pack; 0 for this one.
        max_bad_fraction: stop when more than this share of the files cannot be read.
    """

    data: str
    out: str
    format: Literal["flac", "opus"] = "flac"
    sample_rate: int = 16000
    clips_per_shard: int = 1000
    label: str | None = None
    split: str | None = None
    fold: str | None = None
    workers: int = 2
    max_bad_fraction: float = 0.01

    def __post_init__(self) -> None:
        require_positive(self, "sample_rate", "clips_per_shard")
        if self.format == "opus" and self.sample_rate not in OPUS_RATES:
            raise ConfigError(f"sample_rate of opus must be one of {', '.join(map(str, OPUS_RATES))}")
        if self.format == "flac" and self.sample_rate not in FLAC_RATES:
            raise ConfigError(f"sample_rate of flac must be within {FLAC_RATES[0]} and {FLAC_RATES[-1]}")


@dataclass(frozen=True)
class DataCheckConfig:
    """`aape data check`: lengths, rates, formats, classes and bad files of a corpus.

    Args:
        data: folder, CSV or tar shards.
        out: JSON file to write as well.
        label: column of the labels.
        split: column of the splits.
        fold: column of the folds.
        workers: processes that decode; 0 for this one.
    """

    data: str
    out: str | None = None
    label: str | None = None
    split: str | None = None
    fold: str | None = None
    workers: int = 2


def pack(config: DataPackConfig) -> None:
    """Run the verb."""
    from aape.commands.data_run import pack as run

    run(config)


def check(config: DataCheckConfig) -> None:
    """Run the verb."""
    from aape.commands.data_run import check as run

    run(config)

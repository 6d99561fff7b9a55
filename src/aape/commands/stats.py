"""`aape stats`."""

from __future__ import annotations

from dataclasses import dataclass

from aape.commands.options import Device


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


def stats(config: StatsConfig) -> None:
    """Run the verb."""
    from aape.commands.stats_run import stats as run

    run(config)

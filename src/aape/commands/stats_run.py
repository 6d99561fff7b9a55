"""`aape stats`: the mean and standard deviation that a corpus is standardised with, as a file for pre-training."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aape.commands.stats import StatsConfig
from aape.errors import CheckpointError, ConfigError, DataError, one_line
from aape.models.config import FrontEndConfig

if TYPE_CHECKING:
    from aape.data.log_mel import Statistics

MAX_BAD_SHOWN = 20


def stats(config: StatsConfig) -> None:
    """Measure a corpus and write its statistics.

    The file holds `mean` and `std` (nats), `num_clips`, `num_frames`, `bad` (name and reason of each clip that could
    not be read) and the `front_end` that the values belong to.

    Raises:
        ConfigError: the output cannot be written, or there is no such device.
        DataError: there is no audio, or more than `max_bad_fraction` of it is bad.
    """
    out = Path(config.out)
    if out.is_dir():
        raise ConfigError(f"{out} is a folder: name the JSON file to write, such as {out / 'stats.json'}")
    out.parent.mkdir(parents=True, exist_ok=True)
    front_end = FrontEndConfig()
    measured = measure(config.data, front_end, max_bad_fraction=config.max_bad_fraction, device=config.device)
    result = {
        **dataclasses.asdict(measured),
        "bad": [{"name": name, "reason": reason} for name, reason in measured.bad],
        "front_end": _settings(front_end),
    }
    partial = out.with_name(out.name + ".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, out)
    hours = measured.num_frames * front_end.hop_length / front_end.sample_rate / 3600
    print(f"mean {measured.mean:.4f}, std {measured.std:.4f} over {measured.num_clips} clips ({hours:.2f} h) -> {out}")


def measure(data: str, front_end: FrontEndConfig, *, max_bad_fraction: float, device: str = "cpu") -> Statistics:
    """Measure the log-mel statistics of a corpus, with progress, listing what cannot be read on standard error.

    Args:
        data: folder, CSV or tar shard.
        front_end: its `mean` and `std` play no part.
        max_bad_fraction: the largest share of clips that may be bad.
        device: where to compute the spectrograms.

    Raises:
        ConfigError: there is no such device.
        DataError: there is no audio, or more of it is bad than that.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from aape.data.clips import read_manifest
    from aape.data.log_mel import measure_statistics
    from aape.runs.devices import resolve_device

    place = resolve_device(device)
    clips = read_manifest(data)
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("measuring", total=len(clips))
        measured = measure_statistics(
            clips, progress=lambda done, _: bar.update(task, completed=done), device=place, **_settings(front_end)
        )
    for name, reason in measured.bad[:MAX_BAD_SHOWN]:
        print(f"left out: {one_line(name)}: {reason}", file=sys.stderr)
    if len(measured.bad) > MAX_BAD_SHOWN:
        print(f"left out: and {len(measured.bad) - MAX_BAD_SHOWN} more", file=sys.stderr)
    if len(measured.bad) > max_bad_fraction * len(clips):
        raise DataError(
            f"{data}: {len(measured.bad)} of {len(clips)} clips cannot be read, "
            f"more than max_bad_fraction = {max_bad_fraction:g} allows"
        )
    return measured


def read_stats(path: str | Path) -> FrontEndConfig:
    """Read a file of `aape stats` as the front end that it describes, `mean` and `std` included.

    Raises:
        ConfigError: the file is missing, or is not one of those.
    """
    from aape.models.sections import read_front_end

    try:
        if Path(path).exists() and not Path(path).is_file():  # a named pipe would never end
            raise ConfigError(f"cannot read the statistics {path}: not a file")
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        given = {**content["front_end"], "mean": content["mean"], "std": content["std"]}
    except OSError as error:
        raise ConfigError(f"cannot read the statistics {path}: {error.strerror}") from error
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is not a file of `aape stats`") from error
    try:
        return read_front_end(given, str(path))
    except CheckpointError as error:
        raise ConfigError(str(error)) from error


def _settings(front_end: FrontEndConfig) -> dict[str, Any]:
    """Return a front end without the statistics, as `LogMel` takes it."""
    return {name: value for name, value in dataclasses.asdict(front_end).items() if name not in ("mean", "std")}

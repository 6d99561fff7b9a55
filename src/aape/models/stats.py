"""The mean and standard deviation that log-mels are standardised with: measured over a corpus, kept as a JSON file."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from aape.data.log_mel import Statistics, measure_statistics
from aape.data.manifest import read_manifest
from aape.errors import CheckpointError, ConfigError
from aape.models.config import EncoderConfig, FrontEndConfig
from aape.models.config_file import read_front_end, read_sections
from aape.runs.devices import resolve_device
from aape.runs.files import write_atomically, write_json
from aape.runs.guards import BadFiles
from aape.runs.progress import progress_bar


def measure_stats(
    out: Path, data: str, front_end: FrontEndConfig, *, max_bad_fraction: float, device: str = "cpu"
) -> Statistics:
    """Measure the log-mel statistics of a corpus (folder, CSV or tar shards), with progress, and write them as JSON.

    The file holds `mean` and `std` (nats), `num_clips`, `num_frames`, `bad` (file and reason of each clip that could
    not be read) and the `front_end` that the values belong to, whose own `mean` and `std` play no part.

    Raises:
        ConfigError: there is no such device.
        DataError: there is no audio, or more than `max_bad_fraction` of it is bad.
    """
    on = resolve_device(device)
    clips = read_manifest(data)
    settings = {name: value for name, value in dataclasses.asdict(front_end).items() if name not in ("mean", "std")}
    with progress_bar("measuring", len(clips)) as progress:
        measured = measure_statistics(clips, progress=progress, device=on, **settings)
    bad = BadFiles(len(clips), max_bad_fraction)
    try:
        bad.add(measured.bad)
    finally:
        bad.print_new()
    write_json(out, {**dataclasses.asdict(measured), "bad": bad.as_dicts(), "front_end": settings})
    return measured


def claim_stats(
    out: Path, given: str | None, data: str, front_end: FrontEndConfig, *, is_main: bool, is_new: bool,
    max_bad_fraction: float,
) -> FrontEndConfig:  # fmt: skip
    """Return the front end that a run standardises with, and keep its statistics in the run folder.

    They are those of the run if it is not new, else the file that is `given`, whose front end is `front_end`, or else
    measured now.

    Raises:
        ConfigError: the run was begun with others than the given ones; and as `measure_stats`, DataError too.
    """
    path = out / "stats.json"
    if given is None:
        if is_new or not path.exists():
            measure_stats(path, data, front_end, max_bad_fraction=max_bad_fraction)
        return front_end_from_stats(path)
    if not is_new and path.exists() and front_end_from_stats(path) != front_end:
        raise ConfigError(f"cannot resume {out}: it was begun with other statistics than {given}: leave --stats out")
    if is_main:
        write_atomically(path, Path(given).read_bytes())
    return front_end


def front_end_from_stats(path: str | os.PathLike[str]) -> FrontEndConfig:
    """Read the front end that a file of `measure_stats` belongs to, `mean` and `std` included.

    Raises:
        ConfigError: the file is missing, or is not one of those.
    """
    file = Path(path)
    try:
        if file.exists() and not file.is_file():  # a named pipe would never end
            raise ConfigError(f"cannot read the statistics {path}: not a file")
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return read_front_end({**content["front_end"], "mean": content["mean"], "std": content["std"]}, str(path))
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"cannot read the statistics {path}: {error.strerror}") from error
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is not a file of `aape stats`") from error


def front_end_for(encoder: EncoderConfig, stats: str | os.PathLike[str] | None) -> FrontEndConfig:
    """Return an encoder's front end: that of a file of `measure_stats`, or for None one without mean and deviation.

    Raises:
        ConfigError: as `front_end_from_stats`, or it has other mel bands than the encoder.
    """
    plain = FrontEndConfig(n_mels=encoder.n_mels)
    read_sections({"encoder": vars(encoder), "front_end": vars(plain)}, "options")
    front_end = plain if stats is None else front_end_from_stats(stats)
    if front_end.n_mels != encoder.n_mels:
        bands = f"{front_end.n_mels} mel bands, the encoder has {encoder.n_mels}"
        raise ConfigError(f"{stats} is of {bands}: without --stats they are measured for it")
    return front_end

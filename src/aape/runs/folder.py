"""What every run leaves behind: its configuration, the environment it ran in, and its result, written atomically."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aape import __version__
from aape.errors import ConfigError
from aape.runs.files import plain, write_atomically, write_json

RESULT_NAME = "result.json"


def write_run_header(out: str | os.PathLike[str], config: Any, *, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Write `config.yaml`, a resolved dataclass, and `environment.json`, which is returned, into a run folder."""
    import yaml

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    values = plain(dataclasses.asdict(config))
    write_atomically(folder / "config.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())
    environment = describe_environment(device)
    write_json(folder / "environment.json", environment)
    return environment


def claim(
    out: str | os.PathLike[str], config: Any, *, may_change: Collection[str], resume: bool, names: Collection[str] = ()
) -> None:
    """Refuse to mix two runs in one folder: a folder is empty, or holds a run of the same options to go on with.

    Options are a dataclass; `may_change` may differ, and paths are the same however they are written, if they are not
    `names` of shipped models.

    Raises:
        ConfigError: the folder holds a run and `resume` is off, or one of other options, another verb or version.
    """
    if not (Path(out) / "config.yaml").exists():
        if (Path(out) / RESULT_NAME).exists():
            raise ConfigError(f"{out} holds a result without its options: choose another --out")
        return
    if not resume:
        raise ConfigError(f"{out} already holds a run, begun or done: --resume it, choose another --out, or delete it")
    now, before = plain(dataclasses.asdict(config)), read_config(out)
    if before is None or before.keys() != now.keys():
        raise ConfigError(f"{out} holds a run of another kind, or of another version of aape: choose another --out")
    for key, value in now.items():
        if key not in may_change and before[key] != value and not is_same_location(before[key], value, names):
            raise ConfigError(f"{out} holds a run whose {key} is {before[key]}, not {value}: choose another --out")


def claim_data(out: str | os.PathLike[str], digest: str, what: str, *, is_main: bool, is_new: bool = False) -> None:
    """Keep a digest of a run's data in its folder; a run that is not new continues with no other.

    Raises:
        ConfigError: it was begun with other data than `what`.
    """
    path = Path(out) / "data.sha256"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_new and path.exists() and path.read_bytes() != digest.encode():
        raise ConfigError(
            f"cannot resume {out}: {what} are not those it began with: bring these back, or choose another --out"
        )
    if is_main:
        write_atomically(path, digest.encode())


def read_config(out: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the options of the run in a folder; None where there are none that can be read."""
    import yaml

    class NoAliases(yaml.SafeLoader):
        """No run writes an alias, and a few of them unfold to gigabytes."""

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("an alias")
            return super().compose_node(parent, index)

    try:
        config = yaml.load((Path(out) / "config.yaml").read_text(encoding="utf-8"), Loader=NoAliases)
    except (OSError, RecursionError, ValueError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) else None


def is_same_location(one: Any, other: Any, names: Collection[str] = ()) -> bool:
    """Return whether two values are equal, or paths to one location; one of `names`, a shipped model, is no path."""
    if one == other or not (isinstance(one, str) and isinstance(other, str)) or {one, other} & set(names):
        return bool(one == other)
    return os.path.realpath(one) == os.path.realpath(other)


def write_result(out: str | os.PathLike[str], result: dict[str, Any]) -> Path:
    """Write `result.json` into a run folder, whole or not at all, whenever the process is killed; returns the file."""
    path = Path(out) / RESULT_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    return path


def describe_environment(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return versions, hardware, commit and date: what a number needs beside it to be checked later."""
    device = torch.device(device)
    return {
        "aape": __version__,
        "commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def git_commit() -> str | None:
    """Return the commit of the checkout this package runs from, with "+changes" if edited; None if installed."""
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        # Without optional locks: a signal in the midst of `status` would leave the checkout's index locked
        command = ["git", "--no-optional-locks", "-C", str(package), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", "runs/folder.py") is None:  # a checkout of something else may surround it
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit}+changes" if commit and git("status", "--porcelain", "--", ".") else commit


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()

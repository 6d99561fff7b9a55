"""What every run leaves behind: its configuration, the environment it ran in, and its result, written atomically."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aape import __version__
from aape.errors import ConfigError

RESULT_NAME = "result.json"


def write_run_header(out: str | os.PathLike[str], config: Any, *, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Write `config.yaml`, the resolved configuration, and `environment.json` into a run folder, which is made.

    Args:
        out: the run folder.
        config: any dataclass.
        device: where the run computes.

    Returns:
        The environment, as written.
    """
    import yaml

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    values = plain(dataclasses.asdict(config))
    write_atomically(folder / "config.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())
    environment = describe_environment(device)
    write_json(folder / "environment.json", environment)
    return environment


def is_same_place(one: Any, other: Any) -> bool:
    """Return whether two paths, or names of models, are one, written absolutely or from the current folder."""
    return bool(one == other or (one and other and os.path.realpath(str(one)) == os.path.realpath(str(other))))


def write_result(out: str | os.PathLike[str], result: dict[str, Any]) -> Path:
    """Write `result.json` into a run folder: whole or not at all, whenever the process is killed.

    Returns:
        The file.
    """
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
    """Return the commit of the checkout this package runs from, with "+changes" if the package was edited since.

    None for an installed package, also where a checkout of something else happens to surround it.
    """
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(package), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", "runs/folder.py") is None:
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit}+changes" if commit and git("status", "--porcelain", "--", ".") else commit


def make_folder_for(out: Path) -> None:
    """Make the folder that a result goes to, before the work and not after it.

    Raises:
        ConfigError: it cannot be.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out: {out.parent} is no folder, and none can be made ({error.strerror})") from error


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN and infinities, which JSON does not have, become null."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    # A file's name may be no Unicode; what replaces its lone surrogates is JSON's own escape for them.
    write_atomically(path, f"{text}\n".encode(errors="backslashreplace"))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under another name beside it, flush it to the disk, and only then give it its name."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for their owner only; results get what the user's umask gives every other file.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def plain(value: Any) -> Any:
    """Return a value made of dicts, lists, strings, finite numbers, booleans and None only, for YAML and JSON."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()

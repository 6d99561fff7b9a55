"""Where to compute, and in which precision."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from aape.errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator

TRACKERS = {"tensorboard": "pip install 'aape[train]'", "wandb": "pip install wandb", "trackio": "pip install trackio"}


def resolve_device(name: str) -> torch.device:
    """Return the device for "auto", the fastest, "cpu", "cuda" or "mps"; of several processes, each has its GPU.

    Raises:
        ConfigError: it is not there.
    """
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cuda" if has["cuda"] else "mps" if has["mps"] else "cpu"
    if not has.get(name, False):
        raise ConfigError(f"device {name!r} is not available here; --device auto takes what there is")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device(name, int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return torch.device(name)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Say whether bfloat16 products are in the hardware: recent NVIDIA GPUs, x86 CPUs with AMX or AVX512_BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # an older torch has not both
    return device.type == "cpu" and any(getattr(torch.cpu, check, bool)() for check in checks)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context of forward passes: "bfloat16", "float32", or "auto", bfloat16 where the hardware has it."""
    is_bfloat16 = has_fast_bfloat16(device) if precision == "auto" else precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16)


def require_compiler(device: torch.device) -> None:
    """Refuse torch.compile on a CPU without the compiler that it calls: a ConfigError."""
    name = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if device.type == "cpu" and shutil.which(name) is None:
        raise ConfigError(f"compile: there is no {name} here: install it, or name another C++ compiler in CXX")


def start_ranks(
    device: str, *, out: str | os.PathLike[str] | None = None, trackers: Sequence[str] = (), config: Any = None
) -> Accelerator:
    """Make this process one of those that torchrun or `accelerate launch` started; alone it is rank 0 of 1.

    `trackers`, any of `TRACKERS`, get every log and show `config`, plain options. TensorBoard writes to the run folder
    `out`, the others where they keep their runs.

    Raises:
        ConfigError: there is no such device, or a tracker is not installed.
    """
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"{name} is not installed: {TRACKERS[name]}")
    is_cpu = resolve_device(device).type == "cpu"

    from accelerate import Accelerator

    accelerator = Accelerator(cpu=is_cpu, log_with=list(trackers) or None, project_dir=out)
    if trackers:
        accelerator.init_trackers("aape", config=config)
    return accelerator


def close_ranks(accelerator: Accelerator) -> None:
    """Close trackers, and end the process group in order: gloo's threads abort a process that exits under them."""
    accelerator.wait_for_everyone()
    gc.collect()
    accelerator.end_training()

"""Where to compute, and in which precision."""

from __future__ import annotations

import torch

from aape.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "mps"; "auto" takes the fastest there is.

    Raises:
        ConfigError: the device was asked for by name and is not there.
    """
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cuda" if has["cuda"] else "mps" if has["mps"] else "cpu"
    if not has.get(name, False):
        raise ConfigError(f"device {name!r} is not available here; --device auto takes what there is")
    return torch.device(name)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Say whether bfloat16 products are in the hardware: recent NVIDIA GPUs, x86 CPUs with AMX or AVX512_BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # an older torch has not both
    return device.type == "cpu" and any(getattr(torch.cpu, check, bool)() for check in checks)

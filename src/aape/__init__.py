"""Aliasing-aware patch embedding: self-supervised audio encoders, trained, measured and used.

>>> import aape
>>> model = aape.load_model("tiny")
>>> vector = model.embed("dog.wav")  # (E,): what the model recommends
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aape.errors import AapeError, AudioError, CheckpointError, ConfigError, DataError

__version__ = "0.1.0"

if TYPE_CHECKING:
    from aape import ops
    from aape.data.log_mel import LogMel
    from aape.inference import load_model
    from aape.layers.aape import AaPE
    from aape.layers.patch_embed import PatchEmbed

__all__ = [
    "AaPE",
    "AapeError",
    "AudioError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "LogMel",
    "PatchEmbed",
    "__version__",
    "load_model",
    "ops",
]

# Loaded when first used, so that `aape --help` does not wait for torch.
_MODULES = {
    "AaPE": "aape.layers.aape",
    "LogMel": "aape.data.log_mel",
    "PatchEmbed": "aape.layers.patch_embed",
    "load_model": "aape.inference",
}


def __getattr__(name: str) -> Any:
    if name == "ops":
        return importlib.import_module("aape.ops")
    if name not in _MODULES:
        raise AttributeError(f"module 'aape' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

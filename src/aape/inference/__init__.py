"""From sound to vectors and labels: a saved model used on arrays, files, folders and recordings of any length."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aape.inference.events import Event, events, label_track
from aape.inference.labels import Classification, Prediction

if TYPE_CHECKING:
    from aape.inference.clusters import Embedder
    from aape.inference.loading import load_model, random_model
    from aape.inference.model import AudioModel

__all__ = [
    "AudioModel",
    "Classification",
    "Embedder",
    "Event",
    "Prediction",
    "events",
    "label_track",
    "load_model",
    "random_model",
]

# Loaded when first used: a process that only reads needs no torch.
_MODULES = {"AudioModel": "model", "Embedder": "clusters", "load_model": "loading", "random_model": "loading"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'aape.inference' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"aape.inference.{_MODULES[name]}"), name)
    globals()[name] = value
    return value

"""A model by its name or folder, and its untrained twin."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from aape.inference.model import AudioModel
from aape.models.encoder import AudioEncoder
from aape.models.saved import read_model
from aape.runs.devices import resolve_device


def load_model(
    name_or_path: str | os.PathLike[str],
    device: str = "auto",
    *,
    pool: str | None = None,
    layers: Sequence[int] | None = None,
    loop_to: float | None = None,
    precision: str = "auto",
    compile: bool = False,
) -> AudioModel:
    """Load a model for use. What is None is what the model recommends, saved with it.

    Args:
        name_or_path: a shipped model's name, a saved folder, or a run's folder.
        device: "auto", "cpu", "cuda" or "mps".
        pool: what a vector is: "cls_mean", the paper's, class token and mean patch token (2D); "frequency", the mean
            over time of each frequency patch (Nf D); "frequency_std", the same and its standard deviation (2 Nf D);
            "cls" or "mean" (D).
        layers: blocks, counted from 1, whose outputs are averaged before; none for the last.
        loop_to: length in seconds that shorter sounds are looped to; 0 takes them as they are. `tiny` has 3.
        precision: "float32", "bfloat16", or "auto", bfloat16 on a GPU and float32 elsewhere.
        compile: compile the blocks with torch.compile, which takes some seconds at the first sound.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        ConfigError: there is no such device, pool, block, precision or compiler, or `loop_to` is outside 0 to 600.
    """
    target = resolve_device(device)
    saved = read_model(name_or_path)
    model = AudioModel(
        saved.encoder,
        saved.front_end,
        head=saved.head,
        labels=saved.labels,
        multi_label=saved.multi_label,
        training=saved.training,
        loop_to=saved.loop_to if loop_to is None else loop_to,
        pool=saved.pool if pool is None else pool,
        layers=saved.layers if layers is None else layers,
        precision=precision,
    ).to(target)
    return model.compile() if compile else model


def random_model(model: AudioModel, seed: int) -> AudioModel:
    """Return the same architecture and front end untrained: the yardstick of what training gave."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = AudioEncoder(model.encoder.config)
    encoder.to(model.device, model.encoder.cls_token.dtype)
    options: dict[str, Any] = {name: getattr(model, name) for name in ("loop_to", "pool", "layers", "precision")}
    return AudioModel(encoder, model.front_end, **options)

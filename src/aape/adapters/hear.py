"""The interface of the HEAR benchmark (2021): `hear-validator aape.adapters.hear`, or heareval with `--module`.

https://hearbenchmark.com/hear-api.html. Letters: B clips, L samples, Nt time patches of 160 ms, D width, E of a vector.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from aape.data.audio.arrays import read_array
from aape.inference import AudioModel
from aape.inference import load_model as load_audio_model

__all__ = ["HearModel", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


class HearModel(nn.Module):
    """A model with the attributes that HEAR asks for.

    Inside another model it follows to a device, and is left alone otherwise: it has nothing to train, cast or save.
    """

    like: Tensor  # (0,), on the device and in the type of numbers that this was moved to

    def __init__(self, model: AudioModel) -> None:
        super().__init__()
        self._model = model
        self.register_buffer("like", torch.empty(0, device=model.device), persistent=False)
        self.sample_rate = model.front_end.sample_rate
        self.scene_embedding_size = model.embed_dim
        num_freq = model.front_end.n_mels // model.encoder.patch_size
        self.timestamp_embedding_size = num_freq * model.encoder.embed_dim  # Nf * D

    @property
    def model(self) -> AudioModel:
        """The model, on the device that this was moved to."""
        return self._model.to(self.like.device)

    def forward(self, audio: Tensor) -> Tensor:
        """Return scene embeddings, as `get_scene_embeddings`."""
        return get_scene_embeddings(audio, self)


def load_model(model_file_path: str = "") -> HearModel:
    """Load a model, on the CPU: a shipped model's name, a saved folder or a run's; `tiny` if there is none.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
    """
    return HearModel(load_audio_model(model_file_path or "tiny", "cpu"))


@torch.compiler.disable  # a parent may be compiled
def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """Embed clips: (B, L) samples at `model.sample_rate` -> (B, E) float32, on the device of `audio`.

    Raises:
        AudioError: no clips, or samples that cannot be used.
    """
    return torch.from_numpy(model.model.embed(audio, model.sample_rate)).to(audio.device, torch.float32)


@torch.compiler.disable  # a parent may be compiled
def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Embed every time patch of clips.

    HEAR suggests a step of 50 ms or less; ours is that of the patches, 160 ms, and so is the validator's warning.

    Returns:
        Embeddings (B, Nt, Nf * D) float32; and the centres of the patches (B, Nt) in ms; on the device of `audio`.

    Raises:
        AudioError: no clips, or samples that cannot be used.
    """
    clips = read_array(audio, model.sample_rate, to_rate=model.sample_rate)
    pairs = [model.model.embed_frames(clip, model.sample_rate) for clip in clips]
    embeddings, timestamps = (torch.from_numpy(np.stack(parts)) for parts in zip(*pairs, strict=True))
    return embeddings.to(audio.device, torch.float32), timestamps.to(audio.device)

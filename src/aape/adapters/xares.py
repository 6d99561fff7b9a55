"""The encoder that X-ARES asks for: its runner takes this file, its `check_audio_encoder` an `AaPEEncoder()`.

https://github.com/jimbozhang/xares. Letters: B clips, L samples, Nt time patches of 160 ms, Nf frequency patches.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from aape.data.audio.arrays import NAME
from aape.errors import AudioError
from aape.inference import load_model

__all__ = ["AaPEEncoder"]


class AaPEEncoder(nn.Module):
    """A model with the attributes that X-ARES asks for.

    Args:
        model: a shipped model's name, a saved folder or a run's folder.

    Attributes:
        sampling_rate: of the audio that it takes, in Hz.
        output_dim: the tokens of a time patch, Nf * D.
        hop_size_in_ms: from one time patch to the next.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
    """

    def __init__(self, model: str = "tiny") -> None:
        super().__init__()
        self.model = load_model(model, "cpu")
        self.encoder = self.model.encoder  # so that `to` moves it
        front_end, patch = self.model.front_end, self.encoder.patch_size
        self.sampling_rate = front_end.sample_rate
        self.output_dim = front_end.n_mels // patch * self.encoder.embed_dim
        self.hop_size_in_ms = 1000 * patch * front_end.hop_length // front_end.sample_rate

    def forward(self, audio: Tensor) -> Tensor:
        """Embed every time patch: (B, L) or (L,) samples at `sampling_rate` -> (B, Nt, output_dim), on its device.

        Raises:
            AudioError: no clips, or samples that cannot be used.
        """
        clips = audio if audio.ndim == 2 else audio[None]
        if len(clips) == 0:
            raise AudioError(NAME, f"of shape {tuple(audio.shape)}: no clips in it")
        frames = np.stack([self.model.embed_frames(clip, self.sampling_rate)[0] for clip in clips])
        return torch.from_numpy(frames).to(audio.device, torch.float32)

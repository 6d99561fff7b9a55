"""The encoder that X-ARES asks for: its runner takes this file, its `check_audio_encoder` an `AaPEEncoder()`.

The runner takes the one name in here that ends in "Encoder"; XARES-LLM's is in a file of its own.

https://github.com/jimbozhang/xares. Letters: B clips, L samples, Nt time patches of 160 ms, Nf frequency patches.
"""

from __future__ import annotations

from torch import Tensor

from aape.adapters.hear import HearModel, get_timestamp_embeddings, load_model

__all__ = ["AaPEEncoder"]


class AaPEEncoder(HearModel):
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
        super().__init__(load_model(model).model)
        self.sampling_rate, self.output_dim = self.sample_rate, self.timestamp_embedding_size
        hop = self.model.encoder.patch_size * self.model.front_end.hop_length  # samples
        self.hop_size_in_ms = 1000 * hop // self.sample_rate

    def forward(self, audio: Tensor) -> Tensor:
        """Embed every time patch: (B, L) or (L,) samples at `sampling_rate` -> (B, Nt, output_dim), on its device.

        Raises:
            AudioError: no clips, or samples that cannot be used.
        """
        return get_timestamp_embeddings(audio, self)[0]

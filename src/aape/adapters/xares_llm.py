"""The encoder that XARES-LLM asks for: `python -m xares_llm.run aape.adapters.xares_llm.AaPEEncoder`.

https://github.com/xiaomi-research/xares-llm. Its runner takes the one name in here that ends in "Encoder". Letters: B
clips, L samples, Nt time patches of 160 ms, Nf frequency patches, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aape.adapters.hear import HearModel, load_model
from aape.data.audio.arrays import NAME, read_array
from aape.errors import AudioError

__all__ = ["AaPEEncoder"]


class AaPEEncoder(HearModel):
    """A model with the attributes that XARES-LLM asks for.

    Args:
        model: a shipped model's name, a saved folder or a run's folder.

    Attributes:
        output_dim: the tokens of a time patch, Nf * D.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
    """

    def __init__(self, model: str = "tiny") -> None:
        super().__init__(load_model(model).model)
        self.output_dim = self.timestamp_embedding_size

    @torch.compiler.disable  # a parent may be compiled
    def forward(self, audio: Tensor, audio_attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embed every time patch of clips, each as if it were alone.

        Args:
            audio: (B, L) or (L,) samples at `sample_rate`, padded behind.
            audio_attention_mask: of the same shape, 1 for a sample of the clip and 0 for padding; None: no padding.

        Returns:
            Embeddings (B, Nt, output_dim), zeros behind each clip, in the type of numbers of the model around this; and
            their mask (B, Nt), 1 for a patch of the clip and 0 behind it. Both on the device of `audio`.

        Raises:
            AudioError: no clips, samples that cannot be used, or a mask that is not one of these clips.
        """
        mask = torch.ones_like(audio) if audio_attention_mask is None else audio_attention_mask.to(audio.device)
        if mask.shape != audio.shape:
            raise AudioError(NAME, f"of shape {tuple(audio.shape)}: its mask is of shape {tuple(mask.shape)}")
        rows = read_array(audio.where(mask != 0, 0), self.sample_rate, to_rate=self.sample_rate)
        clips = [row[:length] for row, length in zip(rows, _lengths(torch.atleast_2d(mask)), strict=True)]
        frames = [torch.from_numpy(self.model.embed_frames(clip, self.sample_rate)[0]) for clip in clips]
        kept = [torch.ones(len(part), dtype=torch.long) for part in frames]
        embeddings = pad_sequence(frames, batch_first=True).to(audio.device, self.like.dtype)
        return embeddings, pad_sequence(kept, batch_first=True).to(audio.device)


def _lengths(mask: Tensor) -> list[int]:
    """Return the number of samples of each clip, 1s in its row of the mask (B, L), which 0s follow."""
    lengths = (mask != 0).sum(1).tolist()
    for index, (row, length) in enumerate(zip(mask, lengths, strict=True)):
        if not length:
            raise AudioError(f"{NAME}, clip {index}", "its mask is 0 everywhere: no samples in it")
        if not (row[:length] == 1).all():
            raise AudioError(f"{NAME}, clip {index}", "its mask must be 1s, then 0s: pad behind the clip")
    return lengths

"""XARES-LLM trains a language model on what our encoder says; its contract is restated here, the benchmark not run."""

import importlib
import inspect

import numpy as np
import pytest
import torch
from torch import nn

import aape
from aape.adapters.xares_llm import AaPEEncoder

LENGTHS = [50000, 16000, 1]
GENERATOR = torch.Generator().manual_seed(0)
CLIPS = [0.1 * torch.randn(length, generator=GENERATOR) for length in LENGTHS]


def padded(value=0.0):
    """Pad the clips as its loader does, behind and with zeros; the mask is of integers."""
    audio = nn.utils.rnn.pad_sequence(CLIPS, batch_first=True, padding_value=value)
    return audio, (torch.arange(audio.shape[1]) < torch.tensor(LENGTHS)[:, None]).int()


@pytest.mark.parametrize("module", ["xares", "xares_llm"])
def test_its_runner_finds_one_encoder(module):
    """Both runners take the only name of the file that ends in "Encoder"; with two of them they give up."""
    names = [name for name in dir(importlib.import_module(f"aape.adapters.{module}")) if name.endswith("Encoder")]
    assert names == ["AaPEEncoder"]


def test_its_checker_would_pass():
    """Two arguments, a pair back, embeddings (B, T, output_dim), a mask (B, T)."""
    encoder = AaPEEncoder(model="tiny")
    assert isinstance(encoder, nn.Module)
    assert list(inspect.signature(encoder.forward).parameters) == ["audio", "audio_attention_mask"]
    embeddings, mask = encoder(torch.randn(3, 50000), None)
    assert (embeddings.shape, mask.shape) == ((3, 20, encoder.output_dim), (3, 20))
    assert mask.all()


@pytest.mark.parametrize("value", [0.0, 0.5, float("nan")])
def test_padding_has_no_influence(value):
    """Every clip gets the vectors of `embed_frames`, whatever is behind it and however long its neighbours are."""
    encoder, model = AaPEEncoder(), aape.load_model("tiny", "cpu")
    embeddings, mask = encoder(*padded(value))
    assert mask.dtype == torch.long  # as of the text's mask, behind which it is put
    for clip, vectors, kept in zip(CLIPS, embeddings, mask, strict=True):
        frames, _ = model.embed_frames(clip, 16000)
        count = len(frames)
        assert np.array_equal(vectors[:count], frames)
        assert not vectors[count:].any()
        assert kept.tolist() == [1] * count + [0] * (len(kept) - count)
    alone, _ = encoder(CLIPS[1])
    assert torch.equal(alone[0], embeddings[1, : alone.shape[1]])


class Parent(nn.Module):
    """Puts our vectors before the text, as its model does."""

    def __init__(self, encoder):
        super().__init__()
        self.audio_encoder = encoder
        self.projector = nn.Linear(encoder.output_dim, 8)
        self.text = nn.Embedding(11, 8)

    def forward(self, audio, audio_mask, input_ids, text_mask):
        with torch.no_grad():
            vectors, mask = self.audio_encoder(audio, audio_mask)
        return torch.cat([self.projector(vectors), self.text(input_ids)], 1), torch.cat([mask, text_mask], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_parent_may_be_of_any_precision_and_trains_itself_only(dtype):
    """The encoder computes as ever; cast with its parent, it gave other vectors, or none."""
    parent = Parent(AaPEEncoder()).to(dtype).train()
    inputs = [*padded(), torch.ones(3, 4, dtype=torch.long), torch.ones(3, 4, dtype=torch.long)]
    embeddings, mask = parent(*inputs)
    assert (embeddings.shape, embeddings.dtype) == ((3, 24, 8), dtype)
    assert mask.sum(1).tolist() == [24, 11, 5]
    embeddings.float().sum().backward()
    assert list(parent.state_dict()) == ["projector.weight", "projector.bias", "text.weight"]
    assert all(parameter.grad is not None for parameter in parent.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        vectors, _ = parent.audio_encoder(*padded())
    assert torch.equal(vectors, AaPEEncoder()(*padded())[0].to(dtype))


def test_a_compiled_parent_takes_it():
    """Its runner has an option to compile the whole model."""
    parent = Parent(AaPEEncoder())
    text = torch.ones(1, 4, dtype=torch.long)
    expected, _ = parent(CLIPS[1][None], None, text, text)
    result, _ = torch.compile(parent, backend="eager")(CLIPS[1][None], None, text, text)
    torch.testing.assert_close(result, expected)


def test_transformers_restores_a_parent_with_it(tmp_path):
    """`from_pretrained` builds the parent without memory for its weights, and asks no checkpoint for ours."""
    transformers = pytest.importorskip("transformers")

    class Saved(transformers.PreTrainedModel):
        config_class = transformers.PretrainedConfig

        def __init__(self, config):
            super().__init__(config)
            self.parent = Parent(AaPEEncoder())
            self.post_init()

    saved = Saved(transformers.PretrainedConfig())
    saved.save_pretrained(tmp_path)
    for options in ({}, {"dtype": torch.bfloat16}):
        restored = Saved.from_pretrained(tmp_path, **options).parent
        expected = saved.parent.audio_encoder(*padded())[0]
        vectors, _ = restored.audio_encoder(*padded())
        assert torch.equal(vectors, expected.to(restored.projector.weight.dtype))


AUDIO, MASK = padded()
BAD = {
    "its mask is of shape (3, 5)": (AUDIO, MASK[:, :5]),
    "clip 1: its mask must be 1s, then 0s": (AUDIO, MASK.flip(1)),
    "clip 2: its mask is 0 everywhere": (AUDIO, MASK * torch.tensor([[1], [1], [0]])),
    "clip 1: NaN or infinite samples": (AUDIO * torch.tensor([[1.0], [float("nan")], [1.0]]), MASK),
    "of shape (3, 2, 50000)": (AUDIO[:, None].expand(3, 2, -1), None),
    "it looks like (samples, channels)": (AUDIO[:2].T, None),
    "int16 values": ((AUDIO * 32767).short(), MASK),
    "of shape (0, 16000): no samples": (torch.zeros(0, 16000), None),
    "of shape (3, 0): no samples": (torch.zeros(3, 0), torch.zeros(3, 0)),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_clips_is_one_line(message):
    """Left padding, an empty clip, channels: refused by name before a step is spent on them."""
    with pytest.raises(aape.AudioError) as error:
        AaPEEncoder()(*BAD[message])
    assert message in str(error.value)
    assert "\n" not in str(error.value)

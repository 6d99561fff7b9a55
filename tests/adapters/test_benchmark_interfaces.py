"""HEAR and X-ARES with their own checkers: whoever runs those benchmarks changes a name and nothing else.

xares asks for torchaudio and more, but its checker for loguru only.
"""

import sys

import numpy as np
import pytest
import torch

import aape
from aape.adapters import hear
from aape.adapters.xares import AaPEEncoder


def test_the_hear_validator_passes(hear_validate, monkeypatch, capsys):
    """The HEAR validator says "Looks good!"; its one warning is about our patches, which are 160 ms apart."""
    monkeypatch.setattr(sys, "argv", ["hear-validator", "aape.adapters.hear", "--device", "cpu"])
    with pytest.warns(UserWarning, match="less than or equal to 50ms") as caught:
        hear_validate.main()
    assert len(caught) == 1
    assert capsys.readouterr().out.endswith("Looks good!\n")


def test_the_hear_validator_takes_a_path(hear_validate, monkeypatch, capsys):
    """HEAR gives the path of the weights to `load_model`."""
    assert hear.load_model("tiny").scene_embedding_size == 3072
    with pytest.raises(aape.CheckpointError):
        hear_validate.ValidateModel("aape.adapters.hear", "nowhere", "cpu")()


def test_hear_gives_the_vectors_of_embed():
    """A benchmark of other vectors than the package's own would be about something else."""
    clips = 0.1 * torch.randn(2, 20000, generator=torch.Generator().manual_seed(0))
    ours, theirs = aape.load_model("tiny", "cpu"), hear.load_model()
    assert np.array_equal(hear.get_scene_embeddings(clips, theirs), ours.embed(clips.numpy(), 16000))
    assert np.array_equal(theirs(clips), ours.embed(clips.numpy(), 16000))
    embeddings, timestamps = hear.get_timestamp_embeddings(clips, theirs)
    frames, milliseconds = ours.embed_frames(clips[1].numpy(), 16000)
    assert np.array_equal(embeddings[1], frames)
    assert np.array_equal(timestamps[1], milliseconds)


def test_a_batch_of_nothing_is_refused():
    """A data set that was filtered to nothing must not end in numpy's words."""
    for embed in (lambda x: hear.get_timestamp_embeddings(x, hear.load_model()), AaPEEncoder()):
        with pytest.raises(aape.AudioError, match=r"of shape \(0, 16000\): no samples in it"):
            embed(torch.zeros(0, 16000))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_cast_changes_no_vector(dtype):
    """Runners cast whatever they hold to half precision: bfloat16 ended in numpy's words, float16 in other vectors."""
    clips = 0.1 * torch.randn(2, 20000, generator=torch.Generator().manual_seed(0))
    for embed in (hear.load_model(), AaPEEncoder()):
        assert torch.equal(embed.to(dtype)(clips.to(torch.float64)), embed.float()(clips))


def test_a_compiled_model_gives_the_same_vectors():
    """A runner may compile what it loads."""
    clips = 0.1 * torch.randn(2, 20000, generator=torch.Generator().manual_seed(0))
    for embed in (hear.load_model(), AaPEEncoder()):
        assert torch.equal(torch.compile(embed, backend="eager")(clips), embed(clips))


def test_an_array_without_its_orientation_is_refused():
    """Sixteen thousand clips of two samples each took minutes, and meant nothing."""
    for embed in (lambda x: hear.get_timestamp_embeddings(x, hear.load_model()), AaPEEncoder()):
        with pytest.raises(aape.AudioError, match=r"it looks like \(samples, channels\)"):
            embed(torch.zeros(16000, 2))


def test_the_xares_checker_passes():
    """`check_audio_encoder` returns True; its reasons go to loguru."""
    checker = pytest.importorskip("xares.audio_encoder_checker")
    assert checker.check_audio_encoder(AaPEEncoder())


def test_xares_gets_frames_at_the_step_that_is_announced():
    """X-ARES aligns labels with frames by `hop_size_in_ms`."""
    encoder = AaPEEncoder("tiny")
    assert (encoder.sampling_rate, encoder.hop_size_in_ms, encoder.output_dim) == (16000, 160, 8 * 192)
    assert encoder(torch.zeros(3, 2 * 16000)).shape == (3, 13, 1536)
    assert encoder(torch.zeros(16000)).shape == (1, 7, 1536)
    with pytest.raises(aape.CheckpointError):
        AaPEEncoder("nowhere")

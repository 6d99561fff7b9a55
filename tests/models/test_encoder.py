"""The encoder and the predictors: the paper's counts, any length, no neighbours."""

import pytest
import torch

from aape.errors import ConfigError
from aape.models.config import EncoderConfig, PredictorConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.models.pooling import pool
from aape.models.predictor import ConvPredictor, CrossAttentionPredictor, build_predictor


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_are_the_papers():
    """86.9 M, 10.63 M and 2.59 M: what makes the model comparable."""
    with torch.device("meta"):
        blocks = count(AudioEncoder(EncoderConfig(stem="patch")))
    assert blocks - 430_848 + 1_855_776 == 86_912_544
    assert count(CrossAttentionPredictor(768, (8, 38))) == 10_634_496
    assert count(ConvPredictor(768, (8, 38))) == 2_585_856


@pytest.mark.parametrize("frames", [1, 40, 304, 650])
def test_any_length_and_no_neighbours(frames):
    """A clip's vector would depend on the clips in its batch."""
    encoder = AudioEncoder(encoder_config("nano", num_frames=304)).double().eval()
    x = torch.randn(3, 1, 128, frames, dtype=torch.float64)
    with torch.inference_mode():
        vectors = pool(encoder(x), "cls_mean", 8)
        assert vectors.shape == (3, 128)
        torch.testing.assert_close(vectors[1:2], pool(encoder(x[1:2]), "cls_mean", 8), rtol=1e-10, atol=1e-10)


def test_targets_are_block_outputs_or_their_feed_forward_part():
    """The teacher's targets are what the configuration says."""
    encoder = AudioEncoder(encoder_config("nano")).eval()
    x = torch.randn(1, 1, 128, 32)
    state, blocks, updates = encoder.stem(x), [], []
    for block in encoder.blocks:
        attended = block.attend(state)
        updates.append(block.feed_forward(attended))
        state = block(state)
        blocks.append(state)
    for expected, target in ((blocks, "block"), (updates, "ffn")):
        for left, right in zip(expected, encoder.forward_targets(x, target), strict=True):
            torch.testing.assert_close(left, right)


@pytest.mark.parametrize("kind", ["cross_attention", "cnn"])
def test_predictors_share_a_call_and_read_the_visible_tokens(kind):
    """Either predictor fits, and neither ignores what the student saw."""
    predictor = build_predictor(PredictorConfig(kind=kind), 64, (8, 4))
    tokens, visible = torch.randn(2, 3, 64), torch.tensor([[0, 5, 9], [1, 2, 30]])
    queries = torch.tensor([[1, 6], [0, 31]])
    torch.manual_seed(0)
    before = predictor(tokens, visible, queries)
    torch.manual_seed(0)
    after = predictor(tokens + 1 * torch.randn_like(tokens), visible, queries)
    assert before.shape == (2, 2, 64)
    assert (before - after).abs().max() > 1e-4


def test_queries_do_not_see_each_other():
    """A prediction does not depend on what else is asked."""
    predictor = CrossAttentionPredictor(64, (8, 4))
    tokens, visible = torch.randn(1, 3, 64), torch.tensor([[0, 5, 9]])
    both, one = predictor(tokens, visible, torch.tensor([[1, 6]])), predictor(tokens, visible, torch.tensor([[6]]))
    torch.testing.assert_close(both[:, 1:], one)


def test_unknown_sizes_and_fields_are_named():
    """A typo is answered with the nearest valid key."""
    with pytest.raises(ConfigError, match="huge"):
        encoder_config("huge")
    with pytest.raises(ConfigError, match="kernel_size"):
        encoder_config("tiny", kernel_sise=31)

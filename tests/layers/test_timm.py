"""The stem drops into timm's own VisionTransformer."""

import pytest
import torch

import aape


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stem", [aape.AaPE, aape.PatchEmbed])
def test_timm_builds_runs_and_trains_with_either_stem(timm, stem):
    """A timm user changes one argument."""
    model = timm.models.VisionTransformer(
        img_size=(128, 96), patch_size=16, in_chans=1, num_classes=5, embed_dim=64, depth=2, num_heads=2,
        pos_embed="none", embed_layer=stem,
    )  # fmt: skip
    logits = model(torch.randn(2, 1, 128, 96))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert model.patch_embed.proj.weight.grad.abs().sum() > 0
    for features in model.forward_intermediates(torch.randn(2, 1, 128, 100), intermediates_only=True):
        assert features.shape == (2, 64, 8, 7)  # any length, and maps of its own
    if stem is aape.AaPE:  # timm initialises every Linear; the bank still starts spread over its band
        assert model.patch_embed.lambda_encoder.head.weight.std() < 0.005
        assert model.patch_embed.lambda_encoder.head.bias[16:].diff().min() > 0

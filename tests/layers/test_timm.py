"""The stem drops into timm's own VisionTransformer.

timm imports torchvision, which this project does not install (its CPU build is not on every index), so a stub stands in
for the few names that timm asks for at import.
"""

import enum
import importlib.machinery
import sys
import types

import pytest
import torch

import aape


class _Any:
    """What every other name stands for: called only if timm loads images."""


class _Stub(types.ModuleType):
    """A module in which every attribute exists."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return enum.Enum(name, "NEAREST BILINEAR BICUBIC BOX HAMMING LANCZOS") if name == "InterpolationMode" else _Any


@pytest.fixture
def vision_transformer(monkeypatch):
    """timm's VisionTransformer, imported with the stub."""
    names = ["", ".ops", ".ops.misc", ".transforms", ".transforms.functional", ".datasets", ".datasets.folder",
             ".models", ".models.feature_extraction", ".utils"]  # fmt: skip
    for name in names:
        stub = _Stub("torchvision" + name)
        stub.__spec__ = importlib.machinery.ModuleSpec(stub.__name__, None)
        stub.__path__ = []
        stub.__version__ = "0.0"
        monkeypatch.setitem(sys.modules, stub.__name__, stub)
        parent, _, child = stub.__name__.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, stub)
    return pytest.importorskip("timm.models.vision_transformer").VisionTransformer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stem", [aape.AaPE, aape.PatchEmbed])
def test_timm_builds_runs_and_trains_with_either_stem(vision_transformer, stem):
    """A timm user changes one argument."""
    model = vision_transformer(
        img_size=(128, 96), patch_size=16, in_chans=1, num_classes=5, embed_dim=64, depth=2, num_heads=2,
        pos_embed="none", embed_layer=stem,
    )  # fmt: skip
    logits = model(torch.randn(2, 1, 128, 96))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert model.patch_embed.proj.weight.grad.abs().sum() > 0
    if stem is aape.AaPE:  # timm initialises every Linear; the bank still starts spread over its band
        assert model.patch_embed.lambda_encoder.head.weight.std() < 0.005
        assert model.patch_embed.lambda_encoder.head.bias[16:].diff().min() > 0

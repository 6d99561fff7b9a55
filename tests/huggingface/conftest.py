"""A saved encoder, a saved classifier and a small pre-training, in the way that transformers has them."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoFeatureExtractor, AutoModel

from aape.huggingface import AaPEConfig, AaPEFeatureExtractor, AaPEForPreTraining, AaPEModel
from aape.models.config import encoder_config
from aape.models.heads import ClassificationHead
from notes import save_nano

READS_PROBLEMS = Version(transformers.__version__) >= Version("5.23")


@pytest.fixture(scope="session")
def waves():
    """Two clips of 20,000 samples."""
    return (0.1 * np.random.default_rng(0).standard_normal((2, 20_000))).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """A saved encoder without a head, in the half precision that models are shipped in."""
    return save_nano(tmp_path / "model", training={"steps": 3}, dtype=torch.float16)


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(1)
    head = ClassificationHead(64, 3, "frequency_std", 8)
    return save_nano(tmp_path / "classifier", head=head, labels=["bell", "drum", "flute"])


@pytest.fixture
def pooled(waves):
    """Embed as a user of transformers does."""

    @torch.no_grad()
    def embed(folder):
        extractor = AutoFeatureExtractor.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder)
        assert isinstance(extractor, AaPEFeatureExtractor)
        assert isinstance(model, AaPEModel)
        assert not model.training
        assert model.dtype == torch.float32
        outputs = model(**extractor(waves, sampling_rate=16000, return_tensors="pt"))
        assert outputs.last_hidden_state.shape == (2, 1 + 8 * 8, 64)
        assert torch.equal(outputs.last_hidden_state[:, 0], outputs.pooler_output[:, :64])
        return outputs.pooler_output.numpy()

    return embed


@pytest.fixture
def build_pretraining():
    """Build a small pre-training; sections are those of `training` in its configuration."""

    def build(**training):
        sections = {"masking": {"num_views": 2}, "predictor": {"depth": 1}, **training}
        config = AaPEConfig(encoder=dataclasses.asdict(encoder_config("nano", num_frames=128)), training=sections)
        torch.manual_seed(0)
        return AaPEForPreTraining(config)

    return build


@pytest.fixture
def reading():
    """Return how to have a pipeline read the scores of a problem: before 5.23 it always takes a softmax."""
    functions = {"multi_label_classification": "sigmoid", "regression": "none"} if not READS_PROBLEMS else {}
    return lambda problem: {"function_to_apply": functions[problem]} if problem in functions else {}

"""The Hugging Face surface: one folder, two libraries, the same numbers."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from aape.config import EncoderConfig, FrontEndConfig, encoder_config
from aape.errors import AudioError, CheckpointError
from aape.huggingface import AaPEConfig, AaPEFeatureExtractor, AaPEForAudioClassification, AaPEModel
from aape.inference import load_model
from aape.models.encoder import AudioEncoder
from aape.models.heads import ClassificationHead
from aape.models.saved import read_model, save_model

FRONT_END = FrontEndConfig(mean=-6.0, std=4.0)
LABELS = ["bell", "drum", "flute"]
WAVES = (0.1 * np.random.default_rng(0).standard_normal((2, 20_000))).astype(np.float32)


def nano():
    torch.manual_seed(0)
    return AudioEncoder(encoder_config("nano"))


@pytest.fixture
def folder(tmp_path):
    """A saved encoder without a head, in the half precision that models are shipped in."""
    save_model(tmp_path / "model", nano(), FRONT_END, training={"steps": 3}, dtype=torch.float16)
    return tmp_path / "model"


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(1)
    head = ClassificationHead(64, 3)
    save_model(tmp_path / "classifier", nano(), FRONT_END, head=head, labels=LABELS)
    return tmp_path / "classifier"


@torch.no_grad()
def pooled(folder):
    """Embed as a user of transformers does."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    assert isinstance(extractor, AaPEFeatureExtractor)
    assert isinstance(model, AaPEModel)
    assert not model.training
    assert model.dtype == torch.float32
    outputs = model(**extractor(WAVES, sampling_rate=16000, return_tensors="pt"))
    assert outputs.last_hidden_state.shape == (2, 1 + 8 * 8, 64)
    assert torch.equal(outputs.last_hidden_state[:, 0], outputs.pooler_output[:, :64])
    return outputs.pooler_output.numpy()


def test_transformers_gives_the_same_vectors(folder, classifier):
    """Two doors to one model that disagree would be two models."""
    for place in (folder, classifier):
        np.testing.assert_allclose(pooled(place), load_model(place, "cpu").embed(WAVES, 16000), atol=1e-6)


def test_what_transformers_saves_loads_here(folder, classifier, tmp_path):
    """Models fine-tuned with the Trainer must come back to `aape embed`, statistics and labels included."""
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "one")
    again = load_model(tmp_path / "one", "cpu")
    assert again.fingerprint() == load_model(folder, "cpu").fingerprint()
    assert again.training == {"steps": 3}
    AutoModelForAudioClassification.from_pretrained(classifier).save_pretrained(tmp_path / "two")
    before, after = read_model(classifier), read_model(tmp_path / "two")
    assert after.labels == LABELS
    assert after.front_end == FRONT_END
    assert before.head is not None
    assert after.head is not None
    for name, tensor in before.head.state_dict().items():
        assert torch.equal(after.head.state_dict()[name], tensor)


def test_a_default_configuration_is_written_in_full(tmp_path):
    """transformers leaves out what equals its class's defaults; those may change, a saved model may not."""
    AaPEConfig().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["encoder"]["embed_dim"] == 768
    assert values["front_end"]["n_mels"] == 128
    assert AutoConfig.from_pretrained(tmp_path).encoder == AaPEConfig().encoder


def test_classifier(classifier):
    """Logits are the head's, names are the labels, and both losses are those of the field."""
    saved = read_model(classifier)
    model = AutoModelForAudioClassification.from_pretrained(classifier)
    assert isinstance(model, AaPEForAudioClassification)
    assert model.config.id2label == dict(enumerate(LABELS))
    spectrogram = torch.randn(2, 1, 128, 48)
    classes, several = torch.tensor([2, 0]), torch.tensor([[1, 0, 1], [0, 0, 0]])
    with torch.no_grad():
        assert saved.head is not None
        logits = saved.head(saved.encoder(spectrogram))
        outputs = model(spectrogram, labels=classes)
        torch.testing.assert_close(outputs.logits, logits)
        torch.testing.assert_close(outputs.loss, -logits.log_softmax(-1)[[0, 1], classes].mean())
        signs = 1.0 - 2.0 * several
        expected = torch.nn.functional.softplus(signs * logits).mean()
        torch.testing.assert_close(model(spectrogram, labels=several).loss, expected)
    assert model(spectrogram).loss is None


def test_a_new_head_starts_small_on_the_trained_encoder(folder):
    """Fine-tuning starts here: memory that nobody initialised would be NaN or 1e30."""
    model = AutoModelForAudioClassification.from_pretrained(folder, num_labels=5)
    assert model.head.linear.weight.shape == (5, 64)
    assert 0.01 < model.head.linear.weight.std() < 0.03
    assert torch.equal(model.head.linear.bias, torch.zeros(5))
    assert torch.equal(model.head.norm.weight, torch.ones(64))
    for name, tensor in read_model(folder).encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor)


def test_an_incomplete_encoder_is_refused(folder):
    """transformers would fill in what is missing at random, and only log it."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    for name in ("encoder.cls_token", "encoder.blocks.1.mlp.0.bias"):
        rest = {key: tensor for key, tensor in tensors.items() if key != name}
        safetensors.torch.save_file(rest, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=f"missing tensor {name}"):
            AutoModel.from_pretrained(folder)


def test_a_fresh_model_keeps_the_start_of_the_package():
    """Trained from scratch through transformers, the filters must start spread over their band, as everywhere else."""
    config = AaPEConfig(encoder={**nano().config.__dict__})
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    for name, tensor in nano().state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor)
    assert EncoderConfig(**model.config.encoder) == nano().config


def test_feature_extractor_takes_its_front_end_from_the_model(folder, tmp_path):
    """Statistics that drift apart from the model's shift every input."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    assert extractor.front_end["mean"] == FRONT_END.mean
    assert (extractor.sampling_rate, extractor.feature_size) == (16000, 128)
    extractor.save_pretrained(tmp_path / "alone")
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "alone").front_end == extractor.front_end
    extractor.front_end["mean"] = 0.0
    extractor.save_pretrained(folder)
    assert AutoFeatureExtractor.from_pretrained(folder).front_end["mean"] == FRONT_END.mean


def test_feature_extractor_inputs():
    """Lists, batches and single clips are alike; what needs padding, another rate or is broken is refused."""
    extractor = AaPEFeatureExtractor(front_end={"mean": -6.0, "std": 4.0})
    batch = extractor(WAVES, return_tensors="np")["input_values"]
    assert batch.shape == (2, 1, 128, 128)
    assert not batch[..., 126:].any()
    np.testing.assert_allclose(extractor(list(WAVES))["input_values"], batch, atol=1e-6)
    np.testing.assert_allclose(extractor(WAVES[0].tolist())["input_values"], batch[:1], atol=1e-5)
    assert len(extractor([WAVES[0], WAVES[1, :19_900]])["input_values"]) == 2  # other samples, as many patches
    with pytest.raises(ValueError, match="cannot share a batch"):
        extractor([WAVES[0], WAVES[1, :9000]])
    with pytest.raises(ValueError, match="resample"):
        extractor(WAVES, sampling_rate=8000)
    with pytest.raises(AudioError, match="NaN"):
        extractor(np.full(900, np.nan))
    with pytest.raises(AudioError, match="a list is made of clips"):
        extractor([WAVES, WAVES])

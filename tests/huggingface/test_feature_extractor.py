"""The feature extractor of transformers: the front end of the model, and no other."""

import logging

import numpy as np
import pytest
from transformers import AutoFeatureExtractor

from aape.errors import AudioError
from aape.huggingface import AaPEFeatureExtractor
from notes import FRONT_END


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


def test_feature_extractor_inputs(waves):
    """Lists, batches and single clips are alike; another rate, and what is broken, is refused."""
    extractor = AaPEFeatureExtractor(front_end={"mean": -6.0, "std": 4.0})
    batch = extractor(waves, return_tensors="np")["input_values"]
    assert batch.shape == (2, 128, 128)
    assert not batch[:, 126:].any()
    np.testing.assert_allclose(extractor(list(waves))["input_values"], batch, atol=1e-6)
    np.testing.assert_allclose(extractor(waves[0].tolist())["input_values"], batch[:1], atol=1e-5)
    padded = extractor([waves[0], waves[1, :9000]])
    assert padded["attention_mask"].sum(1).tolist() == [126, 57]
    np.testing.assert_allclose(padded["input_values"][1, :57], extractor(waves[1, :9000])["input_values"][0, :57])
    assert not padded["input_values"][1, 57:].any()
    with pytest.raises(ValueError, match="resample"):
        extractor(waves, sampling_rate=8000)
    with pytest.raises(AudioError, match="NaN"):
        extractor(np.full(900, np.nan))
    with pytest.raises(AudioError, match="a list is made of clips"):
        extractor([waves, waves])


def test_a_missing_rate_is_a_warning(caplog, monkeypatch, waves):
    """Audio at another rate would be embedded as if it were lower or higher, and nothing would show it."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("aape.huggingface.configuration"), "propagate", True)
    AaPEFeatureExtractor()(waves)
    assert "sampling_rate was not given" in caplog.text

"""Pre-training through transformers: the method of the package, saved whole."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForAudioClassification, AutoModelForPreTraining

from aape.errors import CheckpointError
from aape.huggingface import AaPEFeatureExtractor, AaPEForPreTraining
from aape.inference import load_model
from aape.models.config import PredictorConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.models.saved import read_model
from aape.pretraining.config import LossConfig
from aape.pretraining.teacher_student import TeacherStudent


def test_pretraining_computes_the_method(tmp_path, waves, build_pretraining):
    """With other losses, transformers would train another model than `aape pretrain`."""
    model = build_pretraining(loss={"temperature": 0.2})
    batch = AaPEFeatureExtractor()(waves, return_tensors="pt")
    visible, queries = model.draw_views(2, torch.Generator().manual_seed(3))
    assert visible.shape == (2, 2, 12)
    assert queries.shape == (2, 2, 39)
    outputs = model(**batch, visible=visible, queries=queries)
    torch.manual_seed(0)
    student = AudioEncoder(encoder_config("nano", num_frames=128))
    method = TeacherStudent(student, (8, 8), PredictorConfig(depth=1), LossConfig(temperature=0.2))
    expected = method(batch["input_values"].mT[:, None], visible, queries)
    assert set(outputs) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value)
    outputs.loss.backward()
    assert model.encoder.cls_token.grad is not None
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    with torch.no_grad():
        model.encoder.cls_token += 1
        before = model.teacher.cls_token.clone()
    model.update_teacher(0.75)
    torch.testing.assert_close(model.teacher.cls_token, before + 0.25)
    with pytest.raises(ValueError, match="crop them"):
        model(torch.zeros(1, 129, 128))
    with pytest.raises(ValueError, match="belong together"):
        model(**batch, visible=visible)
    assert model(**batch).loss.isfinite()


def test_pretraining_ignores_padding(waves, build_pretraining):
    """Padding that is predicted teaches silence."""
    model = build_pretraining()
    batch = AaPEFeatureExtractor()([waves[0], waves[1, :9000]], return_tensors="pt")
    visible, queries = model.draw_views(2)
    loss = model(**batch, visible=visible, queries=queries).loss_mask
    batch["input_values"][1, 60:] = 50.0
    torch.testing.assert_close(model(**batch, visible=visible, queries=queries).loss_mask, loss)


def test_pretraining_is_saved_whole_and_read_by_everything(tmp_path, waves, pooled, build_pretraining):
    """A run that goes on with another teacher, or whose encoder cannot be used, is lost."""
    model = build_pretraining()
    with torch.no_grad():
        model.teacher.cls_token += 1
    model.save_pretrained(tmp_path)
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert isinstance(again, AaPEForPreTraining)
    assert set(again.state_dict()) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    torch.testing.assert_close(again.predictor.positions, model.predictor.positions)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    assert again._method.student is again.encoder
    vectors = load_model(tmp_path, "cpu").embed(waves, 16000)
    np.testing.assert_allclose(pooled(tmp_path), vectors, atol=1e-6)
    AutoModelForAudioClassification.from_pretrained(tmp_path, num_labels=3)


@pytest.mark.parametrize("kind", ["cross_attention", "cnn"])
def test_pretraining_starts_from_an_encoder(folder, kind):
    """The teacher starts as the student's copy, and nothing from memory that nobody initialised."""
    model = AutoModelForPreTraining.from_pretrained(folder, training={"predictor": {"kind": kind}})
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(model.teacher.state_dict()[name], tensor)
        assert torch.equal(read_model(folder).encoder.state_dict()[name], tensor)
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
    fresh = model._build_method()
    for part in ("predictor", "projection"):
        for name, tensor in getattr(fresh, part).state_dict().items():
            loaded = getattr(model, part).state_dict()[name]
            spread = tensor.std(correction=0).item()
            assert loaded.std(correction=0).item() == pytest.approx(spread, rel=0.3, abs=1e-6), name
    if kind == "cross_attention":
        torch.testing.assert_close(model.predictor.positions, fresh.predictor.positions)
    with pytest.raises(CheckpointError, match="unknown key 'no_such' in loss: valid keys"):
        AutoModelForPreTraining.from_pretrained(folder, training={"loss": {"no_such": 1}})

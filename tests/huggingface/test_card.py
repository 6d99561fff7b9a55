"""The model card: what a reader needs, and what the Hub and mteb read from it."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModel, AutoModelForAudioClassification

from aape.errors import CheckpointError
from aape.huggingface import AaPEConfig, AaPEForPreTraining, AaPEModel
from aape.models.heads import ClassificationHead
from aape.models.saved import read_model, revision, save_model
from notes import FRONT_END, nano

LABELS = ["bell", "drum", "flute"]


def test_model_card(tmp_path):
    """A model that nobody knows the data, licence, recipe or protocol of cannot be used or compared."""
    score = {"data": "bells", "metric": "accuracy", "value": "51.2 ± 0.3 %", "protocol": "5 folds | 3 seeds"}
    card = {"data": "Four bells.", "license": "cc-by-4.0", "scores": [score]}
    options = {"head": ClassificationHead(64, 3), "labels": LABELS, "multi_label": True, "card": card}
    save_model(tmp_path / "model", nano(), FRONT_END, training={"steps": 3}, **options)
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "saved")
    text = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["pipeline_tag"] == "audio-classification"
    for words in ("Four bells.", '"steps": 3', "bell, drum, flute", "51.2 ± 0.3 %", "5 folds \\| 3 seeds", "several"):
        assert words in text
    assert read_model(tmp_path / "saved").card == card
    (tmp_path / "saved" / "README.md").write_text("mine")
    model.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "README.md").read_text() == "mine"
    AutoModel.from_config(model.config).save_pretrained(tmp_path / "bare")
    AaPEModel(AaPEConfig(encoder=nano().config.__dict__)).save_pretrained(tmp_path / "unknown")
    assert (tmp_path / "unknown" / "README.md").read_text().count("Not stated.") == 4
    model.config.card = {"licence": "mit"}
    with pytest.raises(CheckpointError, match="card: unknown key 'licence': did you mean 'license'"):
        model.save_pretrained(tmp_path / "misspelt")
    assert not (tmp_path / "misspelt").exists()


def test_the_hub_reads_the_card(tmp_path):
    """Scores that the Hub cannot read are on no leaderboard, and metadata that it refuses stop an upload."""
    scores = [
        {"data": "Bells, 5 folds", "metric": "accuracy", "value": 0.81, "protocol": "linear: last step"},
        {"data": "Bells, 5 folds", "metric": "macro F1", "value": "0.8 ± 0.1", "protocol": 'linear, "best" step\n---'},
        {"data": "鐘", "metric": "mAP", "value": np.float64(0.5), "protocol": "k = 5"},
    ]
    card = {
        "data": "Four bells.",
        "license": "cc-by-4.0",
        "datasets": ["me/bells"],
        "date": "2026-11-28",
        "scores": scores,
    }
    model = AaPEModel(AaPEConfig(encoder=nano().config.__dict__, pool="mean"))
    model.config.card = card
    model.save_pretrained(tmp_path / "bells")
    read = ModelCard.load(tmp_path / "bells" / "README.md")
    assert (read.data.library_name, read.data.pipeline_tag) == ("aape", "feature-extraction")
    assert (read.data.license, read.data.datasets, read.data.model_name) == ("cc-by-4.0", ["me/bells"], "bells")
    assert [(result.dataset_name, result.metric_name, result.metric_value, result.metric_args["protocol"])
            for result in read.data.eval_results] == [tuple(score.values()) for score in scores]  # fmt: skip
    assert [result.dataset_type for result in read.data.eval_results] == ["bells-5-folds", "bells-5-folds", "鐘"]
    count = model.num_parameters()
    size = (f"of {count / 1e6:.1f} M parameters", f"{4 * count / 2**20:.0f} MB of memory", "A vector has 64 numbers")
    assert '| linear, "best" step --- |' in read.text
    for words in (*size, f"Revision: `{revision(tmp_path / 'bells')}`", "Public data sets among it: me/bells."):
        assert words in read.text


def test_the_card_states_the_revision_of_its_folder(tmp_path):
    """After more training the old card would name weights that are gone; the owner's own words must stay."""
    model = AaPEModel(AaPEConfig(encoder=nano().config.__dict__))
    model.save_pretrained(tmp_path)
    old, readme = revision(tmp_path), tmp_path / "README.md"
    readme.write_bytes(b"Mine.\r\n" + readme.read_bytes())
    with torch.no_grad():
        model.encoder.cls_token += 1
    model.save_pretrained(tmp_path)
    assert revision(tmp_path) != old
    assert f"Revision: `{revision(tmp_path)}`".encode() in readme.read_bytes()
    assert readme.read_bytes().startswith(b"Mine.\r\n")
    model.save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    assert len([*(tmp_path / "parts").glob("model-*.safetensors")]) > 1
    stated = f"Revision: `{revision(tmp_path / 'parts')}`"
    assert stated in (tmp_path / "parts" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("has_card", [False, True])
def test_push_uploads_a_folder_that_loads(classifier, monkeypatch, tmp_path, has_card):
    """What is on the Hub must be all of it, and a card that somebody wrote there must stay."""
    import huggingface_hub

    pushed = {}

    class Api:
        def __init__(self, token=None):
            pushed["token"] = token

        def create_repo(self, repo_id, *, private, exist_ok):
            return SimpleNamespace(repo_id=f"me/{repo_id}")

        def file_exists(self, repo_id, name, *, revision):
            return has_card

        def hf_hub_download(self, repo_id, name, *, revision, local_dir):
            Path(local_dir).mkdir()
            (Path(local_dir) / name).write_text(f"Mine.\nRevision: `{40 * '0'}`.\n")

        def upload_folder(self, *, folder_path, **options):
            shutil.copytree(folder_path, tmp_path / "hub")
            pushed.update(options)
            return "https://hub/commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model = AutoModelForAudioClassification.from_pretrained(classifier)
    assert model.push_to_hub("bells", token="t", private=True) == "https://hub/commit"
    assert (pushed["repo_id"], pushed["token"]) == ("me/bells", "t")
    assert read_model(tmp_path / "hub").labels == LABELS
    card, stated = (tmp_path / "hub" / "README.md").read_text(), f"Revision: `{revision(tmp_path / 'hub')}`"
    if has_card:
        assert card == f"Mine.\n{stated}.\n"
    else:
        assert "bell, drum, flute" in card
        assert stated in card
    shutil.rmtree(tmp_path / "hub")
    model.save_pretrained(tmp_path / "local", push_to_hub=True)
    assert pushed["repo_id"] == "me/local"


FACTS = {"data": "Four bells.", "datasets": [], "license": "cc-by-4.0", "date": "2026-11-28"}
TRAINING = {"steps": 3}


def train_a_bit(model):
    """Change one weight, as little as a step of training may."""
    with torch.no_grad():
        model.encoder.norm.weight[0] += 1e-6


def saved_facts(model, folder):
    """Save a model and return what its folder says of it."""
    model.save_pretrained(folder)
    saved = read_model(folder)
    return saved.card, saved.training


def test_a_trained_model_has_no_card_of_the_one_before(tmp_path):
    """For mteb a model fine-tuned on ESC-50 had seen no public data, and on the Hub it had a licence nobody chose."""
    score = {"data": "bells", "metric": "accuracy", "value": 0.8, "protocol": "5 folds"}
    card = {**FACTS, "scores": [score]}
    save_model(tmp_path / "bells", nano(), FRONT_END, card=card, training=TRAINING)
    options = {"head": ClassificationHead(64, 3), "labels": LABELS, "card": card, "training": TRAINING}
    save_model(tmp_path / "classifier", nano(), FRONT_END, **options)
    classes = (("bells", AaPEModel), ("classifier", AutoModelForAudioClassification))
    for name, kind in classes:
        model = kind.from_pretrained(tmp_path / name)
        assert saved_facts(model, tmp_path / "same") == (card, TRAINING)
        train_a_bit(model)
        for again in ("first", "second"):
            assert saved_facts(model, tmp_path / name / again) == ({}, {"pretraining": TRAINING})
        text = (tmp_path / name / "first" / "README.md").read_text(encoding="utf-8")
        assert "Four bells." not in text
        assert "training of the model that this one began as" in text
        model.config.card, model.config.training = {"data": "Five bells."}, {"steps": 1}
        assert saved_facts(model, tmp_path / "stated") == ({"data": "Five bells."}, {"steps": 1})
        assert saved_facts(type(model)(AaPEConfig.from_pretrained(tmp_path / name)), tmp_path / "fresh") == ({}, {})
    headless = AaPEModel.from_pretrained(tmp_path / "classifier")
    assert saved_facts(headless, tmp_path / "headless") == (FACTS, TRAINING)  # the scores were those of the classifier
    new_head = AutoModelForAudioClassification.from_pretrained(tmp_path / "bells", num_labels=3)
    assert saved_facts(new_head, tmp_path / "new_head") == ({}, {"pretraining": TRAINING})
    pretraining = AaPEForPreTraining.from_pretrained(tmp_path / "bells", training={"masking": {"num_views": 2}})
    train_a_bit(pretraining)
    assert saved_facts(pretraining, tmp_path / "pretraining") == ({}, {"masking": {"num_views": 2}})
    stated = AaPEModel(AaPEConfig(encoder=nano().config.__dict__, card=card, training=TRAINING))
    train_a_bit(stated)
    assert saved_facts(stated, tmp_path / "own") == (card, TRAINING)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_in_another_dtype_keeps_its_card(tmp_path, dtype):
    """Rounding is no training: whoever shares a model at half the size would lose its licence."""
    save_model(tmp_path / "bells", nano(), FRONT_END, card=FACTS, training=TRAINING)
    assert saved_facts(AaPEModel.from_pretrained(tmp_path / "bells").to(dtype), tmp_path / "to") == (FACTS, TRAINING)
    loaded = AaPEModel.from_pretrained(tmp_path / "bells", dtype=dtype)
    assert saved_facts(loaded, tmp_path / "loaded") == (FACTS, TRAINING)
    with torch.no_grad():
        loaded.encoder.norm.weight += 0.01
    assert saved_facts(loaded, tmp_path / "trained") == ({}, {"pretraining": TRAINING})

"""Saved models: what is written comes back, and nothing damaged or foreign is taken for a model."""

import dataclasses
import errno
import hashlib
import json
import math
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from aape.errors import AapeError, CheckpointError, ConfigError
from aape.models import saved as saved_module
from aape.models.config import FrontEndConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.models.heads import ClassificationHead
from aape.models.saved import find_model, load_weights, read_model, recommend, revision, save_model
from aape.runs.checkpoints import publish

FRONT_END = FrontEndConfig(mean=-6.25, std=4.5)


def nano(seed=0, **options):
    torch.manual_seed(seed)
    return AudioEncoder(encoder_config("nano", **options))


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "model", nano(), FRONT_END, training={"steps": 3})
    return tmp_path / "model"


def edit_config(folder, change):
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


def edit_weights(folder, change):
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


def refusal(folder):
    """Return the one-line message that reading a folder is refused with."""
    with pytest.raises(CheckpointError) as caught:
        read_model(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("options", [{}, {"stem": "patch"}, {"adaptive": False, "stride": 4}, {"phase": "analytic"}])
def test_every_architecture_comes_back(tmp_path, options):
    """An encoder that is not the same after loading makes every published vector wrong."""
    encoder = nano(**options)
    save_model(tmp_path, encoder, FRONT_END, training={"steps": 3, "name": "Bär"})
    back = read_model(tmp_path)
    assert back.encoder.config == encoder.config
    assert back.front_end == FRONT_END
    assert back.training == {"steps": 3, "name": "Bär"}
    assert back.labels is None
    assert back.head is None
    assert not back.encoder.training
    spectrogram = torch.randn(2, 1, 128, 32)
    with torch.no_grad():
        assert torch.equal(back.encoder(spectrogram), encoder(spectrogram))
    assert [p.requires_grad for p in back.encoder.parameters()] == [p.requires_grad for p in encoder.parameters()]


@pytest.mark.parametrize("pool", ["cls", "mean", "frequency_std"])
def test_head_and_labels_come_back(tmp_path, pool):
    """Classes in another order, or read off another vector, are wrong answers that look right."""
    head = ClassificationHead(64, 11, pool, 8)
    labels = [f"class {index}" for index in range(10)] + ["Ωmega"]
    save_model(tmp_path, nano(), FRONT_END, head=head, labels=labels)
    back = read_model(tmp_path)
    assert back.labels == labels
    assert back.head is not None
    tokens = torch.randn(2, 1 + 8 * 3, 64)
    assert torch.equal(back.head(tokens), head(tokens))
    with pytest.raises(ValueError, match="2 labels for a head of 11 classes"):
        save_model(tmp_path, nano(), FRONT_END, head=head, labels=["a", "b"])
    with pytest.raises(ValueError, match="two classes are called 'a'"):
        save_model(tmp_path, nano(), FRONT_END, head=ClassificationHead(64, 3), labels=["a", "b", "a"])
    edit_config(tmp_path, lambda values: values.update(head_pool="max"))
    assert "head_pool: expected cls_mean, frequency, frequency_std, cls or mean, got 'max'" in refusal(tmp_path)


def test_the_length_that_short_sounds_are_looped_to_comes_back(tmp_path):
    """Whoever uses a model should not have to know what its training did with short clips."""
    save_model(tmp_path, nano(), FRONT_END, loop_to=3)
    assert read_model(tmp_path).loop_to == 3
    save_model(tmp_path, nano(), FRONT_END)
    assert read_model(tmp_path).loop_to == 0
    assert "loop_to" not in json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(CheckpointError, match="loop_to: expected 0 to 600 seconds, got -1"):
        save_model(tmp_path, nano(), FRONT_END, loop_to=-1)
    for value in (-1, 1e9, math.nan, True, "3", [3], {}):
        edit_config(tmp_path, lambda values, value=value: values.update(loop_to=value))
        assert f"loop_to: expected 0 to 600 seconds, got {value!r}" in refusal(tmp_path)


@pytest.mark.parametrize("multi_label", [False, True])
def test_how_to_read_the_logits_comes_back(tmp_path, multi_label):
    """Softmax over a multi-label head, or the reverse, gives scores that mean nothing."""
    card = {"data": "bells", "scores": [{"data": "bells", "metric": "accuracy", "value": 0.5, "protocol": "one split"}]}
    head = ClassificationHead(64, 2)
    save_model(tmp_path, nano(), FRONT_END, head=head, labels=["a", "b"], multi_label=multi_label, card=card)
    back = read_model(tmp_path)
    assert (back.multi_label, back.card) == (multi_label, card)
    edit_config(tmp_path, lambda values: values.update(problem_type="ranking"))
    assert "problem_type: expected single_label_classification or multi_label" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ({"dataset": ["ESC50"]}, "unknown key 'dataset': did you mean 'datasets'?"),
        ({"datasets": "ESC50"}, "datasets: expected a list of names, got 'ESC50'"),
        ({"datasets": [1]}, "datasets: expected a list of names"),
        ({"data": 3}, "data: expected a text, got 3"),
        ({"license": ["mit"]}, "license: expected a text"),
        ({"date": "yesterday"}, "date: expected one such as 2026-11-28, got 'yesterday'"),
        ({"scores": {"accuracy": 1}}, "scores: expected a list of mappings"),
        (
            {"scores": [{"data": "bells", "metric": "accuracy", "value": 1}]},
            "scores, 0: protocol: expected a text, got None",
        ),
        (
            {"scores": [{"data": "a", "metric": "b", "value": math.nan, "protocol": "c"}]},
            "value: expected a number or text",
        ),
        ({"scores": [{"data": "a", "metric": "b", "value": 1, "protocol": "c", "seed": 1}]}, "unknown key 'seed'"),
        ("bells", "expected a mapping"),
    ],
)
def test_a_card_that_cannot_be_read_is_refused(tmp_path, card, reason):
    """A misspelt key is missing on the Hub, and a score without its protocol cannot be compared."""
    with pytest.raises(CheckpointError) as caught:
        save_model(tmp_path / "model", nano(), FRONT_END, card=card)
    assert reason in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_the_revision_names_the_content(tmp_path, folder):
    """A leaderboard and a card must say which model they mean; anybody can check it with cat and sha256sum."""
    files = (folder / "config.json", folder / "model.safetensors")
    assert revision(folder) == hashlib.sha256(b"".join(map(Path.read_bytes, files))).hexdigest()[:40]
    save_model(tmp_path / "again", nano(), FRONT_END, training={"steps": 3})
    (tmp_path / "again" / "README.md").write_text("of no influence")
    assert revision(tmp_path / "again") == revision(folder)
    recommend(tmp_path / "again", pool="mean")
    save_model(tmp_path / "other", nano(seed=1), FRONT_END, training={"steps": 3})
    assert len({revision(path) for path in (folder, tmp_path / "again", tmp_path / "other", "tiny")}) == 4
    files[1].unlink()
    with pytest.raises(CheckpointError, match=r"there is no model\.safetensors in it"):
        revision(folder)


def test_a_card_states_the_revision_of_its_folder(folder):
    """Whatever is written into a folder later: a card would name weights, or vectors, that are gone."""
    card = folder / "README.md"
    for change in (
        lambda: save_model(folder, nano(seed=1), FRONT_END),
        lambda: recommend(folder, pool="mean"),
    ):
        card.write_text(f"Mine.\n\nRevision: `{revision(folder)}`, of these.\n")
        change()
        assert card.read_text() == f"Mine.\n\nRevision: `{revision(folder)}`, of these.\n"
    card.write_text("Mine alone.")
    recommend(folder, pool="cls")
    assert card.read_text() == "Mine alone."


def test_equal_weights_give_equal_bytes(tmp_path):
    """A digest of a release could not be checked by anybody else if the file held a date, a path or a host."""
    for name in ("one", "two"):
        save_model(tmp_path / name, nano(), FRONT_END)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    raw = (tmp_path / "one" / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert all(name.startswith("encoder.") for name in header)


def test_half_precision_files_are_read_as_float32(tmp_path):
    """Shipped weights are half the size, and must not make a CPU compute in float16."""
    save_model(tmp_path / "half", nano(), FRONT_END, dtype=torch.float16)
    save_model(tmp_path / "full", nano(), FRONT_END)
    half, full = (tmp_path / name / "model.safetensors" for name in ("half", "full"))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    for name, tensor in read_model(tmp_path / "half").encoder.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, nano().state_dict()[name].half().float())


def test_saving_replaces_a_model_and_leaves_nothing_else(folder):
    """A crash or a second save must not leave temporary files, or half of the old model, in the folder."""
    save_model(folder, nano(seed=1, depth=1), FRONT_END)
    assert read_model(folder).encoder.config.depth == 1
    companions = {"modeling_aape.py", "preprocessor_config.json", "custom_st.py", "modules.json"}
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", *companions}


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """A diverged run, or weights too large for float16, must fail when saved and not when used."""
    encoder = nano()
    with torch.no_grad():
        encoder.norm.weight[3] = 1e6
    save_model(tmp_path, encoder, FRONT_END)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"encoder\.norm\.weight: not finite"):
        save_model(tmp_path, encoder, FRONT_END, dtype=torch.float16)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_missing_folder_and_files(tmp_path, folder):
    """The user mistyped a path: the message says which thing is missing, and what could be used instead."""
    assert "no such folder; shipped models: " in refusal(tmp_path / "nothing")
    assert "a file, a saved model is a folder" in refusal(folder / "model.safetensors")
    (tmp_path / "empty").mkdir()
    assert "there is no config.json in it" in refusal(tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    assert "there is no model.safetensors in it" in refusal(folder)


def test_what_may_not_be_read_is_not_called_damaged(folder, monkeypatch):
    """Somebody who lacks a permission would download gigabytes again, or see a traceback."""
    assert "cannot be read: File name too long; shipped models: " in refusal("x" * 5000)
    opens = Path.open

    def refuse(self, *arguments, **options):  # root may read everything
        if self.name == "model.safetensors":
            raise PermissionError(errno.EACCES, "Permission denied")
        return opens(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert refusal(folder).endswith("model.safetensors: cannot be read: Permission denied")

    def closed(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_file", closed)
    assert "cannot be read: Permission denied" in refusal(folder)


def test_names_of_shipped_models_are_listed(tmp_path, folder, monkeypatch):
    """Somebody who guesses a name needs the list of names; those work from any folder."""
    monkeypatch.setattr(saved_module, "PRETRAINED", tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    assert read_model("model").training == {"steps": 3}
    assert refusal("tinny").endswith("shipped models: model")


def test_a_run_folder_stands_for_its_model(tmp_path, folder):
    """After `aape pretrain --out RUN`, `--model RUN` is what people type."""
    (tmp_path / "config.yaml").write_text("steps: 3\n")
    assert find_model(tmp_path) == folder
    assert find_model(folder) == folder


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a model of this package"),
        (b'{"model_type": "vit"}', "not a model of this package"),
        (b'{"model_type": "aape"}', "encoder: missing"),
    ],
)
def test_configurations_that_are_none(folder, content, message):
    """Another library's folder, or half a file, must be named as such."""
    (folder / "config.json").write_bytes(content)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("encoder", "kernel_sise", 63, "unknown key 'kernel_sise' in encoder: did you mean 'kernel_size'?"),
        ("front_end", "hop_len", 160, "unknown key 'hop_len' in front_end: did you mean 'hop_length'?"),
        ("encoder", "depth", "2", "encoder.depth: expected int, got '2'"),
        ("encoder", "depth", True, "encoder.depth: expected int, got True"),
        ("encoder", "adaptive", 1, "encoder.adaptive: expected bool, got 1"),
        ("encoder", "phase", "linear", "encoder.phase: expected one of bilateral, analytic, got 'linear'"),
        ("encoder", "embed_dim", 0, "encoder.embed_dim: must be above 0"),
        ("encoder", "num_heads", 5, "embed_dim 64 is no multiple of num_heads 5"),
        ("encoder", "kernel_size", 64, "kernel_size must be odd"),
        ("encoder", "depth", 10**12, "depth 1000000000000, the most is 1024"),
        ("encoder", "embed_dim", 2**62, "config.json"),
        ("front_end", "std", 0, "front_end: no such statistics"),
        ("front_end", "mean", math.nan, "front_end.mean: expected float"),
        ("front_end", "n_mels", 64, "64 mel bins in front_end, 128 in encoder"),
    ],
)
def test_configuration_values_that_make_no_model(folder, section, key, value, message):
    """A wrong value must be named, not turn up as a crash, a hang or silent rubbish later."""
    edit_config(folder, lambda values: values[section].__setitem__(key, value))
    assert message in refusal(folder)


def test_misspelt_sections_are_refused_and_foreign_keys_are_not(folder):
    """A misspelt `training` would be lost in silence; keys of other tools must not lock anybody out."""
    edit_config(folder, lambda values: values.update(transformers_version="9.9", problem_type=None, comment="x"))
    read_model(folder)
    edit_config(folder, lambda values: values.__setitem__("trainning", values.pop("training")))
    assert "unknown key 'trainning': did you mean 'training'?" in refusal(folder)


def test_fields_that_an_older_file_does_not_name_keep_their_defaults(folder):
    """A model saved before an option existed must still load."""
    edit_config(folder, lambda values: values["encoder"].pop("mask_context"))
    assert read_model(folder).encoder.config.mask_context is False


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:100],
        lambda raw: raw[:-1000],
        lambda raw: raw + b"x" * 1000,
        lambda raw: struct.pack("<Q", 1 << 62) + raw[8:],
        lambda raw: struct.pack("<Q", 1 << 28) + raw[8:],
        lambda raw: b"\x80\x04" + raw[2:],
        lambda raw: b"PK\x03\x04" + b"\0" * 1000,
    ],
    ids=["empty", "cut in header", "cut", "longer", "huge header", "header beyond file", "pickle", "zip"],
)
def test_damaged_weights(folder, damage):
    """A download that broke off, or another format, is one line and never gigabytes or code execution."""
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert "model.safetensors: not a safetensors file, or damaged" in refusal(folder)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder):
    """Weights of one size under the configuration of another must not be cut or stretched."""
    edit_weights(folder, lambda tensors: tensors.update({"encoder.norm.weight": torch.ones(32)}))
    assert "encoder.norm.weight: [32] in the file, [64] by config.json" in refusal(folder)


def test_missing_and_unexpected_tensors_are_named(folder):
    """A layer that kept its random start would still give vectors."""
    edit_weights(folder, lambda tensors: tensors.pop("encoder.norm.weight"))
    assert "missing tensor encoder.norm.weight" in refusal(folder)
    edit_weights(
        folder, lambda tensors: tensors.update({"encoder.norm.weight": torch.ones(64), "extra": torch.ones(1)})
    )
    assert "unexpected tensor extra" in refusal(folder)


def test_weights_that_are_no_numbers_are_refused(folder):
    """NaN weights give NaN vectors, and integers are no weights."""
    edit_weights(folder, lambda tensors: tensors["encoder.norm.bias"].__setitem__(5, math.nan))
    assert "encoder.norm.bias: not finite" in refusal(folder)
    edit_weights(folder, lambda tensors: tensors.update({"encoder.norm.bias": torch.ones(64, dtype=torch.int64)}))
    assert "encoder.norm.bias: I64 values are no weights" in refusal(folder)


def test_a_damaged_head_is_refused(tmp_path):
    """A head of other classes than the labels would name every sound wrongly."""
    save_model(tmp_path, nano(), FRONT_END, head=ClassificationHead(64, 3), labels=["a", "b", "c"])
    edit_weights(tmp_path, lambda tensors: tensors.update({"head.linear.weight": torch.ones(3)}))
    assert "head.linear.weight: [3] in the file, [3, 64] by config.json" in refusal(tmp_path)
    edit_weights(tmp_path, lambda tensors: tensors.pop("head.linear.weight"))
    assert "head" in refusal(tmp_path)
    save_model(tmp_path, nano(), FRONT_END, head=ClassificationHead(64, 3), labels=["a", "b", "c"])
    edit_config(tmp_path, lambda values: values["id2label"].pop("1"))
    assert "id2label: expected a name for every class from 0 up" in refusal(tmp_path)
    edit_config(tmp_path, lambda values: values.update(id2label={"0": "a"}))
    assert "1 labels for a head of 3 classes" in refusal(tmp_path)


def test_starting_an_encoder_from_a_saved_one(folder):
    """`init` from another shape, or another number of heads, must not train on shuffled weights."""
    encoder = nano(seed=1)
    saved = load_weights(encoder, folder)
    assert saved.front_end == FRONT_END
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, nano().state_dict()[name])
    load_weights(nano(mask_context=True), folder)
    with pytest.raises(CheckpointError, match=r"another encoder: depth 2 there, 1 here; num_heads 4 there, 2 here"):
        load_weights(nano(depth=1, num_heads=2), folder)
    with pytest.raises(AapeError, match="kernel_size 63 there, 31 here"):
        load_weights(nano(kernel_size=31), folder)
    with pytest.raises(CheckpointError, match=r"num_frames 608 there, 304 here \(crops of 5\.92 to 6\.07 s have 608"):
        load_weights(nano(num_frames=304), folder)


def test_a_training_checkpoint_is_no_saved_model(tmp_path):
    """Its weights are those in the middle of a run, and the mistake is an easy one: the run is named instead."""
    (tmp_path / "staging").mkdir()
    publish(tmp_path / "staging", tmp_path / "checkpoint-4")
    assert refusal(tmp_path / "checkpoint-4").endswith("a training checkpoint: give the folder of its run")


def test_configuration_is_complete(folder):
    """What a default of a later version changes must not change what a saved model computes."""
    values = json.loads((folder / "config.json").read_text())
    assert values["encoder"] == dataclasses.asdict(nano().config)
    assert values["front_end"] == dataclasses.asdict(FRONT_END)


def test_a_recommendation_is_saved_with_the_model(folder):
    """What was measured to be best for a model must reach everyone who loads it."""
    weights = (folder / "model.safetensors").read_bytes()
    recommend(folder, pool="frequency_std", layers=[2, 1])
    saved = read_model(folder)
    assert (saved.pool, saved.layers) == ("frequency_std", (1, 2))
    assert (folder / "model.safetensors").read_bytes() == weights
    for options, reason in (({"pool": "max"}, "got 'max'"), ({"pool": "cls", "layers": [3]}, "blocks 1 to 2")):
        with pytest.raises(ConfigError, match=reason):
            recommend(folder, **options)


def test_the_card_of_the_shipped_model_is_its_own():
    """The README beside it states revision and licence; after a change of config.json it must follow."""
    readme = (find_model("tiny") / "README.md").read_text(encoding="utf-8")
    assert f"Revision: `{revision('tiny')}`" in readme
    card = read_model("tiny").card
    assert (card["license"], card["datasets"]) == ("apache-2.0", [])  # none of mteb's data sets, or of the Hub's
    assert "Apache-2.0" in readme
    metadata = yaml.safe_load(readme.split("---")[1])
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("aape", "feature-extraction")
    assert (metadata["license"], "audio" in metadata["tags"]) == ("apache-2.0", True)


def test_the_shipped_model_saved_again_is_the_same(tmp_path):
    """One model of two revisions is two models to mteb."""
    saved = dict(vars(read_model("tiny")))
    save_model(tmp_path, saved.pop("encoder"), saved.pop("front_end"), dtype=torch.float16, **saved)
    assert revision(tmp_path) == revision("tiny")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"of a model that transformers split")
    assert revision(tmp_path) == revision("tiny")

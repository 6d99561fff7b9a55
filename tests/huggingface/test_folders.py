"""Checkpoints that are not what they should be, when they are read and when they are written."""

import pytest
import safetensors.torch
import torch
from transformers import AutoModel, AutoModelForAudioClassification, AutoModelForPreTraining, PreTrainedModel

from aape.errors import CheckpointError
from aape.huggingface import AaPEConfig, AaPEForAudioClassification
from aape.models.saved import WEIGHTS_NAME, read_model, save_model
from notes import FRONT_END, nano

ALL = (AutoModel, AutoModelForAudioClassification, AutoModelForPreTraining)


def change(folder, edit):
    """Change the tensors of a saved folder."""
    tensors = safetensors.torch.load_file(folder / WEIGHTS_NAME)
    edit(tensors)
    safetensors.torch.save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})


def rename(old, new):
    return lambda tensors: tensors.update({new: tensors.pop(old)})


@pytest.mark.parametrize("auto", ALL)
@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (rename("encoder.blocks.0.norm1.weight", "encoder.blocks.0.norm1.gamma"), "tensor encoder.blocks.0.norm1"),
        (rename("encoder.cls_token", "model.cls_token"), "tensor"),
        (lambda tensors: tensors.update(more=torch.zeros(2)), "unexpected tensor more"),
        (lambda tensors: tensors.update({f"decoder.{n}": torch.zeros(2) for n in "ab"}), "decoder.a and 1 more"),
        (lambda tensors: tensors["encoder.norm.weight"].fill_(torch.nan), "encoder.norm.weight: not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(classifier, auto, edit, reason):
    """transformers fills in what is missing at random, leaves out what it does not know, and only logs it."""
    change(classifier, edit)
    with pytest.raises(CheckpointError, match=reason):
        auto.from_pretrained(classifier)
    with pytest.raises(CheckpointError):
        read_model(classifier)


def test_half_a_head_is_refused(classifier):
    """A renamed layer of a trained head would be one of random weights, and the scores of all sounds noise."""
    change(classifier, rename("head.linear.weight", "head.fc.weight"))
    with pytest.raises(CheckpointError, match=r"unexpected tensor head\.fc\.weight"):
        AutoModelForAudioClassification.from_pretrained(classifier)
    change(classifier, lambda tensors: tensors.pop("head.fc.weight"))
    with pytest.raises(CheckpointError, match=r"incomplete: missing tensor head\.linear\.weight"):
        AutoModelForAudioClassification.from_pretrained(classifier)
    AutoModel.from_pretrained(classifier)  # which has no head
    change(classifier, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("head.")])
    AutoModelForAudioClassification.from_pretrained(classifier)  # as a whole, it is new


def test_a_head_of_other_classes_is_new_where_that_is_asked_for(classifier):
    """The way of transformers to fine-tune a classifier on other classes."""
    model = AutoModelForAudioClassification.from_pretrained(classifier, num_labels=5, ignore_mismatched_sizes=True)
    assert model.head.linear.weight.shape == (5, 1024)
    _, info = AutoModel.from_pretrained(classifier, output_loading_info=True)
    assert not info["missing_keys"]


@pytest.mark.parametrize("part", ["teacher", "predictor"])
def test_half_a_training_is_refused(tmp_path, build_pretraining, part):
    """A teacher that is half the student's copy, or half a predictor, would go on from nowhere."""
    build_pretraining().save_pretrained(tmp_path)
    name = min(name for name in safetensors.torch.load_file(tmp_path / WEIGHTS_NAME) if name.startswith(part))
    change(tmp_path, lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=f"incomplete: missing tensor {name}"):
        AutoModelForPreTraining.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\3\4 no safetensors"])
@pytest.mark.parametrize("auto", ALL)
def test_weights_that_are_no_file_of_weights(classifier, auto, content):
    """An upload that broke off leaves an empty file: one line, and no traceback of another library."""
    (classifier / WEIGHTS_NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match="not a safetensors file, or damaged"):
        auto.from_pretrained(classifier)


@pytest.mark.parametrize("auto", ALL)
def test_a_pointer_of_git_lfs_says_how_to_fetch_the_weights(classifier, auto):
    """What a clone without git-lfs leaves."""
    (classifier / WEIGHTS_NAME).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for read in (auto.from_pretrained, read_model):
        with pytest.raises(CheckpointError, match="Git LFS pointer, not the weights: fetch them with `git lfs pull`"):
            read(classifier)


def test_nothing_is_unpickled(classifier):
    """A pickle beside the configuration, in place of weights, may run anything."""
    torch.save(read_model(classifier).encoder.state_dict(), classifier / "pytorch_model.bin")
    (classifier / WEIGHTS_NAME).unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModel.from_pretrained(classifier)


def broken(values):
    model = AaPEForAudioClassification(AaPEConfig(encoder=vars(nano().config), num_labels=3))
    if values is None:
        return model.to("meta")
    model.head.linear.bias.data.fill_(values)
    return model


@pytest.mark.parametrize(
    ("values", "reason"), [(None, "has no values"), (torch.nan, "not finite"), (-torch.inf, "not")]
)
def test_a_model_without_values_is_not_saved(tmp_path, monkeypatch, values, reason):
    """On the Hub it would look like a model; the good one in the folder stays."""
    import huggingface_hub

    model = broken(values)
    save_model(tmp_path / "model", nano(), FRONT_END)
    before = (tmp_path / "model" / WEIGHTS_NAME).read_bytes()
    with pytest.raises(CheckpointError, match=reason):
        model.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match=reason):
        save_model(tmp_path / "model", model.encoder, FRONT_END, head=model.head)
    assert (tmp_path / "model" / WEIGHTS_NAME).read_bytes() == before

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **_):
            return type("Url", (), {"repo_id": repo_id})

        def file_exists(self, *_, **__):
            return False

        def upload_folder(self, **_):
            raise AssertionError("uploaded")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(CheckpointError, match=reason):
        model.push_to_hub("me/bells")


@pytest.mark.parametrize(
    "edit",
    [
        lambda tensors: tensors["head.linear.bias"].add_(1e-6),
        lambda tensors: tensors.pop("encoder.cls_token"),
        lambda tensors: tensors.update(more=torch.zeros(1)),
        lambda tensors: tensors.update({"encoder.cls_token": tensors["encoder.cls_token"].half()}),
        None,
    ],
)
def test_what_was_written_is_read_again(classifier, tmp_path, monkeypatch, edit):
    """A disk or a hook that writes something else: who deletes the run because the model is saved would lose it."""
    model = AutoModelForAudioClassification.from_pretrained(classifier)
    original = PreTrainedModel.save_pretrained

    def save(self, folder, *args, **options):
        original(self, folder, *args, **options)
        change(tmp_path, edit) if edit else (tmp_path / WEIGHTS_NAME).write_bytes(b"")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save)
    with pytest.raises(CheckpointError, match=r"holds something else than was saved|not a safetensors file"):
        model.save_pretrained(tmp_path)


def test_shards_and_one_file_replace_each_other(classifier, tmp_path):
    """Old weights beside the new ones would be read instead of them, without a word."""
    model = AutoModelForAudioClassification.from_pretrained(classifier)
    for value, size in ((1.0, "1GB"), (2.0, "100KB"), (3.0, "1GB")):
        model.head.norm.weight.data.fill_(value)
        model.save_pretrained(tmp_path, max_shard_size=size)
        again = AutoModelForAudioClassification.from_pretrained(tmp_path)
        assert torch.equal(again.head.norm.weight, model.head.norm.weight)
        assert (tmp_path / WEIGHTS_NAME).exists() == (size == "1GB")


def test_every_way_of_writing_is_compared(classifier, tmp_path):
    """Shards, variants, half precision and the Trainer's own state are read again as they were written."""
    model = AutoModelForAudioClassification.from_pretrained(classifier)
    state = torch.get_rng_state()
    model.save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    model.save_pretrained(tmp_path / "plain", variant="best")
    model.save_pretrained(tmp_path / "state", state_dict={name: 2 * x for name, x in model.state_dict().items()})
    model.half().save_pretrained(tmp_path / "half")
    assert torch.equal(torch.get_rng_state(), state)
    model.save_pretrained(tmp_path / "nothing", is_main_process=False)
    for name in ("plain", "shards", "half"):
        again = AutoModelForAudioClassification.from_pretrained(tmp_path / name)
        assert again.dtype == (torch.float16 if name == "half" else torch.float32)
    again = AutoModelForAudioClassification.from_pretrained(tmp_path / "state")
    torch.testing.assert_close(again.head.norm.weight, 2 * read_model(classifier).head.norm.weight)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (torch.full((2, 48, 128), torch.nan), "NaN or infinite values in clip 0"),
        (torch.zeros(2, 48, 128).index_fill(0, torch.tensor([1]), torch.inf), "NaN or infinite values in clip 1"),
        (torch.zeros(2, 0, 128), r"must be \(B, T, 128\)"),
        (torch.zeros(0, 48, 128), r"must be \(B, T, 128\)"),
        (torch.zeros(2, 128, 48), r"must be \(B, T, 128\) or \(B, 1, 128, T\), not \(2, 128, 48\)"),
        (torch.zeros(2, 2, 128, 48), "must be"),
        (torch.zeros(48, 128), "must be"),
        (torch.zeros(16000), "must be"),
        (torch.zeros(2, 48, 128).numpy(), "return_tensors"),
    ],
)
def test_inputs_that_are_no_spectrograms(classifier, build_pretraining, inputs, reason):
    """A NaN in one clip is NaN in its vector, and an axis in the wrong place another sound."""
    for model in (*(auto.from_pretrained(classifier) for auto in ALL[:2]), build_pretraining()):
        with pytest.raises((ValueError, TypeError), match=f"input_values.*{reason}"):
            model(inputs)


def test_a_device_without_half_precision(classifier):
    """`"addmm_impl_cpu_" not implemented for ...` from the depths of a block says to nobody what to change."""
    with pytest.raises(ValueError, match=r"no model computes in torch\.float8_e4m3fn: take dtype=torch\.float16"):
        AutoModel.from_pretrained(classifier, dtype=torch.float8_e4m3fn)
    model = AutoModel.from_pretrained(classifier).to(torch.float8_e5m2)
    with pytest.raises(ValueError, match=r"cpu cannot compute in torch.float8_e5m2: load .* dtype=torch.float32"):
        model(torch.zeros(1, 48, 128))


def test_weights_too_large_for_half_precision(tmp_path):
    """Infinity in one weight is NaN in every vector."""
    encoder = nano()
    with torch.no_grad():
        encoder.norm.weight[3] = 1e6
    save_model(tmp_path, encoder, FRONT_END)
    AutoModel.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"encoder\.norm\.weight: not finite"):
        AutoModel.from_pretrained(tmp_path, dtype=torch.float16)

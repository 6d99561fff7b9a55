"""The models of transformers: one folder, two libraries, the same numbers."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)

from aape.errors import CheckpointError
from aape.huggingface import AaPEConfig, AaPEFeatureExtractor, AaPEForAudioClassification, AaPEModel
from aape.inference import load_model
from aape.models.config import EncoderConfig
from aape.models.saved import read_model, save_model
from notes import FRONT_END, nano, save_nano

LABELS = ["bell", "drum", "flute"]


def test_transformers_gives_the_same_vectors(folder, classifier, waves, pooled):
    """Vectors from transformers would not match an index that `aape embed` wrote."""
    for model in (folder, classifier):
        np.testing.assert_allclose(pooled(model), load_model(model, "cpu").embed(waves, 16000), atol=1e-6)


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
    """Logits are the head's, names are the labels, and the loss is the field's."""
    saved = read_model(classifier)
    model = AutoModelForAudioClassification.from_pretrained(classifier)
    assert isinstance(model, AaPEForAudioClassification)
    assert model.config.id2label == dict(enumerate(LABELS))
    spectrogram = torch.randn(2, 1, 128, 48)
    classes = torch.tensor([2, 0])
    with torch.no_grad():
        assert saved.head is not None
        logits = saved.head(saved.encoder(spectrogram))
        outputs = model(spectrogram, labels=classes)
        torch.testing.assert_close(outputs.logits, logits)
        torch.testing.assert_close(outputs.loss, -logits.log_softmax(-1)[[0, 1], classes].mean())
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
    assert not model.encoder.get_parameter("stem.pos_embed.table").requires_grad  # fixed positions stay fixed
    assert model.head.linear.weight.requires_grad


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


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("encoder", "depth", 1_000_000, "depth 1000000, the most is 1024"),
        ("encoder", "kernel_size", 1_000_000_001, "kernel_size 1000000001, the most is 8192"),
        ("encoder", "embed_dim", "64", "encoder.embed_dim: expected int, got '64'"),
        ("encoder", "no_such", 1, "unknown key 'no_such' in encoder"),
        ("front_end", "n_fft", 10**10, "front_end: beyond 65536 points"),
        ("front_end", "n_mels", 64, "64 mel bins in front_end, 128 in encoder"),
    ],
)
def test_a_strangers_configuration_is_read_as_carefully_here(folder, section, key, value, message):
    """A hostile model must not be harmless to `load_model` and hang, or fill the memory of, the Auto classes."""
    values = json.loads((folder / "config.json").read_text())
    values[section][key] = value
    (folder / "config.json").write_text(json.dumps(values))
    for loader in (AutoConfig, AutoModel, AutoFeatureExtractor):
        with pytest.raises(CheckpointError, match=message):
            loader.from_pretrained(folder)


def test_options_that_make_no_model_are_refused(folder):
    """What is set over a sound configuration, and an extractor without a model, are checked too."""
    with pytest.raises(CheckpointError, match="the most is 1024"):
        AutoModel.from_pretrained(folder, encoder={"depth": 1_000_000})
    with pytest.raises(CheckpointError, match="hop_length: expected int"):
        AaPEFeatureExtractor(front_end={"hop_length": "160"})
    with pytest.raises(CheckpointError, match="patch_size"):
        AaPEFeatureExtractor(patch_size=10**10)
    with pytest.raises(CheckpointError, match="training: expected a mapping"):
        AaPEConfig(training=[1])


@torch.no_grad()
def test_keywords_are_honoured_or_refused(classifier, caplog, waves, build_pretraining):
    """A misspelt mask, a rate under another name or a cut that is not made give other numbers than were asked for."""
    extractor = AutoFeatureExtractor.from_pretrained(classifier)
    clips = [waves[0], waves[1, :9000]]
    batch = extractor(clips, sampling_rate=16000, padding="longest", truncation=False, return_tensors="pt")
    for options in ({"sample_rate": 44100}, {"pad_to_multiple_of": 7}):
        with pytest.raises(TypeError, match="unexpected keyword"):
            extractor(clips, **options)
    for options in ({"max_length": 4000}, {"truncation": True}, {"padding": "max_length"}, {"padding": False}):
        with pytest.raises(ValueError, match="never cut"):
            extractor(clips, sampling_rate=16000, **options)
    models = [loader.from_pretrained(classifier) for loader in (AutoModel, AutoModelForAudioClassification)]
    for model in (*models, build_pretraining()):
        with pytest.raises(TypeError, match="attention_masks"):
            model(batch["input_values"], attention_masks=batch["attention_mask"])
        with pytest.raises(ValueError, match="output_attentions: not available"):
            model(**batch, output_attentions=True)
        assert isinstance(model(**batch, return_dict=False), tuple)
        model.config.output_hidden_states = True
        if model in models:
            assert len(model(**batch).hidden_states) == 3
            continue
        with pytest.raises(ValueError, match="output_hidden_states: not available"):
            model(**batch)
    assert models[1](**batch, output_hidden_states=False, return_dict=False)[0].shape == (2, 3)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_trainer_takes_the_mean_over_a_batch(classifier, tmp_path, accumulate, waves):
    """A model that seems to take the Trainer's own keywords has the losses of accumulated batches added up."""
    batch = AaPEFeatureExtractor(FRONT_END.__dict__)(waves, sampling_rate=16000)
    rows = [{"input_values": values, "labels": row} for row, values in enumerate(batch["input_values"])] * 2
    model = AutoModelForAudioClassification.from_pretrained(classifier)
    with torch.no_grad():
        expected = model(torch.from_numpy(batch["input_values"]), labels=torch.tensor([0, 1])).loss.item()
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, per_device_train_batch_size=4 // accumulate, report_to=[], logging_steps=1,
        gradient_accumulation_steps=accumulate, use_cpu=True, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-3)


@torch.no_grad()
def test_padding_changes_nothing(classifier, waves):
    """A clip must have one vector, alone and padded to the length of any other, whatever the padding holds."""
    extractor = AutoFeatureExtractor.from_pretrained(classifier)
    clips = [waves[0], waves[1, :9000], waves[0, :9100], waves[1, :300]]
    batch = extractor(clips, return_tensors="pt")
    for loader, name in ((AutoModel, "pooler_output"), (AutoModelForAudioClassification, "logits")):
        model = loader.from_pretrained(classifier)
        alone = torch.cat([model(**extractor(clip, return_tensors="pt"))[name] for clip in clips])
        torch.testing.assert_close(model(**batch)[name], alone, atol=1e-5, rtol=1e-5)
        model, double = model.double(), {**batch, "input_values": batch["input_values"].double()}
        alone = torch.cat([model(**extractor(c, return_tensors="pt").to(torch.float64))[name] for c in clips])
        double["input_values"][batch["attention_mask"] == 0] = 1e3
        torch.testing.assert_close(model(**double)[name], alone, atol=1e-10, rtol=1e-10)
    model = AutoModel.from_pretrained(classifier)
    hidden = model(**batch).last_hidden_state[:, 1:].unflatten(1, (8, 8))  # (B, Nf, Nt, D)
    for row, clip in enumerate(clips):
        frames, _ = load_model(classifier, "cpu").embed_frames(clip, 16000)  # (Nt, Nf * D)
        expected = torch.from_numpy(frames).unflatten(1, (8, 64)).transpose(0, 1)
        torch.testing.assert_close(hidden[row, :, : len(frames)], expected, atol=1e-5, rtol=1e-5)
    alone = model(**extractor(clips[1], return_tensors="pt")).last_hidden_state[0, 1:].unflatten(0, (8, 4))
    torch.testing.assert_close(hidden[1, :, :4], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(batch["input_values"][:1].mT[:, None])[1], model(batch["input_values"][:1])[1])


@torch.no_grad()
def test_a_compiled_model_is_one_graph(classifier):
    """Checks of the input that stop the graph would cost what torch.compile is used for."""
    model, x = AutoModel.from_pretrained(classifier), torch.randn(2, 48, 128)
    outputs = torch.compile(model, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(outputs.pooler_output, model(x).pooler_output)


def test_gradients_pass_through_padded_batches(classifier, waves):
    """Fine-tuning with the Trainer pads; a head that alone learns would look like a weak encoder."""
    model = AutoModelForAudioClassification.from_pretrained(classifier)
    batch = AutoFeatureExtractor.from_pretrained(classifier)([waves[0], waves[1, :9000]], return_tensors="pt")
    model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, name


def test_saved_folders_load_by_themselves(classifier, tmp_path, waves):
    """A folder without its feature extractor is half a model: the pipeline could not use it."""
    AutoModelForAudioClassification.from_pretrained(classifier).save_pretrained(tmp_path / "again")
    result, expected = (
        pipeline("audio-classification", model=str(folder))(waves[0]) for folder in (tmp_path / "again", classifier)
    )
    assert result == expected


def test_the_length_that_short_sounds_are_looped_to_stays(tmp_path):
    """A model that was on the Hub once must not forget how it is used."""
    save_model(tmp_path / "model", nano(), FRONT_END, loop_to=3)
    AutoModel.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again")
    assert read_model(tmp_path / "again").loop_to == 3
    AaPEModel(AaPEConfig(encoder=nano().config.__dict__)).save_pretrained(tmp_path / "as_they_are")
    assert read_model(tmp_path / "as_they_are").loop_to == 0
    with pytest.raises(CheckpointError, match="loop_to: expected 0 to 600 seconds"):
        AaPEConfig(loop_to=-1)
    with pytest.raises(CheckpointError, match="loop_to: expected 0 to 600 seconds"):
        AutoModel.from_pretrained(tmp_path / "model", loop_to=-1)


@pytest.mark.parametrize(
    ("key", "value"),
    [("loop_to", 1e9), ("pool", "nonsense"), ("head_pool", "nonsense"), ("layers", [99]), ("training", 5)],
)
def test_settings_that_nothing_reads_are_not_written(folder, tmp_path, key, value):
    """A folder that no tool loads again is noticed when the model is needed."""
    model = AutoModel.from_pretrained(folder)
    setattr(model.config, key, value)
    with pytest.raises(CheckpointError, match=f"config.json: .*{value if key != 'training' else key}"):
        model.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(("kind", "layers"), [("frequency_std", [1]), ("frequency", [1, 2]), ("cls", [2])])
@torch.no_grad()
def test_the_vector_that_a_model_recommends_stays(tmp_path, waves, kind, layers):
    """Vectors from transformers are searched in an index that `aape embed` wrote: one definition, also after a push."""
    folder = save_nano(tmp_path / "model", pool=kind, layers=layers)
    expected = load_model(folder, "cpu").embed(waves, 16000)
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert load_model(tmp_path / "again", "cpu").fingerprint() == load_model(folder, "cpu").fingerprint()
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    plain = save_nano(tmp_path / "plain")
    models = (
        AutoModel.from_pretrained(tmp_path / "again"),
        AutoModel.from_pretrained(plain, pool=kind, layers=layers),
        AaPEModel.from_pretrained(plain, config=AutoConfig.from_pretrained(folder)),
    )
    for model in models:
        vectors = model(**extractor(waves, sampling_rate=16000, return_tensors="pt")).pooler_output
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
    padded = extractor([waves[0], waves[1, :9000]], sampling_rate=16000, return_tensors="pt")
    alone = load_model(folder, "cpu").embed(waves[1, :9000], 16000)
    np.testing.assert_allclose(models[0](**padded).pooler_output[1], alone, atol=1e-5)
    for wrong, reason in (({"pool": "max"}, "pool: expected cls_mean"), ({"layers": [3]}, "blocks 1 to 2, and no 3")):
        for call in (lambda wrong=wrong: AutoModel.from_pretrained(plain, **wrong),
                     lambda wrong=wrong: AaPEConfig(encoder=vars(nano().config), **wrong)):  # fmt: skip
            with pytest.raises(CheckpointError, match=reason):
                call()

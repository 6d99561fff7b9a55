"""sentence-transformers: its `encode`, saving and training on the vectors of `embed`; what is no sound is refused."""

import io
import os
import pickle
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile
import torch

import aape
from aape.errors import AudioError, ConfigError
from aape.huggingface import AaPEForAudioClassification, AaPEModel
from aape.models.pooling import POOLS
from aape.models.saved import find_model, read_model, recommend, revision, save_model
from decoders import AudioDecoder, DatasetsDecoder, wav
from notes import FRONT_END, LABELS, NOTES, nano, noise, save_classifier
from notes import classifier as build_classifier

sentence_transformers = pytest.importorskip("sentence_transformers", minversion="5.4")
SentenceTransformer = sentence_transformers.SentenceTransformer
AaPETransformer = pytest.importorskip("aape.adapters.sentence_transformers").AaPETransformer

NOTE, RATE = soundfile.read(NOTES[0], dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that loops what is short."""
    folder = tmp_path_factory.mktemp("models") / "nano"
    save_model(
        folder, nano(), FRONT_END, loop_to=1.5, pool="frequency_std", training={"steps": 3}, card={"data": "notes"}
    )
    return folder


@pytest.fixture(scope="module")
def ours(folder):
    return aape.load_model(folder, "cpu")


@pytest.fixture
def theirs(folder):
    return SentenceTransformer(modules=[AaPETransformer(folder)], device="cpu")


def cosine(first, second):
    first, second = first.astype(float), second.astype(float)
    return float(((first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)).min())


def test_a_saved_folder_is_a_model(folder, ours, monkeypatch, tmp_path):
    """`SentenceTransformer(folder)` is what its users type; from version 6 on, it wants to be told of foreign code."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    model = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    assert np.abs(model.encode(str(NOTES[0])) - ours.embed(NOTES[0])).max() < 1e-5
    if int(sentence_transformers.__version__.partition(".")[0]) >= 6:
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            SentenceTransformer(str(folder), device="cpu")


def test_the_shipped_model_goes_by_its_name():
    """The model that everybody has should not need its path."""
    model = SentenceTransformer(modules=[AaPETransformer("tiny")], device="cpu")
    assert model.get_embedding_dimension() == 3072
    assert np.abs(model.encode(NOTE) - aape.load_model("tiny", "cpu").embed(NOTE, RATE)).max() < 1e-5


@pytest.mark.slow
def test_without_this_package_the_message_says_what_to_install(folder, tmp_path):
    """Whoever downloads a folder may never have read of this package."""
    code = """
import importlib.abc, sys
from sentence_transformers import SentenceTransformer

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "aape":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
try:
    SentenceTransformer(sys.argv[1], trust_remote_code=True)
except ImportError as error:
    print(str(error).splitlines()[-1])
"""
    command = [sys.executable, "-c", code, str(folder)]
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=True)
    assert "pip install aape" in result.stdout


def test_every_form_of_a_sound_in_one_list(theirs, ours, tmp_path):
    """The tool sorts what it is given by a length that it guesses; each vector must come back in its place."""
    files = [tmp_path / f"note.{ending}" for ending in ("wav", "flac", "ogg", "aiff", "mp3")]
    for file in files:
        soundfile.write(file, NOTE, RATE)
    content = files[1].read_bytes()
    pairs = [
        (NOTE, (NOTE, RATE)),
        *((str(file), file) for file in [*files, NOTES[0]]),
        (files[0], files[0]),
        (torch.from_numpy(NOTE[:9000]), (NOTE[:9000], RATE)),
        (list(map(float, NOTE[:4000])), (NOTE[:4000], RATE)),
        ({"array": NOTE, "sampling_rate": 44100}, (NOTE, 44100)),
        ({"audio": {"array": NOTE[:30000], "sampling_rate": 8000}}, (NOTE[:30000], 8000)),
        ({"array": np.stack([NOTE, 0 * NOTE]), "sampling_rate": RATE}, (0.5 * NOTE, RATE)),
        ((NOTE, 22050), (NOTE, 22050)),
        ({"bytes": content, "path": "note.flac"}, content),
        ({"bytes": None, "path": str(files[2])}, files[2]),
        (content, content),
        (io.BytesIO(content), content),
        (AudioDecoder(wav(NOTE, NOTE)), (NOTE, RATE)),
        (DatasetsDecoder(wav(NOTE, rate=44100)), (NOTE, 44100)),
        (noise(13), (noise(13), RATE)),
    ]
    expected = np.stack([ours.embed(recording) for _, recording in pairs])
    vectors = theirs.encode([item for item, _ in pairs], batch_size=4)
    assert vectors.dtype == np.float32
    assert np.abs(vectors - expected).max() < 1e-5
    for index in (0, 6, 10, 14, 18):
        assert np.abs(theirs.encode(pairs[index][0]) - expected[index]).max() < 1e-5  # alone, (E,)


def test_columns_of_datasets(theirs, ours):
    """`model.encode(dataset["audio"])` is what the tool's pages show."""
    datasets = pytest.importorskip("datasets")
    paths = datasets.Dataset.from_dict({"audio": list(map(str, NOTES[:3]))})
    column = paths.cast_column("audio", datasets.Audio(decode=False))["audio"]
    assert np.abs(theirs.encode(column) - ours.embed(NOTES[:3])).max() < 1e-5


def test_a_clip_is_the_same_beside_a_longer_one(theirs):
    """A vector that depends on its neighbours makes every search a lottery."""
    alone = theirs.encode(str(NOTES[1]))
    beside = theirs.encode([noise(30), str(NOTES[1]), noise(5)])
    assert np.abs(beside[1] - alone).max() < 1e-5


def test_the_options_of_encode(theirs, ours):
    """What works with other models must work here."""
    notes = [str(path) for path in NOTES[:3]]
    vectors = theirs.encode(notes)
    tensor = theirs.encode(notes, convert_to_tensor=True, normalize_embeddings=True, batch_size=2)
    assert isinstance(tensor, torch.Tensor)
    assert np.allclose(np.linalg.norm(tensor, axis=1), 1)
    assert np.array_equal(theirs.encode(notes, truncate_dim=16), vectors[:, :16])
    assert isinstance(theirs.encode(notes, convert_to_numpy=False), list)
    assert np.allclose(theirs.similarity(vectors, vectors).diagonal(), 1)
    assert theirs.get_embedding_dimension() == vectors.shape[1] == ours.embed_dim
    assert np.array_equal(theirs.encode_query(notes), theirs.encode_document(notes))
    assert theirs.encode([]).shape == (0,)
    assert theirs.supports("audio")


def test_a_saved_copy_loads_everywhere(tmp_path, folder, theirs, ours):
    """What is fine-tuned here is used in other places."""
    theirs.save_pretrained(str(tmp_path / "copy"))
    expected = ours.embed(NOTES[0])
    ours_again = aape.load_model(tmp_path / "copy", "cpu")
    assert np.array_equal(ours_again.embed(NOTES[0]), expected)
    assert ours_again.training == {"steps": 3}
    again = SentenceTransformer(str(tmp_path / "copy"), trust_remote_code=True, device="cpu")
    assert np.abs(again.encode(str(NOTES[0])) - expected).max() < 1e-5
    hub = AaPEModel.from_pretrained(tmp_path / "copy")
    assert (hub.config.pool, hub.config.loop_to, hub.config.card) == ("frequency_std", 1.5, {"data": "notes"})


def test_what_was_not_trained_is_saved_as_it_was(tmp_path, monkeypatch):
    """sentence-transformers copies the card, whose revision, classes and scores must stay those of the folder."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    save_classifier(tmp_path / "bells", build_classifier(multi_label=True))
    AaPEForAudioClassification.from_pretrained(tmp_path / "bells").save_pretrained(tmp_path / "theirs")
    AaPEModel.from_pretrained(tmp_path / "bells", dtype=torch.float16).save_pretrained(tmp_path / "mixed types")
    save_model(tmp_path / "half", nano(), FRONT_END, loop_to=1.5, pool="mean", layers=[1], dtype=torch.float16)
    recommend(tmp_path / "half", pool="frequency_std", layers=[2])
    for name in ("bells", "theirs", "mixed types", "half", str(find_model("tiny"))):
        model = SentenceTransformer(str(tmp_path / name), trust_remote_code=True, device="cpu")
        expected = aape.load_model(tmp_path / name, "cpu").embed(NOTES[0])
        assert np.abs(model.encode(str(NOTES[0])) - expected).max() < 1e-5
        model.save_pretrained(str(tmp_path / "copy"))
        assert revision(tmp_path / "copy") == revision(tmp_path / name)
        if (tmp_path / name / "README.md").exists():
            assert f"`{revision(tmp_path / 'copy')}`" in (tmp_path / "copy" / "README.md").read_text(encoding="utf-8")
    copy = AaPETransformer(tmp_path / "bells")
    copy.save(str(tmp_path / "bells"))
    shutil.move(tmp_path / "bells", tmp_path / "elsewhere")  # so that there is nothing to copy
    copy.save(str(tmp_path / "head"))
    for folder in ("elsewhere", "head"):
        assert aape.load_model(tmp_path / folder).labels == LABELS


def test_other_options_are_saved(tmp_path, folder):
    """The pool that was chosen is the model's from then on."""
    AaPETransformer(folder, pool="mean", loop_to=0).save(str(tmp_path))
    saved = read_model(tmp_path)
    assert (saved.pool, saved.loop_to, saved.card) == ("mean", 0, {"data": "notes"})


def test_of_trained_weights_neither_classifier_nor_card_is_kept(tmp_path):
    """Labels, licence, data sets and scores were those of other weights."""
    options = {"head": build_classifier().head, "labels": LABELS, "training": {"steps": 3}}
    save_model(tmp_path / "bells", nano(), FRONT_END, card={"datasets": [], "license": "mit"}, **options)
    module = AaPETransformer(tmp_path / "bells")
    with torch.no_grad():
        module.encoder.norm.weight[0] += 1e-6
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(str(tmp_path / "copy"))
    saved = read_model(tmp_path / "copy")
    assert (saved.head, saved.labels, saved.card, saved.training) == (None, None, {}, {"pretraining": {"steps": 3}})


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("hello world", "hello world: No such file, and this model takes no text: pass sounds, as paths"),
        ("", "'': No such file, and this model takes no text"),
        ([[str(NOTES[0]), str(NOTES[1])]], "several sounds where one is expected: pass one list of all"),
        ([np.array(["a.wav", "b.wav"])], "several sounds where one is expected"),
        (["a.wav", "no.opus"], "no.opus: No such file"),
        ([NOTE, NOTE[:0]], r"clip 1 of its batch, longest first \(0 samples\): of shape \(0,\): no samples in it"),
        ([NOTE, np.float32([0, np.nan])], r"clip 1 of its batch, longest first \(2 samples\): NaN or infinite samples"),
        (np.stack([NOTE, NOTE]), r"pass a list of sounds \(samples,\), or \{'array': \(channels, samples\)"),
        (np.stack([NOTE, NOTE]).T, r"pass a list of sounds \(samples,\), or \{'array': \(channels, samples\)"),
        ({"array": np.stack([NOTE, NOTE]).T, "sampling_rate": RATE}, "transpose it"),
        ([NOTE, (NOTE * 30000).astype(np.int16)], "int16 values: samples must be floating point"),
        ([0.1, 0.2], "of 0 dimensions"),
        ([NOTE, {"bytes": b"no sound", "path": "the.wav"}], "the.wav: not a readable sound file"),
        ([NOTE, b"no sound"], r"clip 1 of its batch, longest first \(8 bytes\): not a readable sound file"),
        ([{"role": "user", "content": "hello"}], "a mapping of 'role', 'content'|object values are no samples"),
        ({"audio": NOTE, "text": "hello"}, "a mapping of 'audio', 'text'"),
        ([None], "clip 0 of its batch"),
    ],
)
def test_what_is_no_sound_is_refused_in_one_line(theirs, item, message):
    """A batch of ten thousand with one empty clip in it should end with the name of that clip."""
    with pytest.raises(AudioError, match=message) as caught:
        theirs.encode(item)
    assert "\n" not in str(caught.value)


def test_a_column_of_a_data_frame_is_not_one_sound(theirs, ours):
    """It is one object to the tool, and its owner has a table of paths."""
    column = pytest.importorskip("pandas").Series([str(path) for path in NOTES[:2]])
    with pytest.raises(AudioError, match=r"pass one list of all, as list\(column\)"):
        theirs.encode(column)
    assert np.abs(theirs.encode(list(column)) - ours.embed(NOTES[:2])).max() < 1e-5


def test_what_sound_does_not_have_is_refused(theirs, folder):
    """An option that is ignored makes another vector than its user believes."""
    with pytest.raises(ConfigError, match="token_embeddings: this model has sentence_embedding only"):
        theirs.encode(NOTE, output_value="token_embeddings")
    for dtype in ("foo", "save", "int8", torch.int8):
        with pytest.raises(ConfigError, match=r"dtype: expected torch.float32, torch.float16, .*, got"):
            AaPETransformer.load(str(folder), model_kwargs={"dtype": dtype})
    for options in ({"prompt": "query: "}, {"processing_kwargs": {"audio": {"sampling_rate": 8000}}}):
        with pytest.raises(ConfigError, match="its rate comes with it"):
            theirs[0].preprocess([NOTE], **options)
    with pytest.raises(ConfigError, match="its rate comes with it"):
        theirs.encode(NOTE, prompt="query: ")
    for options in (
        {"processor_kwargs": {"a": 1}},
        {"backend": "onnx"},
        {"model_kwargs": {"attn_implementation": "x"}},
    ):
        with pytest.raises(ConfigError, match="model_kwargs of pool, layers, loop_to, precision and dtype"):
            AaPETransformer.load(str(folder), **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(theirs, folder, dtype):
    """`model.half()`, `.bfloat16()` and `dtype` are how the tool's users save memory."""
    notes = [str(path) for path in NOTES[:2]]
    expected = theirs.encode(notes)
    assert cosine(theirs.to(dtype).encode(notes), expected) > 0.999
    tensor = theirs.encode(notes, convert_to_tensor=True, normalize_embeddings=True)
    assert tensor.dtype == dtype
    options = {"model_kwargs": {"dtype": dtype}, "trust_remote_code": True, "device": "cpu"}
    assert cosine(SentenceTransformer(str(folder), **options).encode(notes), expected) > 0.999


def test_options_of_the_vector(folder):
    """The pooling that fits one's data is chosen where the model is made."""
    options = {"pool": "cls_mean", "layers": [1, 2], "loop_to": 0}
    module = AaPETransformer.load(str(folder), model_kwargs=options)
    vectors = SentenceTransformer(modules=[module], device="cpu").encode([NOTE[:9000]])
    assert np.abs(vectors[0] - aape.load_model(folder, "cpu", **options).embed(NOTE[:9000], RATE)).max() < 1e-5


@pytest.mark.parametrize("pool", POOLS)
def test_the_vectors_of_training_are_those_of_use(folder, ours, pool):
    """Training on other vectors than are used later would train something else; half of these are cut or looped."""
    sounds = [noise(0.3), noise(3), noise(23), str(NOTES[0])]
    model = SentenceTransformer(modules=[AaPETransformer(folder, pool=pool)], device="cpu").train()
    features = model.preprocess(sounds)
    vectors = model(features)["sentence_embedding"]
    expected = ours.embed([(sound, RATE) if hasattr(sound, "ndim") else sound for sound in sounds], pool=pool)
    assert np.abs(vectors.detach().numpy() - expected).max() < 1e-5
    vectors.square().sum().backward()
    missing = {name for name, weight in model.named_parameters() if weight.grad is None and weight.requires_grad}
    assert missing <= ({"0.encoder.cls_token"} if "cls" not in pool else set())
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


def test_their_trainer_trains(theirs, tmp_path):
    """Fine-tuning on pairs is what the tool is for; its cached losses slice what `preprocess` returns."""
    datasets = pytest.importorskip("datasets")
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer import losses

    notes = [str(path) for path in NOTES[:8]]
    before = theirs.encode(notes[:1])
    pairs = datasets.Dataset.from_dict({"anchor": notes[:4], "positive": notes[4:]})
    options = {"max_steps": 1, "per_device_train_batch_size": 4, "use_cpu": True, "save_strategy": "no"}
    options |= {"report_to": [], "disable_tqdm": True, "learning_rate": 1e-3}
    arguments = SentenceTransformerTrainingArguments(str(tmp_path), **options)
    plain = losses.MultipleNegativesRankingLoss(theirs)
    loss = losses.CachedMultipleNegativesRankingLoss(theirs, mini_batch_size=3)
    with torch.no_grad():
        features = [[theirs.preprocess(half) for half in (notes[:4], notes[4:])] for _ in range(2)]
        assert float(loss(features[0], None)) == pytest.approx(float(plain(features[1], None)), abs=1e-4)
    trainer = SentenceTransformerTrainer(theirs, arguments, train_dataset=pairs, loss=loss)
    assert np.isfinite(trainer.train().training_loss)
    assert np.abs(theirs.encode(notes[:1]) - before).max() > 1e-4
    theirs.save_pretrained(str(tmp_path / "trained"))
    assert read_model(tmp_path / "trained").card == {}
    assert "generated_from_trainer" in (tmp_path / "trained" / "README.md").read_text(encoding="utf-8")


def test_their_own_transformer_around_ours(folder):
    """It reads any model of transformers; padding must not change what it makes of ours."""
    modules = pytest.importorskip("sentence_transformers.base.modules")
    vectors = {"audio": {"method": "forward", "method_output_name": "pooler_output"}}
    module = modules.Transformer(str(folder), modality_config=vectors, module_output_name="sentence_embedding")
    model = SentenceTransformer(modules=[module], device="cpu")
    alone, beside = model.encode([NOTE[:9000]])[0], model.encode([NOTE[:9000], noise(5)])[0]
    assert np.abs(beside - alone).max() < 1e-5
    assert np.abs(alone - aape.load_model(folder, "cpu").embed(NOTE[:9000], RATE)).max() < 1e-5


def test_the_mean_of_tokens_is_that_of_the_clip_alone(folder):
    """Its pooling counts the padding of a batch, as the mask of frames that it looks at is none of tokens."""
    modules = pytest.importorskip("sentence_transformers.base.modules")
    pooling = pytest.importorskip("sentence_transformers.sentence_transformer.modules").Pooling
    for kind in ("mean", "cls"):
        model = SentenceTransformer(modules=[modules.Transformer(str(folder)), pooling(64, kind)], device="cpu")
        alone, beside = model.encode([NOTE[:9000]])[0], model.encode([NOTE[:9000], noise(5)])[0]
        assert np.abs(beside - alone).max() < 1e-5


def test_it_can_be_sent_to_other_processes(theirs):
    """`encode(device=["cpu", "cpu"])` pickles the model."""
    again = pickle.loads(pickle.dumps(theirs))
    assert np.array_equal(again.encode(NOTE), theirs.encode(NOTE))


@pytest.mark.slow
def test_several_processes(theirs):
    """`encode(device=[...])` sends the model to new processes."""
    notes = [str(path) for path in NOTES[:3]]
    vectors = theirs.encode(notes, device=["cpu", "cpu"], chunk_size=2)
    assert np.abs(vectors - theirs.encode(notes)).max() < 1e-5


def test_several_threads(theirs, ours):
    """A server encodes from many threads at once."""
    results = {}
    work = [threading.Thread(target=lambda n=n: results.update({n: theirs.encode(str(NOTES[n]))})) for n in range(4)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert all(np.abs(results[n] - ours.embed(NOTES[n])).max() < 1e-5 for n in range(4))

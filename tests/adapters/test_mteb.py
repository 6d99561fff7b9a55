"""mteb evaluates a saved model: its tasks on real notes, and what reaches the encoder at all.

mteb's data sets are on the Hub: here tasks get the notes of the demo, in their layout. torchcodec is not installed.
"""

import importlib.util
import io
import sys

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

import aape
from aape.adapters.mteb import AaPEEncoder, model_meta
from aape.data.demo import AUDIO
from aape.models.heads import ClassificationHead
from aape.models.saved import revision, save_model
from notes import FRONT_END, LABELS, nano, save_nano

# Of scikit-learn about classes that are never predicted in data as small as these, and of mteb about itself.
QUIET = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_nano(tmp_path_factory.mktemp("models") / "bells")


def wave(seconds, rate, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * rate)).astype(np.float32)


def items(*arrays):
    return [{"audio": {"array": array, "sampling_rate": rate}} for array, rate in arrays]


def loader(rows, batch_size=2, **options):
    def collate(batch):  # as mteb's own
        return {key: [row[key] for row in batch] for key in batch[0]}

    return DataLoader(rows, batch_size=batch_size, collate_fn=collate, **options)


def test_vectors_are_those_of_embed_in_the_order_of_the_loader(folder):
    """A leaderboard entry must be about the vectors that users get, and about the right clip."""
    arrays = [
        (wave(1, 16000), 16000),
        (wave(0.5, 44100, 1), 44100),
        (wave(2, 8000, 2), 8000),
        (wave(1, 16000, 3), 16000),
    ]
    arrays.append((np.stack([wave(1, 22050, 4), wave(1, 22050, 5)]), 22050))  # (channels, samples), as torchcodec's
    vectors = AaPEEncoder(folder).encode(
        loader(items(*arrays)), task_metadata=None, hf_split="test", hf_subset="default"
    )
    assert (vectors.shape, vectors.dtype) == ((5, 128), np.float32)
    model = aape.load_model(folder)
    for vector, (array, rate) in zip(vectors, arrays, strict=True):
        alone = model.embed(array if array.ndim == 1 else array.mean(0), rate)
        np.testing.assert_allclose(vector, alone, atol=1e-5)
    backwards = AaPEEncoder(folder).encode(loader(items(*arrays), sampler=[4, 3, 2, 1, 0]), batch_size=1)
    np.testing.assert_allclose(backwards[::-1], vectors, atol=1e-5)
    assert AaPEEncoder(folder).encode([]).shape == (0, 128)
    other = AaPEEncoder(folder, pool="mean").encode(loader(items(arrays[0])))
    np.testing.assert_allclose(other[0], model.embed(*arrays[0], pool="mean"), atol=1e-5)


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        ({"array": np.zeros(0), "sampling_rate": 16000}, "no samples in it"),
        ({"array": np.full(16000, np.nan), "sampling_rate": 16000}, "NaN or infinite samples"),
        ({"array": np.zeros((16000, 2)), "sampling_rate": 16000}, r"of shape \(16000, 2\)"),
        ({"array": np.zeros(16000)}, "sample rate"),
        ({"bytes": b"RIFF", "path": None}, "file, clip 3"),
        ({"bytes": None, "path": "nowhere.wav"}, "nowhere.wav: "),
        ({"bytes": None, "path": None}, "it must have 'array' and 'sampling_rate', 'bytes' or 'path'"),
        ({"bytes": b"RIFF", "path": "audio.wav"}, "file, clip 3"),  # often of this name in all rows
        ([0.0] * 16000, "array, clip 3: an array does not know its sample rate"),
        (5, "array, clip 3"),
        (None, "array, clip 3"),
    ],
)
def test_a_bad_clip_is_named_by_its_number(folder, clip, reason):
    """Of ten thousand clips the one to leave out, in one line; a number within its batch would name another."""
    rows = [*items(*[(wave(0.5, 16000), 16000)] * 3), {"audio": clip}]
    with pytest.raises(aape.AudioError, match=reason) as caught:
        AaPEEncoder(folder).encode(loader(rows))
    assert "clip 3" in str(caught.value) or "nowhere.wav" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("batches", "reason"),
    [
        ([{"text": ["a bell"]}], r"the loader: no audio in its batches \(text\): this model embeds sound only"),
        ([[{"audio": 1}]], r"no audio in its batches \(list\)"),
        (DataLoader(items((wave(1, 16000), 16000))), "a collate_fn that keeps them apart, got a dict"),
    ],
)
def test_a_loader_without_clips_is_refused(folder, batches, reason):
    """A text task, or torch's own collation of clips, in one line."""
    with pytest.raises(aape.DataError, match=reason):
        AaPEEncoder(folder).encode(batches)


def test_what_cannot_be_done_is_refused(folder):
    """Results under the name of another model, revision or precision would be wrong on a leaderboard for good."""
    with pytest.raises(aape.CheckpointError, match=f"its revision is {revision(folder)}, and abc was expected"):
        AaPEEncoder(folder, "abc")
    with pytest.raises(aape.ConfigError, match="vectors are float32, and 'int8' was expected"):
        AaPEEncoder(folder).encode([], precision="int8")
    with pytest.raises(aape.CheckpointError, match="no such folder"):
        AaPEEncoder("nowhere")
    with pytest.raises(aape.ConfigError, match="expected organization/model, got 'bells'"):
        model_meta(folder, "bells")


def test_similarities_are_cosines():
    """Pair classification and retrieval rank by them."""
    model, rows = AaPEEncoder(), np.array([[3.0, 4.0], [0.0, 2.0]])
    assert model.similarity(rows, torch.tensor(rows)).numpy() == pytest.approx(np.array([[1, 0.8], [0.8, 1]]))
    assert model.similarity_pairwise(rows, rows[::-1].copy()).numpy() == pytest.approx([0.8, 0.8])


FAMILIES = ("bass", "flute", "keyboard", "mallet")


def note_rows(datasets, per_family=4):
    """Lay notes out as a data set of the Hub: the bytes of files, decoded when an item is taken."""
    notes = [note for family in FAMILIES for note in sorted(AUDIO.glob(f"{family}-*"))[:per_family]]
    clips = [{"bytes": note.read_bytes(), "path": note.name} for note in notes]
    labels = [FAMILIES.index(note.name.partition("-")[0]) for note in notes]
    return datasets.Dataset.from_dict({"audio": clips, "label": labels}).cast_column("audio", datasets.Audio())


def test_audio_columns_of_datasets_are_read_without_torchcodec(folder):
    """Each file is read as `aape embed` reads it, also where torchcodec is missing, and in the loader's order."""
    datasets = pytest.importorskip("datasets")
    rows = note_rows(datasets, 1).shuffle(seed=0)
    expected = aape.load_model(folder).embed(rows.cast_column("audio", datasets.Audio(decode=False))["audio"][:])
    np.testing.assert_allclose(AaPEEncoder(folder).encode(loader(rows, batch_size=3)), expected, atol=1e-5)
    resampled = loader(rows.cast_column("audio", datasets.Audio(sampling_rate=8000)))
    if importlib.util.find_spec("torchcodec") is None:
        with pytest.raises(ImportError, match="torchcodec"):
            AaPEEncoder(folder).encode(resampled)


@QUIET
def test_the_model_meta_is_complete(tmp_path):
    """What mteb's leaderboard shows, and what keeps the results of two models apart."""
    pytest.importorskip("mteb")
    card = {"license": "apache-2.0", "datasets": ["ESC50"], "date": "2026-11-28"}
    options = {"head": ClassificationHead(64, 4), "labels": LABELS, "card": card}
    save_model(tmp_path / "bells" / "model", nano(), FRONT_END, **options)
    meta = model_meta(tmp_path / "bells", "me/bells")
    assert (meta.name, meta.revision) == ("me/bells", revision(tmp_path / "bells"))
    assert (meta.release_date, meta.license, meta.training_datasets) == ("2026-11-28", "apache-2.0", {"ESC50"})
    assert (meta.embed_dim, meta.modalities, meta.similarity_fn_name) == (128, ["audio"], "cosine")
    head = sum(parameter.numel() for parameter in options["head"].parameters())
    assert meta.n_parameters == head + sum(parameter.numel() for parameter in nano().parameters())
    assert meta.memory_usage_mb == meta.calculate_memory_usage_mb()
    assert "2512.03637" in meta.citation
    assert str(tmp_path) not in str(meta.to_dict())  # it is kept with each result
    assert meta.experiment_kwargs is None
    other = model_meta(tmp_path / "bells", "me/bells", pool="mean")
    assert (other.embed_dim, other.experiment_name) == (64, "pool_mean")
    bare = model_meta(save_nano(tmp_path / "drums"))
    assert (bare.name, bare.license, bare.training_datasets, bare.release_date) == ("aape/drums", None, None, None)
    shipped = model_meta()
    assert (shipped.name, shipped.embed_dim, shipped.n_parameters) == ("aape/tiny", 3072, 6140256)


@QUIET
def test_mteb_loads_the_model_that_a_meta_describes(tmp_path, monkeypatch):
    """`mteb.evaluate` takes a meta, too; options and revision must survive the way through it."""
    mteb = pytest.importorskip("mteb")
    from mteb.models.models_protocols import EncoderProtocol

    meta = model_meta(save_nano(tmp_path / "bells"), pool="mean")
    monkeypatch.setattr(mteb.models.ModelMeta, "_check_requirements", lambda self: None)  # torchaudio and torchcodec
    model = meta.load_model(device="cpu")
    assert isinstance(model, EncoderProtocol)
    assert (model.mteb_model_meta.name, model.mteb_model_meta.revision) == (meta.name, meta.revision)
    assert model.encode(loader(items((wave(1, 16000), 16000)))).shape == (1, 64)
    save_model(tmp_path / "bells", nano(pos_trainable=True), FRONT_END)
    with pytest.raises(aape.CheckpointError, match="its revision is"):
        meta.load_model(device="cpu")


def as_tasks(mteb, datasets):
    """Tasks of MAEB's kinds; nothing of them is changed but where the data come from."""
    rows = note_rows(datasets)
    others = [index if index % 2 else (index + 5) % 16 for index in range(16)]  # itself, or one of the next family
    same = [int(rows["label"][index] == rows["label"][other]) for index, other in enumerate(others)]
    raw = rows.cast_column("audio", datasets.Audio(decode=False))
    pairs = datasets.Dataset.from_dict({"label": same})
    for name, chosen in (("audio1", range(16)), ("audio2", others)):
        pairs = pairs.add_column(name, raw.select(chosen)["audio"][:]).cast_column(name, datasets.Audio())
    nsynth = rows.rename_column("label", "instrument_source")
    data = {
        "NSynth": {"train": nsynth, "test": nsynth.select(range(15, -1, -1))},
        "ESC50Clustering": {"train": rows.rename_column("label", "target")},
        "ESC50PairClassification": {"test": pairs},
    }
    tasks = mteb.get_tasks(list(data))
    for task in tasks:
        task.dataset, task.data_loaded = datasets.DatasetDict(data[task.metadata.name]), True
    return tasks


@QUIET
def test_tasks_of_maeb_score_real_notes(folder, tmp_path):
    """From nothing to a score: classification, pairs and clustering, with each vector in its place."""
    mteb, datasets = pytest.importorskip("mteb"), pytest.importorskip("datasets")
    cache = mteb.ResultCache(tmp_path)
    results = mteb.evaluate(AaPEEncoder(folder), as_tasks(mteb, datasets), cache=cache, show_progress_bar=False)
    scores = {result.task_name: result.get_score() for result in results.task_results}
    assert scores["NSynth"] == 1  # a clip is labelled by what it was trained with
    assert scores["ESC50PairClassification"] == 1
    assert scores["ESC50Clustering"] > 0.4
    kept = cache.load_results(models=["aape/bells"]).model_results
    assert [result.model_revision for result in kept] == [revision(folder)]


@QUIET
def test_the_mock_tasks_of_mteb_pass(folder, monkeypatch):
    """mteb's own check of a model, `mteb mock-run`; its sounds are made with torchcodec, here with soundfile."""
    mteb, datasets = pytest.importorskip("mteb"), pytest.importorskip("datasets")

    def encode_example(self, value):
        file = io.BytesIO()
        soundfile.write(file, np.asarray(value["array"]), value["sampling_rate"], "FLOAT", format="WAV")
        return {"bytes": file.getvalue(), "path": None}

    monkeypatch.setattr(datasets.Audio, "encode_example", encode_example)
    results = mteb.mock_run(AaPEEncoder(folder))
    ran = {name: result for name, result in results.items() if result is not None}
    assert len(ran) == 7
    assert all(isinstance(result, mteb.TaskResult) for result in ran.values()), results.to_markdown()


def test_the_vectors_of_a_loader_need_no_mteb(folder, monkeypatch):
    """Whoever only wants these needs neither mteb nor datasets; a meta says what to install."""
    for name in ("mteb", "mteb.models", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    assert AaPEEncoder(folder).encode(loader(items((wave(1, 16000), 16000)))).shape == (1, 128)
    with pytest.raises(ImportError, match="pip install mteb"):
        model_meta(folder)

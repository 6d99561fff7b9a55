"""The class that clusters call on batches: the vectors of `aape embed`, and no bad file or dead worker ends the job."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aape.cli import main
from aape.errors import ConfigError
from aape.inference import Embedder, load_model
from decoders import AudioDecoder, DatasetsDecoder, wav
from notes import NOTES, link_notes, save_nano


@pytest.fixture
def embedder(tmp_path):
    return Embedder(str(save_nano(tmp_path / "model")), device="cpu")


def batch_of(files, column="bytes"):
    contents = np.empty(len(files), object)
    contents[:] = [file if isinstance(file, bytes) or file is None else Path(file).read_bytes() for file in files]
    names = [f"{index}.opus" for index in range(len(files))]
    return {column: contents, "path": np.array(names, object), "size": np.arange(len(files))}


@pytest.mark.parametrize("column", ["bytes", "content"])
def test_a_batch_has_the_vectors_of_its_files(embedder, column):
    """A cluster's vectors must be searchable with those of a laptop; what came with a file stays with it."""
    result = embedder(batch_of(NOTES[:12], column))
    np.testing.assert_allclose(result["embedding"], embedder.model.embed_files(NOTES[:12])[0], atol=1e-5)
    assert result["embedding"].dtype == np.float32
    assert result.keys() == {"path", "size", "embedding", "error"}
    assert result["size"].tolist() == list(range(12))
    assert result["path"][11] == "11.opus"
    assert not any(result["error"])


@pytest.mark.parametrize("options", [{}, {"window": 0.5, "hop": 0.25}], ids=["files", "windows"])
def test_a_bad_file_does_not_end_the_job(tmp_path, options):
    """Among two million files some are broken: they must be named, and not cost a night."""
    embedder = Embedder(str(save_nano(tmp_path / "model")), device="cpu", **options)
    cut = NOTES[2].read_bytes()[:-2000]
    result = embedder(batch_of([NOTES[0], b"no sound", NOTES[1], b"", None, cut]))
    bad = {int(row): str(error) for row, error in zip(result["size"], result["error"], strict=True) if error}
    assert list(bad) == [1, 3, 4, 5]
    assert "not the bytes" in bad[4]
    is_bad = result["error"] != ""
    assert is_bad.sum() == 4
    assert np.isnan(result["embedding"][is_bad]).all()
    assert np.isfinite(result["embedding"][~is_bad]).all()
    assert set(result["size"][~is_bad]) == {0, 2}


def test_a_data_set_of_hugging_face_is_mapped(embedder):
    """Its column is called audio, and holds decoders, or files not decoded."""
    datasets = pytest.importorskip("datasets")
    expected = embedder.model.embed_files(NOTES[:5])[0]
    paths = datasets.Dataset.from_dict({"audio": list(map(str, NOTES[:5])), "label": list("abcde")})
    undecoded = paths.cast_column("audio", datasets.Audio(decode=False))
    result = undecoded.map(embedder, batched=True, batch_size=2, remove_columns="audio")
    assert result.column_names == ["label", "embedding", "error"]
    np.testing.assert_allclose(result.with_format("numpy")["embedding"][:], expected, atol=1e-5)
    samples = [soundfile.read(note, dtype="float32")[0] for note in NOTES[:5]]
    sounds = [
        DatasetsDecoder(wav(samples[0])),
        AudioDecoder(wav(samples[1], samples[1])),
        NOTES[2],
        (samples[3], 16000),
        "no.wav",
    ]
    result = embedder({"audio": sounds, "label": list("abcde")})
    np.testing.assert_allclose(result["embedding"][:4], expected[:4], atol=1e-4)
    assert np.isnan(result["embedding"][4]).all()
    assert result["error"][4] == "No such file or directory"


def test_windows_have_times(tmp_path):
    """Rows of windows are found again in their files."""
    model = load_model(save_nano(tmp_path / "model"), "cpu")
    embedder = Embedder(str(tmp_path / "model"), device="cpu", window=0.5, hop=0.25)
    result = embedder(batch_of(NOTES[:3]))
    for row, note in enumerate(NOTES[:3]):
        vectors, times = model.embed_windows(str(note), window=0.5, hop=0.25)
        rows = result["size"] == row
        np.testing.assert_allclose(result["embedding"][rows], vectors, atol=1e-5)
        np.testing.assert_array_equal(np.stack([result["start"], result["end"]], 1)[rows], times)


def test_an_empty_batch(embedder):
    """The last partition may be empty."""
    result = embedder(batch_of([]))
    assert result["embedding"].shape == (0, embedder.model.embed_dim)
    assert result["error"].dtype.kind == "U"


def test_other_columns_are_left_as_they_are(embedder):
    """Labels are lists of any length, and a number must not become text."""
    files = [NOTES[0].read_bytes()] * 2
    others = {"tags": [["x"], ["y", "z"]], "mixed": [1, "a"], "big": [2**53 + 1, 0.5]}
    result = embedder({"bytes": files, **others})
    assert {name: result[name] for name in others} == others


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"path": ["a"], "text": ["b"]}, "no column bytes, content, audio in a batch of path, text"),
        ([b"RIFF"], "a mapping of columns or a data frame, got list"),
        ({"bytes": [b"", b""], "id": [1, 2, 3]}, "column id has 3 rows, and bytes has 2"),
    ],
)
def test_another_batch_is_refused(embedder, batch, message):
    """A wrong column name must not be a traceback from within a cluster."""
    with pytest.raises(ConfigError, match=message):
        embedder(batch)


def run(program, folder, *arguments):
    """Run a program that has what this one has; returns nothing if it ends well."""
    environment = {**os.environ, "RAY_DATA_DISABLE_PROGRESS_BARS": "1", "PYSPARK_PYTHON": sys.executable}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, sys.path))
    command = [sys.executable, "-c", program, *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr


RAY = """
import os, signal, sys
import numpy as np
import ray
from aape.inference import Embedder

folder, model, out, marker = sys.argv[1:]

class Dying(Embedder):
    calls = 0

    def __call__(self, batch):
        self.calls += 1
        if self.calls == 2:
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)

ray.init(num_cpus=3, include_dashboard=False)
files = ray.data.read_binary_files(folder, include_paths=True, override_num_blocks=10)
options = {"model": model, "device": "cpu"}
result = files.map_batches(Dying, batch_size=4, concurrency=2, fn_constructor_kwargs=options,
                           max_restarts=-1, max_task_retries=-1).take_all()
names = [row["path"] for row in result]
assert not any(row["error"] for row in result), result[0]["error"]
np.savez(out, embedding=np.stack([row["embedding"] for row in result]), names=np.array(names))
"""


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed: pip install 'ray[data]'")
def test_ray_with_a_worker_killed_on_the_way(tmp_path):
    """A machine of the cluster is lost: the job ends with the vectors of one process, none missing and none twice."""
    folder, model = link_notes(tmp_path / "in", 40), save_nano(tmp_path / "model")
    out, marker = tmp_path / "ray.npz", tmp_path / "killed"
    run(RAY, tmp_path, folder, model, out, marker)
    assert marker.exists()
    assert main(["embed", str(folder), "--model", str(model), "--out", str(tmp_path / "one.npz")]) == 0
    with np.load(out) as cluster, np.load(tmp_path / "one.npz") as one:
        order = np.argsort(cluster["names"])
        assert [os.path.basename(name) for name in cluster["names"][order]] == list(map(os.path.basename, one["file"]))
        np.testing.assert_allclose(cluster["embedding"][order], one["embedding"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("index", "package"), [(0, "ray"), (1, "pyspark")], ids=["ray", "spark"])
def test_the_page_runs(tmp_path, index, package):
    """What is copied from the page works, with one broken file among the recordings."""
    if not importlib.util.find_spec(package):
        pytest.skip(f"{package} is not installed")
    (tmp_path / "recordings").mkdir()
    for note in NOTES[:6]:
        shutil.copy(note, tmp_path / "recordings")
    (tmp_path / "recordings" / "broken.opus").write_bytes(NOTES[0].read_bytes()[:1000])
    page = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[index]
    program = ("import ray\nray.init(num_cpus=3)\n" if package == "ray" else "") + program
    check = """
import pyarrow.parquet
for row in pyarrow.parquet.read_table(sys.argv[1]).to_pylist():
    assert bool(row["error"]) == ("broken" in row["path"]) == bool(np.isnan(row["embedding"]).all()), row
    rows.append(row)
assert len(rows) == 7
"""
    run(f"{program}\nimport sys\nimport numpy as np\nrows = []\n{check}", tmp_path, ("vectors", "spark_vectors")[index])

"""`aape embed` end to end: files and folders in, one array out; what a killed run costs is in tests/reliability."""

import csv
import json
import os
import tarfile

import numpy as np
import pytest
import soundfile

from aape.cli import main
from aape.inference import load_model
from notes import NOTES, link_notes, save_nano


@pytest.fixture
def folder(tmp_path):
    return save_nano(tmp_path / "model")


def write_noise(path, num_samples):
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(num_samples).standard_normal(num_samples), 16000)
    return path


def test_embed_command(folder, tmp_path, capsys):
    """`aape embed` on files and folders with a bad file among them: vectors in input order, and a word on the bad."""
    good = [write_noise(tmp_path / "in" / f"{name}.wav", 3000 + 4000 * n) for n, name in enumerate("ba")]
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF")
    lone = write_noise(tmp_path / "z.flac", 5000)
    out = tmp_path / "new" / "vectors.npz"
    arguments = [str(lone), str(tmp_path / "in"), str(tmp_path / "gone.wav"), "--model", str(folder), "--out", str(out)]
    assert main(["embed", *arguments, "--device", "cpu"]) == 0
    errors = capsys.readouterr().err
    assert "broken.wav: " in errors
    assert "gone.wav: " in errors
    with np.load(out, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["embedding", "file"]
        assert arrays["file"].tolist() == [str(lone), str(good[1]), str(good[0])]
        vectors = arrays["embedding"]
    assert vectors.dtype == np.float32
    model = load_model(folder, "cpu")
    np.testing.assert_allclose(vectors, [model.embed(path) for path in (lone, good[1], good[0])], atol=1e-5)
    assert [path.name for path in out.parent.iterdir()] == ["vectors.npz"]
    before = out.read_bytes()
    assert main(["embed", *arguments, "--device", "cpu"]) == 0
    assert out.read_bytes() == before


def test_embed_command_refusals(folder, tmp_path, capsys):
    """What cannot work says why in one line and with status 2, and writes nothing."""
    text = tmp_path / "text.wav"
    text.write_text("no sound")
    (tmp_path / "none").mkdir()
    model, out = ["--model", str(folder)], ["--out", str(tmp_path / "v.npz")]
    for arguments, message in (
        ([str(text), *model, *out], "text.wav: not a readable sound file"),
        ([str(text), str(tmp_path), *model, *out], "none of 2 inputs could be read; the first: "),
        ([str(tmp_path / "none"), *model, *out], "none: a folder, and no sound file in it"),
        ([str(text), *model, "--out", str(text / "v.npz")], "text.wav is no folder, and none can be made"),
        ([str(text), *model, "--out", str(tmp_path)], "name a file that ends in .npz, .csv or .parquet"),
        ([str(text), "--model", "nope", *out], "shipped models"),
    ):
        assert main(["embed", *arguments, "--device", "cpu"]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("aape: error: ")]
        assert len(lines) == 1
        assert message in lines[0]
    assert not (tmp_path / "v.npz").exists()


def test_a_damaged_model_is_one_line(folder, tmp_path, capsys):
    """The command line must never answer a broken download with a traceback."""
    values = json.loads((folder / "config.json").read_text())
    values["encoder"]["embed_dim"] = 192
    (folder / "config.json").write_text(json.dumps(values))
    wave = write_noise(tmp_path / "a.wav", 3000)
    assert main(["embed", str(wave), "--model", str(folder), "--out", str(tmp_path / "v.npz")]) == 2
    assert "encoder.cls_token: [1, 1, 64] in the file, [1, 1, 192] by config.json" in capsys.readouterr().err


def test_csv_has_the_numbers_of_npz_to_the_bit(tmp_path, capsys):
    """A table for other programs must be a table, with the same vectors; a ZIP called .csv is none."""
    model = save_nano(tmp_path / "model")
    sound = link_notes(tmp_path / "sound", 2)
    os.symlink(NOTES[2], os.fsencode(sound) + b"/\xff,odd.opus")
    command = ["embed", str(sound), "--model", str(model), "--device", "cpu", "--out"]
    for name in ("v.NPZ", "v.csv"):
        assert main([*command, str(tmp_path / name)]) == 0
    with np.load(tmp_path / "v.NPZ") as arrays, open(tmp_path / "v.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
        assert header == ["file", *map(str, range(arrays["embedding"].shape[1]))]
        assert np.array_equal(np.asarray([row[1:] for row in rows], np.float32), arrays["embedding"])
        assert [row[0].encode("utf-8") for row in rows] == [
            name.encode("utf-8", "backslashreplace") for name in arrays["file"]
        ]
    capsys.readouterr()
    for name in ("v.txt", "v", "v.csv.gz", "new/v.json"):
        assert main([*command, str(tmp_path / name)]) == 2
        assert "name a file that ends in .npz, .csv or .parquet" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def notes_and_model(tmp_path_factory):
    """Eight notes in folders, one of them broken, and a model."""
    folder = tmp_path_factory.mktemp("notes")
    link_notes(folder / "sound", 6)
    link_notes(folder / "sound" / "more", 2)
    (folder / "sound" / "broken.wav").write_bytes(b"RIFF")
    return folder, save_nano(folder / "model")


def test_windows_are_those_of_the_model_and_say_where_they_lie(notes_and_model, tmp_path):
    """A row whose time is another's sends its reader to the wrong second."""
    folder, model = notes_and_model
    out = tmp_path / "v.npz"
    options = ["--window", "1", "--hop", "0.5", "--pool", "frequency", "--layers", "1,2", "--batch", "1"]
    assert main(["embed", str(folder / "sound"), "--model", str(model), "--out", str(out), *options]) == 0
    encoder = load_model(model, pool="frequency", layers=(1, 2))
    files = sorted(path for path in (folder / "sound").rglob("*.opus"))
    with np.load(out) as arrays:
        assert list(dict.fromkeys(arrays["file"].tolist())) == list(map(str, files))
        assert arrays["embedding"].shape[1] == encoder.embed_dim
        for file in files:
            vectors, times = encoder.embed_windows(file, window=1.0, hop=0.5)
            rows = arrays["file"] == str(file)
            np.testing.assert_allclose(arrays["embedding"][rows], vectors, atol=1e-5)
            np.testing.assert_array_equal(np.stack([arrays["start"], arrays["end"]], 1)[rows], times)


def test_windows_of_parts_count_from_the_start_of_the_file(notes_and_model, tmp_path):
    _, model = notes_and_model
    (tmp_path / "t.csv").write_text(f"file,start,end\n{NOTES[0]},0.5,2\n")
    out = tmp_path / "v.csv"
    assert main(["embed", str(tmp_path / "t.csv"), "--model", str(model), "--out", str(out), "--window", "1"]) == 0
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["start"], row["end"]) for row in rows] == [
        (str(NOTES[0]), "0.5", "1.5"), (str(NOTES[0]), "1.5", "2.0")
    ]  # fmt: skip


@pytest.mark.parametrize("options", [[], ["--window", "1"]], ids=["files", "windows"])
def test_parquet_has_the_columns_of_npz_and_the_same_bytes_again(notes_and_model, tmp_path, options):
    """It is read by other programs, and by `cmp`."""
    parquet = pytest.importorskip("pyarrow.parquet")
    folder, model = notes_and_model
    contents = []
    for name in ("v.npz", "v.parquet", "v.parquet"):
        out = tmp_path / name
        assert main(["embed", str(folder / "sound"), "--model", str(model), "--out", str(out), *options]) == 0
        contents.append(out.read_bytes())
    assert contents[1] == contents[2]
    table = parquet.read_table(tmp_path / "v.parquet")
    with np.load(tmp_path / "v.npz") as arrays:
        assert table.column_names == list(arrays)
        assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[128]"
        for name in arrays:
            np.testing.assert_array_equal(np.array(table[name].to_pylist(), arrays[name].dtype), arrays[name])


def test_without_pyarrow_parquet_is_refused_before_the_work(notes_and_model, tmp_path, capsys, monkeypatch):
    folder, _ = notes_and_model
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["embed", str(folder / "sound"), "--model", "none", "--out", str(tmp_path / "v.parquet")]) == 2
    assert "pip install 'aape[parquet]'" in capsys.readouterr().err


def test_names_are_relative_to_the_root(notes_and_model, tmp_path, monkeypatch, capsys):
    """An archive that moves must not leave its vectors behind, whichever link or folder they were made from."""
    _, model = notes_and_model
    out, expected = tmp_path / "v.npz", ["1.opus", "2.opus", "3.opus", "shard.tar/4.opus"]
    archive = tmp_path / "archive"
    (archive / "more").mkdir(parents=True)
    for note, name in zip(NOTES, expected, strict=False):
        (archive / "more" / name.rpartition("/")[2]).symlink_to(note)
    with tarfile.open(archive / "more" / "shard.tar", "w", dereference=True) as shard:
        shard.add(archive / "more" / "4.opus", "4.opus")
    (archive / "more" / "4.opus").unlink()
    (tmp_path / "link").symlink_to(archive)
    monkeypatch.chdir(archive / "more")
    for inputs, root in ((".", ".."), (str(archive), str(tmp_path / "link")), ("../../link", str(archive) + "/")):
        assert main(["embed", inputs, "--model", str(model), "--out", str(out), "--root", root]) == 0
        with np.load(out) as arrays:
            assert arrays["file"].tolist() == [f"more/{name}" for name in expected]
    out.unlink()
    capsys.readouterr()
    (tmp_path / "archive" / "mor").mkdir()
    assert main(["embed", str(archive), "--model", str(model), "--out", str(out), "--root", "../mor"]) == 2
    assert "archive/more does not lie in ../mor" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.glob("v.npz*"))


def test_a_recording_that_breaks_off_leaves_no_windows(notes_and_model, tmp_path, capsys):
    """Half of its windows would pass for all."""
    _, model = notes_and_model
    sound = tmp_path / "sound"
    whole = write_noise(sound / "b.flac", 16000 * 60).read_bytes()
    (sound / "a.flac").write_bytes(whole[: len(whole) // 2])
    (sound / "c.flac").symlink_to(sound / "b.flac")
    out = tmp_path / "v.npz"
    assert main(["embed", str(sound), "--model", str(model), "--out", str(out), "--window", "1"]) == 0
    assert "left out: " in capsys.readouterr().err
    with np.load(out) as arrays:
        assert arrays["file"].tolist() == [str(sound / "b.flac")] * 60 + [str(sound / "c.flac")] * 60
        np.testing.assert_array_equal(arrays["embedding"][:60], arrays["embedding"][60:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "0.1"], "window must be 0.16 to 10.24 s"),
        (["--hop", "1"], "hop: it is from window to window: give a window"),
        (["--window", "1", "--hop", "0"], "hop must be 0.01 to 1 s"),
        (["--window", "1", "--hop", "1.5"], "hop must be 0.01 to 1 s"),
        (["--window", "1.005"], "window must be a multiple of 0.01 s"),
        (["--layers", "3"], "layers: the encoder has blocks 1 to 2"),
        (["--layers", "1", "2"], "--layers: a list is one argument: 1,2"),
        (["--root", "nowhere"], "root: nowhere: no such folder"),
        (["--pool", "max"], "--pool: expected one of cls_mean, frequency"),
        (["--precision", "fp8"], "--precision: expected one of auto, float32, bfloat16"),
    ],
)
def test_what_cannot_be_computed_is_one_line_before_the_work(notes_and_model, tmp_path, capsys, options, message):
    folder, model = notes_and_model
    out = tmp_path / "new" / "v.npz"
    assert main(["embed", str(folder / "sound"), "--model", str(model), "--out", str(out), *options]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_what_changes_the_vectors_begins_anew(notes_and_model, tmp_path, monkeypatch):
    """Chunks of a killed run with other options must not end up in this one."""
    folder, model = notes_and_model
    out = tmp_path / "v.npz"
    command = ["embed", str(folder / "sound"), "--model", str(model), "--out", str(out)]
    expected = []
    variants = [[], ["--pool", "mean"], ["--layers", "1"], ["--window", "1"], ["--window", "1", "--hop", "0.5"],
                ["--loop-to", "9"], ["--precision", "bfloat16"]]  # fmt: skip
    for options in variants:
        assert main([*command, *options]) == 0
        expected.append(out.read_bytes())
    assert len(set(expected)) == len(variants)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # as if each had been killed at the end
        for options in variants:
            main([*command, *options])
    assert len(list(tmp_path.glob("v.npz.partial/*.chunk"))) == len(variants)
    for options, content in zip(variants, expected, strict=True):
        (tmp_path / "v.npz.partial").mkdir(exist_ok=True)
        assert main([*command, *options]) == 0
        assert out.read_bytes() == content

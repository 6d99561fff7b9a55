"""`aape embed` end to end: files and folders in, one array out; what a killed run costs is in tests/reliability."""

import csv
import json
import os

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

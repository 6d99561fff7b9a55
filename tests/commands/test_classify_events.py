"""Windows and events of `aape classify`, end to end."""

import csv
import io
import json
import os

import numpy as np
import pytest
import soundfile
import torch

from aape.cli import main
from aape.inference import events, label_track
from aape.inference.label_files import track_names
from notes import classifier, noise, save_classifier

RATE = 16000


@pytest.fixture
def tagger(tmp_path):
    """Save a multi-label model, and return the arguments that use it on recordings in folders, and the model."""
    for number, name in enumerate(("in/a.wav", "in/sub/a.wav", "in/b.flac")):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        soundfile.write(tmp_path / name, noise(2 + number, number), RATE)
    model = classifier(multi_label=True)
    with torch.no_grad():  # scores on both sides of a half
        model.head.linear.weight.mul_(20)
        model.head.linear.bias.sub_(model.head(model.encoder(model.log_mel(torch.from_numpy(noise(2.55))[None])))[0])
    return ["--model", str(save_classifier(tmp_path / "model", model)), "--device", "cpu"], model


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_windows_on_the_command_line(tmp_path, tagger, monkeypatch):
    """What `classify` says in Python about each window, one row for each of its labels."""
    monkeypatch.chdir(tmp_path)
    arguments, model = tagger
    windows = ["--window", "0.5", "--hop", "0.2", "--top", "3", "--threshold", "0.1"]
    for out in ("r.csv", "r.json"):
        assert main(["classify", "in", *arguments, *windows, "--out", out]) == 0
    options = {"window": 0.5, "hop": 0.2, "top": 3, "threshold": 0.1}
    files = ["in/a.wav", "in/b.flac", "in/sub/a.wav"]
    rows = read_csv("r.csv")
    assert list(rows[0]) == ["file", "start", "end", "rank", "label", "score"]
    expected = [
        (file, f"{window.start:.3f}", f"{window.end:.3f}", str(rank), label)
        for file in files
        for window in model.classify(file, **options).windows
        for rank, label in enumerate(window.labels, start=1)
    ]
    assert [tuple(row.values())[:5] for row in rows] == expected
    recordings = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    scores = [score for recording in recordings for window in recording["windows"] for score in window["scores"]]
    np.testing.assert_allclose([float(row["score"]) for row in rows], scores, atol=1e-6)


def test_events_on_the_command_line(tmp_path, tagger, monkeypatch, capsys):
    """A table of all recordings, and label tracks: the same events, of all labels whatever `--top` shows."""
    monkeypatch.chdir(tmp_path)
    arguments, model = tagger
    (tmp_path / "thresholds.csv").write_text("label,threshold\nbell,0.3\nΩmega,0.999\n", encoding="utf-8")
    threshold = {"bell": 0.3, "Ωmega": 0.999, "drum": 0.4, "flute [low]": 0.4}
    options = ["--window", "0.4", "--hop", "0.1", "--threshold", "0.4", "--thresholds", "thresholds.csv",
               "--min-gap", "0.15", "--min-duration", "0.6", "--top", "1"]  # fmt: skip
    expected = {}
    for file in ("in/a.wav", "in/b.flac", "in/sub/a.wav"):
        windows = model.classify(file, window=0.4, hop=0.1, top=4, threshold=threshold).windows
        expected[file] = events(windows, min_duration=0.6, min_gap=0.15)
    assert main(["classify", "in", *arguments, *options, "--events", "new/e.csv", "--out", "r.json"]) == 0
    count = sum(map(len, expected.values()))
    assert count > 3
    assert f"{count} events in 3 files -> new/e.csv" in capsys.readouterr().out.replace(os.sep, "/")
    rows = read_csv("new/e.csv")
    assert list(rows[0]) == ["file", "start", "end", "label", "score"]
    assert [(row["file"], row["start"], row["end"], row["label"]) for row in rows] == [
        (file, f"{event.start:.3f}", f"{event.end:.3f}", event.label) for file in expected for event in expected[file]
    ]
    np.testing.assert_allclose(
        [float(row["score"]) for row in rows], [e.score for file in expected for e in expected[file]], atol=1e-5
    )
    for recording in json.loads((tmp_path / "r.json").read_text(encoding="utf-8")):
        assert all(len(window["labels"]) <= 1 for window in recording["windows"])
    assert main(["classify", "in", *arguments, *options, "--events", "tracks"]) == 0
    assert main(["classify", "in/a.wav", *arguments, *options, "--events", "A.TXT"]) == 0
    for track, file in (("a", "in/a.wav"), ("b", "in/b.flac"), ("sub/a", "in/sub/a.wav"), ("../A", "in/a.wav")):
        name = "A.TXT" if track == "../A" else f"tracks/{track}.txt"
        assert (tmp_path / name).read_text(encoding="utf-8") == label_track(expected[file])
    assert sorted(path.name for path in tmp_path.rglob("*.txt")) == ["a.txt", "a.txt", "b.txt"]


def test_tables_in_parquet(tmp_path, tagger, monkeypatch):
    """The same rows as in a CSV, with numbers as numbers, also where there are none."""
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    arguments, _ = tagger
    options = ["--window", "0.5", "--hop", "0.2"]
    for ending in ("csv", "parquet"):
        outputs = ["--out", f"r.{ending}", "--events", f"e.{ending}"]
        assert main(["classify", "in", *arguments, *options, *outputs]) == 0
    for name in ("r", "e"):
        rows = parquet.read_table(f"{name}.parquet").to_pylist()
        lines = read_csv(f"{name}.csv")
        assert list(rows[0]) == list(lines[0])
        for row, line in zip(rows, lines, strict=True):
            formats = {"start": ".3f", "end": ".3f", "score": ".6f"}
            assert {key: format(value, formats.get(key, "")) for key, value in row.items()} == line
    assert main(["classify", "in", *arguments, "--min-duration", "60", "--events", "none.parquet"]) == 0
    none = parquet.read_table("none.parquet")
    assert (none.num_rows, none.schema) == (0, parquet.read_schema("e.parquet"))


@pytest.mark.parametrize("option", ["out", "events"])
def test_parquet_without_what_writes_it(tmp_path, tagger, monkeypatch, capsys, option):
    """An hour of work must not end at an import."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["classify", "in", *tagger[0], f"--{option}", str(tmp_path / "r.parquet")]) == 2
    assert f"error: {option}: " in (error := capsys.readouterr().err)
    assert "pip install 'aape[parquet]'" in error


def test_events_have_a_threshold_of_a_half(tmp_path, tagger, monkeypatch):
    """Without one, each label would be one event that lasts as long as the recording."""
    monkeypatch.chdir(tmp_path)
    arguments, model = tagger
    assert main(["classify", "in/b.flac", *arguments, "--window", "0.5", "--events", "e.csv", "--out", "r.json"]) == 0
    expected = events(model.classify("in/b.flac", window=0.5, top=4, threshold=0.5).windows)
    assert [row["label"] for row in read_csv("e.csv")] == [event.label for event in expected]
    (recording,) = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert all(score >= 0.5 for score in recording["scores"])
    (tmp_path / "t.csv").write_text("label,threshold\ndrum,0\n", encoding="utf-8")
    assert main(["classify", "in/b.flac", *arguments, "--thresholds", "t.csv", "--out", "r.json"]) == 0
    assert len(json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))[0]["labels"]) == 4


def test_events_of_parts_have_the_times_of_their_file(tmp_path, tagger, monkeypatch):
    """A call at 2.1 s of a recording, in a clip that begins at 2 s, is not at 0.1 s."""
    monkeypatch.chdir(tmp_path)
    arguments, model = tagger
    (tmp_path / "in" / "parts.csv").write_text("file,start,end\nsub/a.wav,0.5,1.5\nsub/a.wav,2,3\n")
    options = ["--window", "0.5", "--hop", "0.1", "--threshold", "0.3"]
    expected = []
    wave, _ = soundfile.read("in/sub/a.wav")
    for start, end in ((0.5, 1.5), (2, 3)):
        part = wave[round(start * RATE) : round(end * RATE)]
        found = events(model.classify(part, RATE, window=0.5, hop=0.1, top=4, threshold=0.3).windows)
        expected += [(start + event.start, start + event.end, event.label) for event in found]
    for target in ("e.csv", "tracks", "e.txt"):
        assert main(["classify", "in/parts.csv", *arguments, *options, "--events", target]) == 0
    rows = [(float(row["start"]), float(row["end"]), row["label"]) for row in read_csv("e.csv")]
    assert [(row[2], pytest.approx(row[0]), pytest.approx(row[1])) for row in expected] == [
        (label, start, end) for start, end, label in rows
    ]
    track = (tmp_path / "tracks" / "sub" / "a.txt").read_text(encoding="utf-8")
    assert len(track.splitlines()) == len(expected)
    assert (tmp_path / "e.txt").read_text(encoding="utf-8") == track


@pytest.mark.parametrize(
    ("inputs", "files", "tracks"),
    [
        (["in"], ["in/a.wav", "in/sub/a.wav"], ["a.txt", "sub/a.txt"]),
        (["in"], ["in/sub/a.wav"], ["sub/a.txt"]),  # the same, whatever else there is
        (["in/"], ["in/a.wav"], ["a.txt"]),
        (["in", "in2"], ["in/a.wav", "in2/a.wav"], ["in/a.txt", "in2/a.txt"]),
        (["in/a.wav", "in2/a.wav"], ["in/a.wav", "in2/a.wav"], ["in/a.txt", "in2/a.txt"]),
        (["in/a.wav"], ["in/a.wav"], ["a.txt"]),
        (["in"], ["in/a.wav", "in/a.flac", "in/b.wav"], ["a.wav.txt", "a.flac.txt", "b.wav.txt"]),
        (["in"], ["in/a.wav", "in/A.flac"], ["a.wav.txt", "A.flac.txt"]),  # one file on some disks
        (["in"], ["in/s.tar/a.wav", "in/s.tar/c/a.wav"], ["s.tar/a.txt", "s.tar/c/a.txt"]),
        (["s.tar"], ["s.tar/a.wav"], ["s.tar/a.txt"]),
        (["in/a.wav", "./in2"], ["in/a.wav", "./in2/x/a.wav"], ["in/a.txt", "in2/x/a.txt"]),
        (["in/list.csv"], ["in/../in2/a.wav", "in/a.wav"], ["in2/a.txt", "in/a.txt"]),
        (["in", "in/a.wav"], ["in/a.wav", "./in/a.wav"], ["a.txt", "a.txt"]),
    ],
)
def test_no_label_track_overwrites_another(tmp_path, monkeypatch, inputs, files, tracks):
    """A day's work on `a.wav` of Monday is lost if that of Tuesday has its name."""
    monkeypatch.chdir(tmp_path)
    for folder in ("in", "in2"):
        (tmp_path / folder).mkdir()
    names = track_names(inputs, files)
    assert [names[file].replace(os.sep, "/") for file in files] == tracks


def test_an_error_leaves_no_folder_and_a_track_for_each_that_was_read(tmp_path, tagger, monkeypatch, capsys):
    """What is silent has an empty track, what cannot be read has none, and a run that fails leaves nothing."""
    monkeypatch.chdir(tmp_path)
    arguments, _ = tagger
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF")
    soundfile.write("in/empty.wav", np.zeros(0), RATE)
    assert main(["classify", "in", *arguments, "--min-duration", "60", "--events", "tracks"]) == 0
    shown = capsys.readouterr()
    assert "empty.wav: no audio in it" in shown.err
    assert "0 events in 3 files -> tracks, 2 left out" in shown.out
    assert {path.name: path.read_bytes() for path in (tmp_path / "tracks").rglob("*.txt")} == {
        "a.txt": b"",
        "b.txt": b"",
    }
    for target in ("new/tracks", "new/e.csv"):
        assert main(["classify", "in/broken.wav", *arguments, "--events", target]) == 2
        assert not (tmp_path / "new").exists()


def test_windows_and_events_that_are_refused(tmp_path, tagger, monkeypatch, capsys):
    """One line for each, before a file is read, that names the option."""
    monkeypatch.chdir(tmp_path)
    arguments, _ = tagger
    (tmp_path / "file").write_text("")
    (tmp_path / "t.csv").write_text("label,threshold\nbel,0.5\n")
    for options, message in (
        (["--hop", "1"], "hop: it is from window to window: give a window, too"),
        (["--window", "0.15"], "window must be 0.16 to 10.24 s, got 0.15"),
        (["--window", "10.25"], "window must be 0.16 to 10.24 s, got 10.25"),
        (["--window", "1.005"], "window must be a multiple of 0.01 s"),
        (["--window", "nan"], "--window: expected a number from 0"),
        (["--window", "1", "--hop", "0"], "hop must be 0.01 to 1 s, got 0"),
        (["--window", "1", "--hop", "1.5"], "hop must be 0.01 to 1 s, got 1.5"),
        (["--window", "1", "--hop", "0.333"], "hop must be a multiple of 0.01 s"),
        (["--min-gap", "1"], "min_gap: it is of events: give --events, too"),
        (["--min-duration", "1", "--out", "r.csv"], "min_duration: it is of events: give --events, too"),
        (["--events", "e.json"], "events: e.json: name a folder, or a file that ends in .csv"),
        (["--events", "e.txt"], "events: e.txt is the label track of one recording, and there are 3: name a folder"),
        (["--events", "file"], "events: file is a file: name a folder"),
        (["--events", "file/e.csv"], "events: file is no folder, and none can be made"),
        (["--events", "t.csv", "--thresholds", "t.csv"], "events: t.csv is an input, another output"),
        (["--events", "r.csv", "--out", "./r.csv"], "events: r.csv is an input, another output"),
        (["--out", "in/list.csv", "in/list.csv"], "out: in/list.csv is an input, another output"),
        (["--thresholds", "t.csv"], "unknown key 'bel' in t.csv, line 2: did you mean 'bell'?"),
        (["--thresholds", "none.csv"], "none.csv: cannot be read: No such file"),
        (["--events", "e.csv", "--threshold", "1.5"], "threshold must be within 0 and 1, got 1.5"),
        (["--batch", "0"], "batch must be above 0, got 0"),
        (["--events", ""], "--events needs a value"),  # an unset variable of the shell
        (["--out="], "--out needs a value"),
    ):
        assert main(["classify", "in", *arguments, *options]) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("aape: error: ")]
        assert len(errors) == 1
        assert message in errors[0].replace(os.sep, "/"), options
    assert not list(tmp_path.glob("e.*"))
    assert not list(tmp_path.glob("r.*"))


def test_nothing_of_the_user_is_overwritten(tmp_path, tagger, monkeypatch, capsys):
    """The table that a run reads, its model, or a transcript beside a recording would be gone without a word."""
    monkeypatch.chdir(tmp_path)
    os.mkdir("rec")
    soundfile.write("rec/t.wav", noise(1), RATE)
    for name in ("list.csv", "list.txt"):
        (tmp_path / name).write_text("file\nrec/t.wav\n")
    (tmp_path / "rec/t.txt").write_text("what was said\n")
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for words, reason in (
        (["embed", "list.csv", "--out", "list.csv"], "out: list.csv is an input"),
        (["classify", "rec/t.wav", "--out", "model/config.json"], "part of the model"),
        (["classify", "list.csv", "--out", "./list.csv"], "would be overwritten"),
        (["classify", "list.txt", "--events", "list.txt"], "would be overwritten"),
        (["classify", "rec", "--events", "rec"], "rec/t.txt is there, and is no label track"),
    ):
        assert main([*words, *tagger[0]]) == 2, words
        assert reason in capsys.readouterr().err
    for words in (["classify", "-", "--out", "list.csv"], ["embed", "-", "--out", "list.csv"]):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"list.csv\n")))
        assert main([*words, *tagger[0]]) == 2
        assert "list.csv is an input" in capsys.readouterr().err
    assert all(path.read_bytes() == content for path, content in kept.items())
    for _ in range(2):  # tracks of an earlier run are replaced
        assert main(["classify", "list.csv", "--events", "tracks", *tagger[0]]) == 0


def test_names_as_long_as_they_may_be(tmp_path, tagger, monkeypatch):
    """The work would be done, and then be lost for the name of a temporary file."""
    monkeypatch.chdir(tmp_path)
    name = "n" * 240
    soundfile.write(f"{name}.wav", noise(1), RATE)
    words = ["classify", f"{name}.wav", "--out", f"{name}.json", "--events", "tracks"]
    assert main([*words, *tagger[0]]) == 0
    assert os.listdir("tracks") == [f"{name}.txt"]
    assert [item["end"] for item in json.loads((tmp_path / f"{name}.json").read_bytes())] == [1.0]


def test_the_length_of_a_recording_is_not_that_of_its_windows(tmp_path, tagger, monkeypatch):
    """A rest shorter than a patch has no window, and is there all the same."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", noise(2.1), RATE)
    assert main(["classify", "a.wav", *tagger[0], "--window", "1", "--out", "a.json"]) == 0
    (result,) = json.loads((tmp_path / "a.json").read_bytes())
    assert (result["end"], result["windows"][-1]["end"]) == (2.1, 2.0)

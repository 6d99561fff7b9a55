"""Names for sound: in Python, and `aape classify` end to end."""

import csv
import io
import json
import os
import sys

import numpy as np
import pytest
import soundfile
import torch

import aape
from aape.cli import main
from aape.errors import AudioError, CheckpointError, ConfigError
from aape.inference import AudioModel, events, label_track, load_model
from aape.inference.label_files import track_names
from aape.models.heads import ClassificationHead
from aape.models.saved import save_model
from notes import FRONT_END, nano

LABELS = ["bell", "drum", "flute [low]", "Ωmega"]
RATE = 16000


def build(*, multi_label=False, labels=LABELS):
    torch.manual_seed(0)
    head = ClassificationHead(64, 4)
    with torch.no_grad():
        head.linear.weight.mul_(40)  # scores that differ
    return AudioModel(nano(), FRONT_END, head=head, labels=labels, multi_label=multi_label)


def save(folder, model):
    options = {"head": model.head, "labels": model.labels, "multi_label": model.multi_label}
    save_model(folder, model.encoder, FRONT_END, **options)
    return folder


def noise(seconds, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE)).astype(np.float32)


@torch.no_grad()
def probabilities(model, wave):
    """Compute the scores of a short clip from the parts."""
    spectrogram = model.log_mel(torch.from_numpy(wave)[None])
    spectrogram = torch.nn.functional.pad(spectrogram, (0, -spectrogram.shape[-1] % 16))
    logits = model.head(model.encoder(spectrogram))[0]
    return (logits.sigmoid() if model.multi_label else logits.softmax(-1)).numpy()


@pytest.mark.parametrize("multi_label", [False, True])
def test_scores_are_the_probabilities_of_the_named_classes(multi_label):
    """Another order of names, or softmax where classes are independent, is a wrong answer that looks right."""
    model = build(multi_label=multi_label)
    result = model.classify(noise(2), RATE)
    expected = probabilities(model, noise(2))
    assert result.labels == [LABELS[index] for index in np.argsort(-expected)]
    np.testing.assert_allclose(result.scores, np.sort(expected)[::-1], atol=1e-6)
    assert (sum(result.scores) == pytest.approx(1)) != multi_label
    assert (result.start, result.end) == (0, 2)
    assert len(result.windows) == 1
    assert model.classify(noise(2), RATE, top=2).labels == result.labels[:2]


def test_thresholds_leave_out_what_is_unlikely():
    """In multi-label tagging a list of five is wrong when one class, or none, is there."""
    model = build(multi_label=True)
    every = model.classify(noise(2), RATE)
    middle = (every.scores[1] + every.scores[2]) / 2
    assert model.classify(noise(2), RATE, threshold=middle).labels == every.labels[:2]
    assert model.classify(noise(2), RATE, threshold=1.0).labels == []
    by_class = model.classify(noise(2), RATE, threshold={every.labels[0]: 1.0, every.labels[1]: 0.0})
    assert by_class.labels == every.labels[1:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold must be within 0 and 1, got 1.5"),
        ({"threshold": float("nan")}, "got nan"),
        ({"threshold": {"bell": -0.1}}, "got -0.1 for bell"),
        ({"threshold": {"bel": 0.5}}, "unknown key 'bel' in threshold: did you mean 'bell'?"),
        ({"threshold": "0.5"}, "threshold must be within 0 and 1, got '0.5'"),
        ({"top": 0}, "top must be 1 or more"),
        ({"top": "5"}, "top must be 1 or more, got '5'"),
        ({"top": 2.5}, "top must be 1 or more, got 2.5"),
    ],
)
def test_requests_that_mean_nothing_are_refused(options, message):
    """No labels, because of a typo in a threshold, look like silence."""
    with pytest.raises(ConfigError) as caught:
        build(multi_label=True).classify(noise(1), RATE, **options)
    assert message in str(caught.value)


def test_long_recordings_say_when():
    """In an hour with one bird call a user needs its time; the whole is the mean, weighted by length."""
    model = build()
    wave = noise(14)
    result = model.classify(wave, RATE, top=4)
    assert [(w.start, w.end) for w in result.windows] == [(0, 6.08), (6.08, 12.16), (12.16, 14)]
    first = model.classify(wave[: int(6.08 * RATE) - 160], RATE, top=4).windows[0]  # 608 frames
    assert first.labels == result.windows[0].labels
    weights = [608, 608, 192]  # 1,401 frames, the last window padded to whole patches
    for label, score in zip(result.labels, result.scores, strict=True):
        parts = [window.scores[window.labels.index(label)] for window in result.windows]
        assert score == pytest.approx(np.average(parts, weights=weights))


def test_batches_and_padding_change_nothing():
    """Scores that depend on the company a clip is in cannot be reported."""
    waves = [noise(seconds, seed) for seed, seconds in enumerate((1.0, 0.3, 2.0, 0.31))]
    padded = np.full((4, 2 * RATE), np.nan, np.float32)  # whatever lies behind a clip
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    lengths = [len(wave) for wave in waves]
    for tolerance, model in ((1e-5, build()), (1e-10, build().double())):
        alone = [model.classify(wave, RATE) for wave in waves]
        for results in (
            model.classify(waves, RATE),
            model.classify(padded, RATE, lengths=lengths),
            model.classify(torch.from_numpy(padded), RATE, lengths=lengths),
        ):
            assert [result.labels for result in results] == [result.labels for result in alone]
            for result, single in zip(results, alone, strict=True):
                np.testing.assert_allclose(result.scores, single.scores, atol=tolerance)
        vectors = np.stack([model.embed(wave, RATE) for wave in waves])
        np.testing.assert_allclose(model.embed(waves, RATE), vectors, atol=tolerance, rtol=tolerance)
        np.testing.assert_allclose(model.embed(padded, RATE, lengths=lengths), vectors, atol=tolerance, rtol=tolerance)


def test_lists_and_lengths_that_fit_nothing_are_refused():
    """A clip cut in the wrong place is a wrong vector."""
    model = build()
    batch = np.zeros((2, 900), np.float32)
    for call, reason in (
        (lambda: model.embed(batch, RATE, lengths=[900]), "1 lengths are for as many rows"),
        (lambda: model.embed(batch, RATE, lengths=[900, 0]), "clip 1: a length of 0 samples, outside 1 to 900"),
        (lambda: model.embed(batch, RATE, lengths=[901, 1]), "clip 0: a length of 901"),
        (lambda: model.embed(batch, RATE, lengths=5), "lengths must be whole numbers of samples, one for each row"),
        (lambda: model.embed(batch, RATE, lengths=["a", "b"]), "lengths must be whole numbers"),
        (lambda: model.embed(batch, RATE, lengths=[np.nan, 1.0]), "lengths must be whole numbers"),
        (lambda: model.embed([batch[0], batch[0, 1:]], RATE, lengths=[1, 1]), "leave lengths out"),
        (lambda: model.embed("a.wav", lengths=[1]), "lengths are for the rows of an array"),
        (lambda: model.embed([batch, batch], RATE), "clip 0: of shape (2, 900): a list is made of clips"),
        (lambda: model.embed([batch[0], np.full(5, np.nan)], RATE), "clip 1: NaN or infinite samples"),
        (lambda: model.embed_frames([batch[0], batch[1]], RATE), "one clip at a time"),
    ):
        with pytest.raises(AudioError) as caught:
            call()
        assert reason in str(caught.value)


def test_a_model_without_a_classifier_says_what_to_do(tmp_path):
    """`classify` on a pre-trained encoder is the first thing people try."""
    with pytest.raises(CheckpointError, match=r"has no classifier.*`aape finetune`"):
        aape.load_model("tiny", "cpu").classify(noise(1), RATE)


def test_a_head_without_names_gets_those_of_transformers(tmp_path):
    """Two libraries must call one class by one name."""
    save(tmp_path / "model", AudioModel(build().encoder, FRONT_END, head=build().head))
    assert set(load_model(tmp_path / "model", "cpu").classify(noise(1), RATE).labels) == {
        f"LABEL_{i}" for i in range(4)
    }


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, seconds in (("b", 1.0), ("a", 12.0)):
        soundfile.write(folder / f"{name}.wav", noise(seconds, ord(name)), RATE, subtype="FLOAT")
    (folder / "broken.wav").write_bytes(b"RIFF")
    return folder


def test_classify_command(tmp_path, inputs, capsys):
    """A table to read, and files that other programs read; bad input is named and the rest is done."""
    model = build()
    folder = save(tmp_path / "run" / "model", model).parent
    arguments = ["classify", str(inputs), "--model", str(folder), "--device", "cpu", "--top", "2"]
    assert main([*arguments, "--out", str(tmp_path / "new" / "r.json")]) == 0
    shown = capsys.readouterr()
    assert "broken.wav: " in shown.err
    expected = [model.classify(inputs / name, top=2) for name in ("a.wav", "b.wav")]
    for result in expected:
        assert result.labels[0] in shown.out
        assert f"{result.scores[0]:.3f}" in shown.out
    rows = json.loads((tmp_path / "new" / "r.json").read_text(encoding="utf-8"))
    assert [row["file"] for row in rows] == [str(inputs / "a.wav"), str(inputs / "b.wav")]
    for row, result in zip(rows, expected, strict=True):
        assert row["labels"] == result.labels
        np.testing.assert_allclose(row["scores"], result.scores, atol=1e-5)
    assert [window["end"] for window in rows[0]["windows"]] == [6.08, 12]
    assert main([*arguments, "--out", str(tmp_path / "r.csv")]) == 0
    with open(tmp_path / "r.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["label"] for line in lines] == [label for result in expected for label in result.labels]
    assert [line["rank"] for line in lines] == ["1", "2", "1", "2"]
    assert float(lines[0]["seconds"]) == 12
    assert main([*arguments, "--threshold", "1.0"]) == 0
    assert "(none above the threshold)" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_no_terminal_can_show(tmp_path, capsys, monkeypatch):
    """A file from a stranger must not write on the terminal, and one from an old disk must not cost the results."""
    folder, model = os.fsencode(tmp_path / "in"), ["--model", str(save(tmp_path / "model", build())), "--device", "cpu"]
    os.mkdir(folder)
    for name in (b"two\nlines\x1b[31m.wav", b"no unicode \xff.wav"):
        soundfile.write(os.path.join(folder, name), noise(0.2), RATE, format="WAV")
    with open(os.path.join(folder, b"broken\n\x1b[2J.wav"), "wb") as file:
        file.write(b"RIFF")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True))
    for ending in ("json", "csv"):
        assert main(["classify", os.fsdecode(folder), *model, "--out", str(tmp_path / f"r.{ending}")]) == 0
        shown = sys.stdout.buffer.getvalue() + capsys.readouterr().err.encode()
        assert b"\\x1b[2J" in shown
        assert b"\x1b[2J" not in shown
        assert b"\x1b[31m" not in shown
        assert b"\\u03a9mega" in shown
    names = [row["file"] for row in json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))]
    assert [os.path.basename(os.fsencode(name)) for name in names] == [
        b"no unicode \xff.wav",
        b"two\nlines\x1b[31m.wav",
    ]
    assert "no unicode \\udcff.wav" in (tmp_path / "r.csv").read_text(encoding="utf-8")


def test_classify_command_refusals(tmp_path, inputs, capsys):
    """What cannot work says why in one line, and what to do."""
    model = ["--model", str(save(tmp_path / "model", build()))]
    wave = str(inputs / "b.wav")
    for arguments, message in (
        ([*model], "missing required INPUT"),
        ([wave, "--model", "tiny"], "has no classifier"),
        ([str(inputs / "broken.wav"), *model], "broken.wav: damaged or empty"),
        ([wave, *model, "--out", "r.txt"], "ends in .json, .csv or .parquet"),
        ([wave, *model, "--threshold", "2"], "within 0 and 1"),
        ([wave, *model, "--top", "0"], "top must be"),
    ):
        assert main(["classify", *arguments, "--device", "cpu"]) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("aape: error: ")]
        assert len(errors) == 1
        assert message in errors[0]


@pytest.fixture
def tagger(tmp_path):
    """Save a multi-label model, and return the arguments that use it on recordings in folders, and the model."""
    for number, name in enumerate(("in/a.wav", "in/sub/a.wav", "in/b.flac")):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        soundfile.write(tmp_path / name, noise(2 + number, number), RATE)
    model = build(multi_label=True)
    with torch.no_grad():  # scores on both sides of a half
        model.head.linear.weight.mul_(20)
        model.head.linear.bias.sub_(model.head(model.encoder(model.log_mel(torch.from_numpy(noise(2.55))[None])))[0])
    return ["--model", str(save(tmp_path / "model", model)), "--device", "cpu"], model


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
        (["-"], ["in/a.wav", "./in2/x/a.wav"], ["in/a.txt", "in2/x/a.txt"]),
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

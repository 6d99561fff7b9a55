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
from aape.inference import AudioModel, load_model
from notes import FRONT_END, LABELS, classifier, noise, save_classifier

RATE = 16000


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
    model = classifier(multi_label=multi_label)
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
    model = classifier(multi_label=True)
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
        classifier(multi_label=True).classify(noise(1), RATE, **options)
    assert message in str(caught.value)


def test_long_recordings_say_when():
    """In an hour with one bird call a user needs its time; the whole is the mean, weighted by length."""
    model = classifier()
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
    for tolerance, model in ((1e-5, classifier()), (1e-10, classifier().double())):
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
    model = classifier()
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
    save_classifier(tmp_path / "model", AudioModel(classifier().encoder, FRONT_END, head=classifier().head))
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
    model = classifier()
    folder = save_classifier(tmp_path / "run" / "model", model).parent
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
    folder = os.fsencode(tmp_path / "in")
    model = ["--model", str(save_classifier(tmp_path / "model", classifier())), "--device", "cpu"]
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
    model = ["--model", str(save_classifier(tmp_path / "model", classifier()))]
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

"""Parts of recordings are clips in every verb: what comes out is what files cut there beforehand give."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aape.cli import main
from aape.data.audio import read_audio
from aape.data.same_sound import Sketch, matches
from aape.models.heads import ClassificationHead
from notes import NOTES, read_lines, save_nano

RATE, LENGTH, COUNT = 16000, 0.75, 12  # seconds of a part, parts of each of two recordings


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two recordings of real notes, each listed in parts, and the same parts cut into files."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "cut").mkdir()
    parts, cuts = ["file,start,end,label,split"], ["file,label,split"]
    for name in "ab":
        notes = [NOTES[index + COUNT * (name == "b")] for index in range(COUNT)]
        wave = np.concatenate([read_audio(note)[: round(LENGTH * RATE)] for note in notes])
        soundfile.write(folder / f"{name}.wav", wave, RATE, subtype="FLOAT")
        for index in range(COUNT):
            start, end = index * LENGTH, (index + 1) * LENGTH
            what = f"{'even' if index % 2 else 'odd'},{'test' if index > 8 else 'train'}"
            parts.append(f"{name}.wav,{start},{end},{what}")
            cuts.append(f"cut/{name}{index}.wav,{what}")
            cut = wave[round(start * RATE) : round(end * RATE)]
            soundfile.write(folder / f"cut/{name}{index}.wav", cut, RATE, subtype="FLOAT")
    (folder / "parts.csv").write_text("\n".join(parts) + "\n")
    (folder / "cuts.csv").write_text("\n".join(cuts) + "\n")
    save_nano(folder / "model", head=ClassificationHead(64, 2), labels=["even", "odd"])
    return folder


def read_rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def both(corpus, run):
    """Run a verb on the parts and on the cut files."""
    for name in ("parts", "cuts"):
        assert run(str(corpus / f"{name}.csv"), name) == 0


def test_embed_gives_the_vectors_of_the_cuts_and_says_where_they_lie(corpus, tmp_path):
    both(corpus, lambda data, name: main(["embed", data, "--model", str(corpus / "model"), "--out",
                                          str(tmp_path / f"{name}.npz"), "--device", "cpu"]))  # fmt: skip
    with np.load(tmp_path / "parts.npz") as parts, np.load(tmp_path / "cuts.npz") as cuts:
        np.testing.assert_array_equal(parts["embedding"], cuts["embedding"])
        assert sorted(parts) == ["embedding", "end", "file", "start"]
        assert sorted(cuts) == ["embedding", "file"]
        assert parts["file"].tolist() == [str(corpus / "a.wav")] * COUNT + [str(corpus / "b.wav")] * COUNT
        np.testing.assert_array_equal(parts["start"], [*np.arange(COUNT) * LENGTH] * 2)
        np.testing.assert_array_equal(parts["end"] - parts["start"], LENGTH)


def test_classify_names_the_parts_by_their_times_in_the_file(corpus, tmp_path):
    both(corpus, lambda data, name: main(["classify", data, "--model", str(corpus / "model"), "--out",
                                          str(tmp_path / f"{name}.csv"), "--device", "cpu"]))  # fmt: skip
    parts, cuts = (read_rows(tmp_path / f"{name}.csv") for name in ("parts", "cuts"))
    assert [row["score"] for row in parts] == [row["score"] for row in cuts]
    assert (parts[-1]["file"], parts[-1]["start"], parts[-1]["end"]) == (str(corpus / "b.wav"), "8.250", "9.000")
    arguments = ["classify", str(corpus / "parts.csv"), "--model", str(corpus / "model")]
    assert main([*arguments, "--out", str(tmp_path / "parts.json"), "--device", "cpu"]) == 0
    last = json.loads((tmp_path / "parts.json").read_text())[-1]
    assert (last["start"], last["end"], last["windows"][-1]["end"]) == (8.25, 9.0, 9.0)


def test_training_on_parts_is_training_on_the_cuts(corpus, tmp_path):
    """Statistics, crops and weights to the last bit."""

    def pretrain(data, name):
        assert main(["stats", "--data", data, "--out", str(tmp_path / f"{name}.json")]) == 0
        return main(["pretrain", "--data", data, "--out", str(tmp_path / name), "--model", "nano", "--steps", "3",
                     "--clips", "4", "--crop-seconds", "0.5", "--log-every", "1", "--workers", "0", "--device", "cpu",
                     "--stats", str(tmp_path / f"{name}.json")])  # fmt: skip

    both(corpus, pretrain)
    losses = [[line["loss"] for line in read_lines(tmp_path / name / "metrics.jsonl")] for name in ("parts", "cuts")]
    assert losses[0] == losses[1]
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("parts", "cuts")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("verb", ["finetune", "probe"])
def test_scores_on_parts_are_those_of_the_cuts(corpus, tmp_path, verb):
    more = ["--workers", "0", "--evaluations", "2"] if verb == "finetune" else ["--no-yardsticks"]
    both(corpus, lambda data, name: main([verb, "--data", data, "--split", "split", "--checkpoint",
                                          str(corpus / "model"), "--out", str(tmp_path / name), "--steps", "6",
                                          "--seeds", "1", "--device", "cpu", *more]))  # fmt: skip
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("parts", "cuts")]
    key = "scores" if verb == "finetune" else "rows"
    assert results[0][key] == results[1][key]
    shared = "2 of 2 recordings have parts in several splits or folds: scores may be too high"
    assert shared in results[0]["warnings"]
    assert shared not in results[1]["warnings"]


def test_pack_cuts_the_parts_and_check_knows_them_again(corpus, tmp_path, capsys):
    both(corpus, lambda data, name: main(["data", "pack", "--data", data, "--out", str(tmp_path / name), "--label",
                                          "label", "--split", "split", "--workers", "0"]))  # fmt: skip
    rows = [read_rows(tmp_path / name / "clips.csv") for name in ("parts", "cuts")]
    assert rows[0][1]["name"] == "a#t=0.75,1.5.flac"
    assert [(row["label"], row["split"], row["seconds"], row["size"]) for row in rows[0]] == [
        (row["label"], row["split"], row["seconds"], row["size"]) for row in rows[1]
    ]
    capsys.readouterr()
    arguments = ["data", "check", "--data", str(tmp_path / "parts/clips.csv"), "--against", str(tmp_path / "cuts")]
    assert main([*arguments, "--out", str(tmp_path / "report.json"), "--workers", "0"]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["in_both"]) == report["num_clips"] == 2 * COUNT
    assert {pair["how"] for pair in report["in_both"]} == {"identical samples"}
    assert f"warning: {2 * COUNT} of {2 * COUNT} clips are also in {tmp_path / 'cuts'}" in capsys.readouterr().out


def test_check_knows_the_clips_of_a_packed_corpus_again(tmp_path, capsys):
    """Resampled, mixed to mono and of 16 bits; the test set is what it was before."""
    (tmp_path / "raw").mkdir()
    for index, note in enumerate(NOTES[:6]):
        wave = read_audio(note, sample_rate=44100)
        stereo = np.stack([wave, 0.5 * np.roll(wave, 9)], axis=1)
        soundfile.write(tmp_path / f"raw/{index}.wav", stereo, 44100, subtype="PCM_24")
    arguments = ["data", "pack", "--data", str(tmp_path / "raw"), "--out", str(tmp_path / "packed"), "--workers", "0"]
    assert main(arguments) == 0
    (tmp_path / "test.csv").write_text("file\n" + "".join(f"raw/{index}.wav\n" for index in (1, 4)))
    arguments = ["data", "check", "--data", str(tmp_path / "test.csv"), "--against", str(tmp_path / "packed/clips.csv")]
    assert main([*arguments, "--workers", "0"]) == 1
    shown = capsys.readouterr().out
    assert "warning: 2 of 2 clips are also in" in shown
    assert "raw/1.wav = shard-00000.tar/1.flac: identical samples" in shown  # at 16 kHz and 16 bits


def check_against(folder, data, against, *more):
    """Return exit status and report of a comparison."""
    arguments = ["data", "check", "--data", str(folder / data), "--against", str(folder / against), "--workers", "0"]
    status = main([*arguments, "--out", str(folder / "report.json"), *more])
    return status, json.loads((folder / "report.json").read_text())


def test_check_names_each_clip_its_twin_and_how_they_are_alike(tmp_path, capsys):
    """A count says that a score is wrong; who has to mend the list needs the names."""
    first, second = (read_audio(note) for note in NOTES[:2])
    (tmp_path / "test").mkdir()
    (tmp_path / "train").mkdir()
    for name, wave, options in (
        ("test/a.wav", first, {"subtype": "PCM_16"}),
        ("test/b.wav", second, {"subtype": "PCM_16"}),
        ("test/c.wav", first[::-1], {"subtype": "PCM_16"}),
        ("train/x.flac", first, {"subtype": "PCM_16"}),
        ("train/quiet.flac", first / 4, {"subtype": "PCM_16"}),
        ("train/24 bits.flac", second, {"subtype": "PCM_24"}),
    ):
        soundfile.write(tmp_path / name, wave, RATE, **options)
    soundfile.write(tmp_path / "train/float.wav", read_audio(tmp_path / "test/a.wav"), RATE, subtype="FLOAT")
    status, report = check_against(tmp_path, "test", "train")
    assert status == 1
    pairs = {Path(pair["file"]).name: pair for pair in report["in_both"]}
    assert {*pairs} == {"a.wav", "b.wav"}
    assert (pairs["a.wav"]["how"], pairs["a.wav"]["num_others"]) == ("identical samples", 3)
    assert Path(pairs["a.wav"]["other"]).name in ("x.flac", "float.wav")
    assert pairs["b.wav"]["how"] == "same sound"
    assert 0.99 < pairs["b.wav"]["correlation"] <= 1
    assert "warning: 2 of 3 clips are also in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"),
    [("MP3", "MPEG_LAYER_III", 44100), ("OGG", "VORBIS", 32000), ("OGG", "OPUS", 48000)],
)
def test_check_finds_lossy_copies_and_no_other_note(tmp_path, kind, subtype, rate):
    """A test set is often what a training corpus holds as MP3; notes of one instrument and pitch are no copies."""
    for folder in ("test", "train"):
        (tmp_path / folder).mkdir()
    # Programs 44 and 49 play recordings of 48, which are rightly found
    for index, note in enumerate(note for note in NOTES if not re.search("program04[49]", note.name)):
        if index % 2:
            soundfile.write(tmp_path / f"test/{index}.wav", read_audio(note), RATE)
        if index % 2 == 0 or index < 12:
            wave = 0.5 * read_audio(note, sample_rate=rate)
            soundfile.write(tmp_path / f"train/{index}.x", wave, rate, format=kind, subtype=subtype)
    (tmp_path / "train.csv").write_text("file\n" + "".join(f"train/{p.name}\n" for p in (tmp_path / "train").iterdir()))
    status, report = check_against(tmp_path, "test", "train.csv")
    pairs = {Path(pair["file"]).stem: Path(pair["other"]).stem for pair in report["in_both"]}
    assert status == 1
    assert all(test == train for test, train in pairs.items())
    assert {*pairs} == {"1", "3", "5", "7", "9", "11"}
    assert "identical samples" not in {pair["how"] for pair in report["in_both"]}


def test_check_finds_nothing_where_nothing_is_and_says_what_it_could_not_compare(tmp_path, capsys):
    """Silence is no sound, and a training clip that cannot be read may be any of the test clips."""
    for folder, note in (("test", NOTES[0]), ("train", NOTES[1])):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "note.wav", read_audio(note), RATE)
        soundfile.write(tmp_path / folder / "silence.wav", np.zeros(RATE), RATE)
    (tmp_path / "train/broken.wav").write_bytes(b"RIFF")
    status, report = check_against(tmp_path, "test", "train")
    assert (status, report["in_both"]) == (0, [])
    assert [Path(item["file"]).name for item in report["against_bad"]] == ["broken.wav"]
    shown = capsys.readouterr()
    assert f"no clip is also in {tmp_path / 'train'}, of 3 clips" in shown.out
    assert "broken.wav" in shown.err


def test_check_compares_nothing_where_nothing_can_be_read(tmp_path, capsys):
    """A check of a corpus of another format would pass."""
    for folder in ("test", "train"):
        (tmp_path / folder).mkdir()
    soundfile.write(tmp_path / "test/note.wav", read_audio(NOTES[0]), RATE)
    (tmp_path / "train/broken.wav").write_bytes(b"RIFF")
    for first, second in (("test", "train"), ("train", "test")):
        arguments = ["--data", str(tmp_path / first), "--against", str(tmp_path / second), "--workers", "0"]
        assert main(["data", "check", *arguments]) == 2
        assert f"{tmp_path / 'train'}: none of its clips can be read, so nothing is compared" in capsys.readouterr().err


@pytest.mark.parametrize("length", [160, 800, 1600, 3200, 4100])
def test_the_estimate_is_the_correlation_of_short_clips_too(length):
    """A click at the end of a short clip must not make another one of it, nor an offset or a change of sign."""
    rng = np.random.default_rng(length)
    waves = (0.01 * rng.standard_normal((2, length))).astype(np.float32)
    waves[:, -1] = 0.05  # a click, louder than the noise
    first, second, moved, inverted, longer = map(
        sketch, (waves[0], waves[1], waves[0] + 0.25, -waves[0], np.append(waves[0], np.zeros(500, np.float32)))
    )
    assert [*matches(first[None], np.stack([second, moved, inverted, longer]))] == [
        {1: pytest.approx(1, abs=1e-3), 2: pytest.approx(1), 3: pytest.approx(1, abs=1e-3)}
    ]


def sketch(wave):
    whole = Sketch()
    whole.add(wave)
    return whole.values()


def test_check_finds_one_sound_in_several_files(corpus, tmp_path, capsys):
    """Copies, also in another format and louder, that are trained on and tested make scores that mean nothing."""
    wave = read_audio(NOTES[0])
    for name, samples in (("one.wav", wave), ("two.flac", wave / 2), ("other.wav", wave[::-1])):
        soundfile.write(tmp_path / name, samples, RATE, subtype="PCM_16")
    for name, offset in (("silence.wav", 0.0), ("nothing.wav", 0.25)):  # constant offsets are no sound either
        soundfile.write(tmp_path / name, 0 * wave + offset, RATE)
    (tmp_path / "t.csv").write_text(
        "file,split\none.wav,train\nsilence.wav,train\nnothing.wav,test\ntwo.flac,test\nother.wav,test\n"
    )
    arguments = ["data", "check", "--data", str(tmp_path / "t.csv"), "--split", "split", "--workers", "0"]
    assert main([*arguments, "--out", str(tmp_path / "r.json")]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["same_sound"] == [["one.wav", "two.flac"]]
    assert report["same_sound_across_splits"] == 1
    assert "same sound under several names: 1, 1 across splits or folds, first one.wav = two.flac" in (
        capsys.readouterr().out
    )


def test_detectors_of_events_learn_from_clips_without_a_label(corpus, tmp_path):
    """An empty cell is a clip of nothing that is looked for; the labels are whole."""
    lines = (corpus / "parts.csv").read_text().splitlines()
    labels = ("Dog;Male speech, man speaking", "Dog", "", "Male speech, man speaking")
    rows = [line.split(",") for line in lines[1:]]
    text = [f'{file};{start};{end};"{labels[n % 4]}";{split}' for n, (file, start, end, _, split) in enumerate(rows)]
    (corpus / "events.csv").write_text("\n".join(["File;Start;End;Label;Split", *text]))
    arguments = ["finetune", "--data", str(corpus / "events.csv"), "--split", "split", "--multi-label", "--steps", "4"]
    arguments += ["--checkpoint", str(corpus / "model"), "--out", str(tmp_path / "run"), "--seeds", "1"]
    assert main([*arguments, "--evaluations", "2", "--workers", "0", "--device", "cpu"]) == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert [row["class"] for row in result["per_class"]] == ["Dog", "Male speech, man speaking"]
    assert "several labels of a clip are split at ';'" in result["warnings"]


def test_labelled_clips_that_were_pretrained_on_are_counted(corpus, tmp_path):
    """A probe of a run on its own sounds says so, without being told where they lie."""
    main(["pretrain", "--data", str(corpus / "parts.csv"), "--out", str(tmp_path / "run"), "--model", "nano", "--steps",
          "1", "--clips", "2", "--crop-seconds", "0.5", "--workers", "0", "--device", "cpu"])  # fmt: skip
    for checkpoint in ("run", "run/model"):
        for data, count in (("parts", 24), ("cuts", 0)):
            out = tmp_path / f"{checkpoint}-{data}".replace("/", "-")
            arguments = ["--split", "split", "--checkpoint", str(tmp_path / checkpoint), "--steps", "2", "--seeds", "1"]
            arguments += ["--no-yardsticks", "--device", "cpu", "--out", str(out)]
            assert main(["probe", "--data", str(corpus / f"{data}.csv"), *arguments]) == 0
            warned = json.loads((out / "result.json").read_text())["warnings"]
            expected = f"{count} of 24 labelled clips are also pre-trained on, the first is a.wav#t=0,0.75"
            assert (expected in warned) == bool(count)

"""`aape data pack` and `aape data check`: a corpus that trains fast, and what is wrong with one."""

import csv
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
import soundfile

from aape.cli import main
from aape.data.audio import read_audio
from aape.data.clips import load_clip
from aape.data.manifest import read_manifest
from notes import NOTES, link_notes


@pytest.fixture
def corpus(tmp_path):
    """Real notes in two folders, one of them a 44.1 kHz stereo WAV, listed with labels."""
    (link_notes(tmp_path / "sound", 5) / "deep").mkdir()
    wave = np.repeat(read_audio(NOTES[5], sample_rate=44100)[:, None], 2, axis=1)
    soundfile.write(tmp_path / "sound/deep/stereo.wav", wave, 44100)
    (tmp_path / "sound/deep" / NOTES[0].with_suffix(".flac").name).write_bytes(b"not a sound")
    names = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "sound").rglob("*.*"))
    with open(tmp_path / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "class"), *((name, name.split("/")[1][:4]) for name in names)])
    return tmp_path


def pack(corpus, *more, data="list.csv", out="packed"):
    return main(["data", "pack", "--data", str(corpus / data), "--out", str(corpus / out), "--clips-per-shard", "3",
                 "--max-bad-fraction", "0.2", "--workers", "0", *more])  # fmt: skip


@pytest.mark.parametrize(("kind", "error"), [("flac", 1e-4), ("opus", 0.1)])
def test_packed_clips_are_the_clips(corpus, kind, error):
    """Same sound at 16 kHz mono, labels carried over, and offsets that need no scan of the shards."""
    assert pack(corpus, "--format", kind, "--label", "class") == 0
    packed = read_manifest(corpus / "packed/clips.csv", label="label")
    before = {clip.name: clip for clip in read_manifest(corpus / "list.csv", label="class")}
    assert len(packed) == 6
    for clip in packed:
        stem = clip.name.partition("/")[2].rpartition(".")[0]
        source = next(value for name, value in before.items() if name.startswith(f"{stem}.") and ".flac" not in name)
        assert clip.label == source.label
        expected, got = load_clip(source), load_clip(clip)
        assert abs(len(got) - len(expected)) <= 1
        size = min(len(got), len(expected))
        assert np.sqrt(np.mean((got[:size] - expected[:size]) ** 2)) <= error * max(0.1, np.abs(expected).max())
        assert clip.seconds == pytest.approx(len(got) / 16000, abs=1e-3)
    scanned = []
    for path in sorted((corpus / "packed").glob("*.tar")):
        with tarfile.open(path) as shard:
            scanned += [(member.offset_data, member.size) for member in shard]
    assert scanned == [(clip.offset, clip.size) for clip in packed]
    report = json.loads((corpus / "packed/report.json").read_text())
    assert [item["file"].endswith(".flac") for item in report["bad"]] == [True]


def test_a_stopped_packing_goes_on(corpus, monkeypatch):
    """What is packed is not packed again, and the bytes are those of an unbroken run."""
    assert pack(corpus) == 0
    whole = {path.name: path.read_bytes() for path in (corpus / "packed").iterdir() if path.suffix in (".tar", ".csv")}
    (corpus / "packed/clips.csv").unlink()
    (corpus / "packed/shard-00001.tar").unlink()
    kept = (corpus / "packed/shard-00000.tar").stat().st_mtime_ns
    assert pack(corpus) == 0
    assert {name: (corpus / "packed" / name).read_bytes() for name in whole} == whole
    assert (corpus / "packed/shard-00000.tar").stat().st_mtime_ns == kept


def test_workers_change_nothing(corpus):
    """Two processes pack the same bytes as one."""
    assert pack(corpus, out="one") == 0
    assert pack(corpus, "--workers", "2", out="two") == 0
    for path in (corpus / "one").glob("*.tar"):
        assert path.read_bytes() == (corpus / "two" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[1].__setitem__(2, "9999999"), "is said to end at"),
        (lambda rows: rows[1].__setitem__(3, "-1"), "not numbers of bytes"),
        (lambda rows: rows[1].__setitem__(0, "gone.tar"), "missing"),
    ],
)
def test_an_index_that_lies_is_refused(corpus, capsys, spoil, message):
    """Bytes from outside the shard would be taken for the clip."""
    assert pack(corpus) == 0
    path = corpus / "packed/clips.csv"
    rows = list(csv.reader(path.read_text().splitlines()))
    spoil(rows)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert main(["stats", "--data", str(path), "--out", str(corpus / "stats.json")]) == 2
    assert message in capsys.readouterr().err


def test_shards_of_something_else_are_not_overwritten(corpus, capsys):
    """Neither another corpus, nor a folder that was not empty."""
    assert pack(corpus) == 0
    assert pack(corpus, "--format", "opus") == 2
    assert pack(corpus, out="sound") == 2
    assert "choose another --out" in capsys.readouterr().err
    assert pack(corpus, "--max-bad-fraction", "0.01", out="strict") == 2
    assert "max_bad_fraction" in capsys.readouterr().err


def test_every_name_is_packed_and_read_again(tmp_path):
    """Hours of packing must not end in an index, or a shard, that nothing can read: the folder's names are not ours."""
    sound = tmp_path / "sound"
    sound.mkdir()
    names = ["\N{CYRILLIC SMALL LETTER ZHE}" * 70 + ".opus", "a.flac", "a.wav", "a.wav.wav", " b.wav", "b.wav"]
    for name in [*map(os.fsencode, names), b"\xff.opus", b"line\nbreak.opus"]:
        try:
            shutil.copy(NOTES[0], os.path.join(os.fsencode(sound), name))
        except OSError:
            pytest.skip("this file system takes UTF-8 only")
    assert pack(tmp_path, data="sound") == 0
    indexed = read_manifest(tmp_path / "packed/clips.csv")
    scanned = read_manifest(tmp_path / "packed")
    assert len(indexed) == len(scanned) == len(names) + 2
    assert {(clip.path, clip.offset) for clip in indexed} == {(clip.path, clip.offset) for clip in scanned}
    assert all(len(load_clip(clip)) > 16000 for clip in indexed)


def test_clips_from_outside_the_folder_stay_inside_the_shards(tmp_path):
    """A list may point anywhere; a shard whose members do is refused, by this package too."""
    shutil.copy(NOTES[0], tmp_path / "q.opus")
    shutil.copy(NOTES[1], tmp_path / "p.opus")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/list.csv").write_text(f"file\n../q.opus\n{tmp_path / 'p.opus'}\n")
    assert pack(tmp_path, data="lists/list.csv") == 0
    names = [clip.name for clip in read_manifest(tmp_path / "packed")]
    assert names == ["shard-00000.tar/q.flac", f"shard-00000.tar{tmp_path / 'p.flac'}"]


@pytest.mark.parametrize(("kind", "rate"), [("opus", "22050"), ("flac", "700000"), ("flac", "999")])
def test_rates_that_a_format_lacks_are_refused_at_once(corpus, capsys, kind, rate):
    """After hours of packing, libsndfile's message would name no option."""
    assert pack(corpus, "--format", kind, "--sample-rate", rate) == 2
    assert f"sample_rate of {kind}" in capsys.readouterr().err
    assert not (corpus / "packed").exists()


def test_labels_and_files_that_changed_are_not_served_from_old_shards(corpus, capsys):
    """Somebody who forgot --label, or mended a file, would train on what was packed before."""
    assert pack(corpus) == 0
    assert pack(corpus, "--label", "class") == 2
    os.utime(corpus / "sound/deep/stereo.wav", (1, 1))
    assert pack(corpus) == 2
    (corpus / "packed/.plan.json").write_text("{")
    assert pack(corpus) == 2
    assert capsys.readouterr().err.count("choose another --out") == 3


def test_check_says_what_there_is(corpus, capsys):
    """Lengths, rates, classes, and each bad file with its reason."""
    out = corpus / "report.json"
    arguments = ["data", "check", "--data", str(corpus / "list.csv"), "--label", "class", "--out", str(out)]
    assert main([*arguments, "--workers", "0"]) == 0
    report = json.loads(out.read_text())
    assert (report["num_clips"], report["sample_rates"], report["channels"]) == (
        7, {"16000": 5, "44100": 1}, {"1": 5, "2": 1}
    )  # fmt: skip
    assert report["seconds"]["most"] == pytest.approx(3.0, abs=0.01)
    assert sum(report["classes"].values()) == 6
    assert [item["file"].endswith(".flac") for item in report["bad"]] == [True]
    assert "left out: " in capsys.readouterr().err


def test_check_makes_room_for_its_report_before_the_work(corpus, capsys):
    """A day of decoding must not end in the name of a temporary file."""
    command = ["data", "check", "--data", str(corpus / "list.csv"), "--workers", "0", "--out"]
    for out in (corpus, corpus / "list.csv" / "x.json"):
        assert main([*command, str(out)]) == 2
        assert "folder" in (error := capsys.readouterr().err)
        assert "left out" not in error
    assert main([*command, str(corpus / "none/x.json")]) == 0
    assert (corpus / "none/x.json").exists()


@pytest.mark.parametrize("verb", [["check"], ["pack", "--out", "packed", "--max-bad-fraction", "1"]])
def test_names_cannot_write_to_the_terminal(tmp_path, monkeypatch, capfd, verb):
    """A name with terminal codes clears the screen, or retitles the window, of whoever looks at a stranger's corpus."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sound").mkdir()
    soundfile.write(tmp_path / "sound/silent\x1b[2J.wav", np.zeros(16000), 16000, format="WAV")
    (tmp_path / "sound/bad\x1b[2J.wav").write_bytes(b"RIFF")
    (tmp_path / "list.csv").write_text("file,label\nsound/silent\x1b[2J.wav,a\x1b[2J\nsound/bad\x1b[2J.wav,b\n")
    assert main(["data", *verb, "--data", "list.csv", "--label", "label", "--workers", "0"]) == 0
    shown = capfd.readouterr()
    assert "\\x1b[2J" in shown.err
    assert "\x1b[2J" not in shown.out + shown.err


def test_half_a_verb_lists_the_other_half(capsys):
    """`aape data` alone says what there is."""
    assert main(["data"]) == 0
    assert "data pack" in capsys.readouterr().out
    assert main(["data", "pak"]) == 2
    assert "data pack" in capsys.readouterr().err

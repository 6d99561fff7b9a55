"""`aape explore` end to end, but for the browser: what is in the page, what is said, what is refused."""

import base64
import csv
import hashlib
import io
import json
import os
import re
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import soundfile

from aape.cli import main
from aape.data.demo import AUDIO
from aape.inference import load_model
from aape.models.saved import save_model
from explorer_page import HOSTILE, hostile_folder, read_page, unpacked
from notes import FRONT_END, LABELS, NOTES, classifier, link_notes, nano, noise, save_classifier, save_nano


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_nano(tmp_path_factory.mktemp("model") / "nano"))


@pytest.fixture
def explore(folder, tmp_path):
    """Run the command on inputs and options; returns the page."""

    def run(*arguments, model=folder, out="page.html"):
        options = ["--model", model, "--out", str(tmp_path / out), "--device", "cpu"]
        assert main(["explore", *map(str, arguments), *options]) == 0
        return read_page(tmp_path / out)

    return run


def write_sound(path, seconds, seed=0, rate=16000):
    path.parent.mkdir(exist_ok=True, parents=True)
    soundfile.write(path, noise(seconds, seed), rate)
    return path


def test_page_of_a_table(explore, folder, tmp_path, capsys):
    """Every sound is there with its values, its neighbours by the model's own vectors, its picture, and as Opus."""
    with open(AUDIO / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[::6]
    with open(tmp_path / "some.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["file", "label", "pitch"])
        writer.writeheader()
        writer.writerows({"file": AUDIO / r["file"], "label": r["label"], "pitch": r["pitch"]} for r in rows)
    page = explore(tmp_path / "some.csv")
    output = capsys.readouterr()
    assert "not used" not in output.err
    assert re.search(rf"^{len(rows)} sounds -> .*page.html \(0\.\d MB\)$", output.out, re.MULTILINE)
    data = page.data
    assert data["names"] == [row["file"] for row in rows]
    assert data["color"] == "label"
    assert data["model"] == "nano"  # not where it lies
    columns = {column["name"]: column for column in data["columns"]}
    assert list(columns) == ["folder", "label", "pitch"]
    for name in ("label", "pitch"):
        codes = unpacked(columns[name]["codes"], "<u4")
        assert [columns[name]["values"][code] for code in codes] == [row[name] for row in rows]
    vectors = load_model(folder, "cpu").embed([str(AUDIO / row["file"]) for row in rows]).astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    found = unpacked(data["neighbours"]["rows"], "<u4").reshape(len(rows), 10).astype(int)
    near = unpacked(data["neighbours"]["cosines"], "<f4").reshape(found.shape)
    np.testing.assert_allclose(near, -np.sort(-cosines, axis=1)[:, :10], atol=1e-5)
    np.testing.assert_allclose(near, np.take_along_axis(cosines, found, 1), atol=1e-5)
    assert unpacked(data["maps"]["PCA"], "<f4").shape == (2 * len(rows),)
    assert len(page.media) == len(rows)
    for item, row in zip(page.media, rows, strict=True):
        sound, rate = soundfile.read(io.BytesIO(base64.b64decode(item["opus"])))
        assert (sound.ndim, rate) == (1, 48000)
        original, original_rate = soundfile.read(AUDIO / row["file"])
        assert len(sound) / rate == pytest.approx(len(original) / original_rate, abs=0.01) == item["seconds"]
        assert np.abs(sound).max() == pytest.approx(np.abs(original).max(), rel=0.25, abs=0.02)
        for picture in ("mel", "frequencies", "decays"):
            assert base64.b64decode(item[picture]).startswith(b"\x89PNG")
        assert item["span"] == pytest.approx(item["seconds"], abs=0.05)
    assert page.totals == {"embedded": len(rows), "linked": 0}


def test_color_is_a_column(explore, tmp_path, capsys):
    """A column that is not there would be a page in one colour."""
    table = tmp_path / "t.csv"
    rows = zip(NOTES, ("10", "9", "10"), strict=False)
    table.write_text("file,Kind,name\n" + "".join(f"{note},{kind},a name\n" for note, kind in rows))
    page = explore(table)
    assert page.data["color"] == "Kind"
    assert page.data["columns"][1]["values"] == ["9", "10"]  # as numbers
    assert explore(table, "--color", "folder").data["color"] == "folder"
    assert explore(table, "--color", "kind").data["color"] == "Kind"
    capsys.readouterr()
    assert main(["explore", str(table), "--out", str(tmp_path / "x.html"), "--color", "sort"]) == 2
    assert capsys.readouterr().err == "aape: error: color: no column 'sort'; there are folder, Kind, name\n"
    assert not (tmp_path / "x.html").exists()


def test_a_page_is_the_same_every_time(explore, tmp_path):
    """Pages are kept under version control, and compared."""
    texts = [explore(*NOTES[:6], out=f"{n}.html").text for n in range(2)]
    serial = re.compile(r'"opus":"[^"]*"')  # an Opus stream carries a random number
    assert serial.sub("", texts[0]) == serial.sub("", texts[1])


def test_hostile_names_inject_nothing(explore, tmp_path):
    """A file's name is text: a page with other scripts than its own would run what a stranger wrote."""
    page = explore(hostile_folder(tmp_path / "in"))
    plain = explore(*NOTES[: len(HOSTILE)], out="plain.html")
    assert [tag for tag in page.tags if tag != "script"] == [tag for tag in plain.tags if tag != "script"]
    assert page.code == plain.code
    assert len(page.code) == 1
    names = {os.path.basename(name) for name in page.data["names"]}
    assert names == {os.fsdecode(name) for name in HOSTILE}
    body = page.text.partition('id="data">')[2].replace(page.code[0], "")
    data, _, rest = body.partition("</script>")
    assert not set("<>&") & set(data)
    assert data.isascii()
    assert "injected'</script>" not in rest


def test_only_its_own_script_may_run(explore, tmp_path):
    """The policy is what stops a script that got in all the same, and any request."""
    page = explore(*NOTES[:2])
    (policy,) = (attrs["content"] for tag, attrs, _ in page.elements if attrs.get("http-equiv"))
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    (style,) = ("".join(parts) for tag, _, parts in page.elements if tag == "style")
    for rule, text in (("script-src", page.code[0]), ("style-src", style)):
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert set(re.findall(r"https?://[^'\"]*", page.text)) <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not any("src" in attrs or any(key.startswith("on") for key in attrs) for _, attrs, _ in page.elements)
    assert {attrs["href"] for _, attrs, _ in page.elements if "href" in attrs} == {"data:,", "#sound"}


def test_the_page_of_150_notes_is_small(explore, tmp_path):
    """6 MB can be sent by mail. All the notes of the package, and what is so large for each more."""
    notes = tmp_path / "notes"
    notes.mkdir()
    for number in range(12):
        (notes / f"{number}.opus").symlink_to(NOTES[7 * number % len(NOTES)])
    few, more = explore(*sorted(notes.iterdir())[:2]), explore(notes, out="more.html")
    each = (len(more.text) - len(few.text)) / 10
    assert len(few.text) + 148 * each < 6e6


def test_embed_limit(explore, tmp_path, capsys):
    """Beyond the limit a sound plays from its file, by a path from the page, whatever its name."""
    sounds = hostile_folder(tmp_path / "in put")
    page = explore(sounds, "--embed-limit", "0.01", out="pages/deep/page.html")
    assert 0 < page.totals["embedded"] < len(HOSTILE)
    assert page.totals["embedded"] + page.totals["linked"] == len(HOSTILE)
    assert sum(len(item.get("opus", "")) for item in page.media) <= 10_000
    for item, name in zip(page.media, page.data["names"], strict=True):
        assert ("opus" in item) != ("href" in item)
        if "href" in item:
            assert item["href"].startswith("../../in%20put/")
            path = tmp_path / "pages" / "deep" / os.fsdecode(unquote_to_bytes(item["href"]))
            assert path.samefile(sounds / name)
    output = capsys.readouterr().out
    assert f"{page.totals['embedded']} are in the page, {page.totals['linked']} play from their files" in output
    assert explore(sounds, "--embed-limit", "0").totals == {"embedded": 0, "linked": len(HOSTILE)}


def test_parts_of_files(explore, tmp_path):
    """A row that names a part of a file is a dot of that part, which alone is heard."""
    write_sound(tmp_path / "long.wav", 3)
    (tmp_path / "parts.csv").write_text("file,start,end,what\nlong.wav,0,1,a\nlong.wav,1.5,2,b\n")
    page = explore(tmp_path / "parts.csv")
    assert page.data["names"] == ["long.wav#t=0,1", "long.wav#t=1.5,2"]
    assert [len(soundfile.read(io.BytesIO(base64.b64decode(i["opus"])))[0]) for i in page.media] == [48000, 24000]
    (_, part) = explore(tmp_path / "parts.csv", "--embed-limit", "0").media
    assert (part["href"], part["from"], part["to"]) == ("long.wav", 1.5, 2)


def test_a_sound_on_another_drive_keeps_its_whole_address(explore, tmp_path, monkeypatch):
    """No path leads from the page's drive to the sound's on Windows: `os.path.relpath` says so."""
    sound = write_sound(tmp_path / "a sound.wav", 1)
    monkeypatch.setattr("os.path.relpath", lambda path, start: "no".index("path"))
    (item,) = explore(sound, "--embed-limit", "0").media
    assert item["href"] == sound.as_uri()


def test_windows_of_several_recordings_are_coloured_by_time_if_asked(explore, tmp_path, capsys):
    """By default they are by recording, and files without windows have no time."""
    sounds = [write_sound(tmp_path / f"{number}" / "a.wav", 3, number) for number in range(2)]
    windows = ("--window", "1")
    assert explore(*sounds, *windows).data["color"] == "folder"
    assert explore(*sounds, *windows, "--color", "time").data["color"] == "time"
    assert main(["explore", *map(str, sounds), "--out", str(tmp_path / "x.html"), "--color", "time"]) == 2
    assert "no column 'time'; there are folder\n" in capsys.readouterr().err


def test_windows_of_a_long_recording(explore, folder, tmp_path, capsys):
    """Its windows are the dots, in time, those of `embed_windows`; the sound is in the page once, its picture whole."""
    long = write_sound(tmp_path / "long.wav", 30)
    page = explore(long, "--window", "2", "--hop", "1")
    vectors, times = load_model(folder, "cpu").embed_windows(str(long), window=2, hop=1)
    data = page.data
    assert data["windows"]
    assert data["points"] == len(vectors) == 29
    np.testing.assert_allclose(unpacked(data["start"], "<f4"), times[:, 0], atol=1e-4)
    np.testing.assert_allclose(unpacked(data["end"], "<f4"), times[:, 1], atol=1e-4)
    assert not unpacked(data["source"], "<u4").any()
    assert data["color"] == "time"
    (column,) = (column for column in data["columns"] if column["name"] == "time")
    shown = [float(column["values"][code]) for code in unpacked(column["codes"], "<u4")]
    np.testing.assert_allclose(shown, times[:, 0], atol=1e-4)
    (item,) = page.media
    assert item["span"] == pytest.approx(30, abs=0.1)
    assert item["patches"] == pytest.approx(30, abs=0.2)
    assert "1 sound in 29 windows -> " in capsys.readouterr().out


def test_pictures_of_long_sounds_stay_small(explore, tmp_path):
    """An hour of sound must not make an image of an hour's width."""
    (item,) = explore(write_sound(tmp_path / "long.wav", 130)).media
    mel, frequencies = (base64.b64decode(item[name]) for name in ("mel", "frequencies"))
    width = int.from_bytes(mel[16:20], "big")
    assert 600 <= width <= 1200
    assert item["span"] == pytest.approx(130, abs=0.3)
    assert item["patches"] == pytest.approx(130, abs=0.4)
    assert int.from_bytes(frequencies[16:20], "big") == pytest.approx(130 / 0.16, abs=2)


@pytest.mark.parametrize("window", [(), ("--window", "1")])
def test_labels_of_a_classifier(explore, tmp_path, window):
    """What the model calls a sound, and each window of it, is what `classify` says; the first is a column, too."""
    model = classifier()
    save_classifier(tmp_path / "classifier", model)
    files = [write_sound(tmp_path / f"{n}.wav", seconds, n) for n, seconds in enumerate((1, 13))]
    page = explore(*files, *window, model=str(tmp_path / "classifier"))
    assert page.data["classifier"]
    columns = {column["name"]: column for column in page.data["columns"]}
    assert set(columns) == {"folder", "predicted label"} | ({"time"} if window else set())
    codes = unpacked(columns["predicted label"]["codes"], "<u4")
    first = [columns["predicted label"]["values"][code] for code in codes]
    seconds = {"window": float(window[1])} if window else {}
    for item, file in zip(page.media, files, strict=True):
        expected = load_model(tmp_path / "classifier", "cpu").classify(str(file), **seconds)
        assert [label for label, _ in item["labels"]] == expected.labels
        assert set(expected.labels) == set(LABELS)
        np.testing.assert_allclose([score for _, score in item["labels"]], expected.scores, atol=1e-5)
        pieces = expected.windows if window else [expected]
        assert [first.pop(0) for _ in pieces] == [piece.labels[0] for piece in pieces]
        assert [(start, end) for start, end, _ in item["spans"]] == [(w.start, w.end) for w in expected.windows]


def test_models_without_classifier_or_kernels(explore, tmp_path):
    """The standard stem chooses no frequencies: the page says so, and has the log-mel."""
    save_model(tmp_path / "standard", nano(stem="patch"), FRONT_END)
    page = explore(*NOTES[:2], model=str(tmp_path / "standard"))
    assert not page.data["kernels"]
    assert not page.data["classifier"]
    assert all("mel" in item and "decays" not in item and "labels" not in item for item in page.media)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_few_sounds(explore, number, capsys):
    """One sound is a page with one dot and no neighbours; too few for t-SNE are a map by PCA."""
    page = explore(*NOTES[:number])
    assert page.data["neighbours"]["count"] == number - 1
    assert list(page.data["maps"]) == ["PCA"]
    assert page.data["notes"] == ["t-SNE needs 5 sounds or more"]
    assert "t-SNE needs 5 sounds or more\n" in capsys.readouterr().out


def test_equal_sounds(explore, tmp_path):
    """Copies of one sound differ in nothing: no NaN in the page, and all lie in one place."""
    for number in range(6):
        write_sound(tmp_path / "in" / f"{number}.wav", 1)
    page = explore(tmp_path / "in")
    assert "NaN" not in json.dumps(page.data)
    assert np.ptp(unpacked(page.data["maps"]["PCA"], "<f4")) == 0
    assert page.data["notes"] == ["t-SNE needs sounds that differ"]
    np.testing.assert_allclose(unpacked(page.data["neighbours"]["cosines"], "<f4"), 1, atol=1e-5)


def test_without_scikit_learn(explore, monkeypatch, capsys):
    """PCA needs nothing more; how to get the other map is said."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sklearn" else True)
    assert list(explore(*NOTES[:6]).data["maps"]) == ["PCA"]
    assert "t-SNE needs scikit-learn: pip install 'aape[explore]'\n" in capsys.readouterr().out


def test_unreadable_sounds_are_left_out(explore, tmp_path, capsys):
    """They are listed on standard error and in the page, and the others keep what is theirs."""
    link_notes(tmp_path / "in", 3)
    (tmp_path / "in" / "aaa.wav").write_bytes(b"RIFF")
    page = explore(tmp_path / "in", tmp_path / "gone.wav")
    assert [os.path.basename(name) for name in page.data["names"]] == [note.name for note in NOTES[:3]]
    assert [os.path.basename(name) for name, _ in page.data["bad"]] == ["aaa.wav", "gone.wav"]
    captured = capsys.readouterr()
    assert captured.err.count("left out: ") == 2
    assert captured.out.startswith("3 sounds -> ")
    assert ", 2 left out\n" in captured.out
    assert all("opus" in item for item in page.media)


def test_refusals(folder, tmp_path, capsys):
    """What cannot work says why in one line and with status 2, and writes nothing."""
    (tmp_path / "none").mkdir()
    (tmp_path / "text.wav").write_text("no sound")
    note, out = str(NOTES[0]), ["--out", str(tmp_path / "p.html")]
    for arguments, message in (
        ([*out], "missing required INPUT"),
        ([str(tmp_path / "none"), *out], "a folder, and no sound file in it"),
        ([str(tmp_path / "text.wav"), *out], "text.wav: not a readable sound file"),
        ([note, "--out", str(tmp_path / "p.png")], "name a file that ends in .html"),
        ([note, "--hop", "1", *out], "give a window, too"),
        ([note, "--window", "0.1", *out], "window must be 0.16 to 10.24 s"),
        ([note, "--embed-limit", "-1", *out], "--embed-limit: expected a number from 0"),
        ([note, "--seed", str(2**32), *out], "seed must be below 2^32"),
        ([note, "--color", "predicted label", *out], "no column 'predicted label'"),
    ):
        assert main(["explore", *arguments, "--model", folder, "--device", "cpu"]) == 2, arguments
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("aape: error: ") == 1
        assert "Traceback" not in captured.err
        assert not captured.out
    assert not (tmp_path / "p.html").exists()
    assert main(["explore", note, "--model", str(tmp_path / "no model"), *out]) == 2

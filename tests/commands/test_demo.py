"""`aape demo`: the first five minutes of a user."""

import contextlib
import csv
import io
import json
import shlex
import sys
from collections import Counter

import pytest

from aape import cli
from aape.cli import load_verb
from aape.commands.demo import FILES, DemoConfig, _verdict, demo
from aape.commands.options import parse
from aape.data.audio.decoding import read_audio
from aape.data.demo import AUDIO
from aape.errors import CheckpointError, ConfigError
from notes import NOTES, save_nano


def earlier_demo(folder):
    folder.mkdir()
    (folder / "aape-demo").touch()
    (folder / "result.json").write_text("{}")
    (folder / "mine.txt").write_text("kept")
    return folder


def test_the_recordings_are_all_there_and_small():
    """The wheel stays small, the table names every file, and no program is trained on and tested."""
    with open(AUDIO / "metadata.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {path.name for path in NOTES}
    assert sum(path.stat().st_size for path in AUDIO.iterdir()) < 3e6
    assert (AUDIO / "LICENSE.md").exists()
    assert len(rows) == 150
    assert len({(row["program"], row["fold"]) for row in rows}) == len({row["program"] for row in rows}) == 70
    assert set(Counter(row["fold"] for row in rows).values()) == {30}
    fold = {int(row["program"]): row["fold"] for row in rows}
    for programs in ((0, 1, 3), (24, 25), (44, 48, 49), (62, 63)):  # the soundfont plays the same recordings for these
        assert len({fold[program] for program in programs}) == 1
    assert set(Counter(row["label"] for row in rows).values()) == {16, 17}
    assert len({(row["label"], row["fold"]) for row in rows}) == 9 * 5  # each family is tested in each fold
    programs = {split: {row["program"] for row in rows if row["split"] == split} for split in ("train", "test")}
    assert not programs["train"] & programs["test"]
    assert Counter(row["split"] for row in rows) == {
        "train": 54,
        "test": 27,
        "valid": 69,
    }  # docs/drop-in.md has the first
    assert len(read_audio(AUDIO / rows[0]["file"])) == 48000


def test_every_recording_can_be_read():
    """The demo stops at the first bad file: all of them are three seconds of sound."""
    waves = [read_audio(path) for path in NOTES]
    assert {len(wave) for wave in waves} == {48000}
    assert min(abs(wave).max() for wave in waves) > 1e-3


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two steps of it, by the command line, without any extra, over an earlier demo that the user put a file beside."""
    folder = tmp_path_factory.mktemp("demo")
    save_nano(folder / "nano <b>")
    out, printed, errors = earlier_demo(folder / "demo"), io.StringIO(), io.StringIO()
    options = ["--checkpoint", str(folder / "nano <b>"), "--steps", "2", "--probe-steps", "2", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        patch.chdir(folder)
        for extra in ("matplotlib.figure", "sklearn"):
            patch.setitem(sys.modules, extra, None)
        assert cli.main(["demo", "--out", "demo", *options]) == 0
    assert "warning" not in errors.getvalue()
    return out, printed.getvalue()


def test_the_demo_leaves_everything_it_names_and_replaces_only_that(finished):
    """The last line is what is opened, from any folder."""
    out, printed = finished
    assert all((out / name).exists() for name in FILES)
    assert (out / "mine.txt").read_text() == "kept"
    assert len(json.loads((out / "probe" / "result.json").read_text())["partitions"]) == 5
    assert printed.splitlines()[-2:] == ["Open it in a browser:", str(out / "index.html")]


def test_the_page_has_the_table_the_curves_and_what_to_type(finished):
    """It is what the demo is for; names with markup in them stay text."""
    out, _ = finished
    page, result = (out / "index.html").read_text(), json.loads((out / "result.json").read_text())
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    names = [str(out.parent / "nano <b>"), "the same encoder, untrained", "log-mel statistics"]
    assert [row[0] for row in data["scores"][1:]] == names
    lows = [100 * row["scores"]["last"]["accuracy"]["interval"][0] for row in result["rows"].values()]
    assert [row[-1].split()[0] for row in data["scores"][1:]] == [f"{low:.1f}" for low in lows]
    assert data["verdict"] == result["verdict"]
    assert [curve["steps"] for curve in data["charts"][0]["curves"]] == [[1, 2]]
    assert "nano <b>" not in page
    for line in data["commands"].splitlines():
        program, *words = shlex.split(line, comments=True)
        name = "plot run" if words[0] == "plot" else words[0]
        assert program == "aape"
        parse(load_verb(name)[1], words[len(name.split()) :])  # what is typed is understood


@pytest.mark.parametrize(("low", "high", "words"), [(-0.02, 0.1, "cannot tell"), (0.01, 0.1, "beyond chance")])
def test_the_verdict_claims_what_the_interval_allows(low, high, words):
    """A lead that may be chance is said to be so."""
    margins = {"log-mel statistics": {"accuracy": {"mean": 0.04, "interval": [low, high]}}}
    first, how = _verdict(DemoConfig(), {"margins_of_the_encoder": margins})
    assert first.startswith(f"tiny is 4.0 points above log-mel statistics ({100 * low:.1f} to 10.0): ")
    assert words in first
    assert "95 %" in how


def test_a_checkpoint_that_is_missing_costs_no_earlier_demo(tmp_path):
    """A mistyped name must fail at once, not after the old results are gone and a minute is spent."""
    out = earlier_demo(tmp_path / "demo")
    with pytest.raises(CheckpointError, match="missing"):
        demo(DemoConfig(out=str(out), checkpoint=str(tmp_path / "missing")))
    assert (out / "result.json").exists()


@pytest.mark.parametrize("option", ["--steps", "--probe-steps"])
def test_an_option_that_makes_no_demo_costs_no_earlier_one(tmp_path, capsys, option):
    """A slip of a digit must not delete what took minutes."""
    out = earlier_demo(tmp_path / "demo")
    assert cli.main(["demo", "--out", str(out), option, "0"]) == 2
    assert "steps must be above 0" in capsys.readouterr().err
    assert (out / "result.json").exists()


def test_the_demo_never_deletes_what_it_did_not_make(tmp_path):
    """A folder of somebody's work survives a mistyped --out."""
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(ConfigError, match="something else"):
        demo(DemoConfig(out=str(tmp_path)))
    assert (tmp_path / "thesis.txt").exists()

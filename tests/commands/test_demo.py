"""`aape demo`: the first five minutes of a user."""

import csv
import json
import sys

import pytest

from aape import cli
from aape.commands.demo import FILES, DemoConfig, demo
from aape.data.audio.decoding import read_audio
from aape.data.demo import AUDIO
from aape.errors import AapeError, CheckpointError, ConfigError
from aape.models.config import FrontEndConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.models.saved import save_model
from notes import NOTES, save_nano


def earlier_demo(folder):
    folder.mkdir()
    (folder / "aape-demo").touch()
    (folder / "result.json").write_text("{}")
    (folder / "mine.txt").write_text("kept")
    return folder


def test_the_recordings_are_all_there_and_small():
    """The wheel stays small, the table names every file, and test programs are never trained on."""
    with open(AUDIO / "metadata.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {path.name for path in NOTES}
    assert sum(path.stat().st_size for path in AUDIO.iterdir()) < 3e6
    assert (AUDIO / "LICENSE.md").exists()
    programs = {split: {row["program"] for row in rows if row["split"] == split} for split in ("train", "test")}
    assert not programs["train"] & programs["test"]
    assert len(read_audio(AUDIO / rows[0]["file"])) == 48000


def test_every_recording_can_be_read():
    """The demo stops at the first bad file: all of them are three seconds of sound."""
    waves = [read_audio(path) for path in NOTES]
    assert {len(wave) for wave in waves} == {48000}
    assert min(abs(wave).max() for wave in waves) > 1e-3


def test_the_demo_leaves_everything_it_names_and_replaces_only_that(tmp_path, capsys):
    """Two steps of it, by the command line, over an earlier demo that the user put a file beside."""
    save_nano(tmp_path / "nano")
    out = earlier_demo(tmp_path / "demo")
    arguments = ["--out", str(out), "--checkpoint", str(tmp_path / "nano"), "--steps", "2", "--probe-steps", "2"]
    assert cli.main(["demo", *arguments]) == 0
    assert all((out / name).exists() for name in FILES)
    assert (out / "mine.txt").read_text() == "kept"
    result = json.loads((out / "result.json").read_text())
    assert len(result["rows"]) == 5
    printed = capsys.readouterr().out
    assert "Nearest neighbours" in printed
    assert "100,000" not in printed  # what this encoder saw is not known, and not to be claimed


@pytest.mark.parametrize("checkpoint", ["missing", "standard"])
def test_a_checkpoint_that_cannot_be_shown_costs_no_earlier_demo(tmp_path, checkpoint):
    """A mistyped name must fail at once, not after the old results are gone and a minute is spent."""
    standard = AudioEncoder(encoder_config("nano", stem="patch"))
    save_model(tmp_path / "standard", standard, FrontEndConfig(mean=-3.0, std=4.5))
    out = earlier_demo(tmp_path / "demo")
    with pytest.raises((CheckpointError, ConfigError), match=checkpoint):
        demo(DemoConfig(out=str(out), checkpoint=str(tmp_path / checkpoint)))
    assert (out / "result.json").exists()


@pytest.mark.parametrize("option", ["--steps", "--probe-steps"])
def test_an_option_that_makes_no_demo_costs_no_earlier_one(tmp_path, capsys, option):
    """A slip of a digit must not delete what took minutes."""
    out = earlier_demo(tmp_path / "demo")
    assert cli.main(["demo", "--out", str(out), option, "0"]) == 2
    assert "steps must be above 0" in capsys.readouterr().err
    assert (out / "result.json").exists()


def test_without_matplotlib_the_demo_says_what_to_install(tmp_path, monkeypatch):
    """It is an optional part, and its absence must not surface after the training."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AapeError, match=r"pip install 'aape\[plots\]'"):
        demo(DemoConfig(out=str(tmp_path / "demo")))
    assert not (tmp_path / "demo").exists()


def test_the_demo_never_deletes_what_it_did_not_make(tmp_path):
    """A folder of somebody's work survives a mistyped --out."""
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(ConfigError, match="something else"):
        demo(DemoConfig(out=str(tmp_path)))
    assert (tmp_path / "thesis.txt").exists()

"""One table of several corpora: what it lists is what they hold, long sounds in parts that leave nothing out."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aape import cli
from aape.data.clips import load_clip
from aape.data.manifest import read_manifest

SCRIPT = Path(__file__).resolve().parents[2] / "experiments/small_data/mixture.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture
def corpus(tmp_path):
    """Three sounds of 1, 5.9 and 10 s, as packed shards."""
    rng = np.random.default_rng(0)
    (tmp_path / "sounds/low").mkdir(parents=True)
    for name, seconds in (("a", 1), ("low/a", 5.9), ("low/b", 10)):
        soundfile.write(tmp_path / f"sounds/{name}.wav", rng.uniform(-0.5, 0.5, int(16000 * seconds)), 16000)
    cli.main(["data", "pack", "--data", str(tmp_path / "sounds"), "--out", str(tmp_path / "packed"), "--workers", "0"])
    return tmp_path


def test_long_sounds_become_parts_that_leave_nothing_out(corpus):
    (corpus / "lists").mkdir()
    done = run(corpus / "packed/clips.csv", "--out", corpus / "lists/mixture.csv")
    assert done.stdout.startswith("5 rows")
    assert not done.stderr
    packed = read_manifest(corpus / "packed/clips.csv")
    clips = read_manifest(corpus / "lists/mixture.csv")
    assert [clip.file for clip in clips] == [f"../packed/{packed[i].name}" for i in (0, 1, 2, 2, 2)]
    whole = load_clip(packed[2])
    assert np.array_equal(np.concatenate([load_clip(clip) for clip in clips[2:]]), whole)
    assert np.array_equal(load_clip(clips[1]), load_clip(packed[1]))


def test_labels_of_a_corpus_that_has_some_are_kept(corpus):
    table = corpus / "packed/clips.csv"
    lines = table.read_text().splitlines()
    labelled = [f"{line},{label}" for line, label in zip(lines, ("labels", "", "b;c", "d"), strict=True)]
    (corpus / "packed/labelled.csv").write_text("\n".join(labelled))
    assert not run(table, "--out", corpus / "plain.csv").stderr
    assert {clip.label for clip in read_manifest(corpus / "plain.csv", label="labels", needs_labels=False)} == {""}
    assert not run(corpus / "packed/labelled.csv", "--out", corpus / "mixture.csv").stderr
    clips = read_manifest(corpus / "mixture.csv", label="labels", needs_labels=False)
    assert [clip.label for clip in clips] == ["", "b;c", "d", "d", "d"]


def test_what_is_not_in_shards_is_refused_in_one_line(corpus):
    done = run(corpus / "sounds", "--out", corpus / "mixture.csv")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "aape data pack" in done.stderr
    assert not (corpus / "mixture.csv").exists()

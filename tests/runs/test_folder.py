"""What a run's folder is taken for, and what a run leaves in it: configuration, environment, result."""

import errno
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from aape.errors import AapeError, ConfigError
from aape.runs import folder
from aape.runs.folder import claim, git_commit, is_same_location, write_result, write_run_header


def test_a_path_is_the_same_however_it_is_written_and_a_name_is_no_path(tmp_path, monkeypatch):
    """`tiny` is the shipped model even where a folder of that name lies about; the folder is another encoder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert is_same_location("data/set.csv", str(tmp_path / "data/set.csv"))
    assert is_same_location("tiny", str(tmp_path / "tiny"))
    assert is_same_location("tiny", "tiny", ["tiny"])
    assert not is_same_location("tiny", str(tmp_path / "tiny"), ["tiny"])
    assert not is_same_location("./tiny", "tiny", ["tiny"])
    assert not is_same_location(3, "3")


def test_a_folder_is_claimed_for_the_same_options_only(tmp_path, monkeypatch):
    """Two encoders in one run folder would be one column of numbers."""

    @dataclass(frozen=True)
    class Config:
        checkpoint: str
        workers: int = 0

    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    rules = {"may_change": {"workers"}, "resume": True, "names": ["tiny"]}
    claim(out, Config("tiny"), **rules)
    write_run_header(out, Config("tiny"))
    claim(out, Config("tiny", workers=2), **rules)
    with pytest.raises(ConfigError, match=r"checkpoint is tiny, not \./tiny"):
        claim(out, Config("./tiny"), **rules)
    with pytest.raises(ConfigError, match="--resume"):
        claim(out, Config("tiny"), may_change=(), resume=False)
    (out / "config.yaml").write_text("{")
    with pytest.raises(ConfigError, match="of another kind, or of another version"):
        claim(out, Config("tiny"), **rules)


@dataclass(frozen=True)
class Nested:
    rates: tuple[float, ...] = (1e-3, 0.01)


@dataclass(frozen=True)
class RunConfig:
    data: str = "a.csv"
    nested: Nested = Nested()


def test_the_configuration_comes_back_as_plain_yaml(tmp_path):
    environment = write_run_header(tmp_path / "deep" / "run", RunConfig())
    written = yaml.safe_load((tmp_path / "deep" / "run" / "config.yaml").read_text())
    assert written == {"data": "a.csv", "nested": {"rates": [0.001, 0.01]}}
    assert json.loads((tmp_path / "deep" / "run" / "environment.json").read_text()) == environment
    assert {"aape", "commit", "python", "torch", "numpy", "platform", "cpu", "device", "date"} <= environment.keys()


def test_numpy_and_nan_become_json(tmp_path):
    path = write_result(tmp_path, {"score": np.float32(0.5), "recall": np.asarray([1.0, np.nan]), "file": Path("x")})
    assert json.loads(path.read_text()) == {"score": 0.5, "recall": [1.0, None], "file": "x"}


def test_a_write_that_fails_leaves_the_old_result_and_no_litter(tmp_path, monkeypatch):
    path = write_result(tmp_path, {"score": 1})

    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(AapeError, match=r"result.json: could not be written \(No space left .* are free: make room"):
        write_result(tmp_path, {"score": 2})
    assert json.loads(path.read_text()) == {"score": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_ours_or_none(tmp_path, monkeypatch):
    # An environment inside somebody's own checkout must not sign results with that checkout's commit.
    package = tmp_path / "venv" / "aape" / "runs"
    package.mkdir(parents=True)
    (package / "folder.py").write_text("")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    monkeypatch.setattr(folder, "__file__", str(package / "folder.py"))
    assert git_commit() is None
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    commit = git_commit()
    assert commit is not None
    assert len(commit) == 40
    (package / "folder.py").write_text("edited")
    assert git_commit() == f"{commit}+changes"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_checkout_is_looked_at_without_a_lock(tmp_path, monkeypatch):
    """A signal in the midst of refreshing the index would leave the user's checkout locked."""
    package = tmp_path / "aape" / "runs"
    package.mkdir(parents=True)
    (package / "folder.py").write_text("")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "ours"]):
        subprocess.run([*git, *arguments], check=True)
    os.utime(package / "folder.py", (1, 1))  # what makes git refresh its index
    monkeypatch.setattr(folder, "__file__", str(package / "folder.py"))
    before = (tmp_path / ".git" / "index").read_bytes()
    assert git_commit() is not None
    assert (tmp_path / ".git" / "index").read_bytes() == before

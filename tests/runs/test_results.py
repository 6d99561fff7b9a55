"""What a run leaves behind: a number without its configuration and commit cannot be trusted a month later."""

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from aape.runs import folder as results
from aape.runs.files import write_atomically
from aape.runs.folder import git_commit, write_result, write_run_header


@dataclasses.dataclass(frozen=True)
class Nested:
    rates: tuple[float, ...] = (1e-3, 0.01)


@dataclasses.dataclass(frozen=True)
class Config:
    data: str = "a.csv"
    nested: Nested = Nested()


def test_the_configuration_comes_back_as_plain_yaml(tmp_path):
    environment = write_run_header(tmp_path / "deep" / "run", Config())
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
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_result(tmp_path, {"score": 2})
    assert json.loads(path.read_text()) == {"score": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_results_can_be_read_by_whom_the_umask_allows(tmp_path):
    old = os.umask(0o022)
    try:
        write_atomically(tmp_path / "file", b"content")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_ours_or_none(tmp_path, monkeypatch):
    # An environment inside somebody's own checkout must not sign results with that checkout's commit.
    package = tmp_path / "venv" / "aape" / "runs"
    package.mkdir(parents=True)
    (package / "folder.py").write_text("")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    monkeypatch.setattr(results, "__file__", str(package / "folder.py"))
    assert git_commit() is None
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    commit = git_commit()
    assert commit is not None
    assert len(commit) == 40
    (package / "folder.py").write_text("edited")
    assert git_commit() == f"{commit}+changes"

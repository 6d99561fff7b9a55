"""What a run's folder is taken for, and what it is not."""

from dataclasses import dataclass

import pytest

from aape.errors import ConfigError
from aape.runs.folder import claim, is_same_location, write_run_header


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

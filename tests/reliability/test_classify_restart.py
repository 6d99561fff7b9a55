"""`aape classify` killed and started again, or by several processes: the bytes of a run that was never killed."""

import os
import subprocess
import sys
import time

import pytest
import torch

from aape.cli import main
from aape.data.demo import AUDIO
from aape.models.heads import ClassificationHead
from embed_kills import write_files
from notes import link_notes, save_nano

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Sounds, a classifier, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("desk")
    write_files(folder / "in", AUDIO, 160)
    save_nano(folder / "model", head=ClassificationHead(64, 3), labels=["bell", "drum", "flute"])
    start(folder, "one").communicate()
    return folder


def command(folder, name):
    outputs = ["--out", folder / f"{name}.json", "--events", folder / f"{name}.csv", "--threshold", "0.2"]
    arguments = ["classify", folder / "in", "--model", folder / "model", *outputs, "--batch", "2", "--device", "cpu"]
    return [*map(str, arguments), "--window", "0.2", "--hop", "0.1"]


def start(folder, name, rank=0, world=1):
    return subprocess.Popen(
        [sys.executable, "-m", "aape", *command(folder, name)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": str(1 + rank)},
    )  # fmt: skip


def wait_for(folder, name, count):
    while len(list((folder / f"{name}.json.partial").glob("*.chunk"))) < count:
        time.sleep(0.002)


def contents(folder, name):
    assert not (folder / f"{name}.json.partial").exists()
    return [(folder / f"{name}.{ending}").read_bytes() for ending in ("json", "csv")]


def test_killed_and_restarted(desk):
    """A day of listening must not be lost to a reboot, nor come back as other numbers."""
    process = start(desk, "killed")
    wait_for(desk, "killed", 4)
    process.kill()
    process.communicate()
    assert not (desk / "killed.json").exists()
    assert main(command(desk, "killed")) == 0
    assert contents(desk, "killed") == contents(desk, "one")


def test_a_rank_is_killed_and_the_other_ends_with_the_bytes_of_one(desk):
    lead, killed = [start(desk, "two", rank, 2) for rank in (0, 1)]
    while lead.poll() is None and not (desk / "two.json.partial/.shared-1").exists():
        time.sleep(0.002)
    wait_for(desk, "two", 6)
    killed.kill()
    assert killed.communicate()[0] == ""
    output, errors = lead.communicate(timeout=120)
    assert lead.returncode == 0, errors
    assert errors.count("0007.wav") == 1
    assert "156 files -> " in output
    assert contents(desk, "two") == contents(desk, "one")


def test_several_processes_need_a_file(desk, monkeypatch, capsys):
    """Each would print a part of the table, between the lines of the others."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["classify", str(desk / "in"), "--model", str(desk / "model")]) == 2
    assert "several processes: name a file for their results, --out or --events" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"top": 1}, {"threshold": 0.4}, {"window": 0.3}, {"min_duration": 9}, {"head": 1}])
def test_what_changes_the_results_begins_anew(tmp_path, monkeypatch, change):
    """Chunks of a killed run with another classifier, or other options, must not end up in this one."""
    link_notes(tmp_path / "in", 3)
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_nano(tmp_path / f"model{seed}", head=ClassificationHead(64, 3), labels=["bell", "drum", "flute"])
    values = {"top": 3, "threshold": 0.3, "window": 0.2, "min_duration": 0.0, "head": 0}

    def run(top, threshold, window, min_duration, head):
        options = ["--top", top, "--threshold", threshold, "--window", window, "--min-duration", min_duration]
        outputs = ["--out", tmp_path / "r.json", "--events", tmp_path / "e.csv", "--model", tmp_path / f"model{head}"]
        assert main([*map(str, ["classify", tmp_path / "in", *outputs, *options])]) == 0
        return [(tmp_path / name).read_bytes() for name in ("r.json", "e.csv")]

    before, expected = run(**values), run(**{**values, **change})
    assert before != expected
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # as if it had been killed at the end
        run(**values)
    assert run(**{**values, **change}) == expected

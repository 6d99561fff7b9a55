"""A week of training survives kills, SIGTERM, a full disk and a damaged disk, with every bit it had."""

import os
import shutil
import signal
import subprocess
import time

import pytest

import damage
import kills
from aape.runs.checkpoints import list_checkpoints


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def test_killed_anywhere_ends_bit_identical(tmp_path):
    """Four SIGKILLs, two of them inside a save, with and without data workers: no bit differs in the end."""
    counts = kills.kill_many(tmp_path, kills=4, seed=0)
    assert counts["kills"] == 4
    assert counts["inside_save"] == 2
    assert counts["identical"] == counts["runs"]


def test_sigterm_saves_exits_143_and_goes_on(tmp_path):
    """What schedulers send before they kill costs nothing, even when it reaches the data workers too."""
    data = kills.prepare(tmp_path)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    subprocess.run(kills.command(data, whole), check=True, capture_output=True)
    run = kills.command(data, stopped, "--save-every", "1000", "--workers", "2")
    with subprocess.Popen(run, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while process.poll() is None and not (stopped / "metrics.jsonl").exists():
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "go on with --resume" in errors.splitlines()[-1]
    assert len(list_checkpoints(stopped)) == 1
    subprocess.run([*run, "--resume"], check=True, capture_output=True)
    assert kills.difference(whole, stopped) == []


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    """Full after any of 50 numbers of bytes: the one before loads, and the message says how much room to make."""
    if shutil.which("cc") is None:
        pytest.skip("the full disk is made by a C library")
    result = damage.fill_disk(tmp_path, kills.prepare(tmp_path), offsets=50, seed=0)
    assert result["last_good_one_kept"] == 50
    assert "make room and go on with --resume" in result["message"]


def test_no_damaged_checkpoint_is_ever_loaded(tmp_path):
    """500 flipped bits and cut files: each time the checkpoint before is taken, and the damage is named."""
    run = damage.make_run(tmp_path, kills.prepare(tmp_path))
    counts = damage.damage(run, damages=500, seed=0)
    assert counts["silent"] == 0
    assert counts["took_the_one_before"] == 500

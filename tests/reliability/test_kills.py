"""A week of training survives kills, SIGTERM, a full disk and a damaged disk, with every bit it had."""

import os
import signal
import subprocess
import time

import kills
import pytest

from aape.training.checkpoints import list_checkpoints


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

"""`aape embed` by several processes, of which some die: the bytes of one process."""

import os
import subprocess
import sys
import time

import pytest

import embed_kills
from aape.data.demo import AUDIO
from notes import save_nano

pytestmark = pytest.mark.skipif(os.name != "posix", reason="no record locks there")
BATCH = 2


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Sounds, an encoder, and the vectors of one process."""
    folder = tmp_path_factory.mktemp("desk")
    embed_kills.write_files(folder / "in", AUDIO, 240)
    save_nano(folder / "model")
    start(folder, "one.npz").communicate()
    return folder


def start(folder, out, *more, rank=0, world=1, threads=1):
    arguments = embed_kills.command(folder / "in", folder / "model", folder / out, BATCH)
    return subprocess.Popen(
        [sys.executable, "-m", "aape", *arguments, *more],
        env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_rank_is_killed_and_the_other_ends_with_the_bytes_of_one(desk):
    """What several GPUs do in a night must not depend on how many there were, nor end with the first that dies."""
    lead, killed = [
        start(desk, "two.npz", "--workers", str(2 * rank), rank=rank, world=2, threads=1 + rank) for rank in (0, 1)
    ]
    partial = desk / "two.npz.partial"
    while lead.poll() is None and not ((partial / ".shared-1").exists() and len(list(partial.glob("*.chunk"))) >= 8):
        time.sleep(0.005)
    killed.kill()
    assert killed.communicate()[0] == ""
    output, errors = lead.communicate(timeout=120)
    assert lead.returncode == 0, errors
    assert "235 vectors of 128 numbers" in output
    assert errors.count("0007.wav") == 1
    assert (desk / "two.npz").read_bytes() == (desk / "one.npz").read_bytes()
    assert not partial.exists()


def test_a_rank_with_another_model_is_refused(desk):
    """Vectors of two kinds in one file would be wrong without a word."""
    lead, other = [
        start(desk, "mixed.npz", "--pool", pool, rank=rank, world=2)
        for rank, pool in enumerate(("cls_mean", "frequency"))
    ]
    errors = other.communicate(timeout=120)[1]
    assert other.returncode == 2
    assert errors == "aape: error: rank 1: model not as in rank 0: start all with the same files and options\n"
    lead.communicate(timeout=120)
    assert (desk / "mixed.npz").read_bytes() == (desk / "one.npz").read_bytes()


def test_names_on_standard_input_reach_one_process(desk):
    with start(desk, "names.npz", "-", rank=0, world=2) as process:
        assert "write them into a table" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


@pytest.mark.slow
def test_torchrun_killed_twice_and_started_again(desk, tmp_path):
    """As above, as a cluster does it: torchrun ends all when one dies, and the same command goes on."""
    done, is_equal = embed_kills.kill_and_compare(desk / "in", tmp_path, desk / "model", batch=BATCH, kills=2, ranks=2)
    assert 0 < done[0] < done[-1]
    assert is_equal

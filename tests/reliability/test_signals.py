"""What a scheduler, a closed terminal or Ctrl-C ends, ends soon, in one line, and leaves nothing half-written."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aape.data.demo import AUDIO
from aape.runs.checkpoints import list_checkpoints
from notes import NOTES, link_notes, save_nano

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are sent otherwise there")
TABLE = AUDIO / "metadata.csv"
TRAINING = ["--steps", "5000", "--workers", "2", "--device", "cpu"]
PRETRAIN = ["--model", "nano", "--clips", "4", "--crop-seconds", "1", "--masking.num-views", "2", *TRAINING]
VERBS = {
    "pretrain": ["pretrain", "--data", "sound", "--out", "out/run", "--log-every", "1", *PRETRAIN],
    "finetune": ["finetune", "--data", TABLE, "--checkpoint", "model", "--split=split", "--out", "out/run", *TRAINING],
    "probe": ["probe", "--data", TABLE, "--checkpoint", "tiny", "--split", "split", "--out", "out/run"],
    "stats": ["stats", "--data", "sound", "--out", "out/stats.json"],
    "embed": ["embed", "sound", "--model", "tiny", "--out", "out/v.npz", "--device", "cpu"],
    "workers": ["embed", "sound", "--model", "tiny", "--out", "out/v.npz", "--device", "cpu", "--workers", "2"],
    "pack": ["data", "pack", "--data", "sound", "--out", "out/shards", "--clips-per-shard", "200"],
    "check": ["data", "check", "--data", "sound", "--out", "out/report.json"],
    "queue": ["table", "run", "list.txt"],
    "demo": ["demo", "--out", "out/demo", "--steps", "5000", "--device", "cpu"],
}
AGAIN = {"pretrain": "--resume", "finetune": "--resume", "stats": "begins anew", "check": "begins anew",
         "demo": "begins anew"}  # fmt: skip
QUICK = [("pack", signal.SIGTERM, True, 2.0), ("embed", signal.SIGHUP, False, 3.0),
         ("workers", signal.SIGINT, True, 3.0), ("pretrain", signal.SIGINT, True, 4.0),
         ("finetune", signal.SIGHUP, True, 5.0)]  # fmt: skip
OTHERS = [
    (verb, number, is_group, delay)
    for verb in VERBS
    for number, is_group in ((signal.SIGTERM, True), (signal.SIGHUP, False), (signal.SIGINT, True))
    for delay in (1.0, 1.8, 3.0)
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Two thousand sounds, and an encoder."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "sound").mkdir()
    for number in range(2000):
        (folder / f"sound/{number:04}.opus").symlink_to(NOTES[number % len(NOTES)])
    save_nano(folder / "model")
    (folder / "list.txt").write_text(f"pretrain --data sound --out out/run --log-every 1 {' '.join(PRETRAIN)}\n")
    return folder


def start(arguments, folder, **ignored):
    def set_signals():
        for number in (signal.SIGINT, signal.SIGHUP):  # which & and nohup ignore, for these tests too
            signal.signal(number, signal.SIG_DFL)
        for name, action in ignored.items():
            signal.signal(getattr(signal, name), action)

    return subprocess.Popen(
        [sys.executable, "-m", "aape", *map(str, arguments)], cwd=folder, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=set_signals,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def session_of(leader):
    """Return the processes that the first of a session has left behind."""
    fields = {
        path.name: path.joinpath("stat").read_text().rpartition(")")[2].split()
        for path in Path("/proc").glob("[0-9]*")
        if path.joinpath("stat").exists()
    }
    return [name for name, values in fields.items() if int(values[3]) == leader and values[0] != "Z"]


@pytest.mark.parametrize(
    ("verb", "number", "is_group", "delay"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)],
)
def test_ends_in_one_line_with_nothing_half_written(desk, verb, number, is_group, delay):
    """A stray process would go on writing, a half-written file pass for a whole one, a traceback for a fault."""
    shutil.rmtree(desk / "out", ignore_errors=True)
    with start(VERBS[verb], desk) as process:
        time.sleep(delay)
        (os.killpg if is_group else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=60)
    last = [line for line in errors.splitlines() if line.startswith("aape: ")][-1:]
    assert process.returncode == 128 + number, errors
    assert f"aape: stopped by {number.name}: " in last[0]
    assert AGAIN.get(verb, "the same command goes on") in last[0]
    assert "Traceback" not in errors
    if Path("/proc/self/stat").exists():
        deadline = time.time() + 5
        while session_of(process.pid) and time.time() < deadline:
            time.sleep(0.05)
        assert session_of(process.pid) == []
    assert not [*desk.rglob(".*aape-partial*"), *desk.rglob(".lock"), *desk.glob("out/*.json"), *desk.glob("out/*.npz")]


@pytest.mark.parametrize("verb", ["pretrain", "queue"])
def test_a_signal_that_comes_twice_is_one(desk, verb):
    """A scheduler signals every process, and what started a run passes it on: the second must not cut off the save."""
    shutil.rmtree(desk / "out", ignore_errors=True)
    if not (desk / "some").exists():
        link_notes(desk / "some", 8)
    (desk / "some.txt").write_text((desk / "list.txt").read_text().replace("sound", "some"))
    names = {"sound": "some", "list.txt": "some.txt"}
    with start([names.get(argument, argument) for argument in VERBS[verb]], desk) as process:
        while process.poll() is None and not (desk / "out/run/metrics.jsonl").exists():
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert len(list_checkpoints(desk / "out/run")) == 1
    assert not (desk / "out/run/.lock").exists()


def test_what_nohup_has_ignored_stays_ignored(desk):
    """A run that is to outlive its terminal must."""
    link_notes(desk / "few", 3)
    arguments = ["stats", "--data", "few", "--out", "nohup.json"]
    with start(arguments, desk, SIGHUP=signal.SIG_IGN) as process:
        while process.poll() is None:
            process.send_signal(signal.SIGHUP)
            time.sleep(0.05)
        process.communicate()
    assert process.returncode == 0
    assert (desk / "nohup.json").exists()

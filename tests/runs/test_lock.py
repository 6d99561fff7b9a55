"""A folder belongs to one process: two would write each line twice, and each other's checkpoints."""

import contextlib
import errno
import os
import signal
import subprocess
import sys

import pytest

from aape.errors import ConfigError, DataError
from aape.runs.lock import LOCK_NAME, locked

# Holds a folder until it is told to end, with a forked child that lives on for a minute
HOLDER = """
import os, sys, time
from aape.runs.lock import locked
with locked(sys.argv[1]):
    if "fork" in sys.argv and not os.fork():
        time.sleep(60)
        os._exit(0)
    print(flush=True)
    input()
"""


def hold(folder, *more):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline() == b"\n"
    return process


@pytest.mark.skipif(os.name == "nt", reason="no record locks there")
def test_one_process_at_a_time_and_the_message_says_which(tmp_path):
    """Whoever starts a run twice has to learn which process is in the way; a folder is one, however it is spelled."""
    out = tmp_path / "run"
    with hold(out) as process:
        (tmp_path / "link").symlink_to(out)
        before = sorted(out.rglob("*"))
        for path in (out, tmp_path / "link", tmp_path / "run" / ".." / "run", os.path.relpath(out)):
            with pytest.raises(ConfigError, match=rf"in use by process {process.pid} on .* since 20.*-c .*choose"):
                locked(path).__enter__()
        assert sorted(out.rglob("*")) == before
        process.communicate(b"\n")
    with locked(out), pytest.raises(ConfigError, match="by this process"), locked(tmp_path / "link"):
        pass
    assert list(out.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")
def test_a_killed_process_leaves_no_lock_though_its_workers_live(tmp_path):
    """A run killed by the scheduler must go on at once, and not when its last data worker has noticed."""
    with hold(tmp_path / "run", "fork") as process:
        process.kill()
        process.wait()
        assert (tmp_path / "run" / LOCK_NAME).exists()
        with locked(tmp_path / "run"):
            pass
        os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "run" / LOCK_NAME).exists()


def test_an_error_before_the_first_result_leaves_what_was_there_and_no_more(tmp_path):
    """A folder of a typing error would have to be deleted by hand; one with anything in it must stay."""

    def fail(folder, *names):
        with contextlib.suppress(DataError), locked(folder):
            for name in names:
                (folder / name).write_text("")
            raise DataError("no sound")
        return folder.exists()

    header = ("config.yaml", "environment.json", "data.sha256", "stats.json")
    assert not fail(tmp_path / "a" / "b", *header)
    assert not (tmp_path / "a").exists()
    assert fail(tmp_path / "with-log", *header, "metrics.jsonl")
    (tmp_path / "there").mkdir()
    assert fail(tmp_path / "there", *header)
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == sorted(header)


def test_half_written_files_of_a_killed_process_go(tmp_path):
    """They would add up with every kill; files of anybody else stay."""
    for name in (".shard-00000.tar.aape-partial", ".other.partial", "aape-partial"):
        (tmp_path / name).write_text("")
    with locked(tmp_path):
        names = {path.name for path in tmp_path.iterdir()}
    assert names == {LOCK_NAME, ".other.partial", "aape-partial"}


def test_where_there_are_no_locks_the_run_goes_on(tmp_path, monkeypatch):
    """Some network file systems have none."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with locked(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_a_full_disk_takes_the_words_of_a_lock_and_not_the_lock(tmp_path, monkeypatch):
    """The verb goes on to the file that finds no room, which is named."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with locked(tmp_path / "out"):
            patch.undo()
            with pytest.raises(ConfigError, match="in use by this process"), locked(tmp_path / "out"):
                pass
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    assert list((tmp_path / "out").iterdir()) == []

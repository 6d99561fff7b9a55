"""Work that processes share: each chunk once, whoever dies, and the same result."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aape.errors import AapeError, ConfigError
from aape.runs import chunks as chunks_module
from aape.runs.chunks import Chunks

COUNT = 24
# Does chunks that take a while, and says in each who did it; rank 0 makes a file of all
WORKER = """
import json, sys, time
from pathlib import Path
from aape.errors import AapeError
from aape.runs import chunks
from aape.runs.chunks import Chunks

chunks.SECONDS_TO_JOIN = 3.0
out, seconds, setting = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
chunks = Chunks(out)
print(flush=True)
time.sleep(float(sys.argv[4]))
try:
    with chunks.opened({"setting": setting}, ([index] for index in range(24))):
        print(flush=True)
        time.sleep(float(sys.argv[5]))
        for indices in chunks.rounds():
            chunks.num_elsewhere()
            for index in indices:
                with chunks.write(index) as chunk:
                    chunk.write(b"%d" % index)
                    time.sleep(seconds)
                    chunk.notes = [index, chunks.rank]
        if chunks.is_lead:
            rows = []
            for index in range(24):
                with chunks.read(index) as (file, size, notes):
                    rows.append([file.read(size).decode(), *notes])
            out.write_text(json.dumps(rows))
except AapeError as error:
    sys.exit(str(error))
"""

posix = pytest.mark.skipif(os.name != "posix", reason="no record locks there")


def start(out, rank, *, seconds=0.02, setting="a", delay=0.0, pause=0.0):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(out), str(seconds), setting, str(delay), str(pause)], text=True,
        env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "\n"
    return process


def finished(out):
    return len(list(Path(f"{out}.partial").glob("*.chunk")))


def rows_of(out):
    rows = json.loads(out.read_text())
    assert [row[:2] for row in rows] == [[str(index), index] for index in range(COUNT)]
    assert not Path(f"{out}.partial").exists()
    return [row[2] for row in rows]


@posix
def test_two_share_the_work(tmp_path):
    """A second GPU that repeats what the first does is wasted."""
    out = tmp_path / "out"
    processes = [start(out, rank, seconds=0.1) for rank in (1, 0)]
    assert [process.communicate(timeout=60)[1] for process in processes] == ["", ""]
    ranks = rows_of(out)
    assert ranks[0] == 0
    assert ranks[COUNT // 2] == 1
    assert min(ranks.count(0), ranks.count(1)) > COUNT // 4


@posix
@pytest.mark.parametrize("until", [0, 1, 9, 17])
def test_one_that_is_killed_costs_its_unfinished_chunks_only(tmp_path, until):
    """The other ones do them, and what it had finished is used; of two hundred GPUs one dies every day."""
    out = tmp_path / "out"
    lead, killed = [start(out, rank, seconds=0.05) for rank in (0, 1)]
    while finished(out) < until:
        time.sleep(0.005)
    killed.kill()
    killed.communicate()
    assert lead.communicate(timeout=60)[1] == ""
    assert rows_of(out).count(1) <= until + 2


@posix
def test_without_rank_0_the_others_finish_and_say_so(tmp_path):
    """Nobody must take work that is done for a result that is there, or do it twice."""
    out = tmp_path / "out"
    killed, other = [start(out, rank, seconds=0.2) for rank in (0, 1)]
    assert other.stdout.readline() == "\n"  # it has begun
    while finished(out) < 5:
        time.sleep(0.005)
    killed.kill()
    killed.communicate()
    assert "rank 0 has ended before the others: start the command again" in other.communicate(timeout=60)[1]
    assert finished(out) == COUNT
    begun = time.monotonic()
    assert start(out, 0, seconds=60).communicate(timeout=60)[1] == ""
    assert time.monotonic() - begun < 30
    assert set(rows_of(out)) == {0, 1}


@posix
@pytest.mark.parametrize("has_begun", [True, False])
def test_one_that_comes_late_finds_nothing_to_do(tmp_path, has_begun):
    """It must neither wait for ever nor begin anew, and a result of an earlier run is not this one's."""
    out = tmp_path / "out"
    out.write_text("of an earlier run")
    late = start(out, 1, delay=1.5) if has_begun else None
    lead = start(out, 0, seconds=0.0)
    while out.read_text() == "of an earlier run":
        time.sleep(0.005)
    before = out.stat()
    for process in (late or start(out, 1), lead):
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0
    assert out.stat() == before
    assert set(rows_of(out)) == {0}


@posix
def test_one_that_never_comes_is_not_waited_for_long(tmp_path):
    """The result is there, and a queue of commands would stand still."""
    assert start(tmp_path / "out", 0, seconds=0.0).communicate(timeout=60)[1] == ""
    assert set(rows_of(tmp_path / "out")) == {0}


@posix
def test_one_that_falls_behind_finds_nothing_to_do(tmp_path):
    """It has joined in time, and takes its first chunk when the result is there and the folder has gone."""
    out = tmp_path / "out"
    lead = start(out, 0, seconds=0.05)
    behind = start(out, 1, pause=4.0)
    assert behind.stdout.readline() == "\n"
    assert lead.communicate(timeout=60)[1] == ""
    before = out.stat()
    assert behind.communicate(timeout=60)[1] == ""
    assert behind.returncode == 0
    assert out.stat() == before
    assert set(rows_of(out)) == {0}


@posix
def test_ranks_that_differ_are_refused(tmp_path):
    """Vectors of two models in one file would be wrong without a word."""
    out = tmp_path / "out"
    processes = [start(out, rank, setting=setting, seconds=0.1) for rank, setting in ((0, "a"), (1, "b"))]
    assert processes[1].communicate(timeout=60)[1] == (
        "rank 1: setting not as in rank 0: start all with the same files and options\n"
    )
    assert processes[0].communicate(timeout=60)[1] == ""
    assert set(rows_of(out)) == {0}


@posix
def test_a_second_command_is_refused_while_the_first_runs(tmp_path):
    """Two that write one file, each with its own options."""
    first = start(tmp_path / "out", 0, seconds=0.1)
    while not finished(tmp_path / "out"):
        time.sleep(0.005)
    with pytest.raises(ConfigError, match="in use by process"), Chunks(tmp_path / "out").opened({}, [[0]]):
        pass
    first.communicate()
    rows_of(tmp_path / "out")


def test_ranks_that_make_no_sense_are_one_line(tmp_path, monkeypatch):
    for rank, world in (("x", "2"), ("2", "2"), ("-1", "2"), ("1", "1"), ("0", "0")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", world)
        with pytest.raises(ConfigError, match="start processes with torchrun, or unset both"):
            Chunks(tmp_path / "out")


def test_a_rank_without_rank_0_gives_up(tmp_path, monkeypatch, capsys):
    """Where another machine sees another disk, or a file system has no locks, it would wait for ever."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(chunks_module, "SECONDS_TO_BEGIN", 0.8)
    monkeypatch.setattr(chunks_module, "SECONDS_TO_JOIN", 0.1)
    with pytest.raises(ConfigError, match="rank 0 has not begun"), Chunks(tmp_path / "out").opened({}, [[0]]):
        pass
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == "rank 1 waits for rank 0 to begin\n"


def test_where_there_are_no_locks_one_process_goes_on(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    chunks = Chunks(tmp_path / "out")
    with chunks.opened({}, [[0], [1]]):
        for indices in chunks.rounds():
            for index in indices:
                with chunks.write(index) as chunk:
                    chunk.write(b"x")
        with chunks.read(1) as (file, size, notes):
            assert (file.read(size), notes) == (b"x", None)


def test_a_chunk_grows_and_shrinks(tmp_path):
    """What was written of a recording that breaks off later must be gone, whatever comes behind it."""
    chunks = Chunks(tmp_path / "out")
    with chunks.opened({}, [[0]]):
        for indices in chunks.rounds():
            for index in indices:
                with chunks.write(index) as chunk:
                    chunk.write(b"a" * 100_000)
                    chunk.cut(70_000)
                    chunk.write(b"b")
                    chunk.notes = {"bad": ["\udcff"]}
        with chunks.read(0) as (file, size, notes):
            assert file.read(size) == b"a" * 70_000 + b"b"
            assert notes == {"bad": ["\udcff"]}


def do(chunks, keys, at_second):
    """Do chunks of one byte, and something else in the second."""
    with chunks.opened({}, keys):
        for index in next(chunks.rounds()):
            with chunks.write(index) as chunk:
                chunk.write(b"x")
                if index:
                    at_second()


def test_a_full_disk_is_one_line_and_leaves_what_was_finished(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(AapeError, match=r"could not be written .*it needs .*make room"):
        do(Chunks(tmp_path / "out"), [[0], [1]], lambda: monkeypatch.setattr(os, "fsync", fail))
    assert finished(tmp_path / "out") == 1
    assert not list(tmp_path.rglob("*aape-partial*"))


def test_a_signal_leaves_no_half_chunk(tmp_path):
    with pytest.raises(SystemExit):
        do(Chunks(tmp_path / "out"), [[0], [1]], sys.exit)
    assert sorted(path.suffix for path in (tmp_path / "out.partial").iterdir()) == ["", ".chunk"]

"""Files that are whole or not there, and files of one JSON object a line."""

import csv
import os
import subprocess
import sys

import pytest

from aape.models.heads import ClassificationHead
from aape.models.saved import save_model
from aape.runs.files import Records, write_atomically
from notes import FRONT_END, bass_and_flute, link_notes, nano


def test_any_name_can_be_recorded(tmp_path):
    """A bad file whose name is no Unicode, or holds a line separator, must not end a run or spoil its resuming."""
    records = Records(tmp_path / "bad.jsonl")
    names = ["\udcff.wav", "line\u2028separator.wav", "Bär.wav"]
    for step, name in enumerate(names):
        records.append(step, name=name)
    assert [record["name"] for record in records.read()] == names
    records.cut_after(1)
    assert [record["name"] for record in records.read()] == names[:2]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_results_can_be_read_by_whom_the_umask_allows(tmp_path):
    old = os.umask(0o022)
    try:
        write_atomically(tmp_path / "file", b"content")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


# Makes files of more than a kilobyte impossible, as a quota does; what the package prints goes to pipes
SMALL = """
import resource, signal, sys
from aape import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(cli.main(sys.argv[2:]))
"""
VERBS = {
    "stats": ["--data", "sound", "--out", "out/s.json"],
    "embed": ["sound", "--model", "model", "--out", "out/v.csv"],
    "classify": ["sound", "--model", "model", "--out", "out/c.json"],
    "data pack": ["--data", "sound", "--out", "out/shards"],
    "data check": ["--data", "sound", "--out", "out/r.json"],
    "export": ["model", "--out", "out/m.pt2"],
    "plot windows": ["--tones", "1", "--steps", "1", "--out", "out/w"],
    "probe": ["--data", "set.csv", "--checkpoint", "model", "--split", "split", "--steps", "1", "--out", "out/p"],
    "finetune": [
        "--data",
        "set.csv",
        "--checkpoint",
        "model",
        "--split",
        "split",
        "--steps",
        "1",
        "--out",
        "out/f",
        "--workers",
        "0",
    ],  # which share memory, a file that finds no room either
}


@pytest.mark.parametrize("verb", [pytest.param(v, marks=pytest.mark.slow) if v == "export" else v for v in VERBS])
def test_a_file_that_finds_no_room_is_named_in_one_line_and_leaves_nothing(tmp_path, verb):
    """A day of work must end with what to do, and not with half a file that passes for a whole one."""
    pytest.importorskip("resource")
    link_notes(tmp_path / "sound", 4)
    save_model(tmp_path / "model", nano(), FRONT_END, head=ClassificationHead(64, 2), labels=["a", "b"])
    with open(tmp_path / "set.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, bass_and_flute()[0].keys())
        writer.writeheader()
        writer.writerows(bass_and_flute())
    size = "100" if verb in ("stats", "data check", "classify") else "1500"
    command = [sys.executable, "-c", SMALL, size, *verb.split(), *VERBS[verb]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "could not be written (File too large): it needs " in done.stderr.splitlines()[-1]
    assert "are free: make room" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob("*aape-partial*"))
    assert not [path for path in tmp_path.glob("out/*") if path.is_file() or verb == "data pack"]

"""Files that are whole or not there, and files of one JSON object a line."""

import os

import pytest

from aape.runs.files import Records, write_atomically


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

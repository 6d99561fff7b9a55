"""Hostile sound files, each with what the reader says to it; the files of a group are read by one process."""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import hostile_audio
import pytest
from pcm_files import wav

from aape.data.manifest import read_inputs, read_manifest
from aape.errors import DataError


@pytest.mark.parametrize("group", hostile_audio.GROUPS)
def test_every_hostile_file_gets_its_one_line(group, tmp_path):
    """Whoever collects sound from the world meets these; each must be refused by name, or read right."""
    command = [sys.executable, hostile_audio.__file__, group, str(tmp_path)]
    child = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=300)
    assert child.returncode == 0
    report = json.loads(child.stdout)
    table = hostile_audio.GROUPS[group]()
    assert report["answers"].keys() == table.keys()
    wrong = {}
    for name, (_, pattern) in table.items():
        answer = report["answers"][name]
        is_named = answer.startswith("read ") or str(tmp_path) in answer.partition(": ")[0]
        if not (answer.isprintable() and is_named and pattern and re.search(pattern, answer)):
            wrong[name] = f"expected {pattern!r}, got {answer!r}"
    assert not wrong, json.dumps(wrong, indent=1)
    assert report["seconds"] < 5.0  # of processor time, for any one file


def test_there_are_as_many_hostile_files_as_promised():
    """A table that shrinks would still pass."""
    assert sum(len(table()) for table in hostile_audio.GROUPS.values()) >= 120


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_names_that_are_no_files(tmp_path):
    """A pipe, a device or a link without end must cost a line, and never the night that the run was meant to take."""
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "dangling.wav").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.wav").symlink_to(tmp_path / "circle.wav")
    (tmp_path / "device.wav").symlink_to("/dev/zero")
    (tmp_path / "link-to-pipe.wav").symlink_to(tmp_path / "pipe.wav")
    reasons = {
        "pipe.wav": "a device or pipe, not a sound file",
        "folder.wav": "a folder, not a sound file",
        "dangling.wav": "No such file",
        "circle.wav": "symbolic links",
        "device.wav": "a device or pipe, not a sound file",
        "link-to-pipe.wav": "a device or pipe, not a sound file",
        "nul\0.wav": "null byte",
        "a" * 300 + ".wav": "name too long",
    }
    for name, reason in reasons.items():
        answer = hostile_audio.read(f"{tmp_path}/{name}")
        assert reason in answer, name
        assert answer.isprintable()
    paths = [clip.path for clip in read_inputs([tmp_path])[0]]
    assert len(paths) == 5  # a folder with the name of a sound is searched, not read
    assert not any(hostile_audio.read(path).startswith("read") for path in paths)


def test_a_name_that_is_no_text_is_read_and_named(tmp_path):
    """Archives from elsewhere hold names in other encodings: their sound is as good as any, and errors must print."""
    path = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    try:
        Path(os.fsdecode(path)).write_bytes(wav())
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    assert hostile_audio.read(os.fsdecode(path)) == "read 8000"
    Path(os.fsdecode(path)).write_bytes(b"")
    assert hostile_audio.read(os.fsdecode(path)).endswith("caf\\udce9.wav': the file is empty")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["data.csv", "shard.tar", "folder/shard.tar"])
def test_a_data_set_that_is_a_pipe_does_not_hang(name, tmp_path):
    """The mistake of a moment must not look like a run that is busy."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="not a file"):
        read_manifest(tmp_path / name if "/" not in name else tmp_path / "folder")


def header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """Build a tar header with a size field of any 12 bytes."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136], block[156:157] = size, kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


LARGE = b"\x80" + (1 << 40).to_bytes(11, "big")
NEGATIVE = b"\xff" * 10 + b"\xfe\x00"  # -512, in base 256
PAX_NEGATIVE = header("x", b"00000000013\0", b"x") + b"11 size=-9\n".ljust(512, b"\0")
PAX_NEGATIVE += header("a.wav", b"0" * 11 + b"\0")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header("a.wav", NEGATIVE), "promises -512 bytes"),
        (header("a.wav", LARGE), "truncated inside member 'a.wav'"),
        (header("a.wav", b"\x80" + b"\xff" * 11), "truncated inside member 'a.wav'"),
        (header("x", LARGE, b"L"), "a header that promises 1099511627776 bytes"),
        (header("x", LARGE, b"x"), "a header that promises 1099511627776 bytes"),
        (header("x", b"00000017000\0", b"g") + b"1" * 7680, "not an uncompressed tar"),
        (PAX_NEGATIVE, "member 'a.wav' has -9 bytes"),
        (header("x", b"00000000000\0", b"x") * 3000, "damaged, or not a tar"),
        (header("a.wav", b"00000001000\0", b"S") + bytes(1024), "not a plain file"),
    ],
    ids=["negative", "terabyte", "more", "long name", "attributes", "digits", "negative in pax", "nested", "sparse"],
)
def test_a_shard_with_forged_numbers_neither_hangs_nor_swells(content, reason, tmp_path):
    """A shard from a stranger is read header by header; each says where the next is, and how much to read."""
    path = tmp_path / "s.tar"
    path.write_bytes(content + bytes(1024))
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith(str(path))

"""Hostile sound files made by hand: name -> bytes -> what the reader has to say, in groups.

`python tests/attacks/hostile_audio.py GROUP FOLDER` writes the files of a group, reads each, prints what came of it.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import container_files
import numpy as np
from compressed_files import flac_files, mp3_files, ogg_files
from pcm_files import Table, aiff_files, riff, wav, wav_files

from aape.data.audio import read_audio
from aape.errors import AudioError


def foreign_files() -> Table:
    """What is no sound, under a name of sound."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a.wav", wav())
    elf = b"\x7fELF\x02\x01\x01" + bytes(2000)
    png = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(2000)
    return {
        "text.wav": (b"just some text, called .wav\n" * 50, "not a readable sound file"),
        "zeros.wav": (bytes(4096), "not a readable sound file"),
        "ones.flac": (b"\xff" * 4096, "not a readable sound file"),
        "random.wav": (np.random.default_rng(1).bytes(4096), "not a readable sound file"),
        "zip.wav": (archive.getvalue(), "not a readable sound file"),
        "gzip.wav": (gzip.compress(wav(), mtime=0), "not a readable sound file"),
        "picture.mp3": (png, "not a readable sound file"),
        "program.wav": (elf, "not a readable sound file"),
        "page.mp3": (b"<!DOCTYPE html><html><title>404 Not Found</title></html>", "not a readable sound file"),
        "pickle.wav": (
            b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.",
            "not a readable",
        ),
        "movie.wav": (riff((b"avih", bytes(56)), form=b"AVI "), "its chunks lead to no samples"),
        "midi.wav": (riff((b"data", b"MThd" + bytes(40)), form=b"RMID"), "not a readable sound file"),
        "m4a.wav": (b"\x00\x00\x00\x20ftypM4A " + bytes(2000), "AAC\\) is not supported: convert it"),
        "aac.mp3": (b"\xff\xf1" + bytes(2000), "AAC is not supported: convert it"),
        "webm.ogg": (b"\x1aE\xdf\xa3" + bytes(2000), "WebM/Matroska is not supported: convert it"),
        "wma.mp3": (b"0&\xb2u\x8ef\xcf\x11" + bytes(2000), "WMA is not supported: convert it"),
        "amr.wav": (b"#!AMR\n" + bytes(2000), "AMR is not supported: convert it"),
        "pointer.wav": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        "line\nbreak.wav": (b"", "line.nbreak.wav.: the file is empty"),
        "\x1b[2Jterminal.wav": (b"", "x1b\\[2Jterminal.wav.: the file is empty"),
        "\u202egnp.wav": (b"", "u202egnp.wav.: the file is empty"),
        "a" * 240 + ".wav": (b"", "the file is empty"),
    }


GROUPS: dict[str, Callable[[], Table]] = {
    "wav": wav_files,
    "aiff": aiff_files,
    "flac": flac_files,
    "ogg": ogg_files,
    "mp3": mp3_files,
    "foreign": foreign_files,
    **container_files.GROUPS,
}


def read(path: str | bytes | Path) -> str:
    """Return what the reader says to a file: an error, or the number of samples and any warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            wave = read_audio(path)  # type: ignore[arg-type]
        except AudioError as error:
            return str(error)
    assert wave.dtype == np.float32
    assert np.isfinite(wave).all()
    return " ".join([f"read {len(wave)}", *(f"({warning.message})" for warning in caught)])


def main() -> None:
    """Print {file name: what came of it} and the greatest processor time, as JSON."""
    group, folder = sys.argv[1], Path(sys.argv[2])
    answers, slowest = {}, 0.0
    for name, (content, _) in GROUPS[group]().items():
        path = folder / name
        path.write_bytes(content)
        began = time.process_time()
        answers[name] = read(path)
        slowest = max(slowest, time.process_time() - began)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    print(json.dumps({"answers": answers, "seconds": slowest}))


if __name__ == "__main__":
    main()

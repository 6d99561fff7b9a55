"""Warnings of sounds, as people see them: one line each, and no flood of them."""

import os
import subprocess
import sys

import numpy as np
import soundfile

from aape.errors import AudioWarning, PlainWarnings
from test_cli import aape


def write_ultrasound(path):
    """Write a second of what no front end of 16 kHz reads."""
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 40000 * np.arange(192000) / 192000), 192000)


def test_a_warning_is_one_line_for_each_file(tmp_path):
    """A line of our source code, or a warning for the first file only, would say nothing about the sounds."""
    for name in ("bat.wav", "moth.wav"):
        write_ultrasound(tmp_path / "sounds" / name)
    result = aape("embed", "sounds", "--model", "tiny", "--out", "e.npz", cwd=tmp_path)
    assert result.returncode == 0
    lines = [line for line in result.stderr.splitlines() if "arning" in line]
    reason = "over 99% of its energy lies above 8 kHz, where the front end reads nothing"
    assert lines == [f"warning: sounds{os.sep}{name}: {reason}" for name in ("bat.wav", "moth.wav")]


def test_a_thousand_warnings_are_not_a_thousand_lines():
    """What else there is to read would scroll away."""
    plain = PlainWarnings()
    lines = [plain(AudioWarning(f"{index}.wav: a\nb"), AudioWarning, "file.py", 1) for index in range(30)]
    assert lines[0] == "warning: 0.wav: a b\n"
    assert lines[20:22] == ["warning: and others: `aape data check` lists all such files\n", ""]
    assert plain(UserWarning("of another kind"), UserWarning, "file.py", 1) == "warning: of another kind\n"


def test_training_warns_of_sound_once_and_not_of_every_crop(tmp_path):
    """Ten crops of a file in each of two workers are one thing to know."""
    for name in ("bat.wav", "moth.wav"):
        write_ultrasound(tmp_path / "sounds" / name)
    program = f"""if True:
        from pathlib import Path
        from aape.data.clips import Clip
        from aape.models.config import FrontEndConfig
        from aape.downstream.spectrograms import Spectrograms
        import numpy as np, torch
        clips = [Clip(f"{tmp_path}/sounds/{{name}}", name) for name in ("bat.wav", "moth.wav")]
        sounds = Spectrograms(clips, FrontEndConfig(), torch.device("cpu"), workers=2)
        for _ in range(3):
            assert len(list(sounds.stream([np.array([0, 1])] * 4, range(4)))) == 4
    """
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("warning: ") == 1
    assert "(`aape data check` lists all such files)" in result.stderr

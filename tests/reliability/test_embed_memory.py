"""Ten hours in one file, a vector for each second: no more memory than for a minute."""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from aape.data.audio.decoding import read_audio
from notes import NOTES, save_nano

RATE = 16000
PEAK = """
import resource, sys
from aape import cli
status = cli.main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""


def write_recording(path, minutes):
    """Write real notes one after the other."""
    waves = [read_audio(note, sample_rate=RATE) for note in NOTES]
    minute = np.resize(np.concatenate(waves), 60 * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for _ in range(minutes):
            file.write(minute)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kilobytes of ru_maxrss")
@pytest.mark.parametrize("ending", [".npz", ".csv", ".parquet"])
def test_ten_hours_take_no_more_memory_than_a_minute(tmp_path, ending):
    """A night in the forest must fit where a minute does: 147 MB of vectors, and 1.2 GB of samples."""
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    save_nano(tmp_path / "model", pool="frequency_std")
    peaks = []
    for minutes in (1, 600):
        write_recording(tmp_path / "long.flac", minutes)
        arguments = ["embed", "long.flac", "--model", "model", "--out", f"v{ending}", "--window", "2", "--hop", "1"]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *arguments, "--device", "cpu"], cwd=tmp_path, capture_output=True, text=True,
            check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        first, peak = done.stdout.splitlines()
        assert first.startswith(f"{60 * minutes - 1} vectors of 1024 numbers")
        peaks.append(int(peak) / 1000)
    print(f"peaks {peaks} MB")
    assert peaks[1] - peaks[0] < 300

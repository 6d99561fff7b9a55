"""Recordings of any length, read in windows: the same numbers as at once, in memory that does not grow."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from aape.data.audio.decoding import read_audio, stream_audio
from aape.data.clips import Clip
from aape.data.log_mel import LogMel
from aape.errors import AudioError
from aape.inference import AudioModel
from aape.inference.encoding import spectrograms
from aape.inference.segments import End, cutting, segments
from notes import FRONT_END, nano, save_nano

RATE = 16000


def noise(num_samples, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(num_samples).astype(np.float32)


@pytest.mark.parametrize(
    "num_samples", [1, 500, 513, 160 * 1023, 160 * 1024 - 1, 160 * 1024, 160 * 1024 + 1, 160 * 1216, 400_003]
)
@pytest.mark.parametrize("block", [777, 97_280, 10**9])
def test_windows_are_those_of_the_whole_log_mel(num_samples, block):
    """However a file is read, its windows must be the same numbers: a seam would look like a click."""
    wave = noise(num_samples).astype(np.float64)
    log_mel = LogMel(mean=-6.0, std=4.0)
    blocks = (wave[i : i + block] for i in range(0, num_samples, block))
    *windows, end = segments(3, blocks, cutting(FRONT_END, 16))
    assert end == End(3, None, num_samples / RATE)
    num_frames = 1 + num_samples // 160 if num_samples < 160 * 1024 else -(-num_samples // 160)  # none at a cut's edge
    sizes = (
        [num_frames]
        if num_frames <= 1024
        else [608] * (num_frames // 608) + [num_frames % 608] * bool(num_frames % 608)
    )
    whole = log_mel(torch.from_numpy(wave)[None])[0, 0]
    assert len(windows) == len(sizes)
    for window, part in zip(windows, whole[:, : sum(sizes)].split(sizes, dim=-1), strict=True):
        frames = spectrograms([window], log_mel, torch.device("cpu"), torch.float64)[0, 0]
        assert frames.shape[-1] == -(-part.shape[-1] // 16) * 16 == window.padded
        torch.testing.assert_close(frames[:, : part.shape[-1]], part, atol=1e-10, rtol=0)
        assert not frames[:, part.shape[-1] :].any()
    assert [window.start for window in windows] == [pytest.approx(6.08 * i) for i in range(len(sizes))]
    assert [window.end for window in windows[:-1]] == [window.start for window in windows[1:]]
    assert windows[-1].end == num_samples / RATE


@pytest.mark.parametrize(("name", "rate"), [("a.wav", 16000), ("a.flac", 44100), ("a.ogg", 16000), ("a.mp3", 48000)])
def test_a_stream_is_the_file(tmp_path, name, rate):
    """Streaming is another way to read, not another sound."""
    path = tmp_path / name
    soundfile.write(path, np.stack([noise(20 * rate), noise(20 * rate, 1)], 1), rate)
    blocks = list(stream_audio(path))
    assert len(blocks) > 1
    np.testing.assert_array_equal(np.concatenate(blocks), read_audio(path))


def test_what_is_no_sound_is_refused_by_streams_too(tmp_path):
    """A bad file must not end as an empty recording."""
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "two.wav", np.zeros(2), 384_000)
    soundfile.write(tmp_path / "long.wav", np.zeros(2 * RATE), RATE)
    for name, reason in (("text", "not a readable"), ("empty", "no audio"), ("two", "too short"), ("gone", "No such")):
        with pytest.raises(AudioError, match=reason):
            list(stream_audio(tmp_path / f"{name}.wav"))
    with pytest.raises(AudioError, match="the most is"):
        list(stream_audio(tmp_path / "long.wav", max_seconds=1))


def test_a_file_and_its_samples_have_one_vector(tmp_path):
    """A long file, streamed and resampled block by block, is what its samples are."""
    soundfile.write(tmp_path / "a.wav", noise(41 * RATE), RATE, subtype="FLOAT")
    model = AudioModel(nano(), FRONT_END)
    np.testing.assert_allclose(model.embed(tmp_path / "a.wav"), model.embed(noise(41 * RATE), RATE), atol=1e-5)
    frames, centres = model.embed_frames(tmp_path / "a.wav")
    np.testing.assert_allclose(frames, model.embed_frames(noise(41 * RATE), RATE)[0], atol=1e-5)
    assert len(frames) == len(centres) == -(-(41 * 100 + 1) // 16)


def test_a_file_that_breaks_off_after_an_hour_has_no_vector(tmp_path):
    """Its first windows were embedded when the damage shows: they must not pass for the whole, nor shift the others."""
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / f"{name}.flac", noise(40 * RATE, seed=ord(name)), RATE)
    content = (tmp_path / "b.flac").read_bytes()
    (tmp_path / "b.flac").write_bytes(content[: int(0.9 * len(content))])
    model = AudioModel(nano(), FRONT_END)
    files = [tmp_path / f"{name}.flac" for name in ("a", "b", "c")]
    vectors, bad = model.embed_clips([Clip(path=str(file), name=file.name) for file in files], batch_size=2)
    assert [name for name, _ in bad] == ["b.flac"]
    np.testing.assert_allclose(vectors, model.embed([files[0], files[2]]), atol=1e-5)
    vectors, names, bad = model.embed_files(tmp_path)
    assert names == [str(files[0]), str(files[2])]
    assert len(vectors) == 2
    assert "truncated" in bad[0][1] or "damaged" in bad[0][1]


MEASURE = """
import json, resource, sys
import aape
model = aape.load_model(sys.argv[1], device="cpu")
peaks = []
for path in sys.argv[2:]:
    assert model.embed(path).shape == (model.embed_dim,)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(peaks))
"""


def peak_megabytes(folder, seconds):
    """Return the peak of resident memory (MB) after embedding files of these lengths, one after the other."""
    paths = []
    for length in seconds:
        paths.append(str(folder / f"{length}.wav"))
        with soundfile.SoundFile(paths[-1], "w", RATE, 1, "PCM_16") as file:
            minute = noise(60 * RATE, seed=length)
            for _ in range(length // 60):
                file.write(minute)
    save_nano(folder / "model")
    command = [sys.executable, "-c", MEASURE, str(folder / "model"), *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_memory_does_not_follow_the_length(tmp_path):
    """Forty minutes are 154 MB as float32 samples alone: none of that may be held."""
    minute, long = peak_megabytes(tmp_path, [60, 2400])
    assert long - minute < 75


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_ten_hours_fit_where_a_minute_does(tmp_path):
    """A day in the forest must not need a server: within 300 MB of what a minute takes."""
    minute, long = peak_megabytes(tmp_path, [60, 36_000])
    assert long - minute < 300

"""`aape embed` killed at any moment and started again: the bytes of a run that was never killed."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch

from aape.cli import main
from aape.config import FrontEndConfig, encoder_config
from aape.inference import AudioModel
from aape.models.encoder import AudioEncoder
from aape.models.saved import save_model

RATE = 16000


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    save_model(tmp_path / "model", AudioEncoder(encoder_config("nano")), FrontEndConfig(mean=-6.0, std=4.0))
    return tmp_path / "model"


def write_files(folder, count):
    """Write short sounds of many lengths, and among them files that are none."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"{index:04}.wav"
        if index % 50 == 7:
            path.write_bytes(b"RIFF")
        else:
            soundfile.write(path, 0.1 * rng.standard_normal(rng.integers(800, 8000)), RATE)
    return folder


def command(folder, model, out, batch):
    arguments = ["embed", str(folder), "--model", str(model), "--out", str(out), "--batch", str(batch)]
    return [*arguments, "--device", "cpu"]


def kill_and_restart(folder, model, out, batch, kills):
    """Run the command, killing it each time it has finished some more chunks; return how many there were at each."""
    partial = out.with_name(f"{out.name}.partial")
    num_chunks = -(-len(list(folder.iterdir())) // (4 * batch))
    rng = np.random.default_rng(1)
    done = []
    for kill in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-m", "aape", *command(folder, model, out, batch)], stderr=subprocess.DEVNULL
        )
        until = (kill + 1) * num_chunks // (kills + 2)
        while process.poll() is None and (not partial.is_dir() or len(list(partial.glob("*.npz"))) < until):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was finished before it could be killed"
        assert not out.exists()
        done.append(len(list(partial.glob("*.npz"))))
    assert (
        subprocess.run([sys.executable, "-m", "aape", *command(folder, model, out, batch)], check=False).returncode == 0
    )
    assert not partial.exists()
    return done


def check_restarts(tmp_path, model, *, files, batch, kills):
    folder = write_files(tmp_path / "in", files)
    whole, broken = tmp_path / "whole.npz", tmp_path / "broken.npz"
    done = kill_and_restart(folder, model, broken, batch, kills)
    assert done == sorted(done)
    assert 0 < done[0] < done[-1]
    unbroken = [sys.executable, "-m", "aape", *command(folder, model, whole, batch)]
    assert subprocess.run(unbroken, check=False).returncode == 0
    assert broken.read_bytes() == whole.read_bytes()
    with np.load(whole, allow_pickle=False) as arrays:
        assert len(arrays["embedding"]) == files - len(range(7, files, 50))


@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_killed_twice_and_restarted(tmp_path, model):
    """A day of work must not be lost to a reboot, nor come back as other numbers."""
    check_restarts(tmp_path, model, files=240, batch=2, kills=2)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_killed_ten_times_over_two_thousand_files(tmp_path, model):
    """The same, as often as a shared machine does it."""
    check_restarts(tmp_path, model, files=2000, batch=8, kills=10)


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_restart_does_only_what_is_left(tmp_path, model, monkeypatch):
    """Finished work is used; what has changed since, a file or the model, is done anew."""
    folder = write_files(tmp_path / "in", 24)
    out = tmp_path / "v.npz"
    embedded = []
    embed_clips = AudioModel.embed_clips

    def counting(self, clips, **options):
        if len(embedded) >= stop_at:
            raise Killed
        embedded.append([os.path.basename(clip.name) for clip in clips])
        return embed_clips(self, clips, **options)

    monkeypatch.setattr(AudioModel, "embed_clips", counting)
    stop_at = 2
    with pytest.raises(Killed):
        main(command(folder, model, out, 2))
    assert [len(chunk) for chunk in embedded] == [8, 8]
    soundfile.write(folder / "0001.wav", 0.1 * np.random.default_rng(5).standard_normal(4000), RATE)
    embedded.clear()
    stop_at = 9
    assert main(command(folder, model, out, 2)) == 0
    assert [chunk[0] for chunk in embedded] == ["0000.wav", "0016.wav"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "model", "v.npz"]
    again = out.read_bytes()
    out.unlink()
    assert main(command(folder, model, out, 2)) == 0
    assert out.read_bytes() == again


def test_a_damaged_partial_result_is_done_anew(tmp_path, model):
    """A full disk may leave anything there; it must cost time, not the run."""
    folder = write_files(tmp_path / "in", 8)
    out = tmp_path / "v.npz"
    assert main(command(folder, model, out, 2)) == 0
    expected = out.read_bytes()
    partial = tmp_path / "v.npz.partial"
    partial.mkdir()
    keep = []
    replace = os.replace
    # The name of a chunk is what its vectors depend on: find it out, then put rubbish there.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", lambda source, target: (keep.append(target), replace(source, target)))
        assert main(command(folder, model, out, 2)) == 0
    chunk = next(path for path in keep if path.parent == partial)
    for rubbish in (b"", b"PK\x03\x04 and no more", b"\x80\x04N."):
        partial.mkdir()
        chunk.write_bytes(rubbish)
        assert main(command(folder, model, out, 2)) == 0
        assert out.read_bytes() == expected

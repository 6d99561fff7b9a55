"""`aape embed` killed at any moment and started again: the bytes of a run that was never killed."""

import os

import numpy as np
import pytest
import soundfile

import embed_kills
from aape.cli import main
from aape.data.demo import AUDIO
from aape.inference import AudioModel
from notes import save_nano


@pytest.fixture
def model(tmp_path):
    return save_nano(tmp_path / "model")


@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_killed_twice_and_restarted(tmp_path, model):
    """A day of work must not be lost to a reboot, nor come back as other numbers."""
    folder = embed_kills.write_files(tmp_path / "in", AUDIO, 240)
    done, is_equal = embed_kills.kill_and_compare(folder, tmp_path, model, batch=2, kills=2)
    assert 0 < done[0] < done[-1]
    assert is_equal


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_killed_ten_times_over_two_thousand_files(tmp_path):
    """The same with the shipped encoder, as often as a shared machine does it."""
    folder = embed_kills.write_files(tmp_path / "in", AUDIO, 2000)
    done, is_equal = embed_kills.kill_and_compare(folder, tmp_path, "tiny", batch=8, kills=10)
    assert done == sorted(done)
    assert is_equal


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_restart_does_only_what_is_left(tmp_path, model, monkeypatch):
    """Finished work is used; what has changed since, a file or the model, is done anew."""
    folder = embed_kills.write_files(tmp_path / "in", AUDIO, 24)
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
        main(embed_kills.command(folder, model, out, 2))
    assert [len(chunk) for chunk in embedded] == [8, 8]
    soundfile.write(folder / "0001.wav", 0.1 * np.random.default_rng(5).standard_normal(4000), embed_kills.RATE)
    embedded.clear()
    stop_at = 9
    assert main(embed_kills.command(folder, model, out, 2)) == 0
    assert [chunk[0] for chunk in embedded] == ["0000.wav", "0016.wav"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "model", "v.npz"]
    again = out.read_bytes()
    out.unlink()
    assert main(embed_kills.command(folder, model, out, 2)) == 0
    assert out.read_bytes() == again


def test_a_damaged_partial_result_is_done_anew(tmp_path, model):
    """A full disk may leave anything there; it must cost time, not the run."""
    folder = embed_kills.write_files(tmp_path / "in", AUDIO, 8)
    out = tmp_path / "v.npz"
    assert main(embed_kills.command(folder, model, out, 2)) == 0
    expected = out.read_bytes()
    partial = tmp_path / "v.npz.partial"
    partial.mkdir()
    keep = []
    replace = os.replace
    # The name of a chunk is what its vectors depend on: find it out, then put rubbish there.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", lambda source, target: (keep.append(target), replace(source, target)))
        assert main(embed_kills.command(folder, model, out, 2)) == 0
    chunk = next(path for path in keep if path.parent == partial)
    for rubbish in (b"", b"PK\x03\x04 and no more", b"\x80\x04N."):
        partial.mkdir()
        chunk.write_bytes(rubbish)
        assert main(embed_kills.command(folder, model, out, 2)) == 0
        assert out.read_bytes() == expected


def test_what_is_left_of_another_run_names_no_row_of_this_one(tmp_path, model, monkeypatch):
    """The same files under other names: every vector must stand beside its own."""
    folder = embed_kills.write_files(tmp_path / "in", AUDIO, 12)
    (folder / "0002.wav").write_bytes(b"RIFF")  # as `write_files` leaves 0007
    (tmp_path / "t.csv").write_text("file\n" + "".join(f"in/{index:04d}.wav\n" for index in range(12)))
    out, arguments = tmp_path / "v.npz", ["--model", str(model), "--out", str(tmp_path / "v.npz"), "--batch", "1"]
    monkeypatch.chdir(tmp_path)
    embed_clips, calls = AudioModel.embed_clips, []

    def stop_at_second(self, clips, **options):
        calls.append(clips)
        if len(calls) == 2:
            raise Killed
        return embed_clips(self, clips, **options)

    with monkeypatch.context() as patch:
        patch.setattr(AudioModel, "embed_clips", stop_at_second)
        with pytest.raises(Killed):
            main(["embed", *(f"./in/{index:04d}.wav" for index in range(12)), *arguments])
    assert main(["embed", "t.csv", *arguments]) == 0
    with np.load(out) as arrays:
        assert arrays["file"].tolist() == [f"in/{index:04d}.wav" for index in range(12) if index not in (2, 7)]
        assert len(arrays["embedding"]) == 10

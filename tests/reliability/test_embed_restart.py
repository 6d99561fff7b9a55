"""`aape embed` killed at any moment and started again: the bytes of a run that was never killed."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

import embed_kills
from aape.cli import main
from aape.data.demo import AUDIO
from aape.inference import AudioModel
from aape.runs.chunks import Chunks
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


@pytest.fixture
def stop_at(monkeypatch):
    """Let so many chunks be finished before the process ends; return the names of the files in each that is begun."""
    embed_chunks, write = AudioModel.embed_chunks, Chunks.write

    def stop(count):
        begun, written = [], []

        def counting(self, chunks, **options):
            def noted():
                for chunk in chunks:
                    begun.append([os.path.basename(clip.name) for clip in chunk])
                    yield chunk

            return embed_chunks(self, noted(), **options)

        def stopping(self, index):
            if len(written) == count:
                raise Killed
            written.append(index)
            return write(self, index)

        monkeypatch.setattr(AudioModel, "embed_chunks", counting)
        monkeypatch.setattr(Chunks, "write", stopping)
        return begun

    return stop


def test_a_restart_does_only_what_is_left(tmp_path, model, stop_at):
    """Finished work is used; what has changed since, a file or the model, is done anew."""
    folder = embed_kills.write_files(tmp_path / "in", AUDIO, 24)
    out = tmp_path / "v.npz"
    begun = stop_at(2)
    with pytest.raises(Killed):
        main(embed_kills.command(folder, model, out, 2))
    assert [len(chunk) for chunk in begun[:2]] == [8, 8]
    soundfile.write(folder / "0001.wav", 0.1 * np.random.default_rng(5).standard_normal(4000), embed_kills.RATE)
    begun = stop_at(9)
    assert main(embed_kills.command(folder, model, out, 2)) == 0
    assert [chunk[0] for chunk in begun] == ["0000.wav", "0016.wav"]
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
    contents = {}
    replace = os.replace

    def keep(source, target):
        contents[target] = Path(source).read_bytes()
        replace(source, target)

    # The name of a chunk is what its vectors depend on: find it out, then put rubbish there.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", keep)
        assert main(embed_kills.command(folder, model, out, 2)) == 0
    chunk = next(path for path in contents if path.parent == partial)
    whole = contents[chunk]
    flipped = whole[:99] + bytes([whole[99] ^ 4]) + whole[100:]
    for rubbish in (b"", b"PK\x03\x04 and no more", whole[:-1], whole[1:], whole + b"\0", bytes(len(whole)), flipped):
        partial.mkdir(exist_ok=True)
        chunk.write_bytes(rubbish)
        assert main(embed_kills.command(folder, model, out, 2)) == 0
        assert out.read_bytes() == expected


def test_what_is_left_of_another_run_names_no_row_of_this_one(tmp_path, model, monkeypatch, stop_at):
    """The same files under other names: every vector must stand beside its own."""
    folder = embed_kills.write_files(tmp_path / "in", AUDIO, 12)
    (folder / "0002.wav").write_bytes(b"RIFF")  # as `write_files` leaves 0007
    (tmp_path / "t.csv").write_text("file\n" + "".join(f"in/{index:04d}.wav\n" for index in range(12)))
    out, arguments = tmp_path / "v.npz", ["--model", str(model), "--out", str(tmp_path / "v.npz"), "--batch", "1"]
    monkeypatch.chdir(tmp_path)
    stop_at(1)
    with pytest.raises(Killed):
        main(["embed", *(f"./in/{index:04d}.wav" for index in range(12)), *arguments])
    stop_at(9)
    assert main(["embed", "t.csv", *arguments]) == 0
    with np.load(out) as arrays:
        assert arrays["file"].tolist() == [f"in/{index:04d}.wav" for index in range(12) if index not in (2, 7)]
        assert len(arrays["embedding"]) == 10

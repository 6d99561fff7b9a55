"""Features that are computed once: an old file must never stand in for another encoder, front end or sound."""

import os

import numpy as np
import pytest
import soundfile
import torch

from aape.data.clips import Clip, load_clip
from aape.data.log_mel import LogMel, time_statistics
from aape.downstream.features import Features, embeddings
from aape.downstream.yardsticks import log_mel_statistics
from aape.errors import DataError


class FakeModel:
    """Stands for an encoder: counts its work, and refuses the files that it is made to refuse."""

    def __init__(self, name="a", refuses=()):
        self.name, self.refuses, self.num_calls = name, refuses, 0

    def fingerprint(self):
        return self.name

    def embed_clips(self, clips, *, progress=None):
        self.num_calls += 1
        good = [clip for clip in clips if clip.name not in self.refuses]
        values = np.asarray([[len(clip.name), index] for index, clip in enumerate(good)], dtype=np.float32)
        return values, [(clip.name, "no sound") for clip in clips if clip.name in self.refuses]


@pytest.fixture
def clips(tmp_path):
    clips = []
    for index in range(3):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(index).normal(size=8000 + 1000 * index), 16000)
        clips.append(Clip(str(path), path.name))
    return clips


def test_a_second_run_embeds_nothing_and_gets_the_same(tmp_path, clips):
    model, cache = FakeModel(refuses=("1.wav",)), tmp_path / "run" / "encoder.npz"
    first = embeddings(model, clips, cache=cache)
    second = embeddings(model, clips, cache=cache)
    assert model.num_calls == 1
    assert (first.from_cache, second.from_cache) == (False, True)
    np.testing.assert_array_equal(first.values, second.values)
    assert first.bad == second.bad == [("1.wav", "no sound")]
    assert [file.name for file in cache.parent.iterdir()] == ["encoder.npz"]  # nothing half written beside it


def test_another_encoder_clip_list_or_sound_is_embedded_again(tmp_path, clips):
    cache = tmp_path / "encoder.npz"
    embeddings(FakeModel(), clips, cache=cache)
    for model, changed in ((FakeModel("b"), clips), (FakeModel(), clips[:2]), (FakeModel(), clips[::-1])):
        assert not embeddings(model, changed, cache=cache).from_cache
        assert model.num_calls == 1
        embeddings(FakeModel(), clips, cache=cache)
    os.utime(clips[0].path, ns=(1, 1))
    assert not embeddings(FakeModel(), clips, cache=cache).from_cache


def test_a_damaged_file_is_computed_again(tmp_path, clips):
    cache = tmp_path / "encoder.npz"
    embeddings(FakeModel(), clips, cache=cache)
    content = cache.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"not a zip at all"):
        cache.write_bytes(damaged)
        assert not embeddings(FakeModel(), clips, cache=cache).from_cache
    np.savez(cache, other=np.zeros(3))
    assert not embeddings(FakeModel(), clips, cache=cache).from_cache
    assert embeddings(FakeModel(), clips, cache=cache).from_cache


def test_a_model_that_gives_nan_is_refused_and_not_remembered(tmp_path, clips):
    model = FakeModel()
    model.embed_clips = lambda clips, progress=None: (np.full((3, 2), np.nan, np.float32), [])
    with pytest.raises(DataError, match="not finite"):
        embeddings(model, clips, cache=tmp_path / "encoder.npz")
    assert not (tmp_path / "encoder.npz").exists()


def test_vectors_belong_to_the_name_of_their_clip():
    features = Features(np.asarray([[0.0], [2.0], [3.0]], np.float32), [("b", "bad")])
    assert features.of(["a", "b", "c", "d"], {"a", "d"}).tolist() == [[0.0], [3.0]]


def test_the_four_statistics_are_those_of_numpy(tmp_path, clips):
    log_mel = LogMel(n_mels=16)
    features = log_mel_statistics(log_mel, clips, cache=tmp_path / "statistics.npz")
    for clip, vector in zip(clips, features.values, strict=True):
        spectrogram = log_mel(torch.from_numpy(load_clip(clip))[None])[0, 0].double().numpy()
        parts = (
            spectrogram.mean(axis=1),
            spectrogram.std(axis=1),
            spectrogram.max(axis=1),
            np.diff(spectrogram, axis=1).std(axis=1),
        )
        np.testing.assert_allclose(vector, np.concatenate(parts), atol=1e-4)


def test_a_single_frame_has_no_deviation_and_no_nan():
    statistics = time_statistics(torch.tensor([[1.0], [2.0]]))
    assert statistics.tolist() == [1, 2, 0, 0, 1, 2, 0, 0]


def test_another_front_end_is_computed_again_and_bad_files_are_named(tmp_path, clips):
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    clips = [*clips, Clip(str(tmp_path / "bad.wav"), "bad.wav")]
    cache, counts = tmp_path / "statistics.npz", []
    first = log_mel_statistics(LogMel(n_mels=8), clips, cache=cache, progress=lambda *count: counts.append(count))
    assert counts == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert first.values.shape == (3, 32)
    assert [name for name, _ in first.bad] == ["bad.wav"]
    assert log_mel_statistics(LogMel(n_mels=8), clips, cache=cache).from_cache
    assert not log_mel_statistics(LogMel(n_mels=8, mean=1.0), clips, cache=cache).from_cache

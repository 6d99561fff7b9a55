"""Sound to vectors: any length, any company, any bad input; and `aape embed` end to end."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

import aape
from aape.data.clips import Clip
from aape.errors import AudioError, CheckpointError, ConfigError
from aape.inference import AudioModel, load_model, random_model
from aape.models import saved as saved_module
from aape.models.heads import ClassificationHead
from aape.models.pooling import pool
from aape.models.saved import save_model
from notes import FRONT_END, nano

RATE = 16000


def build(**options):
    return AudioModel(nano(**options), FRONT_END, training={"steps": 3})


@pytest.fixture
def model():
    return build()


@pytest.fixture
def folder(model, tmp_path):
    save_model(tmp_path / "model", model.encoder, FRONT_END, training=model.training)
    return tmp_path / "model"


def sound(num_samples, seed=0, rate=RATE):
    """Noise under a tone whose loudness wavers, so that no two moments are alike."""
    rng = np.random.default_rng(seed)
    time = np.arange(num_samples) / rate
    tone = np.sin(2 * np.pi * (300 + 40 * seed) * time) * (1.2 + np.sin(2 * np.pi * 9 * time))
    return 0.2 * tone + 0.05 * rng.standard_normal(num_samples)


def write(path, wave, rate=RATE, **options):
    path.parent.mkdir(exist_ok=True, parents=True)
    soundfile.write(path, wave, rate, **options)
    return path


def whole_log_mel(model, wave):
    """Return the log-mel of a whole wave, padded to whole patches: (1, 1, F, T)."""
    spectrogram = model.log_mel(torch.from_numpy(wave)[None].to(model.encoder.cls_token.dtype))
    return torch.nn.functional.pad(spectrogram, (0, -spectrogram.shape[-1] % 16))


def test_a_vector_is_class_token_and_mean_patch_token(folder):
    """`embed` must be what the encoder says about the standardised log-mel, nothing added and nothing lost."""
    model = aape.load_model(folder, device="cpu")
    wave = sound(2 * RATE).astype(np.float32)
    vector = model.embed(wave, RATE)
    assert vector.shape == (128,) == (model.embed_dim,)
    assert vector.dtype == np.float32
    with torch.no_grad():
        expected = pool(model.encoder(whole_log_mel(model, wave)), "cls_mean", 8)[0].numpy()
    np.testing.assert_allclose(vector, expected, atol=1e-6)
    assert (model.front_end, model.training, model.labels) == (FRONT_END, {"steps": 3}, None)
    assert model.device == torch.device("cpu")


@pytest.mark.parametrize("num_samples", [1, 7, 159, 160, 400, 512, 513, 2559, 2560, 2561, 30_000])
def test_any_length_from_one_sample(model, num_samples):
    """The shortest clip of a data set must not end the run; T = 1 + samples // 160, in patches of 16."""
    frames, centres = model.embed_frames(sound(num_samples), RATE)
    num_patches = -(-(1 + num_samples // 160) // 16)
    assert frames.shape == (num_patches, 8 * 64)
    np.testing.assert_allclose(centres, 160 * np.arange(num_patches) + 80)
    bounds = model.embed_frames(sound(num_samples), RATE, bounds=True)[2]
    ends = [*range(160, 160 * num_patches, 160), 1000 * num_samples / RATE]  # the last is the end of the sound
    np.testing.assert_allclose(bounds, np.stack([160 * np.arange(num_patches), ends], axis=1))
    vector = model.embed(sound(num_samples), RATE)
    assert np.isfinite(vector).all()
    np.testing.assert_allclose(vector[64:], frames.reshape(-1, 64).mean(0), atol=2e-6)


def test_frames_hold_the_tokens_of_their_time_patch(model):
    """Token order is frequency-major inside, time-major outside: a mix-up would scramble every event detector."""
    wave = sound(RATE).astype(np.float32)
    frames, _ = model.embed_frames(wave, RATE)
    with torch.no_grad():
        tokens = model.encoder(whole_log_mel(model, wave))[0, 1:].numpy()
    for frequency in range(8):
        for time in range(7):
            token = frames[time, 64 * frequency : 64 * (frequency + 1)]
            np.testing.assert_allclose(token, tokens[frequency * 7 + time], atol=1e-6)


@pytest.mark.parametrize(
    ("num_frames", "sizes"),
    [(1024, [1024]), (1025, [1024]), (1026, [608, 418]), (1217, [608] * 2), (1218, [608, 608, 2]), (1824, [608] * 3)],
)
def test_long_audio_is_the_token_weighted_mean_of_windows(num_frames, sizes):
    """Windows must be those of the whole log-mel, seams included, and a short last one must not count double.

    Nor is there one of the frame at the very end of the recording, which is half beyond it.
    """
    model = build().double()
    wave = sound((num_frames - 1) * 160)
    spectrogram = model.log_mel(torch.from_numpy(wave)[None])
    vectors, counts, frames = [], [], []
    for window in spectrogram[..., : sum(sizes)].split(sizes, dim=-1):
        with torch.no_grad():
            tokens = model.encoder(window)
        vectors.append(pool(tokens, "cls_mean", 8)[0].numpy())
        counts.append(tokens.shape[1] - 1)
        frames.append(tokens[0, 1:].unflatten(0, (8, -1)).transpose(0, 1).flatten(1).numpy())
    np.testing.assert_allclose(model.embed(wave, RATE), np.average(vectors, axis=0, weights=counts), atol=1e-10)
    result, centres = model.embed_frames(wave, RATE)
    np.testing.assert_allclose(result, np.concatenate(frames), atol=1e-10)
    np.testing.assert_allclose(np.diff(centres), 160)
    *_, bounds = model.embed_frames(wave, RATE, bounds=True)
    np.testing.assert_allclose(bounds[:, 0], centres - 80)
    np.testing.assert_allclose(bounds[:-1, 1], bounds[1:, 0])
    assert bounds[-1, 1] == pytest.approx(len(wave) / RATE * 1000)


@pytest.mark.parametrize("options", [{}, {"stem": "patch"}])
def test_a_vector_does_not_depend_on_its_neighbours(tmp_path, options):
    """Otherwise the same file has another vector in another folder, and no result can be repeated."""
    seconds = [0.3, 1.0, 0.31, 11.0, 1.02, 0.05, 1.0, 2.0]
    clips = []
    for index, length in enumerate(seconds):
        path = write(tmp_path / f"{index}.wav", sound(int(length * RATE), seed=index), subtype="FLOAT")
        clips.append(Clip(path=str(path), name=path.name))
    for model, tolerance in ((build(**options), 1e-5), (build(**options).double(), 1e-10)):
        alone = np.stack([model.embed(clip.path) for clip in clips])
        for batch_size in (1, 3, 16):
            vectors, bad = model.embed_clips(clips, batch_size=batch_size)
            assert bad == []
            np.testing.assert_allclose(vectors, alone, atol=tolerance, rtol=tolerance)
        backwards, _ = model.embed_clips(clips[::-1])
        np.testing.assert_allclose(backwards[::-1], alone, atol=tolerance, rtol=tolerance)


def test_an_array_of_clips_is_each_of_them(model):
    """(B, samples) must be B clips in order."""
    waves = np.stack([sound(5000, seed) for seed in range(5)])
    vectors = model.embed(waves, RATE)
    assert vectors.shape == (5, 128)
    np.testing.assert_allclose(vectors, [model.embed(wave, RATE) for wave in waves], atol=1e-5)
    np.testing.assert_allclose(model.embed(torch.from_numpy(waves), RATE), vectors, atol=1e-6)
    assert model.embed(waves[:1], RATE).shape == (1, 128)


@pytest.mark.parametrize("options", [{}, {"stem": "patch"}])
def test_frames_do_not_depend_on_the_company_of_their_clip(options):
    """A clip alone and in a padded batch must be one clip: the mean of its frames is the second half of its vector."""
    waves = [sound(length, seed) for seed, length in enumerate((5000, 300, 12 * RATE, 16_001))]
    padded = np.full((4, 12 * RATE), np.nan)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    for model, tolerance in ((build(**options), 1e-5), (build(**options).double(), 1e-10)):
        vectors = model.embed(padded, RATE, lengths=[len(wave) for wave in waves])
        for wave, vector in zip(waves, vectors, strict=True):
            frames, _ = model.embed_frames(wave, RATE)
            np.testing.assert_allclose(frames.reshape(-1, 64).mean(0), vector[64:], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("rate", "channels", "suffix"), [(8000, 1, "wav"), (96000, 2, "wav"), (44100, 2, "flac")])
def test_other_rates_and_channels(model, tmp_path, rate, channels, suffix):
    """A file and its samples as an array are one sound, at any rate and with any number of channels."""
    mono = sound(2 * rate, rate=rate)
    path = write(tmp_path / f"a.{suffix}", np.stack([mono] * channels, 1), rate, subtype="PCM_24")
    np.testing.assert_allclose(model.embed(path), model.embed(mono, rate), atol=1e-3)
    assert np.isfinite(model.embed(str(path))).all()
    assert model.embed(path, sample_rate=123).shape == (128,)  # a file says its rate


def test_resampling_keeps_what_the_sound_is():
    """8 and 48 kHz recordings of a low tone must land near the 16 kHz one, nearer than another tone."""
    model = build()
    reference, other = (
        model.embed(0.3 * np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE), RATE) for hertz in (440, 2000)
    )
    for rate in (8000, 48000):
        vector = model.embed(0.3 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate), rate)
        assert np.linalg.norm(vector - reference) < 0.5 * np.linalg.norm(other - reference)


def test_silence_has_a_vector(model):
    """Digital silence is in every corpus; a NaN from it would poison every mean."""
    assert np.isfinite(model.embed(np.zeros(RATE), RATE)).all()
    assert np.isfinite(model.embed(np.zeros(12 * RATE), RATE)).all()


@pytest.mark.parametrize(
    ("wave", "rate", "reason"),
    [
        (np.array([0.1, np.nan]), RATE, "NaN or infinite"),
        (np.array([0.1, -np.inf]), RATE, "NaN or infinite"),
        (np.full(100, 1e30), RATE, "samples as large as 1e"),
        (np.stack([np.zeros(900), np.full(900, np.nan)]), RATE, "clip 1: NaN or infinite"),
        (np.zeros(0), RATE, "no samples"),
        (np.zeros((0, 100)), RATE, "no samples"),
        (np.zeros((2, 2, 2)), RATE, "expected (samples,)"),
        (np.float64(0.5), RATE, "expected (samples,)"),
        (np.zeros(100, np.int16), RATE, "int16 values: samples must be floating point, in -1..1: divide by 32768"),
        (np.zeros(100, complex), RATE, "complex128 values"),
        (None, RATE, "object values"),
        ([[0.1], 0.2], RATE, "clip 1: of shape (): expected (samples,)"),
        ([[0.1], [[0.2, 0.3]]], RATE, "not an array of samples"),
        (np.zeros((4000, 2)), RATE, "looks like (samples, channels)"),
        (np.zeros(100), None, "does not know its sample rate"),
        (np.zeros(100), 10, "a sample rate of 10 Hz"),
        (np.zeros(100), "fast", "a sample rate of 'fast': it must be one number"),
        (np.zeros(100), (RATE, RATE), "a sample rate of (16000, 16000): it must be one number"),
        (np.zeros(100), -RATE, "a sample rate of -16000 Hz"),
        (np.zeros(100), np.nan, "a sample rate of nan Hz"),
        (np.zeros(100), 10**9, "a sample rate of 1e+09 Hz"),
        (np.zeros(2), 768000, "too short to resample"),
    ],
)
def test_arrays_that_are_no_sound_are_refused(model, wave, rate, reason):
    """Silent rubbish in is silent rubbish out: the caller must learn what was wrong."""
    for embed in (model.embed, model.embed_frames):
        with pytest.raises(AudioError) as caught:
            embed(wave, rate)
        assert reason in str(caught.value)


def test_integers_that_were_only_cast_are_a_warning(model):
    """`scipy.io.wavfile` and a cast give sound 90 dB too loud, and vectors that look like any other."""
    with pytest.warns(UserWarning, match="divide 16-bit"):
        assert np.isfinite(model.embed(32768 * sound(4000), RATE)).all()


def test_frames_are_of_one_clip(model):
    """A batch would need padding; the contract is one clip."""
    with pytest.raises(AudioError, match="one clip at a time"):
        model.embed_frames(np.zeros((2, 900)), RATE)


def test_bad_clips_are_listed_and_the_rest_is_done(model, tmp_path):
    """One broken file among thousands must cost one vector, and its name must be known."""
    good = write(tmp_path / "good.wav", sound(4000))
    (tmp_path / "text.wav").write_text("not a sound")
    names = ["text.wav", "good.wav", "missing.wav", "good.wav"]
    calls = []
    vectors, bad = model.embed_clips(
        [Clip(path=str(tmp_path / name), name=name) for name in names],
        progress=lambda done, total: calls.append((done, total)),
    )
    assert vectors.shape == (2, 128)
    np.testing.assert_allclose(vectors[0], model.embed(good), atol=1e-5)
    assert [name for name, _ in bad] == ["text.wav", "missing.wav"]
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    nothing, bad = model.embed_clips([Clip(path="none.wav", name="none.wav")])
    assert nothing.shape == (0, 128)
    assert len(bad) == 1


def test_mixed_lengths_do_not_pile_up_in_memory(model, tmp_path, monkeypatch):
    """A corpus of ever new lengths never fills a batch: what waits must stay bounded, and the order right."""
    monkeypatch.setattr("aape.inference.pipeline.MAX_WAITING_FRAMES", 100)
    clips = []
    for index in range(12):
        path = write(tmp_path / f"{index}.wav", sound(2560 * (1 + index % 5) - 2000, seed=index))
        clips.append(Clip(path=str(path), name=path.name))
    sizes = []
    forward = model.encoder.forward_layers
    monkeypatch.setattr(
        model.encoder, "forward_layers", lambda x, n: sizes.append(x.shape[0] * x.shape[-1]) or forward(x, n)
    )
    vectors, _ = model.embed_clips(clips)
    assert max(sizes) <= 100 + 80
    np.testing.assert_allclose(vectors, [model.embed(clip.path) for clip in clips], atol=1e-5)


def test_hours_are_read_in_segments(model, monkeypatch):
    """The spectrogram of a long recording never exists as a whole: 40 min of it would be 120 MB, hours a crash."""
    longest = []
    log_mel = model.log_mel.forward
    monkeypatch.setattr(model.log_mel, "forward", lambda wave: longest.append(wave.shape[1]) or log_mel(wave))
    vectors = list(model._vectors(model._stream([[np.zeros(40 * 60 * RATE, np.float32)]], model._cut()), model._cut()))
    assert (len(vectors), vectors[0].end) == (1, 40 * 60)
    assert max(longest) < 7 * RATE


def test_computing_in_float64_is_possible(model):
    """Checks against references need more than float32 gives."""
    wave = sound(9000)
    single = model.embed(wave, RATE)
    double = model.double().embed(wave, RATE)
    assert double.dtype == np.float64
    np.testing.assert_allclose(single, double, atol=1e-4)
    assert model.embed_frames(wave, RATE)[0].dtype == np.float64


def test_the_untrained_yardstick_is_repeatable_and_leaves_the_random_state_alone(model):
    """A yardstick that changes from call to call, or changes the run that asked for it, measures nothing."""
    state = torch.random.get_rng_state()
    first, second, other = (random_model(model, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.front_end == model.front_end
    assert first.encoder.config == model.encoder.config
    assert first.fingerprint() == second.fingerprint()
    assert len({first.fingerprint(), other.fingerprint(), model.fingerprint()}) == 3


def test_fingerprint_follows_all_that_a_vector_depends_on(model, folder):
    """Cached features of another front end or another kernel would be taken for this model's."""
    assert load_model(folder, "cpu").fingerprint() == model.fingerprint()
    assert AudioModel(model.encoder, dataclasses.replace(FRONT_END, mean=-5.9)).fingerprint() != model.fingerprint()
    assert build(kernel_size=31).fingerprint() != model.fingerprint()
    with torch.no_grad():
        model.encoder.norm.bias[0] += 1e-3
    assert load_model(folder, "cpu").fingerprint() != model.fingerprint()


def test_models_are_found_by_name_and_by_run(folder, tmp_path, monkeypatch):
    """`tiny` works from any folder, `RUN` stands for `RUN/model`, and a wrong name is answered with the right ones."""
    assert load_model(tmp_path, "cpu").training == {"steps": 3}
    monkeypatch.setattr(saved_module, "PRETRAINED", tmp_path)
    assert load_model("model", "cpu").training == {"steps": 3}
    with pytest.raises(CheckpointError, match="shipped models: model"):
        load_model("tinny")
    for name in (None, 3, b"tiny", ["tiny"]):
        with pytest.raises(CheckpointError, match="neither the name of a model nor the path of its folder; shipped"):
            load_model(name)
    with pytest.raises(ConfigError, match="'tpu' is not available"):
        load_model("model", "tpu")


def test_short_sounds_are_looped_as_the_model_says(tmp_path):
    """An encoder trained on whole crops misreads half a second, and a cache must not mix both."""
    plain, model = aape.load_model("tiny", "cpu", loop_to=0), aape.load_model("tiny", "cpu", loop_to=1)
    assert (plain.loop_to, model.loop_to, aape.load_model("tiny", "cpu").loop_to) == (0, 1, 3)
    short, long = (0.1 * np.random.default_rng(seed).standard_normal(size) for seed, size in ((0, 7000), (1, 20000)))
    looped = plain.embed([np.resize(short, 16000), long], 16000)
    assert np.array_equal(model.embed([short, long], 16000), looped)
    path = tmp_path / "short.wav"
    soundfile.write(path, short, 16000, subtype="DOUBLE")
    assert np.abs(model.embed_files(path)[0][0] - looped[0]).max() < 1e-4
    assert np.abs(plain.embed(short, 16000) - looped[0]).max() > 1e-2
    assert model.fingerprint() != plain.fingerprint()
    with pytest.raises(aape.ConfigError, match="loop_to must be 0 to 600 seconds, got nan"):
        aape.load_model("tiny", "cpu", loop_to=np.nan)
    with pytest.raises(aape.ConfigError, match="loop_to must be 0 to 600 seconds, got '3'"):
        aape.load_model("tiny", "cpu", loop_to="3")


@pytest.mark.parametrize("loop_to", [1, 15])
def test_frames_and_times_of_a_looped_sound_are_its_own(loop_to):
    """An event would be reported at 12 s of a sound of half a second."""
    plain, model = build(), build()
    model.loop_to = loop_to
    short = sound(7000)  # 44 frames, 3 time patches
    frames, centres = model.embed_frames(short, RATE)
    assert centres.tolist() == [80, 240, 400]
    assert model.embed_frames(short, RATE, bounds=True)[2].tolist() == [[0, 160], [160, 320], [320, 437.5]]
    assert np.array_equal(frames, plain.embed_frames(np.resize(short, loop_to * RATE), RATE)[0][:3])
    assert not np.array_equal(frames, plain.embed_frames(short, RATE)[0])
    model.head, model.labels = ClassificationHead(64, 2).eval(), ["a", "b"]
    result = model.classify(short, RATE)
    assert [(window.start, window.end) for window in (result, *result.windows)] == [(0, 7000 / RATE)] * 2


def test_vectors_of_a_model_of_the_version_before(tmp_path):
    """An index of a million sounds is worthless once the same model gives other vectors."""
    shutil.copytree(saved_module.PRETRAINED / "tiny", tmp_path / "model")
    values = json.loads((tmp_path / "model" / "config.json").read_text())
    del values["loop_to"], values["pool"], values["layers"]  # it had none
    (tmp_path / "model" / "config.json").write_text(json.dumps(values))
    model = aape.load_model(tmp_path / "model", "cpu")
    time = np.arange(8000) / RATE
    vector = model.embed(0.2 * np.sin(2 * np.pi * 440 * time) * (1.2 + np.sin(2 * np.pi * 9 * time)), RATE)
    expected = [-0.046728, -0.02923, 0.166423, 0.06549, -0.599528, -0.138978, 0.477856]
    np.testing.assert_allclose(vector[[0, 1, 100, 191, 192, 300, 383]], expected, atol=1e-4)

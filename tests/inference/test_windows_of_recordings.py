"""Windows that a user asks for: slices of the whole log-mel, each encoded by itself, with the times of the sound."""

import itertools

import numpy as np
import pytest
import torch

from aape.errors import AudioError, ConfigError
from aape.inference import AudioModel
from aape.models.heads import ClassificationHead
from aape.models.pooling import pool
from notes import FRONT_END, nano

RATE, FRAME, PATCH = 16000, 160, 16 * 160  # samples
SIZES = [(16, 16), (16, 7), (40, 40), (50, 13), (64, 1), (100, 99)]  # window and hop, in frames


@pytest.fixture(scope="module")
def model():
    head = ClassificationHead(64, 4)
    return AudioModel(nano(), FRONT_END, head=head, labels=list("abcd")).double()


def noise(num_samples, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(num_samples)


def by_hand(model, wave, window, hop, loop_to=0):
    """Encode slices of the log-mel of the whole; returns vectors and times of the windows."""
    looped = np.resize(wave, max(len(wave), loop_to))
    whole = model.log_mel(torch.from_numpy(looped)[None])
    starts = [0]
    while (starts[-1] + window) * FRAME < len(wave) and len(wave) - (starts[-1] + hop) * FRAME >= PATCH:
        starts.append(starts[-1] + hop)
    vectors, times = [], []
    for start in starts:
        part = whole[..., start : start + window]
        with torch.no_grad():
            tokens = model.encoder(torch.nn.functional.pad(part, (0, -part.shape[-1] % 16)))
        vectors.append(pool(tokens, model.pool, 8)[0].numpy())
        times.append((start * FRAME / RATE, min((start + window) * FRAME, len(wave)) / RATE))
    return np.stack(vectors), np.array(times)


def lengths(window, hop):
    """Return numbers of samples at which the windows change, and their neighbours."""
    edges = {0, PATCH, *(FRAME * (window + n * hop) for n in (0, 1, 2)), FRAME * hop + PATCH, FRAME * 2 * hop + PATCH}
    near = {edge + step for edge, step in itertools.product(edges, (-FRAME, -1, 0, 1, FRAME))}
    return sorted(n for n in near if n > 0)


@pytest.mark.parametrize(("window", "hop"), SIZES)
def test_windows_are_slices_of_the_whole(model, window, hop):
    """A seam, a window too many, or a last one with silence in it, would be an event where nothing is."""
    for num_samples in lengths(window, hop):
        wave = noise(num_samples)
        expected, times = by_hand(model, wave, window, hop)
        options = {"window": window / 100, "hop": hop / 100}
        vectors, result = model.embed_windows(wave, RATE, **options)
        np.testing.assert_allclose(vectors, expected, atol=1e-10, rtol=0, err_msg=str(num_samples))
        np.testing.assert_allclose(result, times, atol=1e-12, rtol=0)
        assert result[-1, 1] <= num_samples / RATE
        cut = model._cut(**options)
        for size in (997, 4 * PATCH):  # as files are read
            blocks = (wave[i : i + size] for i in range(0, num_samples, size))
            rows = [row.vector for row in model._vectors(model._stream([blocks], cut), cut)]
            np.testing.assert_allclose(rows, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("window", "hop"), SIZES)
@pytest.mark.parametrize("loop_to", [9 * PATCH, 3 * PATCH + 77])
def test_windows_of_a_looped_sound(model, window, hop, loop_to, monkeypatch):
    """A call of half a second, looped to three: events in its repetitions would be at times that it does not have."""
    monkeypatch.setattr(model, "loop_to", loop_to / RATE)
    for num_samples in [n for n in lengths(window, hop) if n <= loop_to + 1]:
        wave = noise(num_samples)
        expected, times = by_hand(model, wave, window, hop, loop_to)
        vectors, result = model.embed_windows(wave, RATE, window=window / 100, hop=hop / 100)
        np.testing.assert_allclose(vectors, expected, atol=1e-10, rtol=0, err_msg=str(num_samples))
        np.testing.assert_allclose(result, times, atol=1e-12, rtol=0)


def test_windows_of_the_default_are_the_default(model):
    """Asking for what there is anyway must change nothing; but for a rest shorter than a patch, which is left out."""
    for seconds, count in ((14, 3), (12.4, 3), (24, 4)):
        wave = noise(round(seconds * RATE))
        plain, windowed = model.classify(wave, RATE), model.classify(wave, RATE, window=6.08)
        assert plain == windowed == model.classify(wave, RATE, window=6.08, hop=6.08)
        assert len(plain.windows) == count
    for seconds in (12.16, 12.3):
        wave = noise(round(seconds * RATE))
        assert model.classify(wave, RATE).windows[:2] == model.classify(wave, RATE, window=6.08).windows


def test_a_classifier_hears_windows(model):
    """The scores of a window are those of its vector's tokens, with the times of the window."""
    wave = noise(3 * RATE)
    result = model.classify(wave, RATE, window=1, hop=0.5, top=4)
    assert [(w.start, w.end) for w in result.windows] == [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5), (2, 3)]
    assert (result.start, result.end) == (0, 3)
    part = model.log_mel(torch.from_numpy(wave)[None])[..., 50:150]
    with torch.no_grad():
        scores = model.head(model.encoder(torch.nn.functional.pad(part, (0, 12))))[0].softmax(-1)
    window = result.windows[1]
    np.testing.assert_allclose(window.scores, [scores["abcd".index(label)] for label in window.labels], atol=1e-10)


def test_windows_of_a_batch(model):
    """Recordings of any lengths share batches, and each has its windows."""
    waves = [noise(n, seed) for seed, n in enumerate((RATE, 700, 3 * RATE + 11, RATE // 2))]
    results = model.classify(waves, RATE, window=0.5, hop=0.25, top=4)
    for wave, result in zip(waves, results, strict=True):
        alone = model.classify(wave, RATE, window=0.5, hop=0.25, top=4)
        assert [(w.start, w.end, w.labels) for w in result.windows] == [
            (w.start, w.end, w.labels) for w in alone.windows
        ]
        np.testing.assert_allclose(result.scores, alone.scores, atol=1e-10)
    with pytest.raises(AudioError, match="one clip at a time"):
        model.embed_windows(waves, RATE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0.15}, "window must be 0.16 to 10.24 s, got 0.15"),
        ({"window": 10.25}, "window must be 0.16 to 10.24 s, got 10.25"),
        ({"window": 0}, "window must be 0.16 to 10.24 s, got 0"),
        ({"window": -1}, "window must be 0.16 to 10.24 s, got -1"),
        ({"window": float("nan")}, "window must be 0.16 to 10.24 s, got nan"),
        ({"window": float("inf")}, "window must be 0.16 to 10.24 s, got inf"),
        ({"window": "a second"}, "window must be 0.16 to 10.24 s, got 'a second'"),
        ({"window": [1, 2]}, "window must be 0.16 to 10.24 s, got [1, 2]"),
        ({"window": 1.005}, "window must be a multiple of 0.01 s, a frame, got 1.005"),
        ({"window": 1, "hop": 0}, "hop must be 0.01 to 1 s, got 0"),
        ({"window": 1, "hop": -0.5}, "hop must be 0.01 to 1 s, got -0.5"),
        ({"window": 1, "hop": 1.01}, "hop must be 0.01 to 1 s, got 1.01"),
        ({"window": 1, "hop": 0.125}, "hop must be a multiple of 0.01 s, a frame, got 0.125"),
        ({"window": 1, "hop": float("nan")}, "hop must be 0.01 to 1 s, got nan"),
        ({"hop": 1}, "hop: it is from window to window: give a window, too"),
    ],
)
def test_windows_that_mean_nothing(model, options, message):
    """A hop of 0 never ends, and one above the window skips what a user looks for."""
    for call in (model.classify, model.embed_windows):
        if call == model.embed_windows and "window" not in options:
            continue
        with pytest.raises(ConfigError) as caught:
            call(noise(RATE), RATE, **options)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_window_as_people_write_it(model):
    """0.3 is not a multiple of 0.01 to a computer."""
    for window, hop in itertools.product(
        (0.29, 0.3, 0.57, 1.1, np.float32(0.7), 1), (0.07, 0.14, 0.28, np.float32(0.1))
    ):
        vectors, times = model.embed_windows(noise(RATE), RATE, window=window, hop=hop)
        assert len(vectors) == len(times)
        assert times[0, 1] == pytest.approx(min(1, float(window)))

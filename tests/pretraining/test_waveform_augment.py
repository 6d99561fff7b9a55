"""What augmentation does to a crop: levels and ratios as drawn, and nothing where it is off."""

import numpy as np
import pytest

from aape.pretraining.waveform_augment import EQUALISER, GAIN, RATIO, SPEED, change, draw_speed, reverberation

RATE = 16000


def sine(hertz, seconds=1.0):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


def test_without_a_share_only_the_level_changes():
    """A filter or an echo in every crop would be part of what is learned."""
    wave = sine(440)
    for seed in range(20):
        changed = change(wave, None, RATE, 0.0, np.random.default_rng(seed))
        gain = float(changed @ wave / (wave @ wave))
        assert GAIN[0] <= 20 * np.log10(gain) <= GAIN[1]
        np.testing.assert_allclose(changed, gain * wave, atol=1e-4)
    assert draw_speed(0.0, np.random.default_rng(0)) == 1.0


def test_another_sound_is_added_at_its_ratio():
    """A mixture in which one of two cannot be heard is no mixture."""
    wave, other = sine(440), sine(1000, 0.3)  # shorter: repeated
    ratios = []
    for seed in range(50):
        changed = change(wave, other, RATE, 0.0, np.random.default_rng(seed))
        power = np.abs(np.fft.rfft(changed)) ** 2
        ratios.append(10 * np.log10(power[430:450].sum() / power[980:1020].sum()))
    assert RATIO[0] - 0.1 <= min(ratios) < RATIO[0] + 3
    assert RATIO[1] - 3 < max(ratios) <= RATIO[1] + 0.1


@pytest.mark.parametrize("other", [None, sine(300), np.zeros(10, np.float32)])
def test_every_length_survives(other):
    """A short or silent clip must not end a run of hours."""
    for size in (1, 2, 100, RATE):
        for wave in (sine(440)[:size], np.zeros(size, np.float32)):
            for seed in range(5):
                changed = change(wave, other, RATE, 1.0, np.random.default_rng(seed))
                assert changed.shape == wave.shape
                assert changed.dtype == np.float32
                assert np.isfinite(changed).all()


def test_the_equaliser_stays_within_its_range():
    """More would take whole bands out of the sound."""
    changes = []
    for seed in range(30):
        plain, filtered = (change(sine(1000), None, RATE, share, np.random.default_rng(seed)) for share in (0.0, 0.999))
        changes.append(20 * np.log10(np.std(filtered) / np.std(plain)))
    assert np.std(changes) > 2
    assert max(changes) < EQUALISER + 6  # with the reverberation


def test_reverberation_falls_by_60_db():
    """An echo that does not die would smear every modulation."""
    response = reverberation(0.5, 10.0, RATE, np.random.default_rng(0))
    assert np.sum(response**2) == pytest.approx(0.1)
    early, late = np.sum(response[:800] ** 2), np.sum(response[-800:] ** 2)
    assert 10 * np.log10(early / late) == pytest.approx(60 * 0.9, abs=3)
    assert response[0] == 0


def test_speeds_lie_within_their_range():
    """Other speeds would leave the crop too short."""
    generator = np.random.default_rng(0)
    speeds = [draw_speed(0.5, generator) for _ in range(1000)]
    assert 1 / SPEED <= min(speeds) < 0.85 < 1.2 < max(speeds) <= SPEED
    assert 0.4 < np.mean(np.asarray(speeds) == 1.0) < 0.6

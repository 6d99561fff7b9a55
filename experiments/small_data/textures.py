"""Sounds of nothing in particular: noise, tones and clicks, of eight families drawn over wide ranges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy import signal
from sounds import MIN_HERTZ, SAMPLE_RATE, Wave, coloured_noise, frequencies, shaped_noise

NYQUIST = SAMPLE_RATE / 2
SECONDS = (3.0, 4.0)
MIXED_SHARE = 0.25  # of the clips, with a second texture behind


class Sound(NamedTuple):
    """A clip: what it sounds like, what made it, and what can be heard in it."""

    wave: Wave
    source: str
    labels: set[str]


def _between(rng: Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(low * (high / low) ** rng.random())


def _time(length: int) -> Wave:
    return np.arange(length) / SAMPLE_RATE


def _band_noise(rng: Generator, centre: float, width: float, length: int) -> Wave:
    """Make noise of a Gaussian band."""
    return shaped_noise(rng, np.exp(-(((frequencies(length) - centre) / width) ** 2)) + 1e-9, length)


def _curve(rng: Generator, low: float, high: float, length: int) -> Wave:
    """Draw a smooth course of one to six turns between two values, in their logarithm."""
    turns = int(rng.integers(2, 8))
    points = low * (high / low) ** rng.random(turns)
    return np.exp(np.interp(np.linspace(0, turns - 1, length), np.arange(turns), np.log(points)))


def _strikes(rng: Generator, length: int, rate: float, jitter: float) -> Wave:
    """Draw where something happens `rate` times a second: a train of impulses of random strength."""
    gaps = ((1 - jitter) + jitter * rng.exponential(size=int(length / SAMPLE_RATE * rate * 2) + 8)) / rate
    places = (np.cumsum(gaps) * SAMPLE_RATE - rng.random() * gaps[0] * SAMPLE_RATE).astype(int)
    latest = int(0.97 * length)  # what is struck later would hardly be there
    places = places[places < latest]
    train = np.zeros(length)
    np.add.at(train, places, 10 ** rng.uniform(-1, 0, size=len(places)) * rng.choice((-1, 1), size=len(places)))
    if not train.any():
        train[rng.integers(latest)] = 1
    return train


def modulated(rng: Generator, length: int) -> Wave:
    """Noise of a band whose level beats: engines, insects, rolls."""
    low, high = sorted(_between(rng, MIN_HERTZ, NYQUIST) for _ in range(2))
    noise = _band_noise(rng, (low + high) / 2, max(high - low, 50) / 2, length)
    rate = _between(rng, 1.5, 120) * _curve(rng, 0.7, 1.4, length) ** rng.integers(2)
    pulse = (1 + np.sin(2 * np.pi * (np.cumsum(rate) / SAMPLE_RATE + rng.random()))) / 2
    depth = rng.uniform(0.4, 1)
    return noise * (1 - depth + depth * pulse ** _between(rng, 0.5, 12))


def chirps(rng: Generator, length: int) -> Wave:
    """Gliding tones, one or many, as of birds."""
    wave = np.zeros(length)
    start, end = _between(rng, 150, 7000), _between(rng, 150, 7000)
    duration = _between(rng, 0.03, 2)
    for place in np.flatnonzero(_strikes(rng, length, _between(rng, 0.5, 12), rng.uniform(0, 1))):
        samples = min(int(duration * rng.uniform(0.8, 1.25) * SAMPLE_RATE), length - place)
        bend = np.linspace(0, 1, samples) ** _between(rng, 0.3, 3)
        hertz = np.minimum(start * rng.uniform(0.9, 1.1) * (end / start) ** bend, 0.95 * NYQUIST)
        tone = np.sin(2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE)
        wave[place : place + samples] += tone * np.sin(np.pi * np.linspace(0, 1, samples)) ** 0.5
    return wave


def clicks(rng: Generator, length: int) -> Wave:
    """Strikes on something that rings at a few frequencies, regular or not."""
    train = _strikes(rng, length, _between(rng, 1, 40), rng.uniform(0, 1))
    time, ring = _time(SAMPLE_RATE), np.zeros(SAMPLE_RATE)
    for _ in range(rng.integers(1, 7)):
        decay, hertz = _between(rng, 0.002, 0.4), _between(rng, 100, 7500)
        ring += rng.uniform(0.2, 1) * np.exp(-time / decay) * np.sin(2 * np.pi * hertz * time)
    return signal.fftconvolve(train, ring)[:length]


def bursts(rng: Generator, length: int) -> Wave:
    """Noise that starts at once and dies away: hits, shots, steps."""
    decay, attack = _between(rng, 0.01, 0.8), _between(rng, 0.0005, 0.05)
    time = _time(min(length, int(8 * decay * SAMPLE_RATE) + 800))
    envelope = signal.fftconvolve(
        np.abs(_strikes(rng, length, _between(rng, 0.4, 10), rng.uniform(0, 1))),
        np.minimum(time / attack, 1) * np.exp(-time / decay),
    )[:length]
    return coloured_noise(rng, rng.uniform(0, 2), length) * np.maximum(envelope, 0)


def rain(rng: Generator, length: int) -> Wave:
    """Very many drops of a few milliseconds, in front of noise."""
    drops = _strikes(rng, 2 * length, _between(rng, 60, 2500), 1)[:length]
    time = _time(int(0.03 * SAMPLE_RATE))
    drop = np.exp(-time / _between(rng, 0.0005, 0.006)) * np.sin(2 * np.pi * _between(rng, 800, 7000) * time)
    wave = signal.fftconvolve(drops, drop)[:length]
    behind = coloured_noise(rng, rng.uniform(0, 2), length) * _curve(rng, 0.3, 1, length)
    return wave / np.abs(wave).max() + behind * _between(rng, 0.003, 0.3)


def sweeps(rng: Generator, length: int) -> Wave:
    """Noise whose band moves: wind, passing things."""
    width = _between(rng, 30, 1500)
    parts = [_band_noise(rng, 0, width, length) for _ in range(2)]
    phase = 2 * np.pi * np.cumsum(_curve(rng, 150, 7000, length)) / SAMPLE_RATE
    return (parts[0] * np.cos(phase) - parts[1] * np.sin(phase)) * _curve(rng, 0.1, 1, length)


def tones(rng: Generator, length: int) -> Wave:
    """Up to four tones of harmonics, in tune or not, that start and end, waver or beat."""
    wave, time = np.zeros(length), _time(length)
    for _ in range(rng.integers(1, 5)):
        hertz, tilt, stretch = _between(rng, 60, 2500), rng.uniform(0, 2.5), rng.choice((0, rng.uniform(0, 0.03)))
        course = 1 + rng.choice((0, rng.uniform(0, 0.03))) * np.sin(2 * np.pi * _between(rng, 2, 9) * time)
        phase = 2 * np.pi * hertz * np.cumsum(course) / SAMPLE_RATE
        numbers = np.arange(1, rng.integers(2, 41))
        ratios = numbers * np.sqrt(1 + stretch * numbers**2)
        ratios = ratios[ratios * hertz < 0.9 * NYQUIST]
        tone = sum(rng.uniform(0.2, 1) * ratio**-tilt * np.sin(ratio * phase + 7 * rng.random()) for ratio in ratios)
        wave += tone * _gate(rng, time) * rng.uniform(0.2, 1)
    return wave


def _gate(rng: Generator, time: Wave) -> Wave:
    """Draw when a sound starts, how fast it comes, and how it goes."""
    since = time - rng.uniform(0, time[-1] / 3)
    decay = rng.choice((1e9, _between(rng, 0.05, 3)))
    return np.clip(since / _between(rng, 0.002, 1), 0, 1) * np.exp(-np.maximum(since, 0) / decay)


def noises(rng: Generator, length: int) -> Wave:
    """Noise of two colours whose levels change slowly."""
    first, second = (coloured_noise(rng, rng.uniform(-1, 3), length) * _curve(rng, 0.05, 1, length) for _ in range(2))
    return first + second


FAMILIES: tuple[Callable[[Generator, int], Wave], ...] = (
    modulated, chirps, clicks, bursts, rain, sweeps, tones, noises)  # fmt: skip


def render(rngs: Sequence[Generator]) -> list[Sound]:
    """Make a texture for each generator.

    Returns:
        Waves of 3 to 4 s at 16 kHz, names of families, and these as labels.
    """
    return [_texture(rng) for rng in rngs]


def _texture(rng: Generator) -> Sound:
    """Make a texture of one family, or of two."""
    length = int(rng.uniform(*SECONDS) * SAMPLE_RATE)
    families = [FAMILIES[number] for number in rng.choice(len(FAMILIES), 1 + (rng.random() < MIXED_SHARE))]
    waves = [family(rng, length) for family in families]
    wave = sum(10 ** (-rng.uniform(0, 15) * number / 20) * w / np.abs(w).max() for number, w in enumerate(waves))
    names = [family.__name__ for family in families]
    return Sound(wave, f"texture/{'+'.join(names)}", set(names))

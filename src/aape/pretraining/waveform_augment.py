"""What is done to the sound of a crop [ours]: its speed for teacher and student, the rest for the student alone.

One number, the share of the crops that each change applies to; all draws come from one generator. n samples.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Wave = NDArray[np.float32]

SPEED = 1.25  # fastest; the slowest is its inverse
GAIN = (-20.0, 6.0)  # dB
RATIO = (-5.0, 15.0)  # dB, of the crop over what is added to it
KNOTS = (50, 200, 500, 1000, 2000, 4000, 8000)  # Hz, of the equaliser
EQUALISER = 10.0  # dB, largest change at a knot
DECAY = (0.1, 1.0)  # s, until a reverberation has fallen by 60 dB
DIRECT = (0.0, 15.0)  # dB, direct sound over reverberation


def draw_speed(share: float, generator: Generator) -> float:
    """Draw by how much a crop is played faster, pitch and modulations with it; 1 for most."""
    is_on, exponent = generator.random() < share, generator.uniform(-1, 1)
    return float(SPEED**exponent) if is_on else 1.0


def change(wave: Wave, other: Wave | None, sample_rate: int, share: float, generator: Generator) -> Wave:
    """Add another sound, filter, reverberate, and set the level.

    Args:
        wave: the crop (n,).
        other: what is added to it (at least 1 sample); repeated or cut to n. None for nothing.
        sample_rate: in Hz.
        share: of the crops that are filtered, and of those that are reverberated.
        generator: of all draws.

    Returns:
        (n,).
    """
    ratio, level = generator.uniform(*RATIO), generator.uniform(*GAIN)
    gains = generator.uniform(-EQUALISER, EQUALISER, len(KNOTS)) * (generator.random() < share)
    decay, direct = generator.uniform(*DECAY), generator.uniform(*DIRECT)
    response = np.zeros(1)
    if generator.random() < share:
        response = reverberation(decay, direct, sample_rate, generator)
    if other is not None:
        other = np.resize(other, len(wave))
        power, added = (float(np.mean(np.square(x, dtype=np.float64))) for x in (wave, other))
        if power > 0 and added > 0:
            wave = wave + other * np.float32(np.sqrt(power / added / 10 ** (ratio / 10)))
    size = 1 << (len(wave) + len(response)).bit_length()  # of lengths with large prime factors it is many times slower
    spectrum = np.fft.rfft(wave, size) * (1 + np.fft.rfft(response, size))
    hertz = np.fft.rfftfreq(size, 1 / sample_rate)
    decibels = np.interp(np.log(np.maximum(hertz, KNOTS[0])), np.log(KNOTS), gains) + level
    return np.fft.irfft(spectrum * 10 ** (decibels / 20), size)[: len(wave)].astype(np.float32)


def reverberation(decay: float, direct: float, sample_rate: int, generator: Generator) -> NDArray[np.float64]:
    """Make what follows the direct sound of a room: noise that falls by 60 dB in `decay` seconds, at -`direct` dB."""
    time = np.arange(1, round(decay * sample_rate)) / sample_rate
    tail = generator.standard_normal(len(time)) * 10 ** (-3 * time / decay)
    return np.concatenate([[0.0], tail / np.sqrt(np.sum(tail**2)) / 10 ** (direct / 20)])

"""Music without labels: what programs and drum kits of General MIDI play in four seconds, and FluidSynth playing it.

Phrases, or single hits and notes until they have died away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import engines
import mido
import numpy as np
from engines import LEAD, Events
from numpy.random import Generator
from sounds import FAMILIES, HIGHEST_KEY, Modulation, Note, Wave
from textures import Sound

from aape.errors import AapeError

# What tests play stays out. Programs count from 0.
OF_STEMS = {number for family in FAMILIES.values() for number in family.validation + family.test}
# `split` test_program of the instruments in README.md; the test programs of the package's demo are among them.
OF_INSTRUMENTS = {0, 6, 12, 17, 25, 26, 33, 35, 40, 46, 60, 63, 64, 66, 74, 78, 83, 91}
# Other programs of FluidR3_GM that play recordings of these, such as 110, Fiddle, which is 40, Violin.
OF_THEIR_RECORDINGS = {7, 23, 24, 44, 49, 62, 76, 87, 88, 92, 99, 103, 110}
HELD_OUT = OF_STEMS | OF_INSTRUMENTS | OF_THEIR_RECORDINGS
# Programs of other soundfonts that play recordings of them: a contrabass of the cello, a pad of the steel guitar.
HELD_OUT_OF = {"MuseScore_General_Full": {43, 93}}
PROGRAMS = tuple(tuple(p for p in range(first, first + 8) if p not in HELD_OUT) for first in range(0, 128, 8))
KITS = (0, 8, 16, 24, 32, 40, 48)  # without TR-808, a machine that one of the drum folds emulates
KEYS = {program: family.keys for family in FAMILIES.values() for program in family.programs}
OTHER_KEYS = (24, 96)
DRUM_KEYS = (27, 88)

LENGTH = 4000  # ms
SLOT = 5120  # ms, of FluidSynth's buffers a whole number, see `engines`
DRUMS = 9  # channel
CHANNELS = (0, 1, 2, DRUMS)
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 2, 4, 6, 8, 10), tuple(range(12)))
STEPS = (0.25, 0.5, 1, 2)  # beats
FIGURES = ("long", "melody", "chords", "arpeggio", "repeats")
ARPEGGIO = (0, 2, 4, 7, 4, 2)  # steps of the scale
STILL = Modulation(0, 0, 0)
MOST_DRAWS = 5

DRUM_SHARE = 0.7  # of the hits
FAINT = 50.0  # dB below its peak, what is left of a hit that has died away
HIT_SECONDS = (0.1, 1.5)  # shortest and longest


class Part(NamedTuple):
    """What one program or kit plays; times in ms from the start of the clip."""

    channel: int
    program: int
    volume: int
    notes: tuple[Note, ...]
    vibrato: Modulation = STILL
    tremolo: Modulation = STILL


def draw(rng: Generator) -> tuple[Part, ...]:
    """Draw up to three programs, with drums or without, or drums alone."""
    beat, start = 60000 / rng.uniform(50, 200), int(rng.integers(600))
    root, scale = int(rng.integers(12)), SCALES[rng.integers(len(SCALES))]
    count = rng.choice(4, p=(0.15, 0.45, 0.25, 0.15))
    parts = [_draw_part(rng, channel, beat, start, root, scale) for channel in range(count)]
    if count == 0 or rng.random() < 0.3:
        kit = KITS[rng.integers(len(KITS))]
        parts.append(Part(DRUMS, kit, int(rng.integers(50, 128)), _draw_hits(rng, beat, start)))
    return tuple(part for part in parts if part.notes) or draw(rng)


def draw_hit(rng: Generator) -> tuple[Part, ...]:
    """Draw a drum that is hit once, or a program that plays a short note."""
    key, velocity = int(rng.integers(*DRUM_KEYS)), int(rng.integers(25, 128))
    if rng.random() < DRUM_SHARE:
        return (Part(DRUMS, KITS[rng.integers(len(KITS))], 100, (Note(0, 100, key, velocity),)),)
    part = _draw_part(rng, 0, 1000.0, 0, 0, tuple(range(12)))
    end = int(rng.integers(50, 1000))
    return (part._replace(notes=(part.notes[0]._replace(onset=0, end=end),)),) if part.notes else draw_hit(rng)


def _draw_part(rng: Generator, channel: int, beat: float, start: int, root: int, scale: tuple[int, ...]) -> Part:
    """Draw a program of any of the sixteen families, and its notes in a scale."""
    family = PROGRAMS[rng.integers(len(PROGRAMS))]
    program = family[rng.integers(len(family))]
    low, high = KEYS.get(program, OTHER_KEYS)
    keys = [key for key in range(low, HIGHEST_KEY.get(program, high) + 1) if (key - root) % 12 in scale]
    notes = _draw_notes(rng, FIGURES[rng.integers(len(FIGURES))], beat, start, keys)
    volume = int(rng.integers(50, 128))
    vibrato, tremolo = _draw_modulation(rng, (3, 9), (10, 150)), _draw_modulation(rng, (2, 14), (0.1, 0.8))
    return Part(channel, program, volume, notes, vibrato, tremolo)


def _draw_notes(rng: Generator, figure: str, beat: float, start: int, keys: list[int]) -> tuple[Note, ...]:
    """Draw notes: a long one, or steps of equal length, some of them rests."""
    place, loudness = int(rng.integers(len(keys))), int(rng.integers(25, 121))
    if figure == "long":
        return (Note(start, start + int(rng.integers(300, LENGTH)), keys[place], loudness),)
    step = max(beat * STEPS[rng.integers(len(STEPS))], 70)
    sounding, notes = rng.uniform(0.2, 1.3), []
    chord = range(0, 2 * int(rng.integers(2, 5)), 2) if figure == "chords" else range(1)
    for number in range(int((LENGTH - start) / step)):
        offset = ARPEGGIO[number % len(ARPEGGIO)] if figure == "arpeggio" else 0
        if figure in ("melody", "chords"):
            place = int(np.clip(place + rng.integers(-3, 4), 0, len(keys) - 1))
        velocity = int(np.clip(loudness + rng.integers(-15, 16), 1, 127))
        if rng.random() < 0.12:
            continue
        onset = start + round(number * step)
        end = onset + max(round(step * sounding), 30)
        for key in sorted({keys[min(place + offset + tone, len(keys) - 1)] for tone in chord}):
            notes.append(Note(onset, end, key, velocity))
    return tuple(notes)


def _draw_hits(rng: Generator, beat: float, start: int) -> tuple[Note, ...]:
    """Draw a pattern of up to five drums, a roll of one, or single hits."""
    drums = [int(key) for key in rng.integers(*DRUM_KEYS, size=5)]
    style = rng.choice(("pattern", "roll", "hits"), p=(0.6, 0.15, 0.25))
    if style == "hits":
        onsets = np.sort([start, *rng.integers(start, LENGTH - 500, size=rng.integers(4))])
        hits = [(int(onset), drums[number], int(rng.integers(30, 128))) for number, onset in enumerate(onsets)]
    elif style == "roll":
        onsets = np.arange(start, start + rng.integers(500, LENGTH), rng.integers(40, 160))
        velocities = np.linspace(*rng.integers(20, 128, size=2), len(onsets))
        hits = [(int(onset), drums[0], int(velocity)) for onset, velocity in zip(onsets, velocities, strict=True)]
    else:
        step, drums = beat / rng.choice((2, 3, 4)), drums[: rng.integers(2, 6)]
        grid = rng.random((len(drums), 16)) < rng.uniform(0.1, 0.6, size=(len(drums), 1))
        loudness = rng.integers(40, 115, size=len(drums))
        hits = [
            (start + round(number * step), drum, int(loudness[row] + rng.integers(13)))
            for number in range(int((LENGTH - start) / step))
            for row, drum in enumerate(drums)
            if grid[row, number % 16]
        ]
    return tuple(Note(onset, onset + 100, key, velocity) for onset, key, velocity in hits)


def _draw_modulation(rng: Generator, hertz: tuple[float, float], depth: tuple[float, float]) -> Modulation:
    """Draw a modulation in a third of the parts."""
    drawn = Modulation(rng.uniform(*hertz), rng.uniform(*depth), rng.random())
    return drawn if rng.random() < 1 / 3 else STILL


def slot(parts: Sequence[Part]) -> Events:
    """List the messages of a slot by time."""
    events = [
        (0, message.copy(channel=channel))
        for channel in CHANNELS
        for message in (engines.SOUND_OFF, mido.Message("control_change", control=121))
    ]
    events += engines.primer()
    for part in parts:
        setting = (
            mido.Message("program_change", program=part.program),
            mido.Message("control_change", control=7, value=part.volume),
        )
        played = engines.performance(part.notes, part.vibrato, part.tremolo, LENGTH)
        timed = [(50, message) for message in setting] + [(LEAD + time, message) for time, message in played]
        events += [(time, message.copy(channel=part.channel)) for time, message in timed]
    return sorted(events, key=lambda event: event[0])


def render(rngs: Sequence[Generator], font: Path, draw: Callable[[Generator], tuple[Part, ...]] = draw) -> list[Sound]:
    """Draw and play a phrase, or what else `draw` gives, for each generator, in one go; what is silent is drawn anew.

    Returns:
        Waves of 4 s at 16 kHz, names of font, programs and kit, and labels: those, and the keys that they play.
    """
    drawn: dict[int, tuple[Part, ...]] = {}
    waves: dict[int, Wave] = {}
    for _ in range(MOST_DRAWS):
        missing = [number for number in range(len(rngs)) if number not in waves]
        if not missing:
            samples = LENGTH * engines.SAMPLE_RATE // 1000
            return [
                Sound(waves[number][:samples], f"{font.stem}/{_names(parts)}", _labels(parts))
                for number, parts in sorted(drawn.items())
            ]
        drawn |= {number: _played(rngs[number], font, draw) for number in missing}
        score = engines.midi([slot(drawn[number]) for number in missing], SLOT, CHANNELS)
        played = engines.synthesise(score, len(missing), font, SLOT)
        waves |= {number: wave for number, wave in zip(missing, played, strict=True) if wave.any()}
    raise AapeError(f"{font}: silence instead of programs {_names(drawn[missing[0]])}: is it a soundfont?")


def _played(rng: Generator, font: Path, draw: Callable[[Generator], tuple[Part, ...]]) -> tuple[Part, ...]:
    """Draw until no program is held out of the soundfont."""
    while True:
        parts = draw(rng)
        if not any(part.channel != DRUMS and part.program in HELD_OUT_OF.get(font.stem, ()) for part in parts):
            return parts


def render_hits(rngs: Sequence[Generator], font: Path) -> list[Sound]:
    """Draw and play a hit for each generator, as `render`; of 0.1 to 1.5 s, from its onset until it has died away."""
    return [sound._replace(wave=_trimmed(sound.wave)) for sound in render(rngs, font, draw_hit)]


def _trimmed(wave: Wave) -> Wave:
    """Cut silence on both sides, and fade the last 10 ms."""
    loud = np.flatnonzero(np.abs(wave) > np.abs(wave).max() * 10 ** (-FAINT / 20))
    first, rate = loud[0], engines.SAMPLE_RATE
    length = int(np.clip(loud[-1] + 1 - first, HIT_SECONDS[0] * rate, HIT_SECONDS[1] * rate))
    cut = wave[first : first + length].copy()
    cut[-rate // 100 :] *= np.linspace(1, 0, len(cut[-rate // 100 :]))
    return cut


def _names(parts: Sequence[Part]) -> str:
    return "+".join(f"{'kit' if part.channel == DRUMS else ''}{part.program}" for part in parts)


def _labels(parts: Sequence[Part]) -> set[str]:
    """Name programs and keys, kits and drums."""
    labels = set()
    for part in parts:
        player, played = ("kit", "drum") if part.channel == DRUMS else ("program", "key")
        labels |= {f"{player} {part.program}", *(f"{played} {note.key}" for note in part.notes)}
    return labels

"""What the clips of `render.py` are: all that is drawn, and all arithmetic on samples. No engine is called here.

A clip has 20,480 samples at 16 kHz. What is to be recognised lies between 0.16 and 1.12 s, inside every window of
1.12 s that starts in the first 0.16 s. Clip `index` of a task and split is a function of these three alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Wave = NDArray[np.float64]

SEED = 0
SAMPLE_RATE = 16000
CLIP_SAMPLES = 20480
FIRST, LAST = 2560, 17920  # samples that all windows contain
MIN_HERTZ = 50.0  # of noise: below, the front end reads nothing, and a signal-to-noise ratio would mean nothing
TASKS = ("words", "notes", "rates")
SPLITS = ("train", "validation", "test")


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WORDS = _names(
    "backward bed bird cat dog down eight five follow forward four go happy house learn left marvin nine no off on one "
    "right seven sheila six stop three tree two up visual wow yes zero"
)
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
LANGUAGES = _names("de nl sv da nb it es es-419 pt pt-br fr-fr pl ro fi")  # read the word by their rules
ACCENT_SHARE = 0.85
# Variants of eSpeak NG: no robots, whispers or Klatt synthesis; of several that differ in an echo only, one.
VOICES = {
    "train": _names(
        "Alicia Andy Diogo Henrique Hugo Jacky Mario Michael Nguyen Storm Tweaky antonio aunty belinda ed f1 f3 f4 "
        "iven john linda m1 m3 m4 m5 m7 marcelo max michel miguel norbert pablo paul quincy rob robert sandro shelby "
        "travis zac"
    ),
    "validation": _names("Andrea Marco Mike f5 grandpa m8 pedro"),
    "test": _names("Alex Annie Denis Gene Lee anika boris f2 grandma gustave kaukovalta m2 m6 steph victor"),
}

FONTS = ("FluidR3_GM", "TimGM6mb")  # the second one is for test only


class Family(NamedTuple):
    """General MIDI programs, counted from 0, and keys that sound in all of them unless `HIGHEST_KEY` says so."""

    programs: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    keys: tuple[int, int]

    def programs_of(self, split: str, font: str) -> tuple[int, ...]:
        """List the programs that a split draws from."""
        if font != FONTS[0]:
            return self.programs
        kept = {"validation": self.validation, "test": self.test}
        return kept.get(split) or tuple(p for p in self.programs if p not in self.validation + self.test)


FAMILIES = {
    "keyboard": Family(tuple(range(8)), (1,), (3, 6), (36, 84)),
    "mallet": Family(tuple(range(8, 16)), (10,), (9, 12), (60, 88)),
    "organ": Family(tuple(range(16, 24)), (17,), (18, 21), (36, 84)),
    "guitar": Family(tuple(range(24, 32)), (27,), (25, 30), (40, 76)),
    "bass": Family(tuple(range(32, 40)), (34,), (33, 38), (28, 55)),
    "string": Family((*range(40, 47), *range(48, 52)), (41,), (42, 48), (43, 84)),
    "brass": Family(tuple(range(56, 64)), (58,), (57, 60), (46, 77)),
    "reed": Family(tuple(range(64, 72)), (65,), (66, 71), (48, 79)),
    "flute": Family(tuple(range(72, 80)), (74,), (73, 77), (60, 88)),
    "synth_lead": Family((80, 81, 82, 83, 84, 86, 87), (84,), (81, 86), (48, 84)),
    "vocal": Family((52, 53, 54, 85, 91), (85,), (53,), (48, 77)),
}
HIGHEST_KEY = {43: 57, 58: 72, 67: 72, 78: 78}  # above, one of the fonts has no sample
LAST_ONSET = 1000  # ms

KINDS = ("engine", "insect", "roll")
BANDS = tuple(3 * 2 ** (number / 2) for number in range(8))  # Hz, lower edges of half octaves
JITTER = 0.05


class Word(NamedTuple):
    """A spoken word."""

    label: str
    source: str  # voice
    language: str
    speed: int  # words a minute
    pitch: int
    position: float  # 0 to 1, from the earliest start to the latest
    snr: float  # dB
    exponent: float  # of the noise
    level: float  # dB of full scale, of the peak


class Note(NamedTuple):
    """One note; times in ms from the start of the clip."""

    onset: int
    end: int
    key: int
    velocity: int


class Modulation(NamedTuple):
    """A periodic change; `depth` in cents or as a share of the amplitude, 0 for none."""

    hertz: float
    depth: float
    phase: float


class Phrase(NamedTuple):
    """One to four notes."""

    label: str
    source: str  # font/program
    font: str
    program: int
    notes: tuple[Note, ...]
    vibrato: Modulation
    tremolo: Modulation
    snr: float
    exponent: float
    level: float


class Texture(NamedTuple):
    """Modulated noise in front of a clip of another task; what its kind does not have is None."""

    label: str
    kind: str
    hertz: float  # of the modulation
    background: str  # task
    ratio: float  # dB, foreground over background
    level: float
    cutoff: float | None = None
    depth: float | None = None
    power: float | None = None
    centre: float | None = None
    bandwidth: float | None = None
    duty: float | None = None
    exponent: float | None = None
    decay: float | None = None  # s


LABELS = {
    "words": WORDS,
    "notes": tuple(FAMILIES),
    "rates": tuple(f"{kind} {low:.3g}-{low * 2**0.5:.3g} Hz" for kind in KINDS for low in BANDS),
}


def generator(task: str, split: str, index: int) -> Generator:
    """Return the random numbers of one clip."""
    return np.random.default_rng([SEED, TASKS.index(task), SPLITS.index(split), index])


def draw_word(rng: Generator, split: str, index: int) -> Word:
    """Draw who says the word, and how."""
    languages = ACCENTS if rng.random() < ACCENT_SHARE else LANGUAGES
    return Word(
        label=WORDS[index % len(WORDS)],
        source=VOICES[split][rng.integers(len(VOICES[split]))],
        language=languages[rng.integers(len(languages))],
        speed=int(rng.integers(130, 281)),
        pitch=int(rng.integers(100)),
        position=rng.random(),
        snr=rng.uniform(0, 15),
        exponent=rng.uniform(0, 2),
        level=rng.uniform(-20, -3),
    )


def draw_phrase(rng: Generator, split: str, index: int) -> Phrase:
    """Draw who plays, and what."""
    label = LABELS["notes"][index % len(FAMILIES)]
    font = FONTS[index // len(FAMILIES) % 2 if split == "test" else 0]
    programs = FAMILIES[label].programs_of(split, font)
    program = programs[rng.integers(len(programs))]
    low, high = FAMILIES[label].keys
    return Phrase(
        label=label,
        source=f"{font}/{program}",
        font=font,
        program=program,
        notes=_draw_notes(rng, low, min(high, HIGHEST_KEY.get(program, high))),
        vibrato=_draw_modulation(rng, (4, 8), (10, 60)),
        tremolo=_draw_modulation(rng, (3, 12), (0.1, 0.6)),
        snr=rng.uniform(10, 30),
        exponent=rng.uniform(0, 2),
        level=rng.uniform(-20, -3),
    )


def _draw_notes(rng: Generator, low: int, high: int) -> tuple[Note, ...]:
    """Draw notes that follow each other; those that would start too late are left out."""
    onset, key = int(rng.integers(160, 451)), int(rng.integers(low, high + 1))
    notes: list[Note] = []
    for _ in range(rng.integers(1, 5)):
        end = onset + int(rng.integers(100, 901))
        notes.append(Note(onset, end, key, int(rng.integers(40, 128))))
        onset, key = end, int(np.clip(key + rng.integers(-7, 8), low, high))
        if onset > LAST_ONSET:
            break
    return tuple(notes)


def _draw_modulation(rng: Generator, hertz: tuple[float, float], depth: tuple[float, float]) -> Modulation:
    """Draw a modulation in half of the clips, and none in the others."""
    is_on = rng.random() < 0.5
    return Modulation(rng.uniform(*hertz), rng.uniform(*depth) if is_on else 0.0, rng.random())


def draw_texture(rng: Generator, split: str, index: int) -> Texture:
    """Draw a modulated noise."""
    number = index % len(LABELS["rates"])
    kind, low = KINDS[number // len(BANDS)], BANDS[number % len(BANDS)]
    hertz = low * 2.0 ** (rng.random() / 2)
    texture = Texture(
        label=LABELS["rates"][number],
        kind=kind,
        hertz=hertz,
        background=TASKS[rng.integers(2)],
        ratio=rng.uniform(-10, 0),
        level=rng.uniform(-20, -3),
    )
    if kind == "engine":
        cutoff = 200 * 10.0 ** rng.random()
        return texture._replace(cutoff=cutoff, depth=rng.uniform(0.6, 1), power=rng.uniform(1, 4))
    if kind == "insect":
        bandwidth = 100 * 8.0 ** rng.random()
        return texture._replace(centre=rng.uniform(2000, 7000), bandwidth=bandwidth, duty=rng.uniform(0.2, 0.8))
    return texture._replace(exponent=rng.uniform(0, 1.5), decay=min(rng.uniform(0.1, 0.4) / hertz, 0.06))


def shaped_noise(rng: Generator, gain: Wave, length: int = CLIP_SAMPLES) -> Wave:
    """Make `length` samples of noise of unit power with a `gain` at each of its frequencies, see `frequencies`."""
    parts = rng.standard_normal((2, len(gain)))
    noise = np.fft.irfft(gain * (parts[0] + 1j * parts[1]), length)
    return noise / np.sqrt(np.mean(noise**2))


def frequencies(length: int = CLIP_SAMPLES) -> Wave:
    """Return the frequencies of the spectrum of `length` samples, in Hz."""
    return np.fft.rfftfreq(length, 1 / SAMPLE_RATE)


def coloured_noise(rng: Generator, exponent: float, length: int = CLIP_SAMPLES) -> Wave:
    """Make noise of unit power whose power falls with frequency as f^-exponent, from `MIN_HERTZ` up."""
    hertz = frequencies(length)
    gain = np.maximum(hertz, MIN_HERTZ) ** (-exponent / 2)
    return shaped_noise(rng, np.where(hertz < MIN_HERTZ, 0, gain), length)


def sounding(wave: Wave) -> slice:
    """Return the span of a sound in which it is above -50 dB of its peak."""
    loud = np.flatnonzero(np.abs(wave) > np.abs(wave).max(initial=0) * 10 ** (-50 / 20))
    return slice(loud[0], loud[-1] + 1) if len(loud) else slice(0, 0)


def add_noise(rng: Generator, wave: Wave, snr: float, exponent: float) -> Wave:
    """Add coloured noise; the ratio, in dB, is to the power of the sound where it sounds."""
    power = np.mean(wave[sounding(wave)] ** 2)
    return wave + coloured_noise(rng, exponent, len(wave)) * np.sqrt(power / 10 ** (snr / 10))


def quantised(wave: Wave, level: float) -> NDArray[np.int16]:
    """Scale to a peak of `level` dB of full scale, and round."""
    return np.rint(wave * (10 ** (level / 20) / np.abs(wave).max()) * 32767).astype("<i2")


def padded(wave: Wave, position: float) -> Wave:
    """Put a sound where all windows contain it; what is too long is cut, and faded in its last 10 ms."""
    room = LAST - FIRST
    if len(wave) > room:
        wave = wave[:room].copy()
        wave[-160:] *= np.linspace(1, 0, 160)
    start = FIRST + int(position * (room - len(wave)))
    return np.pad(wave, (start, CLIP_SAMPLES - start - len(wave)))


def mix(rng: Generator, texture: Texture, background: Wave) -> Wave:
    """Lay a modulated noise over a clip of another task."""
    front = foreground(rng, texture)
    ratio = 10 ** (texture.ratio / 10)
    return front + background * np.sqrt(np.mean(front**2) / np.mean(background**2) / ratio)


def foreground(rng: Generator, texture: Texture) -> Wave:
    """Make the modulated noise."""
    hertz = frequencies()
    if texture.kind == "engine":
        noise = shaped_noise(rng, np.where(hertz < MIN_HERTZ, 0, 1 / (1 + (hertz / texture.cutoff) ** 4)))
    elif texture.kind == "insect":
        noise = shaped_noise(rng, np.exp(-(((hertz - texture.centre) / texture.bandwidth) ** 2)))
    else:
        noise = coloured_noise(rng, texture.exponent)
    return noise * envelope(rng, texture)


def envelope(rng: Generator, texture: Texture) -> Wave:
    """Make the modulation, which starts at a random phase."""
    jitter = 0 if texture.kind == "insect" else JITTER
    count = int(CLIP_SAMPLES / SAMPLE_RATE * texture.hertz * 1.2) + 4
    periods = (1 + jitter * np.clip(rng.standard_normal(count), -2, 2)) / texture.hertz
    beats = np.cumsum(periods) - periods[0] - (1 + rng.random()) / texture.hertz  # s; two of them may be before 0
    time = np.arange(CLIP_SAMPLES) / SAMPLE_RATE
    if texture.kind == "roll":
        strength = 10 ** (3 * np.clip(rng.standard_normal(count), -2, 2) / 20)
        since = time - beats[:, None]  # (hits, samples)
        hits = np.where(since > 0, np.minimum(since / 1e-3, 1) * np.exp(-np.maximum(since, 0) / texture.decay), 0)
        return strength @ hits
    phase = np.interp(time, beats, np.arange(count))
    if texture.kind == "engine":
        pulse = ((1 + np.cos(2 * np.pi * phase)) / 2) ** texture.power
        return 1 - texture.depth + texture.depth * pulse
    return np.sin(np.pi * np.minimum(phase % 1 / texture.duty, 1))


def row(plan: Word | Phrase | Texture) -> dict[str, str]:
    """Write what was drawn as cells of a table; several notes in one cell."""
    values: dict[str, object] = plan._asdict()
    if isinstance(plan, Phrase):
        for name, value in zip(Note._fields, zip(*values.pop("notes"), strict=True), strict=True):
            values[f"note_{name}"] = " ".join(map(str, value))
        for name in ("vibrato", "tremolo"):
            values |= {f"{name}_{key}": value for key, value in values.pop(name)._asdict().items()}
    return {key: "" if v is None else f"{v:.6g}" if isinstance(v, float) else str(v) for key, v in values.items()}

"""Calls of the two engines, eSpeak NG and FluidSynth, and blocks of clips made with them."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mido
import numpy as np
import soundfile
import sounds
import soxr
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt
from sounds import CLIP_SAMPLES, FIRST, LAST, SAMPLE_RATE, Modulation, Note, Phrase, Texture, Wave, Word

from aape.data.packing import encode
from aape.errors import AapeError

INSTALL = "apt install fluidsynth espeak-ng fluid-soundfont-gm timgm6mb-soundfont"
FOLDERS = (Path("/usr/share/sounds/sf2"), Path("/usr/share/soundfonts"))
VERSIONS = {"espeak-ng": r"text-to-speech: (\S+)", "fluidsynth": r"runtime version (\S+)"}
ENGINE_OF = {"words": "espeak-ng", "notes": "fluidsynth"}
TIMEOUT = 120  # s, of a call
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
SPEECH_RATE, MUSIC_RATE = 22050, 44100
FASTER, FASTEST = 40, 450  # words a minute
# Without a default soundfont, so that no other one plays where the file cannot be read.
SWITCHES = ["-n", "-i", "-q", "-R", "0", "-C", "0", "-g", "0.5", "-r", str(MUSIC_RATE), "-T", "raw", "-O", "float",
            "-E", "little", "-o", "synth.lock-memory=0", "-o", "synth.dynamic-sample-loading=1",
            "-o", "synth.default-soundfont="]  # fmt: skip
# Events fall on FluidSynth's buffers of 64 samples by whole milliseconds: 640 ms are 441 buffers, so that every slot,
# which is a multiple of them, meets the same buffers.
LEAD, SLOT = 640, 1920  # ms; the clip follows the lead
PRIMER_KEYS = range(32, 96)
SOUND_OFF = mido.Message("control_change", control=120)
BEND_CENTS = 200  # General MIDI's range of the pitch wheel
SILENCE = 1e-4  # of full scale
Events = list[tuple[int, mido.Message]]  # times in ms


class Source(NamedTuple):
    """Where the clip behind a mixture lies."""

    shard: str
    offset: int
    size: int
    source: str


class Block(NamedTuple):
    """Clips in a row: samples (n, 20480), as FLAC, and what was drawn."""

    samples: NDArray[np.int16]
    contents: list[bytes]
    rows: list[dict[str, str]]


class CrashError(AapeError):
    """An engine crashed, as it will again."""


def call(command: Sequence[str]) -> bytes:
    """Run an engine; its output.

    Raises:
        AapeError: it is missing, or failed; `CrashError` for a fault of its own.
    """
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise AapeError(f"{command[0]} is missing: {INSTALL}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AapeError(f"{command[0]}: {error}") from error
    if done.returncode:
        error = CrashError if -done.returncode in CRASHES else AapeError
        reason = done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}"
        raise error(f"{' '.join(command)}: {reason}")
    return done.stdout


def version(engine: str) -> str:
    """Ask an engine for its version."""
    if shutil.which(engine) is None:
        raise AapeError(f"{engine} is missing: {INSTALL}")
    text = call([engine, "--version"]).decode(errors="replace")
    match = re.search(VERSIONS[engine], text)
    return match[1] if match else text.strip()[:80]


def find_font(name: str, option: Path | None) -> Path:
    """Find a soundfont where distributions put it, or where the option says."""
    for path in [option] if option else [folder / f"{name}.sf2" for folder in FOLDERS]:
        if path.is_file():
            return path
    flag = "--soundfont" if name == sounds.FONTS[0] else "--second-soundfont"
    where = option or " or ".join(str(folder) for folder in FOLDERS)
    raise AapeError(f"{name}.sf2 is not at {where}: {INSTALL}, or name the file by {flag}")


def sha256_of(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def say(voice: str, text: str, speed: int, pitch: int) -> Wave:
    """Let eSpeak NG say a text; without the silence around it, at 16 kHz. Empty if nothing sounds."""
    options = ["-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    content = call(["espeak-ng", *options])
    head, _, samples = content.partition(b"data")  # the header's length is that of a stream
    if int.from_bytes(head[24:28], "little") != SPEECH_RATE:
        raise AapeError(f"espeak-ng {' '.join(options)}: no sound at {SPEECH_RATE} Hz")
    wave = np.frombuffer(samples[4 : len(samples) // 2 * 2], "<i2").astype(np.float64) / 32768
    wave = wave[sounds.sounding(wave)]
    return soxr.resample(wave, SPEECH_RATE, SAMPLE_RATE, quality="VHQ") if len(wave) else wave


def speak(word: Word) -> tuple[Wave, int]:
    """Say a word, faster where it would not fit; returns the speed too."""
    voice, speed = f"{word.language}+{word.source}", word.speed
    while len(wave := say(voice, word.label, speed, word.pitch)) > LAST - FIRST and speed < FASTEST:
        speed = min(speed + FASTER, FASTEST)
    if not len(wave):
        raise AapeError(f"espeak-ng -v {voice}: silence instead of {word.label!r}")
    return wave, speed


def midi(slots: Sequence[Events], length: int = SLOT, channels: Sequence[int] = (0,)) -> mido.MidiFile:
    """Write slots of `length` ms in a row; a tick is a millisecond."""
    events: list[tuple[int, mido.Message | mido.MetaMessage]] = [(0, mido.MetaMessage("set_tempo", tempo=1_000_000))]
    for number, slot in enumerate(slots):
        events += [(number * length + time, message) for time, message in slot]
    # FluidSynth goes on until the last note has died away, which those without an end never do.
    events += [(len(slots) * length, SOUND_OFF.copy(channel=channel)) for channel in channels]
    events.append((len(slots) * length, mido.MetaMessage("end_of_track")))
    times = [time for time, _ in events]
    steps = [time - before for time, before in zip(times, [0, *times], strict=False)]
    track = mido.MidiTrack(message.copy(time=step) for step, (_, message) in zip(steps, events, strict=True))
    return mido.MidiFile(type=0, ticks_per_beat=1000, tracks=[track])


def slot(phrase: Phrase) -> Events:
    """List the messages of a slot by time: silence, a primer, the phrase."""
    events = [*primer(), (50, mido.Message("program_change", program=phrase.program))]
    played = performance(phrase.notes, phrase.vibrato, phrase.tremolo, SLOT - LEAD)
    return events + [(LEAD + time, message) for time, message in played]


def primer() -> Events:
    """List the messages that a slot begins with: silence, and notes that are not part of the clip.

    A voice of FluidSynth keeps the panning of the note before for its first samples. The primer makes every voice
    start from the same.
    """
    events = [(0, SOUND_OFF), (0, mido.Message("control_change", control=121)), (0, mido.Message("program_change"))]
    events += [(10, mido.Message("note_on", note=key, velocity=1)) for key in PRIMER_KEYS]
    return [*events, (40, SOUND_OFF)]


def performance(notes: Sequence[Note], vibrato: Modulation, tremolo: Modulation, end: int) -> Events:
    """List the messages of notes and their modulation by time, up to `end`."""
    played: list[tuple[int, int, mido.Message]] = []  # at equal times notes end, controllers move, notes start
    for onset, release, key, velocity in notes:
        played.append((onset, 2, mido.Message("note_on", note=key, velocity=velocity)))
        played.append((release, 0, mido.Message("note_off", note=key)))
    for time in range(notes[0].onset, end, 10):
        played += [(time, 1, message) for message in modulation(vibrato, tremolo, time / 1000)]
    in_time = sorted((event for event in played if event[0] < end), key=lambda event: event[:2])
    return [(time, message) for time, _, message in in_time]


def modulation(vibrato: Modulation, tremolo: Modulation, seconds: float) -> list[mido.Message]:
    """Set pitch wheel and expression as vibrato and tremolo have them at a time."""
    bend, swell = (np.sin(2 * np.pi * (m.hertz * seconds + m.phase)) for m in (vibrato, tremolo))
    messages = []
    if vibrato.depth:
        pitch = round(8191 * vibrato.depth / BEND_CENTS * bend)
        messages.append(mido.Message("pitchwheel", pitch=pitch))
    if tremolo.depth:
        amplitude = 1 - tremolo.depth * (1 + swell) / 2
        value = round(127 * amplitude**0.5)  # the amplitude goes with the square of the controller
        messages.append(mido.Message("control_change", control=11, value=value))
    return messages


def synthesise(score: mido.MidiFile, count: int, font: Path, length: int = SLOT) -> list[Wave]:
    """Let FluidSynth play `count` slots of `length` ms, dry, without dither; what follows their leads, mono at 16 kHz.

    A slot in which nothing sounds is all zeros.
    """
    with tempfile.TemporaryDirectory() as folder:
        notes, raw = Path(folder) / "notes.mid", Path(folder) / "notes.raw"
        score.save(notes)
        call(["fluidsynth", *SWITCHES, "-F", str(raw), str(font), str(notes)])
        stereo = np.fromfile(raw, "<f4").astype(np.float64).reshape(-1, 2)
    per_slot, lead = (ms * MUSIC_RATE // 1000 for ms in (length, LEAD))
    if len(stereo) < count * per_slot:
        raise AapeError(f"fluidsynth rendered {len(stereo)} frames with {font}, not {count * per_slot}")
    slots = stereo[: count * per_slot].mean(1).reshape(-1, per_slot)[:, lead:]
    slots = slots * (np.abs(slots).max(1, keepdims=True) >= SILENCE)
    waves = [soxr.resample(wave, MUSIC_RATE, SAMPLE_RATE, quality="VHQ") for wave in slots]
    # Samples of some programs drift: the inaudible part would set the level of the clip
    audible = butter(2, sounds.MIN_HERTZ, "highpass", fs=SAMPLE_RATE, output="sos")
    return [sosfilt(audible, wave) for wave in waves]


def play(phrases: Sequence[Phrase], font: Path) -> list[Wave]:
    """Play phrases in one go."""
    if not phrases:
        return []
    waves = synthesise(midi([slot(phrase) for phrase in phrases]), len(phrases), font)
    for phrase, wave in zip(phrases, waves, strict=True):
        if not wave.any():
            raise AapeError(f"{phrase.source}: silence at {phrase.notes}")
    return [wave[:CLIP_SAMPLES] for wave in waves]


def word_clips(split: str, indices: range) -> list[tuple[NDArray[np.int16], dict[str, str]]]:
    """Render clips of the task `words`."""
    clips = []
    for index in indices:
        rng = sounds.generator("words", split, index)
        word = sounds.draw_word(rng, split, index)
        wave, speed = speak(word)
        noisy = sounds.add_noise(rng, sounds.padded(wave, word.position), word.snr, word.exponent)
        is_cut = str(int(len(wave) > LAST - FIRST))
        row = sounds.row(word) | {"spoken_speed": str(speed), "cut": is_cut}
        clips.append((sounds.quantised(noisy, word.level), row))
    return clips


def note_clips(split: str, indices: range, fonts: dict[str, Path]) -> list[tuple[NDArray[np.int16], dict[str, str]]]:
    """Render clips of the task `notes`, those of a soundfont in one go."""
    rngs = [sounds.generator("notes", split, index) for index in indices]
    phrases = [sounds.draw_phrase(rng, split, index) for rng, index in zip(rngs, indices, strict=True)]
    waves = {name: iter(play([p for p in phrases if p.font == name], path)) for name, path in fonts.items()}
    clips = []
    for rng, phrase in zip(rngs, phrases, strict=True):
        noisy = sounds.add_noise(rng, next(waves[phrase.font]), phrase.snr, phrase.exponent)
        clips.append((sounds.quantised(noisy, phrase.level), sounds.row(phrase)))
    return clips


def rate_clips(
    split: str, indices: range, backgrounds: dict[str, Sequence[Source]]
) -> list[tuple[NDArray[np.int16], dict[str, str]]]:
    """Render clips of the task `rates`; behind clip i is clip i of one of the other tasks."""
    clips = []
    for number, index in enumerate(indices):
        rng = sounds.generator("rates", split, index)
        texture: Texture = sounds.draw_texture(rng, split, index)
        behind = backgrounds[texture.background][number]
        with open(behind.shard, "rb") as shard:
            shard.seek(behind.offset)
            wave, _ = soundfile.read(io.BytesIO(shard.read(behind.size)), dtype="int16")
        mixture = sounds.mix(rng, texture, wave.astype(np.float64))
        clips.append((sounds.quantised(mixture, texture.level), sounds.row(texture) | {"source": behind.source}))
    return clips


def render_block(
    task: str, split: str, indices: range, fonts: dict[str, Path], backgrounds: dict[str, Sequence[Source]]
) -> Block:
    """Render clips in a row."""
    if task == "words":
        clips = word_clips(split, indices)
    elif task == "notes":
        clips = note_clips(split, indices, fonts)
    else:
        clips = rate_clips(split, indices, backgrounds)
    samples = np.stack([clip for clip, _ in clips])
    contents = [encode(clip / 32768, SAMPLE_RATE, "flac") for clip in samples]
    return Block(samples, contents, [row for _, row in clips])

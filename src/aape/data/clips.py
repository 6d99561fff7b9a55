"""A clip of a data set, and how it is read: a sound file, or a member of a tar shard in place, or a part of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aape.data.audio.decoding import MAX_CONTENT_BYTES, audio_format, audio_seconds, read_audio, stream_audio
from aape.data.same_sound import RATE, Sketch
from aape.errors import AudioError


@dataclass(frozen=True, slots=True)
class Clip:
    """A sound file or one member of a tar shard, or a part of it. There may be millions: it stays small and picklable.

    A part is named as W3C's media fragments are: `file#t=1.5,3`.
    """

    path: str  # the file, or the shard that holds it
    name: str  # unique in its manifest and what the user knows: a relative path, or shard/member, with the part
    offset: int | None = None  # of the member's content in the shard, bytes
    size: int | None = None  # of the member, bytes
    seconds: float | None = None  # length of the clip
    label: str | None = None
    split: str | None = None
    fold: str | None = None
    group: str | None = None
    start: float = 0.0  # of a part, in seconds of the sound
    end: float | None = None  # likewise; None for the end of the sound

    @property
    def file(self) -> str:
        """The name without the part."""
        return self.name.removesuffix(part_suffix(self.start, self.end))

    def sound(self) -> tuple[object, ...]:
        """Return what is equal for clips of one sound, whatever the paths to it; parts apart."""
        try:
            status = os.stat(self.path)
        except (OSError, ValueError):
            return self.path, self.offset
        return status.st_dev, status.st_ino, self.offset


def part_suffix(start: float, end: float | None) -> str:
    """Return what a part adds to the name of its file."""
    return "" if end is None else f"#t={repr(start).removesuffix('.0')},{repr(end).removesuffix('.0')}"


def load_clip(clip: Clip, *, sample_rate: int = 16000, start: float = 0.0, duration: float | None = None) -> np.ndarray:
    """Read a clip, or a part of it, as `read_audio` does: mono float32 samples (T,), or an AudioError."""
    start, duration = _within(clip, start, duration)
    return read_audio(clip_source(clip), sample_rate=sample_rate, start=start, duration=duration, name=clip.name)


def stream_clip(clip: Clip, *, sample_rate: int = 16000) -> Iterator[np.ndarray]:
    """Read a clip of any length in blocks, as `stream_audio` does: mono float32 samples (T,), or an AudioError."""
    start, duration = _within(clip, 0.0, None)
    source = clip_source(clip)
    yield from stream_audio(source, sample_rate=sample_rate, start=start, duration=duration, name=clip.name)


@dataclass(frozen=True)
class AudioInfo:
    """What a clip holds."""

    seconds: float
    sample_rate: int  # Hz
    channels: int
    format: str  # such as "WAV PCM_16"
    peak: float  # largest absolute sample of the mono mix
    sketch: NDArray[np.float32]  # see aape.data.same_sound
    digest: bytes  # of the mono samples at 16 kHz, rounded to 16 bits


def check_clip(clip: Clip) -> AudioInfo:
    """Decode a whole clip, block by block, and describe it, or raise an AudioError."""
    sample_rate, channels, kind = audio_format(clip_source(clip), name=clip.name)
    length, peak, sketch = 0, 0.0, Sketch()
    for block in stream_clip(clip, sample_rate=RATE):
        length, peak = length + len(block), max(peak, float(np.abs(block).max(initial=0.0)))
        sketch.add(block)
    return AudioInfo(length / RATE, sample_rate, channels, kind, peak, sketch.values(), sketch.digest.digest())


def clip_seconds(clip: Clip) -> float:
    """Return the length of a clip in seconds, the manifest's if that states it, else the file's, or an AudioError."""
    return audio_seconds(clip_source(clip), name=clip.name) if clip.seconds is None else clip.seconds


def clip_source(clip: Clip) -> str | bytes:
    """Return what a clip is read from: the path of a file, or the content of a tar member."""
    if clip.offset is None or clip.size is None:
        return clip.path
    if clip.size > MAX_CONTENT_BYTES:
        reason = f"{clip.size} bytes in a shard, the most is {MAX_CONTENT_BYTES}: put it beside the shard as a file"
        raise AudioError(clip.name, reason)
    try:
        with open(clip.path, "rb", buffering=0) as shard:
            shard.seek(clip.offset)
            content = shard.read(clip.size)
    except OSError as error:
        raise AudioError(clip.name, f"its shard cannot be read: {error.strerror or error}") from error
    if len(content) < clip.size:
        raise AudioError(clip.name, "truncated: its shard has become shorter")
    return content


def _within(clip: Clip, start: float, duration: float | None) -> tuple[float, float | None]:
    """Return start and duration, in the sound that a clip is a part of, of a part of the clip."""
    if clip.end is not None:
        left = clip.end - clip.start - start
        if left <= 0:
            raise AudioError(clip.name, f"{clip.end - clip.start:.2f} s long, asked for from {start:g} s")
        duration = left if duration is None else min(duration, left)
    return clip.start + start, duration

"""Sound files to arrays: WAV and its relatives, FLAC, Ogg, MP3, AIFF, CAF, AU, SPHERE; mono, resampled.

No header is trusted.

Decoding goes block by block, so that memory follows what is really in the file; what came back is compared with what
was promised. Only the part asked for is decoded: a training crop costs little more than its length.
"""

from __future__ import annotations

import functools
import io
import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np

from aape.data.audio.containers import Content, Part, find_sound
from aape.data.audio.headers import ContainerError
from aape.data.audio.mpeg import count_frames, has_index
from aape.data.audio.ogg import count_ogg_frames, misses_ogg_pages, num_vorbis_frames_to_avoid
from aape.data.audio.resampling import Energy, resample
from aape.errors import AudioError, AudioWarning

Source: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes]  # a path, the content of a file, or an open one

AUDIO_EXTENSIONS = (
    *(".aif", ".aifc", ".aiff", ".au", ".bwf", ".caf", ".flac", ".mp2", ".mp3", ".nist", ".oga", ".ogg", ".opus"),
    *(".rf64", ".snd", ".sph", ".w64", ".wav", ".wave"),
)
MAX_SECONDS = 4 * 3600.0  # of one array
MAX_STREAM_SECONDS = 48 * 3600.0  # of what is read block by block and never held as a whole
MAX_CHANNELS = 64
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_VALUES = 1 << 31  # samples times channels decoded for one array: 4 h of 44.1 kHz stereo and some more
MAX_EXPANSION = 4096  # values per byte of the file: silence in FLAC's streamable subset stays below
MAX_LEVEL = 2.0**32  # float files scaled as 32-bit integers pass; beyond, a float32 power spectrum is near overflow

MAX_CONTENT_BYTES = 1 << 30  # of a file that is read into memory: an open one, a tar shard's member

_FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3", "AIFF", "CAF", "AU")
_BLOCK_VALUES = 1 << 18
_FREE_VALUES = 1 << 24  # decoded from any file, however small: 17 minutes at 16 kHz
_NO_LENGTH = (1 << 63) - 1  # libsndfile's count of frames for a FLAC stream that states none
_MP3_SEEK_SECONDS = 30.0  # up to here decoding from the start costs less than 20 ms
_MP3_DELAY = 2 * 1152  # frames that a decoder may keep for itself
_MP3_PREROLL = 32 * 1152  # frames; the bit reservoir reaches back 511 bytes, over 20 of the smallest MP3 frames
_FILTER_REACH = 320  # samples at the lower of two rates after which soxr's HQ filter has died out


def read_audio(
    source: Source,
    *,
    sample_rate: int = 16000,
    start: float = 0.0,
    duration: float | None = None,
    max_seconds: float = MAX_SECONDS,
    name: str | None = None,
) -> np.ndarray:
    """Read a sound file, or a part of it, as mono at one sample rate.

    Args:
        source: a path, the content of a file, or an open binary one, which is read from where it stands.
        sample_rate: of the result, in Hz; other rates are resampled (soxr, HQ).
        start: where to start, in seconds.
        duration: how much to read, in seconds; None for all. A file that ends earlier gives what there is.
        max_seconds: the longest piece that is decoded.
        name: what to call the file in errors; by default the path.

    Returns:
        float32 samples (T,), the mean of the channels; integer files are scaled to -1..1. The samples of a part are
        those of the whole at the same time, up to the rounding of resamplers and lossy decoders.

    Raises:
        AudioError: not a readable sound file, truncated, empty, with NaN or infinite samples, with an absurd rate or
            number of channels, longer than `max_seconds`, or shorter than `start`.
        ValueError: for a negative `start`, or a `duration` or `sample_rate` that is not positive.
    """
    with _open_sound(source, name) as opened:
        return np.concatenate([*_read_part(opened, start, duration, sample_rate, max_seconds, MAX_VALUES)])


def stream_audio(
    source: Source,
    *,
    sample_rate: int = 16000,
    start: float = 0.0,
    duration: float | None = None,
    max_seconds: float = MAX_STREAM_SECONDS,
    name: str | None = None,
) -> Iterator[np.ndarray]:
    """Read a sound file of any length, or a part of it, block by block, in memory that does not grow with it.

    Args: as for `read_audio`.

    Yields:
        Blocks of float32 samples (T,), of about 16 s at most; joined, they are what `read_audio` returns.

    Raises:
        AudioError: as `read_audio`; of a file that turns out to be bad at its end, after the blocks before it.
    """
    with _open_sound(source, name) as opened:
        yield from _read_part(opened, start, duration, sample_rate, max_seconds, None)


def audio_format(source: Source, *, name: str | None = None) -> tuple[int, int, str]:
    """Return sample rate in Hz, number of channels and format, such as "WAV PCM_16", or an AudioError by the header."""
    with _open_sound(source, name) as (sound, *_, kind):
        return sound.samplerate, sound.channels, f"{kind or sound.format} {sound.subtype}"


def audio_seconds(source: Source, *, name: str | None = None) -> float:
    """Return the length of a sound file in seconds, from its header where that states one, or an AudioError."""
    with _open_sound(source, name) as opened:
        num_frames = _count_frames(opened)
        if num_frames == 0:
            raise AudioError(opened.label, "no audio in it")
        if num_frames != _NO_LENGTH:
            return num_frames / float(opened.sound.samplerate)
    return len(read_audio(source, name=name)) / 16000


def _read_part(
    opened: _Opened,
    start: float,
    duration: float | None,
    sample_rate: int,
    max_seconds: float,
    max_values: int | None,
) -> Iterator[np.ndarray]:
    """Yield the blocks (T,) of a part, or of the whole; `max_values` None: as many as `max_seconds` can hold."""
    if not (0 <= start < math.inf) or (duration is not None and not 0 < duration < math.inf) or sample_rate <= 0:
        raise ValueError(f"no such part: start {start}, duration {duration}, sample rate {sample_rate}")
    sound, rate = opened.sound, opened.sound.samplerate
    first = round(start * sample_rate)
    stop = None if duration is None else first + max(1, round(duration * sample_rate))
    frame, last_frame = _frames_of(first, stop, rate, sample_rate)
    # What the resampler reads on both sides of a part is under 2 s and not the user's.
    most_frames = math.ceil((max_seconds + (0 if duration is None else 2)) * rate)
    if 0 < sound.frames <= frame:
        raise AudioError(opened.label, f"{sound.frames / rate:.2f} s long, asked for from {start:g} s")
    last_frame = _last_frame(opened, frame, last_frame, most_frames, max_seconds)
    promised = _promised_frames(opened, last_frame, is_whole=start == 0 and duration is None)
    max_values = most_frames * sound.channels if max_values is None else max_values
    blocks = _decode(opened, frame, last_frame, promised, most_frames, max_values)
    position = frame * sample_rate // rate  # of the next block, in samples of the result
    num_samples = 0
    energy = Energy(rate, sample_rate)
    for block in resample(blocks, rate, sample_rate, energy):
        part = block[max(0, first - position) :][: None if stop is None else max(0, stop - max(first, position))]
        position, num_samples = position + len(block), num_samples + len(part)
        if len(part):
            yield part
    energy.warn(opened.label)
    if num_samples == 0:
        reason = f"shorter than {start:g} s, where it was asked to start" if start else "too short to resample"
        raise AudioError(opened.label, reason)


class _Opened(NamedTuple):
    sound: Any  # libsndfile's view of it
    file: IO[bytes]
    size: int  # bytes
    label: str  # what errors call it
    kind: str  # of container, where libsndfile sees another


def _last_frame(
    opened: _Opened, frame: int, last_frame: int | None, most_frames: int, max_seconds: float
) -> int | None:
    """Return where to stop reading, None for the end of a sound that does not say how long it is."""
    num_frames, rate = opened.sound.frames, opened.sound.samplerate
    if num_frames == 0:
        raise AudioError(opened.label, "no audio in it")
    if num_frames == _NO_LENGTH:
        return last_frame
    last_frame = num_frames if last_frame is None else min(last_frame, num_frames)
    if last_frame - frame > most_frames:
        hours = (last_frame - frame) / rate / 3600
        raise AudioError(opened.label, f"{hours:.2f} h of audio, the most is {max_seconds / 3600:g} h: cut it first")
    return last_frame


def _promised_frames(opened: _Opened, last_frame: int | None, *, is_whole: bool) -> int:
    """Return how much must come back: an MP3 without an index has no length until its frames are counted."""
    is_guess = opened.sound.frames == _NO_LENGTH or (opened.sound.format == "MP3" and not has_index(opened.file))
    promised = 0 if is_guess or last_frame is None else last_frame
    if not is_whole:
        return promised
    num_frames = _count_frames(opened)
    return promised or (0 if num_frames == _NO_LENGTH else num_frames - _MP3_DELAY)


def _count_frames(opened: _Opened) -> int:
    """Return how many frames a sound holds: libsndfile's word, which is compared with that of the container."""
    sound, file, size, label, _ = opened
    num_frames = int(sound.frames)
    if sound.subtype in ("VORBIS", "OPUS"):
        promised = count_ogg_frames(file, size, sound.samplerate)
        if promised > num_frames and misses_ogg_pages(file, size):  # libsndfile adds up what its packets would give
            raise AudioError(label, f"damaged, or cut out of a longer stream: {num_frames} samples of {promised}")
    frames = count_frames(file, size) if sound.format == "MP3" else None
    if frames is None:
        return num_frames
    if frames.is_mostly_foreign:
        raise AudioError(label, "no MP3 frames in it: convert it to WAV or FLAC first")
    if frames.is_cut:
        raise AudioError(label, "truncated: the last MP3 frame is cut")
    if frames.num_foreign:
        raise AudioError(label, f"damaged: {frames.num_foreign} bytes between its MP3 frames are none")
    if frames.is_index_short:
        raise AudioError(label, "damaged: more MP3 frames than its index counts: convert it to WAV or FLAC first")
    if has_index(file):
        return num_frames
    if frames.num_samples > num_frames + 2 * frames.samples_per_frame:  # libsndfile would stop where its guess ends
        reason = "an MP3 of variable bit rate without an index, so of unknown length: convert it to WAV or FLAC first"
        raise AudioError(label, reason)
    return min(frames.num_samples, num_frames) or num_frames


def _find_seek(opened: _Opened, frame: int) -> int:
    """Return a frame, at or before `frame`, from which decoding gives the right samples at `frame`."""
    sound, file, size, *_ = opened
    if sound.frames == _NO_LENGTH or not sound.can_seek():
        return 0
    if sound.format == "MP3":
        # Frames borrow bits from earlier ones: after a seek mpg123 gives zeros, and words on stderr, for some of them.
        return 0 if frame < _MP3_SEEK_SECONDS * sound.samplerate else frame - _MP3_PREROLL
    if sound.subtype == "VORBIS":
        avoid = num_vorbis_frames_to_avoid(file, size)
        return 0 if avoid is None else min(frame, max(0, int(sound.frames) - avoid))
    return frame


def _frames_of(first: int, stop: int | None, rate: int, sample_rate: int) -> tuple[int, int | None]:
    """Return the range of source frames that output samples first..stop need."""
    if rate == sample_rate:
        return first, stop
    reach = math.ceil(_FILTER_REACH * max(1.0, rate / sample_rate))
    step = rate // math.gcd(rate, sample_rate)  # these coincide with samples: a part lies on the grid of the whole
    frame = max(0, first * rate // sample_rate - reach) // step * step
    return frame, None if stop is None else -(-stop * rate // sample_rate) + reach


@functools.cache
def _sound_file() -> Any:
    import soundfile

    class SequentialSoundFile(soundfile.SoundFile):  # type: ignore[misc, unused-ignore]
        """soundfile seeks after every block it reads, which fails in FLAC streams of unknown length."""

        def seekable(self) -> bool:
            return False

        def can_seek(self) -> bool:
            return bool(super().seekable())

    return SequentialSoundFile


@contextmanager
def _open_sound(source: Source, name: str | None) -> Iterator[_Opened]:
    """Open and vet a sound file."""
    import soundfile

    label = name or _label(source)
    if not label.isprintable():  # a line break, or bytes that are not UTF-8, would spoil the one-line message
        label = ascii(label)
    with _open_file(source, label) as (file, size):
        if size == 0:
            raise AudioError(label, "the file is empty")
        fault = "not a readable sound file"
        try:
            found = find_sound(file, size)
            found.file.seek(0)
            handle = found.file if isinstance(found.file, (Part, Content)) else file.fileno()
            with _sound_file()(handle, closefd=False) as sound:
                fault = "damaged or truncated"
                _check_format(sound, label)
                for reason in found.warnings:
                    warnings.warn(f"{label}: {reason}", AudioWarning, stacklevel=2)
                yield _Opened(sound, found.file, found.size, label, found.kind)
        except ContainerError as error:
            raise AudioError(label, str(error)) from None
        except soundfile.LibsndfileError as error:
            # This is how libsndfile puts it when libmpg123 finds no frames.
            is_misleading = error.error_string.startswith("File does not exist")
            detail = "" if is_misleading else f" ({error.error_string.strip().rstrip('.')})"
            raise AudioError(label, fault + detail) from error
        except OSError as error:
            raise AudioError(label, f"cannot be read: {error.strerror or error}") from error


@contextmanager
def _open_file(source: Source, label: str) -> Iterator[tuple[IO[bytes], int]]:
    """Open a path, if it is a regular file, or a content: yields the file and its size in bytes."""
    if not isinstance(source, (str, os.PathLike)):
        content = source if isinstance(source, bytes) else _read_content(source, label)
        yield Content(content), len(content)
        return
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # a named pipe must not hang us
    try:
        descriptor = os.open(source, flags)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = "a folder, not a sound file" if os.path.isdir(source) else getattr(error, "strerror", None)
        raise AudioError(label, reason or str(error)) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
        raise AudioError(label, f"{kind}, not a sound file")
    with open(descriptor, "rb", buffering=0) as file:
        yield file, status.st_size


def _label(source: Source) -> str:
    """Return what errors call a source that nobody named."""
    if isinstance(source, bytes):
        return f"{len(source)} bytes of audio"
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else getattr(source, "name", None)
    return name if isinstance(name, str) and name else "file"


def _read_content(file: IO[bytes], label: str) -> bytes:
    """Read an open file from where it stands to its end."""
    content, chunk = bytearray(), b""
    while len(content) <= MAX_CONTENT_BYTES:
        try:
            chunk = b"" if isinstance(file, io.TextIOBase) else file.read(1 << 20)
        except Exception as error:  # whatever this kind of file raises: closed, not for reading, a damaged archive
            raise AudioError(label, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if isinstance(file, io.TextIOBase) or not isinstance(chunk, bytes):
            raise AudioError(label, "it does not give bytes: open the file as binary, with 'rb'")
        if not chunk:
            break
        content += chunk
    else:
        raise AudioError(label, f"over {MAX_CONTENT_BYTES} bytes in an open file: give its path")
    if not content:
        raise AudioError(label, "no bytes from where it stands to its end: seek(0) if it was written or read before")
    return bytes(content)


def _check_format(sound: Any, label: str) -> None:
    if sound.format not in _FORMATS:
        raise AudioError(label, f"{sound.format} files are not supported: convert it to WAV or FLAC first")
    if sound.channels > MAX_CHANNELS:
        raise AudioError(label, f"{sound.channels} channels, the most is {MAX_CHANNELS}")
    if not MIN_RATE <= sound.samplerate <= MAX_RATE:
        raise AudioError(label, f"a sample rate of {sound.samplerate} Hz, outside {MIN_RATE} to {MAX_RATE} Hz")


def _decode(
    opened: _Opened, frame: int, last_frame: int | None, promised: int, most_frames: int, most_values: int
) -> Iterator[np.ndarray]:
    """Yield mono float32 blocks (T,) of the frames frame..last_frame, None for the end.

    Decoding that ends before `promised` is an error, and so is more than a file of its size can honestly hold.
    """
    sound, _, size, label, _ = opened
    position = frame and _find_seek(opened, frame)
    if position:
        sound.seek(position)
    rate, channels = sound.samplerate, sound.channels
    num_decoded, block = 0, max(1024, _BLOCK_VALUES // channels)
    while last_frame is None or position < last_frame:
        count = block if last_frame is None else min(block, last_frame - position)
        values = sound.read(count, dtype="float32", always_2d=True)  # (T, channels)
        skipped = max(0, frame - position)
        position, num_decoded = position + len(values), num_decoded + values.size
        if len(values) == 0:
            break
        if num_decoded > max(_FREE_VALUES, MAX_EXPANSION * size):
            raise AudioError(label, f"a decompression bomb: over {num_decoded // size} samples out of every byte")
        if num_decoded > most_values or position - frame > most_frames:
            most = min(most_frames, most_values / channels) / rate / 3600
            raise AudioError(label, f"over {most:.2f} h of audio, the most at {channels} x {rate} Hz: cut it first")
        values = values[skipped:]
        level = float(np.abs(values).max(initial=0.0))
        if not level <= MAX_LEVEL:  # also true of NaN
            reason = f"samples as large as {level:g}" if math.isfinite(level) else "NaN or infinite samples"
            raise AudioError(label, reason)
        yield values[:, 0] if channels == 1 else values.mean(axis=1)
    if position < promised:
        raise AudioError(label, f"truncated: it stops at {position / rate:.2f} s, {sound.frames / rate:.2f} s promised")

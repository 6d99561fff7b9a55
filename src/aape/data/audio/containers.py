"""Where in a file its sound lies, by what its container promises and what is there.

libsndfile shortens its own idea of a truncated WAV, AIFF or Ogg file without a word, believes a forged length that is
too small, and reads nothing where a recorder never filled in the length. So the promise is checked here, without
decoding, and where the header cannot be believed libsndfile gets another. The open file keeps its position.
docs/hostile-audio.md says what is refused, and why.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from typing import IO, NamedTuple

from aape.data.audio.flac import find_flac_fault
from aape.data.audio.headers import (
    ContainerError,
    Layout,
    aiff_layout,
    caf_layout,
    nist_layout,
    sun_layout,
    wave_layout,
)
from aape.data.audio.mpeg import find_index_fault, find_stream, id3_size, read_at
from aape.data.audio.ogg import find_ogg_fault

_MAX_SPARE = 8  # bytes that a length may be off, less than a chunk takes
_MAX_JUNK = 4096  # bytes behind the end of a file by its own count that nobody misses
_MAX_ZEROS = 1 << 20  # bytes before a sound
_MOST_ZEROS = 1 << 28  # bytes that are looked through; a sparse file may hold any number
_MAX_TAGS = 16
_PIECE = 1 << 20  # bytes looked through at once

_NOTES = (b"LIST", b"bext", b"iXML", b"id3 ", b"ID3 ", b"JUNK", b"guan", b"wamd", b"cue ", b"smpl", b"ANNO", b"info")

_CONVERT = "is not supported: convert it to WAV or FLAC first, e.g. with ffmpeg"
_FOREIGN = (  # offset, magic bytes, what it is
    (4, b"ftyp", f"MP4/M4A (AAC) {_CONVERT}"),
    (0, b"\xff\xf1", f"AAC {_CONVERT}"),
    (0, b"\xff\xf9", f"AAC {_CONVERT}"),
    (0, b"\x1aE\xdf\xa3", f"WebM/Matroska {_CONVERT}"),
    (0, b"0&\xb2u\x8ef\xcf\x11", f"WMA {_CONVERT}"),
    (0, b"#!AMR", f"AMR {_CONVERT}"),
    (0, b"wvpk", f"WavPack {_CONVERT}"),
    (0, b"version https://git-lfs", "this is a Git LFS pointer, not audio: fetch the audio with `git lfs pull`"),
)
_LAYOUTS: dict[bytes, Callable[[IO[bytes]], Layout]] = {
    **dict.fromkeys((b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff"), wave_layout),
    b"FORM": aiff_layout,
    b"caff": caf_layout,
    **dict.fromkeys((b".snd", b"dns."), sun_layout),
    b"NIST": nist_layout,
}
_STREAMS = {b"OggS": find_ogg_fault, b"fLaC": find_flac_fault}


class Sound(NamedTuple):
    """What libsndfile is to read."""

    file: IO[bytes]  # the file itself, or a `Part` of it
    size: int  # bytes of that
    kind: str  # of container, where libsndfile sees another; empty otherwise
    warnings: tuple[str, ...]  # what was wrong, and does not matter to the samples


class Content(io.BytesIO):
    """The content of a file, in which a seek before the start, as of a damaged header, stays where it is."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position, or stay."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):  # soundfile's callback would print it
            return self.tell()


class Part(io.RawIOBase):
    """Bytes first..last of an open file behind another header; a seek before the start stays where it is."""

    def __init__(self, file: IO[bytes], first: int, last: int, header: bytes = b"") -> None:
        super().__init__()
        self._file, self._first, self._header = file, first, header
        self._size, self._position = len(header) + last - first, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position; what a damaged header leads to need not exist."""
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if 0 <= position < 1 << 63:  # libsndfile's callback would print an exception
            self._position = position
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readable(self) -> bool:
        """Tell that this can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that this can seek."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read into a buffer as much as it holds, or as there is."""
        count = max(0, min(len(buffer), self._size - self._position))
        data = self._header[self._position : self._position + count]
        if count > len(data):
            self._file.seek(self._first + self._position + len(data) - len(self._header))
            data += self._file.read(count - len(data))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def find_sound(file: IO[bytes], size: int) -> Sound:
    """Return the sound in a file of `size` bytes.

    Raises:
        ContainerError: it cannot be used as far as its first and last bytes tell.
    """
    first = _skip_zeros(file, 0, min(size, _MAX_ZEROS))
    head = read_at(file, first, 32)
    begin = first
    num_tags = 0
    while id3_size(head):  # some programs put such a tag before any kind of sound
        num_tags += 1
        if num_tags > _MAX_TAGS:
            raise ContainerError(f"over {_MAX_TAGS} tags before the sound")
        begin += id3_size(head)
        begin = _skip_zeros(file, begin, min(size, begin + _MAX_ZEROS))
        head = read_at(file, begin, 32)
    for offset, magic, reason in _FOREIGN:
        if magic in (head[offset : offset + len(magic)], read_at(file, offset, len(magic))):
            raise ContainerError(reason)
    if head[:4] in _LAYOUTS:
        return _find_samples(*_from(file, begin, size))
    if head[:4] in _STREAMS:
        part, length = _from(file, begin, size)
        if fault := _STREAMS[head[:4]](part, length):
            raise ContainerError(fault)
        return Sound(part, length, "", ())
    return _find_mpeg(file, first, begin, size)


def _from(file: IO[bytes], first: int, last: int) -> tuple[IO[bytes], int]:
    """Return a file from a position on, and its size."""
    return (Part(file, first, last), last - first) if first else (file, last)  # type: ignore[return-value]


def _find_mpeg(file: IO[bytes], first: int, begin: int, size: int) -> Sound:
    """MP3 has no header: what lies before its first frames is left out, but for a tag that libsndfile knows."""
    start = find_stream(file, begin, size)
    if start is not None and (first or start > begin or begin > first + id3_size(read_at(file, first, 10))):
        file, size = _from(file, start, size)
    if start is not None and (fault := find_index_fault(file, size)):
        raise ContainerError(fault)
    return Sound(file, size, "", ())


def _find_samples(file: IO[bytes], size: int) -> Sound:
    """Return what libsndfile is to read of a file whose header says where its samples lie."""
    layout = _LAYOUTS[read_at(file, 0, 4)](file)
    end = _find_end(file, size, layout)
    if layout.is_mpeg:
        part = Part(file, layout.start, end)
        return _find_mpeg(part, 0, 0, end - layout.start)._replace(kind=layout.kind)  # type: ignore[arg-type]
    warnings = list(layout.warnings)
    if 0 < end <= layout.whole < size - _MAX_JUNK and not _is_harmless(file, layout.whole, size, layout.chunk):
        warnings.append(f"{size - layout.whole} bytes behind its end, by its own header, were left out")
    is_believed = layout.is_plain and layout.length == end - layout.start and not layout.whole < end
    if is_believed or layout.rebuild is None or end == layout.start:
        return Sound(file, size, "", tuple(warnings))
    header = layout.rebuild(end - layout.start)
    part = Part(file, layout.start, end, header)
    return Sound(part, len(header) + end - layout.start, layout.kind, tuple(warnings))  # type: ignore[arg-type]


def _find_end(file: IO[bytes], size: int, layout: Layout) -> int:
    """Return where the samples end: they must lie inside the file, and what follows them must be something else."""
    start, length = layout.start, layout.length
    if not length and read_at(file, start, 4) == read_at(file, 0, 4):
        raise ContainerError(
            "damaged: a second header instead of samples, as of a program that could not write to a pipe"
        )
    if length is None or (length == 0 and not _begins_chunk(file, start, size, layout.chunk)):
        return max(start, size)
    end = start + length
    if end > size and length in (size, size - 8) and layout.whole < end:  # the header was counted too
        return size
    if end > size:
        raise ContainerError(f"truncated: {length} bytes of samples promised, {max(0, size - start)} there")
    last = layout.whole if end <= layout.whole <= size else size
    if _is_harmless(file, end, last, layout.chunk):
        return end
    if length <= start:  # the header's size, written for that of an empty file
        return size
    raise ContainerError(
        f"damaged header: what its length leaves over of the samples, {last - end} bytes, is nothing else"
    )


def _is_harmless(file: IO[bytes], first: int, last: int, chunk: str) -> bool:
    """Tell whether what lies behind the samples is none: next to nothing, zeros, a chunk or a tag."""
    after = _skip_zeros(file, first, last)
    if last - after < _MAX_SPARE or read_at(file, after, 3) in (b"ID3", b"TAG", b"APE"):
        return True
    # A chunk of odd length is padded, but not by every program.
    return any(_begins_chunk(file, position, last, chunk) for position in (first, first + 1, after))


def _begins_chunk(file: IO[bytes], position: int, last: int, chunk: str) -> bool:
    """Tell whether a chunk, whose header has the layout `chunk`, lies at a position: a whole one, or one of notes."""
    size = struct.calcsize(chunk)
    header = read_at(file, position, size)
    if size == 0 or len(header) < size or position + size > last:
        return False
    name, length = struct.unpack(chunk, header)
    is_whole = all(0x20 <= byte < 0x7F for byte in name[:4]) and 0 <= length <= last - position
    return is_whole or name[:4] in _NOTES


def _skip_zeros(file: IO[bytes], first: int, last: int) -> int:
    """Return the position of the first byte that is not zero, `last` if there is none in `_MOST_ZEROS`."""
    most = first + _MOST_ZEROS
    while first < min(last, most):
        piece = read_at(file, first, min(_PIECE, last - first))
        rest = piece.lstrip(b"\0")
        first += len(piece) - len(rest)
        if rest or not piece:
            return first
    return last

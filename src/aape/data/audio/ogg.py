"""What an Ogg file promises on its first and last pages. The open file keeps its position."""

from __future__ import annotations

import struct
from typing import IO

from aape.data.audio.mpeg import read_at

_MAX_OGG_PAGE = 27 + 255 + 255 * 255  # bytes
_MAX_VORBIS_BLOCK = 8192  # frames


def _last_ogg_pages(file: IO[bytes], size: int) -> list[tuple[int, int, int, int]]:
    """List the pages that start at the end of an Ogg file: bytes left after it, flags, frames so far, stream."""
    tail = read_at(file, max(0, size - _MAX_OGG_PAGE), _MAX_OGG_PAGE)
    pages = []
    position = tail.find(b"OggS")
    while position >= 0:
        page = tail[position : position + 282]
        if len(page) < 27 or page[4] == 0:
            table = page[26] if len(page) >= 27 else 255
            end = position + 27 + table + sum(page[27 : 27 + table])
            flags, granule, stream = struct.unpack("<BqI", page[5:18]) if len(page) >= 18 else (0, -1, -1)
            pages.append((len(tail) - end, flags, granule, stream))
        position = tail.find(b"OggS", position + 4)
    return pages


def find_ogg_fault(file: IO[bytes], size: int) -> str | None:
    """Ogg: the last page must be whole, marked as the last, of the first page's stream, and not earlier than another.

    libsndfile reads the first of several streams only, and takes the last page's word for where the sound ends.
    """
    head = read_at(file, 28, 8)  # of the first packet
    for magic, name in ((b"\x7fFLAC", "Ogg FLAC"), (b"Speex   ", "Speex")):
        if head.startswith(magic):
            return f"{name} is not supported: convert it to WAV or FLAC first, e.g. with ffmpeg"
    pages = _last_ogg_pages(file, size)
    if not pages or pages[-1][0] < 0 or not pages[-1][1] & 4:
        return "truncated: the Ogg stream has no end"
    first = read_at(file, 0, 282)
    second = read_at(file, 27 + first[26] + sum(first[27 : 27 + first[26]]), 6)
    begins_another = second[:4] == b"OggS" and second[5:] != b"" and bool(second[5] & 2)
    if begins_another or pages[-1][3] != int.from_bytes(first[14:18], "little"):
        return "several Ogg streams in one file: split them, or convert it to WAV or FLAC first"
    if any(granule > pages[-1][2] for _, _, granule, _ in pages):
        return "damaged: the Ogg stream ends before its own sound"
    return None


def count_ogg_frames(file: IO[bytes], size: int, rate: int) -> int:
    """Return how many frames, at `rate` Hz, an Ogg Vorbis or Opus file holds by what its last page states."""
    head = read_at(file, 28, 12)  # behind the first page's own header
    position = max((granule for _, _, granule, _ in _last_ogg_pages(file, size)), default=0)
    if head[:8] == b"OpusHead":  # counts at 48 kHz, what the decoder has to skip included
        return max(0, position - int.from_bytes(head[10:12], "little")) * rate // 48000
    return max(0, position)


def misses_ogg_pages(file: IO[bytes], size: int) -> bool:
    """Say whether pages are missing, by their numbers: not all encoders count frames from the first one."""
    position, number = 0, 0
    while position < size:
        page = read_at(file, position, 282)
        if len(page) < 27 or page[:4] != b"OggS" or page[18:22] != struct.pack("<I", number):
            return True
        position, number = position + 27 + page[26] + sum(page[27 : 27 + page[26]]), number + 1
    return position > size


def num_vorbis_frames_to_avoid(file: IO[bytes], size: int) -> int | None:
    """Return how many frames before the end libsndfile must not seek to in an Ogg Vorbis file, or None for all."""
    # The last page states the trimmed length, from which libsndfile 1.2 derives positions inside that page: a seek into
    # it lands off by the trimmed part of the last block. Seeking to before it and reading on is right.
    granules = [granule for _, _, granule, _ in _last_ogg_pages(file, size) if granule > 0]
    return granules[-1] - granules[-2] + _MAX_VORBIS_BLOCK if len(granules) > 1 else None

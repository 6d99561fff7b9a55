"""What a sound file's container promises, read from its first and last bytes.

libsndfile shortens its own idea of a truncated WAV, AIFF or Ogg file without a word, and believes a forged length that
is too small. The open file keeps its position. docs/hostile-audio.md says what is refused, and why.
"""

from __future__ import annotations

import struct
from typing import IO

from aape.data.audio.flac import find_flac_fault
from aape.data.audio.mpeg import find_index_fault, read_at

_MAX_OGG_PAGE = 27 + 255 + 255 * 255  # bytes
_MAX_VORBIS_BLOCK = 8192  # frames
_MAX_CHUNKS = 1000  # before the samples; a forged file can hold millions of empty ones
_MAX_SPARE = 8  # bytes that a length may be off, less than a chunk takes
_UNKNOWN_LENGTH = 0x7FFFF000  # from here on a 32-bit length is what a program writes that cannot know (sox, ffmpeg)

_AIFC_UNCOMPRESSED = (b"none", b"sowt", b"twos", b"fl32", b"fl64", b"in24", b"in32", b"raw ")

_CONVERT = "is not supported: convert it to WAV or FLAC first, e.g. with ffmpeg"
_FOREIGN = (  # offset, magic bytes, what it is
    (4, b"ftyp", f"MP4/M4A (AAC) {_CONVERT}"),
    (0, b"\xff\xf1", f"AAC {_CONVERT}"),
    (0, b"\xff\xf9", f"AAC {_CONVERT}"),
    (0, b"\x1aE\xdf\xa3", f"WebM/Matroska {_CONVERT}"),
    (0, b"0&\xb2u\x8ef\xcf\x11", f"WMA {_CONVERT}"),
    (0, b"#!AMR", f"AMR {_CONVERT}"),
    (0, b"version https://git-lfs", "this is a Git LFS pointer, not audio: fetch the audio with `git lfs pull`"),
)


def find_fault(file: IO[bytes], size: int) -> str | None:
    """Return why a file of `size` bytes cannot be used as far as its first and last bytes tell, or None."""
    head = read_at(file, 0, 32)
    for offset, magic, reason in _FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            return reason
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        return _find_chunk_fault(file, size, head[:4])
    if head[:4] == b"OggS":
        return _find_ogg_fault(file, size)
    if head[:4] == b"fLaC":
        return find_flac_fault(file, size)
    if head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
        return find_index_fault(file, size)
    return None


def _find_chunk_fault(file: IO[bytes], size: int, kind: bytes) -> str | None:
    """WAV and AIFF: the samples must lie inside the file, fill what their header says, and end where a chunk begins."""
    order = "<" if kind in (b"RIFF", b"RF64") else ">"
    position, long_length, common = 12, 0, b""
    whole = struct.unpack(f"{order}I", read_at(file, 4, 4).rjust(4))[0]
    for _ in range(_MAX_CHUNKS):
        header = read_at(file, position, 8)
        if len(header) < 8:
            return "damaged or empty: its chunks lead to no samples"
        name, length = struct.unpack(f"{order}4sI", header)
        if name == b"ds64":
            whole, long_length = struct.unpack("<QQ", read_at(file, position + 8, 16).ljust(16))
        elif name == b"fmt ":
            if fault := _find_format_fault(read_at(file, position + 8, 16), order):
                return fault
        elif name == b"COMM":
            common = read_at(file, position + 8, min(length, 22))
        elif name in (b"data", b"SSND"):
            if name == b"SSND" and _counts_other_frames(common, length, read_at(file, position + 8, 4)):
                return f"damaged header: its frames do not fill its {length} bytes of samples"
            if length in (0, 0xFFFFFFFF) and long_length:
                length = long_length
            elif length >= _UNKNOWN_LENGTH or length == 0:
                return None
            end = position + 8 + length
            if end > size:
                return f"truncated: {length} bytes of samples promised, {max(0, size - position - 8)} there"
            return _find_tail_fault(file, size, end, 8 + whole, order)
        position += 8 + length + length % 2
    return f"over {_MAX_CHUNKS} chunks before the samples"


def _find_format_fault(chunk: bytes, order: str) -> str | None:
    """WAV: the same number is written in several ways; where they differ, one is wrong, and which is a guess."""
    if len(chunk) < 16:
        return None
    tag, channels, rate, byte_rate, block, bits = struct.unpack(f"{order}HHIIHH", chunk)
    if tag not in (1, 3, 0xFFFE):
        return None
    width = (bits + 7) // 8
    if block != channels * width and not (width == 3 and block == channels * 4):
        return f"damaged header: {channels} channels of {bits} bits cannot be {block} bytes"
    # Some programs write none, forget the channels, or count bits.
    if byte_rate not in (0, rate * block, rate * width, rate * bits, rate * channels * bits, rate):
        return f"damaged header: {rate} Hz of {block} bytes cannot be {byte_rate} bytes a second"
    return None


def _counts_other_frames(common: bytes, length: int, offset: bytes) -> bool:
    """AIFF: tell whether the COMM chunk counts other samples than the SSND chunk holds."""
    if len(common) < 18 or (len(common) >= 22 and common[18:22].lower() not in _AIFC_UNCOMPRESSED):
        return False
    channels, frames, bits = struct.unpack(">HIH", common[:8])
    if length == 0 or length >= _UNKNOWN_LENGTH:  # a recording that was broken off, if it counts no frames either
        return frames > 0
    spare = length - 8 - int.from_bytes(offset, "big") - frames * channels * ((bits + 7) // 8)
    return not 0 <= spare < _MAX_SPARE


def _find_tail_fault(file: IO[bytes], size: int, end: int, whole: int, order: str) -> str | None:
    """WAV and AIFF: what follows the samples, as far as the file counts it as its own, must be a chunk."""
    rest = (whole if end <= whole <= size else size) - end
    if rest < _MAX_SPARE:
        return None
    for position in (end, end + 1):  # a chunk of odd length is padded, but not by every program
        name, length = struct.unpack(f"{order}4sI", read_at(file, position, 8).ljust(8))
        if all(0x20 <= byte < 0x7F for byte in name) and position + 8 + length <= size:
            return None
    return f"damaged header: what its length leaves over of the samples, {rest} bytes, is nothing else"


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


def _find_ogg_fault(file: IO[bytes], size: int) -> str | None:
    """Ogg: the last page must be whole, marked as the last, of the first page's stream, and not earlier than another.

    libsndfile reads the first of several streams only, and takes the last page's word for where the sound ends.
    """
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


def num_vorbis_frames_to_avoid(file: IO[bytes], size: int) -> int | None:
    """Return how many frames before the end libsndfile must not seek to in an Ogg Vorbis file, or None for all."""
    # The last page states the trimmed length, from which libsndfile 1.2 derives positions inside that page: a seek into
    # it lands off by the trimmed part of the last block. Seeking to before it and reading on is right.
    granules = [granule for _, _, granule, _ in _last_ogg_pages(file, size) if granule > 0]
    return granules[-1] - granules[-2] + _MAX_VORBIS_BLOCK if len(granules) > 1 else None

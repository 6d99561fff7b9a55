"""What a sound file's container promises, read from its first and last bytes.

libsndfile shortens its own idea of a truncated WAV, AIFF or Ogg file without a word, and estimates the length of an
MP3 file that has no index; these checks notice both without decoding anything. Each takes the open file, whose
position it leaves alone, and its size in bytes.
"""

from __future__ import annotations

import struct
from typing import IO

_MAX_OGG_PAGE = 27 + 255 + 255 * 255  # bytes
_MAX_VORBIS_BLOCK = 8192  # frames
_MAX_MPEG_WALK = 64 << 20  # bytes; a longer MP3 without an index is trusted
_UNKNOWN_LENGTH = 0x7FFFF000  # from here on a 32-bit length is what a program writes that cannot know (sox, ffmpeg)

# MPEG audio layer III: kbit/s by bit rate index and Hz by sample rate index
_MPEG1_KBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBITS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG1_RATES = (44100, 48000, 32000)

_FOREIGN = (  # offset, magic bytes, what it is
    (4, b"ftyp", "MP4/M4A (AAC) is not supported: convert it to WAV or FLAC first, e.g. with ffmpeg"),
    (0, b"\xff\xf1", "AAC is not supported: convert it to WAV or FLAC first, e.g. with ffmpeg"),
    (0, b"\xff\xf9", "AAC is not supported: convert it to WAV or FLAC first, e.g. with ffmpeg"),
    (0, b"\x1aE\xdf\xa3", "WebM/Matroska is not supported: convert it to WAV or FLAC first, e.g. with ffmpeg"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "WMA is not supported: convert it to WAV or FLAC first, e.g. with ffmpeg"),
    (0, b"#!AMR", "AMR is not supported: convert it to WAV or FLAC first, e.g. with ffmpeg"),
    (0, b"version https://git-lfs", "this is a Git LFS pointer, not audio: fetch the audio with `git lfs pull`"),
)


def find_fault(file: IO[bytes], size: int) -> str | None:
    """Return why a file cannot be used as far as its first and last bytes tell, or None.

    Args:
        file: the open file.
        size: its length in bytes.
    """
    head = _read_at(file, 0, 32)
    for offset, magic, reason in _FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            return reason
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        return _find_chunk_fault(file, size, head[:4])
    if head[:4] == b"OggS":
        return _find_ogg_fault(file, size)
    if head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
        return _find_mpeg_index_fault(file, size)
    return None


def _read_at(file: IO[bytes], position: int, count: int) -> bytes:
    # The position is put back: libsndfile may be reading from the same descriptor.
    before = file.tell()
    file.seek(position)
    data = file.read(count)
    file.seek(before)
    return data


def _find_chunk_fault(file: IO[bytes], size: int, kind: bytes) -> str | None:
    """WAV and AIFF: the chunk with the samples must lie inside the file."""
    length_format = "<4sI" if kind in (b"RIFF", b"RF64") else ">4sI"
    position, long_length = 12, 0
    for _ in range(1000):  # a forged file can hold millions of empty chunks
        header = _read_at(file, position, 8)
        if len(header) < 8:
            break
        name, length = struct.unpack(length_format, header)
        if name == b"ds64":
            long_length = int.from_bytes(_read_at(file, position + 16, 8), "little")
        elif name in (b"data", b"SSND"):
            if length == 0xFFFFFFFF:
                length = long_length
            elif length >= _UNKNOWN_LENGTH:
                length = 0
            if position + 8 + length > size:
                return f"truncated: {length} bytes of samples promised, {max(0, size - position - 8)} there"
            return None
        position += 8 + length + length % 2
    return None


def _ogg_pages(tail: bytes) -> list[tuple[int, int, int]]:
    """List the pages that start in the last bytes of an Ogg file: (end in `tail`, flags, frame position at the end)."""
    pages = []
    position = tail.find(b"OggS")
    while position >= 0:
        page = tail[position : position + 282]
        if len(page) < 27 or page[4] == 0:
            table = page[26] if len(page) >= 27 else 255
            end = position + 27 + table + sum(page[27 : 27 + table])
            flags, granule = struct.unpack("<Bq", page[5:14]) if len(page) >= 14 else (0, -1)
            pages.append((end, flags, granule))
        position = tail.find(b"OggS", position + 4)
    return pages


def _find_ogg_fault(file: IO[bytes], size: int) -> str | None:
    """Ogg: the last page must be whole and marked as the last."""
    tail = _read_at(file, max(0, size - _MAX_OGG_PAGE), _MAX_OGG_PAGE)
    pages = _ogg_pages(tail)
    if not pages or pages[-1][0] > len(tail) or not pages[-1][1] & 4:
        return "truncated: the Ogg stream has no end"
    return None


def num_vorbis_frames_to_avoid(file: IO[bytes], size: int) -> int | None:
    """Return how many frames before the end libsndfile must not seek to in an Ogg Vorbis file, or None for all.

    The last page states the trimmed length, from which libsndfile 1.2 derives positions inside that page: a seek
    into it lands off by the trimmed part of the last block. Seeking to before it and reading on is right.
    """
    tail = _read_at(file, max(0, size - _MAX_OGG_PAGE), _MAX_OGG_PAGE)
    granules = [granule for _, _, granule in _ogg_pages(tail) if granule > 0]
    return granules[-1] - granules[-2] + _MAX_VORBIS_BLOCK if len(granules) > 1 else None


def _skip_id3(file: IO[bytes]) -> int:
    """Return where the first MPEG frame should start."""
    head = _read_at(file, 0, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    return 10 + size + (10 if head[5] & 0x10 else 0)


def _find_mpeg_index(file: IO[bytes]) -> tuple[int, bytes]:
    """Return the position of the first MPEG frame and its Xing/Info index (empty if there is none)."""
    start = _skip_id3(file)
    frame = _read_at(file, start, 64)
    found = max(frame.find(b"Xing"), frame.find(b"Info"))
    return start, frame[found:] if found > 0 else b""


def _find_mpeg_index_fault(file: IO[bytes], size: int) -> str | None:
    """MP3 with an index: as many bytes as the index counts must be there."""
    start, index = _find_mpeg_index(file)
    if len(index) < 16:
        return None
    flags = int.from_bytes(index[4:8], "big")
    if flags & 2:
        position = 12 if flags & 1 else 8
        promised = int.from_bytes(index[position : position + 4], "big")
        if start + promised > size:
            return f"truncated: {promised} bytes of MP3 frames promised, {size - start} there"
    return None


def has_mpeg_index(file: IO[bytes]) -> bool:
    """Tell whether an MP3 file states its length; libsndfile guesses it from the first frame otherwise."""
    return bool(_find_mpeg_index(file)[1])


def count_mpeg_frames(file: IO[bytes], size: int) -> tuple[int, bool] | None:
    """Count the sample frames of an MP3 file by walking its frame headers, without decoding.

    Returns:
        The count, and whether the last frame is cut short; None where the file is too long to be walked.
    """
    if size > _MAX_MPEG_WALK:
        return None
    start, _ = _find_mpeg_index(file)
    data = _read_at(file, start, size - start)
    position, counted = 0, 0
    while position + 4 <= len(data):
        length, samples = _mpeg_frame(data, position)
        if length == 0:  # a tag at the end, or something that only the decoder can judge
            break
        position, counted = position + length, counted + samples
    return counted, position > len(data)


def _mpeg_frame(data: bytes, position: int) -> tuple[int, int]:
    """Return the bytes and the sample frames of the layer III frame at `position`, zeros if there is none."""
    first, second, third = data[position], data[position + 1], data[position + 2]
    version, layer = second >> 3 & 3, second >> 1 & 3  # version 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    bits, rate = third >> 4, third >> 2 & 3
    if first != 0xFF or second < 0xE0 or layer != 1 or version == 1 or rate == 3 or bits in (0, 15):
        return 0, 0
    padding = third >> 1 & 1
    if version == 3:
        return 144000 * _MPEG1_KBITS[bits] // _MPEG1_RATES[rate] + padding, 1152
    return 72000 * _MPEG2_KBITS[bits] // (_MPEG1_RATES[rate] >> (1 if version == 2 else 2)) + padding, 576

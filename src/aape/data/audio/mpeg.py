"""What an MP3 file holds, counted from the headers of its frames without decoding.

MP3 has no container: libsndfile believes the index in the first frame, or guesses the length from the first bit rate,
and libmpg123 steps over what it does not understand without a word. The open file keeps its position.
"""

from __future__ import annotations

from typing import IO, NamedTuple

_MAX_BYTES = 64 << 20  # a longer file is not walked
_MAX_SEARCHED = 1 << 17  # bytes looked through, in all, for where frames go on

_MIN_FRAMES = 4  # that follow each other, in what is not sound by its first bytes

# MPEG audio layers II and III: kbit/s by bit rate index and Hz by sample rate index
_MPEG1_LAYER2_KBITS = (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
_MPEG1_KBITS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBITS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG1_RATES = (44100, 48000, 32000)


class FrameCount(NamedTuple):
    """What the frame headers of an MP3 file add up to."""

    num_samples: int  # per channel, the frame with the index left out
    samples_per_frame: int  # of the last one
    num_foreign: int  # bytes between frames that are neither frames nor tags
    is_mostly_foreign: bool  # most of the file is neither: other data in which two bytes look like a frame
    is_cut: bool  # the last frame is not whole
    is_index_short: bool  # the index counts fewer frames than there are


def find_index_fault(file: IO[bytes], size: int) -> str | None:
    """Return why an MP3 file with an index cannot be whole: as many bytes as the index counts must be there."""
    start, index = _find_index(file)
    flags = int.from_bytes(index[4:8], "big")
    if len(index) >= 16 and flags & 2:
        position = 12 if flags & 1 else 8
        promised = int.from_bytes(index[position : position + 4], "big")
        if start + promised > size:
            return f"truncated: {promised} bytes of MP3 frames promised, {size - start} there"
    return None


def find_stream(file: IO[bytes], position: int, size: int) -> int | None:
    """Return where, not far behind `position`, MPEG frames begin; None if there are none."""
    data = read_at(file, position, min(size - position, 2 * _MAX_SEARCHED))
    if data[:1] == b"\xff" and data[1:2] >= b"\xe0":
        return position
    start = _find_frames(data, 0, _MAX_SEARCHED, _MIN_FRAMES)
    return None if start is None else position + start


def has_index(file: IO[bytes]) -> bool:
    """Tell whether an MP3 file states its length; libsndfile guesses it from the first frame otherwise."""
    index = _find_index(file)[1]
    return len(index) >= 12 and bool(int.from_bytes(index[4:8], "big") & 1)


def count_frames(file: IO[bytes], size: int) -> FrameCount | None:
    """Walk the frame headers of an MP3 file of `size` bytes; None where it is too long to be walked."""
    if size > _MAX_BYTES:
        return None
    start, index = _find_index(file)
    data = read_at(file, start, size - start)
    position, num_samples, num_frames, samples_per_frame = 0, 0, 0, 0
    num_known, num_foreign, searched = 0, 0, 0
    while position + 4 <= len(data):
        length, samples = _frame(data, position)
        length = length or _tag(data, position)
        if length == 0:
            following = _find_frames(data, position + 1, _MAX_SEARCHED - searched)
            if following is None:
                break
            searched += following - position
            num_foreign += following - position if num_frames else 0  # what comes before the sound is nobody's loss
            position = following
            continue
        position, num_known = position + length, num_known + length
        num_samples, num_frames = num_samples + samples, num_frames + (samples > 0)
        samples_per_frame = samples or samples_per_frame
    is_mostly_foreign = num_samples == 0 or 2 * num_known < len(data)
    is_index_short = False
    if index and num_frames:
        num_samples, num_frames = max(0, num_samples - samples_per_frame), num_frames - 1
        is_index_short = bool(index[7] & 1) and int.from_bytes(index[8:12], "big") < num_frames
    is_cut = position > len(data)
    return FrameCount(num_samples, samples_per_frame, num_foreign, is_mostly_foreign, is_cut, is_index_short)


def read_at(file: IO[bytes], position: int, count: int) -> bytes:
    """Read bytes anywhere in a file; its position is put back, as libsndfile may read from the same descriptor."""
    before = file.tell()
    try:
        file.seek(position)
    except (OSError, OverflowError):  # further than any file reaches
        return b""
    data = file.read(count)
    file.seek(before)
    return data


def id3_size(head: bytes) -> int:
    """Return the bytes of the ID3 tag that begins with the 10 bytes `head`, 0 if it is none."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    return 10 + size + (10 if head[5] & 0x10 else 0)


def _find_index(file: IO[bytes]) -> tuple[int, bytes]:
    """Return the position of the first MPEG frame and its Xing/Info index (empty if there is none)."""
    head = read_at(file, 0, 10)
    start = id3_size(head)
    frame = read_at(file, start, 64)
    position = max(frame.find(b"Xing"), frame.find(b"Info"))
    return start, frame[position:] if 0 < position <= len(frame) - 8 else b""


def _tag(data: bytes, position: int) -> int:
    """Return the bytes of the tag at `position`, 0 if there is none."""
    head = data[position : position + 32]
    if head[:3] == b"ID3":
        return id3_size(head)
    if head[:3] == b"TAG":
        return min(128, len(data) - position)
    if head[:8] == b"APETAGEX" and len(head) == 32:
        return min(32 + int.from_bytes(head[12:16], "little"), len(data) - position)
    return 0


def _find_frames(data: bytes, position: int, most: int, count: int = 2) -> int | None:
    """Return where, within `most` bytes, `count` frames follow each other."""
    end = min(len(data), position + max(0, most))
    position = data.find(b"\xff", position, end)
    while position >= 0:
        following = position
        for _ in range(count):
            length, _ = _frame(data, following)
            following += length
            if length == 0:
                break
        else:
            return position
        position = data.find(b"\xff", position + 1, end)
    return None


def _frame(data: bytes, position: int) -> tuple[int, int]:
    """Return the bytes and the sample frames of the layer II or III frame at `position`, zeros if there is none."""
    if position + 4 > len(data):
        return 0, 0
    first, second, third = data[position], data[position + 1], data[position + 2]
    version, layer = second >> 3 & 3, second >> 1 & 3  # version 3: MPEG 1, 2: MPEG 2, 0: 2.5; layer 1: III, 2: II
    bits, rate = third >> 4, third >> 2 & 3
    if first != 0xFF or second < 0xE0 or layer not in (1, 2) or version == 1 or rate == 3 or bits in (0, 15):
        return 0, 0
    padding, hertz = third >> 1 & 1, _MPEG1_RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    kbits = _MPEG2_KBITS[bits] if version != 3 else (_MPEG1_LAYER2_KBITS if layer == 2 else _MPEG1_KBITS)[bits]
    samples = 576 if version != 3 and layer == 1 else 1152
    return samples * 125 * kbits // hertz + padding, samples

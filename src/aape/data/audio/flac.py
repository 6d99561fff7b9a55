"""What a FLAC stream promises, beside what the header of its last frame says.

libFLAC believes the number of samples at the start of a stream; one that is too small would drop the rest in silence.
The layout is that of RFC 9639.
"""

from __future__ import annotations

from typing import IO, NamedTuple

from aape.data.audio.mpeg import read_at

_TAIL = 1 << 17  # bytes; frames of the usual block sizes are under 32 KB
_MAX_CHECKED = 8  # frames whose samples are run through their checksum
_RATES = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)


class _Frame(NamedTuple):
    block_size: int
    end: int  # position in the stream behind its last sample
    rate: int  # 0 for that of the stream


def find_flac_fault(file: IO[bytes], size: int) -> str | None:
    """Return why the start of a FLAC stream of `size` bytes cannot be true of its last frame, or None."""
    head = read_at(file, 0, 26)
    if len(head) < 26 or head[4] & 0x7F:  # the first block is the stream's description, or the file is no FLAC
        return None
    fields = int.from_bytes(head[18:26], "big")
    rate, total = fields >> 44, fields & ((1 << 36) - 1)
    first = max(42, size - _TAIL)
    tail = read_at(file, first, size - first)
    if tail[-128:-125] == b"TAG":
        tail = tail[:-128]
    fixed_size = _first_block_size(file)
    frames = []
    position = tail.find(b"\xff")
    while position >= 0:
        frame = _read_frame(tail[position : position + 16], fixed_size)
        if frame is not None:
            frames.append((position, frame))
        position = tail.find(b"\xff", position + 1)
    num_checked, stop = 0, len(tail)
    for position, frame in reversed(frames):
        is_longer = bool(total) and frame.end > total
        if is_longer or frame.rate not in (0, rate):
            num_checked += 1
            if _checksum(tail[position:stop], 16) == 0:  # over a frame with its own checksum
                there = (
                    f"{total} samples promised, {frame.end}" if is_longer else f"{rate} Hz promised, {frame.rate} Hz"
                )
                return f"damaged header: {there} there"
        if num_checked == _MAX_CHECKED:
            break
        stop = position
    return None


def _first_block_size(file: IO[bytes]) -> int:
    """Return the number of samples of the first frame, by its own header; 0 where it cannot be found."""
    position = 4
    for _ in range(1000):  # blocks of tags, pictures and padding
        head = read_at(file, position, 4)
        position += 4 + int.from_bytes(head[1:], "big")
        if len(head) < 4 or head[0] & 0x80:  # the last
            break
    frame = _read_frame(read_at(file, position, 16), 1)
    return 0 if frame is None else frame.block_size


def _read_frame(head: bytes, fixed_size: int) -> _Frame | None:
    """Read the header of a frame, if there is one: `fixed_size` is the size of all blocks but the last."""
    if len(head) < 7 or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    size_code, rate_code = head[2] >> 4, head[2] & 15
    num_bytes = next((count for count, limit in _NUMBER_SIZES if head[4] < limit), 0)
    is_variable = head[1] & 1
    if size_code == 0 or rate_code == 15 or num_bytes == 0 or not (is_variable or fixed_size):
        return None
    number = head[4] if num_bytes == 1 else head[4] & ((1 << (7 - num_bytes)) - 1)
    for byte in head[5 : 4 + num_bytes]:
        number = number << 6 | byte & 0x3F
    position = 4 + num_bytes
    size_bytes, rate_bytes = {6: 1, 7: 2}.get(size_code, 0), {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    size_field = int.from_bytes(head[position : position + size_bytes], "big")
    position += size_bytes
    rate_field = int.from_bytes(head[position : position + rate_bytes], "big")
    position += rate_bytes
    if position >= len(head) or _checksum(head[:position], 8) != head[position]:
        return None
    if size_bytes:
        block = size_field + 1
    else:
        block = 192 if size_code == 1 else 576 << (size_code - 2) if size_code < 6 else 256 << (size_code - 8)
    rate = _RATES[rate_code] if rate_code < 12 else rate_field * {12: 1000, 13: 1, 14: 10}[rate_code]
    return _Frame(block, (number if is_variable else number * fixed_size) + block, rate)


# Bytes of a number and the first byte from which it takes more; 0x80 to 0xBF start none
_NUMBER_SIZES = ((1, 0x80), (0, 0xC0), (2, 0xE0), (3, 0xF0), (4, 0xF8), (5, 0xFC), (6, 0xFE), (7, 0xFF))


def _make_table(polynomial: int, bits: int) -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = (value << 1) ^ (polynomial if value >> (bits - 1) else 0)
            value &= (1 << bits) - 1
        table.append(value)
    return tuple(table)


_TABLES = {8: _make_table(0x07, 8), 16: _make_table(0x8005, 16)}  # by bits


def _checksum(data: bytes, bits: int) -> int:
    checksum, mask, table = 0, (1 << bits) - 1, _TABLES[bits]
    for byte in data:
        checksum = (checksum << 8 & mask) ^ table[checksum >> (bits - 8) ^ byte]
    return checksum

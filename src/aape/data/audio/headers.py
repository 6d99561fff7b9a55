"""The headers of WAV, RF64, Wave64, AIFF, CAF, Sun audio and NIST SPHERE: where the samples are said to lie.

Each layout can also write a header, for as many bytes of samples as there turn out to be.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

from aape.data.audio.mpeg import read_at

_MAX_CHUNKS = 1000  # before the samples; a forged file can hold millions of empty ones
_MAX_SPARE = 8  # bytes that a length may be off, less than a chunk takes
_UNKNOWN = (  # first and last of what programs write that cannot know the length, as sox and ffmpeg to a pipe
    (0x7F000000, 0x7F0000FF),
    (0x7FFFF000, 0x800000FF),
    (0xFFFFF000, 0xFFFFFFFF),
    (1 << 62, 1 << 64),
)
_FORMAT_BYTES = 1024  # of a chunk that describes the samples
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")  # of a format that has a number
_AMBISONIC_TAIL = bytes.fromhex("00002107d3118644c8c1ca000000")
_PCM, _FLOAT, _ALAW, _ULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_MPEG = (0x50, 0x55)
_SUN_CODES = {  # by SPHERE's word and bytes per sample
    **{("ulaw", 1): 1, ("mu-law", 1): 1, ("alaw", 1): 27},
    **{("pcm", 1): 2, ("pcm", 2): 3, ("pcm", 3): 4, ("pcm", 4): 5},
}
_RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000, 250000, 256000, 384000)  # Hz
_AIFC_BYTES = {b"alaw": 1, b"ulaw": 1, b"ima4": 34}  # per channel and frame as COMM counts them; by the bits otherwise
_AIFC_UNCOMPRESSED = (b"none", b"sowt", b"twos", b"fl32", b"fl64", b"in24", b"in32", b"raw ")


class ContainerError(Exception):
    """Why a file cannot be used, in words that follow its name."""


class Layout(NamedTuple):
    """What a header says of the samples."""

    kind: str  # of container
    start: int  # position of the first sample, bytes
    length: int | None  # of the samples, bytes; None where none is stated
    rebuild: Callable[[int], bytes] | None  # writes a header for so many bytes of samples; None where none can be
    chunk: str = ""  # layout of a chunk's name and length, where there are chunks
    whole: int = 1 << 63  # where the file ends by its own count, if it has one
    is_plain: bool = True  # libsndfile reads the header as it is
    is_mpeg: bool = False  # the samples are an MPEG stream
    warnings: tuple[str, ...] = ()


def _chunks(file: IO[bytes], position: int, layout: str, pad: int, *, counts_itself: bool = False) -> Iterator[tuple]:
    """Yield name, position of the content, length, and whether a byte of padding is missing before it."""
    size, is_unpadded = struct.calcsize(layout), False
    for _ in range(_MAX_CHUNKS):
        header = read_at(file, position, size)
        if len(header) < size:
            raise ContainerError("damaged or empty: its chunks lead to no samples")
        name, length = struct.unpack(layout, header)
        if counts_itself:
            length = max(0, length - size)
        yield name[:4], position + size, length, is_unpadded
        position += size + length
        if not 0 <= position < 1 << 62:
            raise ContainerError("damaged or empty: its chunks lead to no samples")
        padding = -position % pad if counts_itself else length % pad
        is_unpadded = padding == 1 and not _is_name(read_at(file, position + 1, 4))
        position += 0 if is_unpadded else padding
    raise ContainerError(f"over {_MAX_CHUNKS} chunks before the samples")


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name)


def _stated(file: IO[bytes], start: int, length: int) -> int | None:
    """Return a length, None where it is what a program writes that cannot know it, and not that of a large file."""
    is_unknown = any(first <= length <= last for first, last in _UNKNOWN)
    is_there = length < 0xFFFFFFFF and read_at(file, start + length - 1, 1)
    return None if is_unknown and not is_there else length


def wave_layout(file: IO[bytes]) -> Layout:
    """WAV in its five forms: RIFF, RIFX (big-endian), RF64 and BW64 (64 bits) and Wave64 (64 bits, GUIDs)."""
    magic = read_at(file, 0, 4)
    order = ">" if magic == b"RIFX" else "<"
    if magic == b"riff":
        chunk, position, pad, whole = "<16sQ", 40, 8, struct.unpack("<Q", read_at(file, 16, 8).rjust(8))[0]
    else:
        chunk, position, pad, whole = f"{order}4sI", 12, 2, 8
        whole += struct.unpack(f"{order}I", read_at(file, 4, 4).rjust(4))[0]
    form, fact, long_length, is_plain = b"", b"", 0, magic in (b"RIFF", b"RIFX", b"RF64")
    for name, start, length, is_unpadded in _chunks(file, position, chunk, pad, counts_itself=magic == b"riff"):
        is_plain &= not is_unpadded
        if name == b"ds64":
            whole, long_length = struct.unpack("<QQ", read_at(file, start, 16).ljust(16, b"\0"))
            whole += 8
        elif name == b"fmt ":
            form = read_at(file, start, min(length, _FORMAT_BYTES))
        elif name == b"fact":
            fact = read_at(file, start, min(length, 4))
        elif name == b"data":
            break
    stated: int | None = long_length if long_length and length in (0, 0xFFFFFFFF) else length
    mended, warnings = _mend_format(form, order)
    tag = int.from_bytes(mended[:2], "big" if order == ">" else "little")
    is_coded = tag not in (_PCM, _FLOAT, _ALAW, _ULAW, _EXTENSIBLE)
    stated = _stated(file, start, stated or 0)
    return Layout(
        kind="W64" if magic == b"riff" else magic.decode().replace("RIFF", "WAV"),
        start=start,
        length=stated,
        rebuild=(lambda count: _wave_header(mended, count, order, fact if stated else b"")) if form else None,
        chunk=chunk,
        whole=whole,
        is_plain=is_plain and mended == form and not (is_coded and magic == b"RF64"),
        is_mpeg=tag in _MPEG,
        warnings=warnings,
    )


def _wave_header(form: bytes, count: int, order: str = "<", fact: bytes = b"") -> bytes:
    """Write the header of a WAV file with `count` bytes of samples, 64-bit where they take it."""
    layout = f"{order}4sI"
    body = struct.pack(layout, b"fmt ", len(form)) + form + b"\0" * (len(form) % 2)
    if fact:
        body += struct.pack(layout, b"fact", len(fact)) + fact
    whole = len(body) + 12 + count + count % 2
    if whole <= 0xFFFFFFFF:
        magic = b"RIFF" if order == "<" else b"RIFX"
        return struct.pack(layout, magic, whole) + b"WAVE" + body + struct.pack(layout, b"data", count)
    if order == ">":
        raise ContainerError("over 4 GiB of samples in a header of 32 bits: convert it to RF64 or FLAC first")
    long = struct.pack("<4sIQQQI", b"ds64", 28, whole + 36, count, 0, 0)
    return struct.pack(layout, b"RF64", 0xFFFFFFFF) + b"WAVE" + long + body + struct.pack(layout, b"data", 0xFFFFFFFF)


def _mend_format(form: bytes, order: str) -> tuple[bytes, tuple[str, ...]]:
    """Return a `fmt ` chunk that agrees with itself, and warnings: numbers that players ignore may be wrong.

    The bytes of a frame are stated three times, by channels and bits, by the block and by the bytes a second. One of
    them that disagrees with the other two is wrong; where that would be channels or bits, which of the two is a guess.
    """
    if len(form) < 16:
        return form, ()
    tag, channels, rate, byte_rate, block, bits = struct.unpack(f"{order}HHIIHH", form[:16])
    warnings: tuple[str, ...] = ()
    if tag == _EXTENSIBLE and len(form) >= 40 and form[26:40] not in (_GUID_TAIL, _AMBISONIC_TAIL):
        number = struct.unpack(f"{order}H", form[24:26])[0]
        if number in (_PCM, _FLOAT, _ALAW, _ULAW):
            tag, form = number, form[24:26] + form[2:16]
            warnings += (f"an unknown kind of format was taken for format {number}",)
    width = (bits + 7) // 8
    frame = channels * width
    if tag not in (_PCM, _FLOAT, _EXTENSIBLE) or frame == block == 0:
        return form, ()
    if block != frame and not (width == 3 and block == channels * 4):
        if not 0 < frame <= 0xFFFF or (block and byte_rate != rate * frame):
            raise ContainerError(f"damaged header: {channels} channels of {bits} bits cannot be {block} bytes")
        warnings += (f"{block} bytes of {channels} channels of {bits} bits were taken for {frame}",)
        block = frame
    # Some programs write none, forget the channels, or count bits.
    if byte_rate not in (0, rate * block, rate * width, rate * bits, rate * channels * bits, rate):
        if rate not in _RATES and byte_rate / block in _RATES:
            raise ContainerError(f"damaged header: {rate} Hz of {block} bytes cannot be {byte_rate} bytes a second")
        warnings += (f"{byte_rate} bytes a second in its header do not fit {rate} Hz of {block} bytes",)
        byte_rate = min(rate * block, 0xFFFFFFFF)
    return (struct.pack(f"{order}HHIIHH", tag, channels, rate, byte_rate, block, bits) + form[16:], warnings)


def aiff_layout(file: IO[bytes]) -> Layout:
    """AIFF and AIFC, whose COMM chunk counts the frames in the bytes of the SSND chunk."""
    common, whole, is_plain = b"", 8 + struct.unpack(">I", read_at(file, 4, 4).rjust(4))[0], True
    for name, position, size, is_unpadded in _chunks(file, 12, ">4sI", 2):
        is_plain &= not is_unpadded
        if name == b"COMM":
            common = read_at(file, position, min(size, _FORMAT_BYTES))
        elif name == b"SSND":
            break
    start = position + 8 + int.from_bytes(read_at(file, position, 4), "big")
    length = _stated(file, position, size)
    length = length and max(0, length - (start - position))
    code = common[18:22].lower() if len(common) >= 22 else b"none"
    if len(common) < 18 or (code not in _AIFC_UNCOMPRESSED and code not in _AIFC_BYTES):
        return Layout("AIFF", start, length, None, ">4sI", whole, is_plain)
    channels, frames, bits = struct.unpack(">HIH", common[:8])
    frame = channels * _AIFC_BYTES.get(code, (bits + 7) // 8)
    counted = _stated(file, start, frames) and _stated(file, start, frames * frame)
    is_plain &= bool(length and counted)
    if not length:
        length = counted or length
    elif (counted or frame == 0) and not 0 <= length - frames * frame < _MAX_SPARE:
        raise ContainerError(f"damaged header: its frames do not fill its {size} bytes of samples")

    def rebuild(count: int) -> bytes:
        described = common[:2] + struct.pack(">I", count // frame) + common[6:]
        body = (b"AIFC" + struct.pack(">4sII", b"FVER", 4, 0xA2805140)) if len(common) >= 22 else b"AIFF"
        body += struct.pack(">4sI", b"COMM", len(common)) + described + b"\0" * (len(common) % 2)
        body += struct.pack(">4sIII", b"SSND", min(count + 8, 0xFFFFFFFF), 0, 0)
        return struct.pack(">4sI", b"FORM", min(len(body) + count, 0xFFFFFFFF)) + body

    return Layout("AIFF", start, length, rebuild if frame else None, ">4sI", whole, is_plain)


def caf_layout(file: IO[bytes]) -> Layout:
    """CAF: packets of the size that `desc` states."""
    described = b""
    for name, position, length, _ in _chunks(file, 8, ">4sq", 1):
        if name == b"desc":
            described = read_at(file, position, min(length, _FORMAT_BYTES))
        elif name == b"data" or length < 0:
            break
    if name != b"data":
        raise ContainerError("damaged or empty: its chunks lead to no samples")

    def rebuild(count: int) -> bytes:
        header = b"caff\0\1\0\0" + struct.pack(">4sq", b"desc", len(described)) + described
        return header + struct.pack(">4sqI", b"data", count + 4, 0)

    has_packets = len(described) == 32 and described[16:20] != bytes(4)
    stated = None if length < 4 else _stated(file, position, length)
    start, length = position + 4, stated and stated - 4
    return Layout("CAF", start, length, rebuild if has_packets else None, ">4sq")


def sun_layout(file: IO[bytes]) -> Layout:
    """AU, big-endian, and its little-endian form."""
    magic = read_at(file, 0, 4)
    order = ">" if magic == b".snd" else "<"
    start, length, *fields = struct.unpack(f"{order}5I", read_at(file, 4, 20).ljust(20, b"\0"))
    if start < 24:
        raise ContainerError(f"damaged header: its samples cannot begin at byte {start}")
    return Layout("AU", start, _stated(file, start, length), lambda count: _sun_header(magic, count, *fields))


def _sun_header(magic: bytes, count: int, code: int, rate: int, channels: int) -> bytes:
    order = ">" if magic == b".snd" else "<"
    return magic + struct.pack(f"{order}5I", 24, min(count, 0xFFFFFFFF), code, rate, channels)


def nist_layout(file: IO[bytes]) -> Layout:
    """NIST SPHERE: lines of name, type and value; libsndfile gets an AU header, which is as simple."""
    size = read_at(file, 8, 8).strip()
    start = int(size) if size.isdigit() else 0
    fields = {}
    for line in read_at(file, 16, max(0, min(start, 1 << 16) - 16)).decode("latin-1").split("\n"):
        words = line.split(None, 2)
        if line.strip() == "end_head":
            break
        if len(words) == 3:
            fields[words[0]] = words[2].strip()
    try:
        rate, channels = int(fields["sample_rate"]), int(fields.get("channel_count", "1"))
        width, count = int(fields.get("sample_n_bytes", "2")), int(fields.get("sample_count", "0"))
        coding, byte_order = fields.get("sample_coding", "pcm"), fields.get("sample_byte_format", "01")
        code = _SUN_CODES[coding, width]
        magic = b"dns." if byte_order[:1] == "0" else b".snd"
        _sun_header(magic, 0, code, rate, channels)
    except (KeyError, ValueError, struct.error) as error:
        raise ContainerError(
            f"a SPHERE header that is not supported ({error}): convert it to WAV or FLAC first"
        ) from error
    length = max(0, count) * channels * width
    return Layout("NIST", start, length, lambda n: _sun_header(magic, n, code, rate, channels), is_plain=False)

"""Seeded mutations of real encoded sound: bit flips, truncations, splices and forged lengths, in every format.

A mutant is a function of (seed, index) and of the encoder's version, so that a failure can be made again by its number.
"""

from __future__ import annotations

import io
import random
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

import aape
from aape.data.audio import read_audio

NUM_SECONDS = 0.25  # short, so that many fit into a minute
RATE = 16000
INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)

ENCODINGS = {  # name: format, subtype, channels
    "wav-16": ("WAV", "PCM_16", 1),
    "wav-float": ("WAV", "FLOAT", 2),
    "wav-24-extensible": ("WAVEX", "PCM_24", 2),
    "wav-rf64": ("RF64", "PCM_16", 1),
    "wav-adpcm": ("WAV", "IMA_ADPCM", 1),
    "wav-ms-adpcm": ("WAV", "MS_ADPCM", 1),
    "wav-law": ("WAV", "ALAW", 2),
    "w64-16": ("W64", "PCM_16", 1),
    "w64-float": ("W64", "FLOAT", 2),
    "caf-24": ("CAF", "PCM_24", 1),
    "caf-alac": ("CAF", "ALAC_16", 2),
    "au-16": ("AU", "PCM_16", 1),
    "au-law": ("AU", "ULAW", 2),
    "aiff-24": ("AIFF", "PCM_24", 1),
    "aiff-float": ("AIFF", "FLOAT", 2),
    "flac-16": ("FLAC", "PCM_16", 1),
    "flac-24": ("FLAC", "PCM_24", 2),
    "vorbis": ("OGG", "VORBIS", 2),
    "opus": ("OGG", "OPUS", 1),
    "mp3": ("MP3", "MPEG_LAYER_III", 1),
}


@dataclass(frozen=True)
class Mutant:
    """One hostile file."""

    origin: str  # the name of the encoding, and what was done to it
    content: bytes


def encode(wave: np.ndarray, rate: int, kind: str, subtype: str | None, **options: object) -> bytes:
    """Encode samples (T,) or (T, channels)."""
    file = io.BytesIO()
    channels = 1 if wave.ndim == 1 else wave.shape[1]
    with soundfile.SoundFile(file, "w", rate, channels, subtype=subtype, format=kind, **options) as sound:
        for first in range(0, len(wave), 4096):  # libsndfile's Vorbis encoder crashes on long blocks
            sound.write(wave[first : first + 4096])
    return file.getvalue()


def sphere(wave: np.ndarray, rate: int, *, order: str = "<") -> bytes:
    """Encode samples (T,) as NIST SPHERE, 16 bits."""
    lines = (
        f"NIST_1A\n   1024\nsample_count -i {len(wave)}\nsample_rate -i {rate}\nchannel_count -i 1\n"
        f"sample_n_bytes -i 2\nsample_byte_format -s2 {'01' if order == '<' else '10'}\nsample_sig_bits -i 16\n"
        "sample_coding -s3 pcm\nend_head\n"
    )
    return lines.encode().ljust(1024) + np.round(wave * 32767).astype(f"{order}i2").tobytes()


def recording() -> np.ndarray:
    """Return a quarter of a second of a recorded note, (T,) at 16 kHz."""
    path = Path(aape.__file__).parent / "data" / "demo" / "bass-program033-pitch031-velocity090.opus"
    return read_audio(path, sample_rate=RATE, start=0.1, duration=NUM_SECONDS)


def make_seeds() -> dict[str, bytes]:
    """Encode a quarter of a second of a recorded note in every format that the reader promises."""
    note = recording()
    seeds = {}
    for name, (kind, subtype, channels) in ENCODINGS.items():
        seeds[name] = encode(note if channels == 1 else np.stack([note, note[::-1]], axis=1), RATE, kind, subtype)
    constant = encode(note, RATE, "MP3", "MPEG_LAYER_III", bitrate_mode="CONSTANT", compression_level=0.5)
    stream = seeds["mp3-without-index"] = constant[constant.find(constant[:2], 100) :]
    seeds["mp3-behind-zeros"] = bytes(100) + seeds["mp3"]
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 8000, 1, 0, 12, 1, 2, 576, 1, 1393)  # MPEGLAYER3WAVEFORMAT
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(stream)) + stream
    seeds["mp3-in-wav"] = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
    seeds["wav-big-endian"] = encode(note, RATE, "WAV", "PCM_16", endian="BIG")
    seeds["wav-broken-off"] = seeds["wav-16"].replace(b"data" + seeds["wav-16"][40:44], b"data" + bytes(4))
    seeds["sphere-16"] = sphere(note, RATE)
    return seeds


def mutate(seeds: dict[str, bytes], seed: int, index: int) -> Mutant:
    """Return mutant `index` of the series `seed`."""
    rng = random.Random(f"{seed}:{index}")
    name = rng.choice(sorted(seeds))
    content = bytearray(seeds[name])
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        action = rng.choice(_ACTIONS)
        content = bytearray(action(rng, content, seeds))
        done.append(action.__name__.lstrip("_"))
    if content[:4] == b"OggS" and rng.random() < 0.7:  # otherwise libogg drops the page, and its decoder sees nothing
        content = bytearray(with_ogg_checksums(bytes(content)))
        done.append("checksum")
    return Mutant(f"{name}: {', '.join(done)}", bytes(content))


def _flip(rng: random.Random, content: bytearray, seeds: dict[str, bytes]) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return content


def _flip_header(rng: random.Random, content: bytearray, seeds: dict[str, bytes]) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 4))):
        if content:
            content[rng.randrange(min(len(content), 160))] ^= 1 << rng.randrange(8)
    return content


def _truncate(rng: random.Random, content: bytearray, seeds: dict[str, bytes]) -> bytearray:
    return content[: rng.randrange(len(content) + 1)]


def _drop_start(rng: random.Random, content: bytearray, seeds: dict[str, bytes]) -> bytearray:
    return content[rng.randrange(len(content) + 1) :]


def _fill(rng: random.Random, content: bytearray, seeds: dict[str, bytes]) -> bytearray:
    first = rng.randrange(len(content) + 1)
    count = min(rng.choice((1, 4, 32, 512, 4096)), len(content) - first)
    content[first : first + count] = rng.choice((bytes(count), b"\xff" * count, rng.randbytes(count)))
    return content


def _splice(rng: random.Random, content: bytearray, seeds: dict[str, bytes]) -> bytearray:
    """Repeat, remove or move a block, or put in one of another file."""
    other = rng.choice((bytes(content), seeds[rng.choice(sorted(seeds))])) or b"\0"
    source, target = rng.randrange(len(other)), rng.randrange(len(content) + 1)
    count = rng.choice((1, 8, 64, 512, 4096))
    removed = rng.choice((0, count))
    content[target : target + removed] = other[source : source + count] if rng.random() < 0.7 else b""
    return content


def _forge_number(rng: random.Random, content: bytearray, seeds: dict[str, bytes]) -> bytearray:
    """Overwrite a number of the header, wherever it may be."""
    layout = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(layout)
    if len(content) > size:
        value = rng.choice((*INTERESTING, len(content), rng.getrandbits(64))) & ((1 << 8 * size) - 1)
        struct.pack_into(layout, content, rng.randrange(min(len(content) - size, 128)), value)
    return content


def _forge_field(rng: random.Random, content: bytearray, seeds: dict[str, bytes]) -> bytearray:
    """Overwrite a field that states a length, a rate or a count."""
    fields = _fields(bytes(content))
    if not fields:
        return _forge_number(rng, content, seeds)
    position, layout = rng.choice(fields)
    size = struct.calcsize(layout)
    if position + size <= len(content):
        before = struct.unpack_from(layout, content, position)[0]
        near = (before + rng.choice((-1, 1, -64, 64)), before // 2, before * 2, before >> 8, before << 8, ~before)
        value = rng.choice((*INTERESTING, *near, rng.getrandbits(64))) & ((1 << 8 * size) - 1)
        struct.pack_into(layout, content, position, value)
    return content


_ACTIONS = (_flip, _flip_header, _truncate, _drop_start, _fill, _splice, _forge_number, _forge_field, _forge_field)


def _fields(content: bytes) -> list[tuple[int, str]]:
    """List (position, layout) of the numbers in a file that say how long or how wide its sound is."""
    fields: list[tuple[int, str]] = []
    if content[:4] in (b"RIFF", b"RF64", b"RIFX"):
        fields += [(4, "<I"), (22, "<H"), (24, "<I"), (28, "<I"), (32, "<H"), (34, "<H")]
        for name in (b"fmt ", b"fact", b"data", b"ds64", b"LIST", b"PEAK"):
            position = content.find(name)
            fields += [(position + 4, "<I"), (position + 8, "<I")] * (position >= 0)
    elif content[:4] == b"riff":
        fields += [(16, "<Q"), (66, "<H"), (68, "<I"), (72, "<I"), (76, "<H"), (78, "<H")]
        fields += [(content.find(name) + 16, "<Q") for name in (b"fmt ", b"fact", b"data") if name in content]
    elif content[:4] == b"caff":
        fields += [(20, ">Q"), (32, ">I"), (36, ">I"), (40, ">I"), (44, ">I"), (48, ">I")]
        fields += [(content.find(name) + 4, ">Q") for name in (b"desc", b"kuki", b"pakt", b"data") if name in content]
    elif content[:4] == b".snd":
        fields += [(position, ">I") for position in range(4, 24, 4)]
    elif content[:4] == b"FORM":
        fields += [(4, ">I")]
        for name in (b"COMM", b"SSND", b"PEAK"):
            position = content.find(name)
            if position >= 0:
                fields += [(position + 4, ">I"), (position + 8, ">H"), (position + 10, ">I"), (position + 14, ">H")]
                fields += [(position + 16, ">Q")]
    elif content[:4] == b"fLaC":
        # block length, block sizes, frame sizes, rate with channels and bits, number of samples
        fields += [(5, ">H"), (8, ">H"), (10, ">H"), (12, ">I"), (15, ">I"), (18, ">I"), (20, ">H"), (21, ">I")]
        fields += [(22, ">I"), (43, ">H")]
    elif content[:4] == b"OggS":
        position = content.find(b"OggS")
        while position >= 0:
            fields += [(position + 6, "<Q"), (position + 14, "<I"), (position + 18, "<I"), (position + 26, "<B")]
            position = content.find(b"OggS", position + 4)
        for name, offsets in ((b"\x01vorbis", (11, 12, 16, 20, 24, 28)), (b"OpusHead", (9, 10, 12, 16, 18))):
            position = content.find(name)
            fields += [(position + offset, "<I") for offset in offsets] * (position >= 0)
    else:
        position = max(content.find(b"Xing"), content.find(b"Info"))
        if position >= 0:
            fields += [(position + offset, ">I") for offset in (4, 8, 12, 16, 120, 141, 142)]
        fields += [(1, ">B"), (2, ">B"), (3, ">B")]
    return fields


_OGG_TABLE: list[int] = []


def ogg_checksum(page: bytes) -> int:
    """Return the checksum of a page whose own checksum is zero: CRC-32, polynomial 04c11db7, not reflected."""
    if not _OGG_TABLE:
        for byte in range(256):
            value = byte << 24
            for _ in range(8):
                value = (value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)
            _OGG_TABLE.append(value & 0xFFFFFFFF)
    checksum = 0
    for byte in page:
        checksum = ((checksum << 8) & 0xFFFFFFFF) ^ _OGG_TABLE[(checksum >> 24) ^ byte]
    return checksum


def with_ogg_checksums(content: bytes) -> bytes:
    """Return an Ogg file each of whose pages has the checksum of what is in it."""
    fixed = bytearray(content)
    position = content.find(b"OggS")
    while position >= 0 and position + 27 <= len(content):
        table = content[position + 27 : position + 27 + content[position + 26]]
        end = min(len(content), position + 27 + len(table) + sum(table))
        fixed[position + 22 : position + 26] = bytes(4)
        struct.pack_into("<I", fixed, position + 22, ogg_checksum(bytes(fixed[position:end])))
        position = content.find(b"OggS", max(end, position + 4))
    return bytes(fixed)

"""Hostile FLAC, Ogg and MP3 files: what is in each, and what the reader has to say."""

from __future__ import annotations

import struct

import numpy as np
from pcm_files import NOISE, RATE, Table, put

from aape.data.audio.flac import _checksum
from mutations import encode, with_ogg_checksums


def flac_frame(number: int, block: int, channels: int) -> bytes:
    """Build a frame of digital silence."""
    coded = bytes([number]) if number < 0x80 else bytes([0xC0 | number >> 6, 0x80 | number & 63])
    if number >= 0x800:
        coded = bytes([0xE0 | number >> 12, 0x80 | number >> 6 & 63, 0x80 | number & 63])
    head = b"\xff\xf8\x70" + bytes([(channels - 1) << 4 | 8]) + coded + struct.pack(">H", block - 1)
    frame = head + bytes([_checksum(head, 8)]) + bytes(3) * channels
    return frame + struct.pack(">H", _checksum(frame, 16))


def flac_bomb(num_frames: int, channels: int, promised: int) -> bytes:
    """Build a valid FLAC file of silence in the largest blocks."""
    fields = 48000 << 44 | (channels - 1) << 41 | 15 << 36 | promised
    head = b"fLaC\x80\x00\x00\x22" + struct.pack(">HH", 65535, 65535) + bytes(6) + fields.to_bytes(8, "big") + bytes(16)
    return head + b"".join(flac_frame(number, 65535, channels) for number in range(num_frames))


def flac_fields(
    content: bytes, *, rate: int | None = None, channels: int | None = None, total: int | None = None
) -> bytes:
    """Forge the description of a FLAC stream."""
    fields = int.from_bytes(content[18:26], "big")
    for value, shift, bits in ((rate, 44, 20), (channels, 41, 3), (total, 0, 36)):
        if value is not None:
            fields = fields & ~((1 << bits) - 1 << shift) | value << shift
    return content[:18] + fields.to_bytes(8, "big") + content[26:]


def flac_files() -> Table:
    """FLAC: forged descriptions, bombs, missing and repeated frames."""
    good = encode(NOISE, RATE, "FLAC", "PCM_16")
    frames = [position for position in range(42, len(good)) if good[position : position + 2] == b"\xff\xf8"]
    frames = [at for at in frames if _checksum(good[at : at + 5], 8) == good[at + 5]]
    first, second, third = frames[:3]
    return {
        "magic-only.flac": (b"fLaC", "not a readable sound file"),
        "header-only.flac": (good[:42], "truncated: it stops at 0.00 s, 2.00 s promised"),
        "no-frames.flac": (good[:first], "truncated: it stops at 0.00 s, 2.00 s promised"),
        "half.flac": (good[: len(good) // 2], "truncated"),
        "last-byte-missing.flac": (good[:-1], "damaged or truncated \\(Error : flac decoder lost sync"),
        "2-to-the-36-samples.flac": (flac_fields(good, total=2**36 - 1), "the most is 4 h: cut it first"),
        "ten-times-the-samples.flac": (
            flac_fields(good, total=320000),
            "truncated: it stops at 2.00 s, 20.00 s promised",
        ),
        "one-sample-more.flac": (flac_fields(good, total=32001), "truncated: it stops at 2.00 s"),
        "one-sample-less.flac": (flac_fields(good, total=31999), "damaged header: 31999 samples promised, 32000 there"),
        "one-sample.flac": (flac_fields(good, total=1), "damaged header: 1 samples promised, 32000 there"),
        "length-unknown.flac": (flac_fields(good, total=0), "read 32000"),
        "rate-forged.flac": (flac_fields(good, rate=528000), "damaged header: 528000 Hz promised, 16000 Hz there"),
        "rate-0.flac": (flac_fields(good, rate=0), "damaged header: 0 Hz promised, 16000 Hz there"),
        "eight-channels-forged.flac": (
            flac_fields(good, channels=7),
            "damaged or truncated \\(Error : flac channel changed",
        ),
        "block-size-forged.flac": (
            put(put(flac_fields(good, total=1), 8, ">H", 16), 10, ">H", 16),
            "damaged header: 1 samples promised, 32000 there",
        ),
        "metadata-without-end.flac": (good[:43] + b"\xff\xff\xff" + good[46:], "not a readable sound file"),
        "frame-missing.flac": (good[:first] + good[second:], "truncated: it stops at 1.74 s, 2.00 s promised"),
        "frame-twice.flac": (good[:second] + good[first:], "read 32000"),
        "frames-swapped.flac": (good[:first] + good[second:third] + good[first:second] + good[third:], "read 32000"),
        "bomb-8-channels.flac": (
            flac_bomb(600, 8, 0),
            "a decompression bomb: over 4\\d\\d\\d samples out of every byte",
        ),
        "bomb-1-channel.flac": (flac_bomb(1200, 1, 0), "a decompression bomb"),
        "bomb-that-states-its-length.flac": (flac_bomb(1200, 1, 1200 * 65535), "a decompression bomb"),
        "bomb-of-5-hours.flac": (flac_bomb(600, 1, 5 * 3600 * 48000), "5.00 h of audio, the most is 4 h: cut it first"),
        "silence.flac": (encode(np.zeros(160000, np.float32), RATE, "FLAC", "PCM_16"), "read 160000"),
    }


def ogg_pages(content: bytes) -> list[bytes]:
    """Cut an Ogg file into pages."""
    pages, position = [], 0
    while position < len(content):
        end = position + 27 + content[position + 26]
        end += sum(content[position + 27 : end])
        pages.append(content[position:end])
        position = end
    return pages


def ogg_files() -> Table:
    """Ogg Vorbis and Opus, with the checksums of their pages made right where libogg would drop them."""
    vorbis, opus = encode(NOISE, RATE, "OGG", "VORBIS"), encode(NOISE, RATE, "OGG", "OPUS")
    pages = ogg_pages(vorbis)
    last = len(vorbis) - len(pages[-1])
    other = with_ogg_checksums(b"".join(put(page, 14, "<I", 7) for page in pages))

    counts = [struct.unpack_from("<q", page, 6)[0] for page in pages]
    moved = [put(page, 6, "<q", count + 704) for page, count in zip(pages[2:], counts[2:], strict=True)]
    later = with_ogg_checksums(b"".join(pages[:2] + moved))

    def forged(content: bytes, position: int, layout: str, value: int) -> bytes:
        return with_ogg_checksums(put(content, position, layout, value))

    return {
        "first-page-only.ogg": (pages[0], "truncated: the Ogg stream has no end"),
        "headers-only.ogg": (b"".join(pages[:2]), "truncated: the Ogg stream has no end"),
        "half.ogg": (vorbis[: len(vorbis) // 2], "truncated: the Ogg stream has no end"),
        "last-byte-missing.ogg": (vorbis[:-1], "truncated: the Ogg stream has no end"),
        "page-missing.ogg": (b"".join(pages[:2] + pages[3:]), "cut out of a longer stream: 18048 samples of 32000"),
        "counted-from-frame-704.ogg": (later, "read 32000"),  # as encoders of 2002 did
        "page-damaged.ogg": (vorbis[: last - 50] + bytes(30) + vorbis[last - 20 :], "truncated: it stops at"),
        "pages-swapped.ogg": (b"".join([*pages[:2], *pages[:1:-1]]), "truncated: the Ogg stream has no end"),
        "two-streams-after-each-other.ogg": (vorbis + other, "several Ogg streams in one file"),
        "two-streams-at-once.ogg": (pages[0] + other + b"".join(pages[1:]), "several Ogg streams in one file"),
        "end-before-its-sound.ogg": (forged(vorbis, last + 6, "<q", 100), "the Ogg stream ends before its own sound"),
        "end-at-minus-one.ogg": (forged(vorbis, last + 6, "<q", -1), "the Ogg stream ends before its own sound"),
        "end-in-a-million-years.ogg": (forged(vorbis, last + 6, "<q", 2**62), "the most is 4 h: cut it first"),
        "packet-destroyed.ogg": (
            with_ogg_checksums(vorbis[: last + 60] + bytes(400) + vorbis[last + 460 :]),
            "truncated: it stops at",
        ),
        "no-channels.ogg": (
            forged(vorbis, 39, "<B", 0),
            "not a readable sound file \\(Supported file format but file is malformed",
        ),
        "255-channels.ogg": (forged(vorbis, 39, "<B", 255), "255 channels, the most is 64"),
        "rate-0.ogg": (forged(vorbis, 40, "<I", 0), "not a readable sound file"),
        "rate-2-gigahertz.ogg": (forged(vorbis, 40, "<I", 0x7FFFFFFF), "a sample rate of 2147483647 Hz, outside"),
        "blocks-forged.ogg": (forged(vorbis, 56, "<B", 0xFF), "not a readable sound file"),
        "headers-of-another-file.ogg": (
            with_ogg_checksums(pages[0] + bytes(pages[2]) + b"".join(pages[2:])),
            "not a readable sound file",
        ),
        "half.opus": (opus[: len(opus) // 2], "truncated: the Ogg stream has no end"),
        "version-255.opus": (forged(opus, 36, "<B", 255), "not a readable sound file"),
        "no-channels.opus": (forged(opus, 37, "<B", 0), "not a readable sound file"),
        "255-channels.opus": (forged(opus, 37, "<B", 255), "not a readable sound file"),
        "skip-all.opus": (forged(opus, 38, "<H", 65535), "read 10\\d{3}"),
        "gain-128-decibel.opus": (forged(opus, 44, "<h", 32767), "read 3\\d{4}"),
        "mapping-255.opus": (forged(opus, 46, "<B", 255), "not a readable sound file"),
        "flac-inside.ogg": (
            with_ogg_checksums(put(vorbis, 28, "5s", b"\x7fFLAC")),
            "Ogg FLAC is not supported: convert",
        ),
        "zeros-before.ogg": (bytes(64) + vorbis, "read 32000"),
        "speex.ogg": (with_ogg_checksums(put(vorbis, 28, "8s", b"Speex   ")), "Speex is not supported: convert it"),
    }


def mp3_files() -> Table:
    """MP3: forged indexes, holes, tags."""
    good = encode(NOISE, RATE, "MP3", "MPEG_LAYER_III")
    index, size = good.index(b"Xing"), good.find(good[:2], 100)
    stream = good[size:]
    frames = []
    for position in range(len(stream) - 4):  # of this file all begin with the same two bytes
        if stream[position : position + 2] == good[:2]:
            frames.append(position)
    middle = frames[len(frames) // 2]
    tag = b"ID3\x03\x00\x00\x00\x00\x02\x00" + bytes(256)
    constant = encode(NOISE, RATE, "MP3", "MPEG_LAYER_III", bitrate_mode="CONSTANT", compression_level=0.5)
    plain = constant[constant.find(constant[:2], 100) :]
    cut = plain.find(plain[:2], len(plain) // 2)
    return {
        "two-bytes.mp3": (b"\xff\xfb", "not a readable sound file"),
        "one-header.mp3": (good[:4], "not a readable sound file"),
        "index-only.mp3": (good[:size], "truncated"),
        "half.mp3": (good[: len(good) // 2], "truncated"),
        "last-bytes-missing.mp3": (good[:-5], "truncated"),
        "half-without-index.mp3": (plain[: len(plain) // 2 + 10], "the last MP3 frame is cut"),
        "index-counts-one-frame.mp3": (put(good, index + 8, ">I", 1), "not a readable sound file"),
        "index-counts-half.mp3": (put(good, index + 8, ">I", 28), "more MP3 frames than its index counts"),
        "index-counts-too-many.mp3": (
            put(good, index + 8, ">I", 5000),
            "truncated: it stops at 2.\\d* s, 179.\\d* s promised",
        ),
        "index-counts-2-gigabytes.mp3": (put(good, index + 12, ">I", 2**31), "truncated: 2147483648 bytes"),
        "index-without-counts.mp3": (
            put(good, index + 4, ">I", 0),
            "an MP3 of variable bit rate without an index, so of unknown length: convert",
        ),
        "variable-rate-without-index.mp3": (
            stream,
            "an MP3 of variable bit rate without an index, so of unknown length: convert",
        ),
        "hole.mp3": (plain[:cut] + bytes(700) + plain[cut:], "damaged: 700 bytes between its MP3 frames are none"),
        "tag-in-the-middle.mp3": (plain[:cut] + tag + plain[cut:], "read 3\\d{4}"),
        "two-files-in-one.mp3": (good + tag + good, "more MP3 frames than its index counts"),
        "tag-without-end.mp3": (b"ID3\x03\x00\x00\x7f\x7f\x7f\x7f" + good, "not a readable sound file"),
        "tag-only.mp3": (tag, "not a readable sound file"),
        "a-megabyte-of-ones.mp3": (b"\xff" * (1 << 20), "not a readable sound file"),
        "sync-words-only.mp3": (b"\xff\xfb\x90\x00" * 4096, "not a readable sound file"),
        "layer-of-another-kind.mp3": (
            bytes(byte ^ 2 if at % 144 == 1 else byte for at, byte in enumerate(plain)),
            "AAC is not supported",
        ),
        "middle-of-a-file.mp3": (stream[middle + 1 :], "read 16128"),
        "zeros-before.mp3": (bytes(5000) + good, "read 32000"),
        "junk-before.mp3": (b"\1\2\3" * 999 + good, "read 32000"),
        "zeros-before-half.mp3": (bytes(5000) + good[: len(good) // 2], "truncated"),
        "tag-and-zeros-before.mp3": (tag + bytes(5000) + good, "read 32000"),
        "junk-before-constant-rate.mp3": (b"junk" + plain, "read 3\\d{4}"),
        "three-frames-in-noise.mp3": (NOISE[:9000].tobytes() + plain[:1500] + NOISE.tobytes(), "no MP3 frames in it"),
    }

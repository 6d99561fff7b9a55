"""Hostile Wave64, CAF, AU and SPHERE files, and recordings that were broken off: what the reader has to say to each."""

from __future__ import annotations

import struct
from collections.abc import Callable

from pcm_files import NOISE, RATE, TONE, Table, pcm, put, riff, wav, wave_format

from mutations import encode, sphere

LEFT_OVER = "what its length leaves over of the samples, \\d+ bytes, is nothing else"


def wave64_files() -> Table:
    """Wave64: chunks begin with GUIDs; in what libsndfile writes, lengths lie at 16 (whole), 56 (format), 96 (data)."""
    good = encode(TONE, RATE, "W64", "PCM_16")
    at = good.index(b"data") + 16
    start = at + 8
    length = 16000 + 24
    assert struct.unpack_from("<Q", good, at)[0] == length
    return {
        "good.w64": (good, "read 8000"),
        "float.w64": (encode(TONE, RATE, "W64", "FLOAT"), "read 8000"),
        "half.w64": (good[: len(good) // 2], "truncated: 16000 bytes of samples promised, \\d+ there"),
        "header-only.w64": (good[:start], "truncated: 16000 bytes of samples promised, 0 there"),
        "magic-only.w64": (good[:16], "its chunks lead to no samples"),
        "length-halved.w64": (put(good, at, "<Q", 8024), LEFT_OVER),
        "length-doubled.w64": (put(good, at, "<Q", 32024), "truncated: 32000 bytes"),
        "length-0.w64": (put(good, at, "<Q", 0), "read 8000"),
        "length-of-a-header.w64": (put(good, at, "<Q", 24), "read 8000"),
        "length-minus-1.w64": (put(good, at, "<Q", 2**64 - 1), "read 8000"),
        "length-2-to-the-60.w64": (put(good, at, "<Q", 2**60), "truncated"),
        "format-without-end.w64": (put(good, 56, "<Q", 2**63), "its chunks lead to no samples"),
        "format-of-nothing.w64": (put(good, 56, "<Q", 0), "not a readable sound file|lead to no samples"),
        "another-header-inside.w64": (put(good[:start] + good, at, "<Q", 23), "a second header instead of samples"),
        "two-channels-forged.w64": (put(good, 66, "<H", 2), "2 channels of 16 bits cannot be 2 bytes"),
    }


def caf_files() -> Table:
    """CAF: `desc` at 8, with channels at 44 and bits at 48."""
    good = encode(TONE, RATE, "CAF", "PCM_16")
    alac = encode(NOISE, RATE, "CAF", "ALAC_16")
    at = good.index(b"data") + 4
    return {
        "good.caf": (good, "read 8000"),
        "half.caf": (good[: len(good) // 2], "truncated: 16000 bytes of samples promised, \\d+ there"),
        "header-only.caf": (good[: at + 12], "truncated: 16000 bytes of samples promised, 0 there"),
        "no-data.caf": (good[: at - 4], "its chunks lead to no samples"),
        "length-minus-1.caf": (put(good, at, ">q", -1), "read 8000"),
        "length-minus-2.caf": (put(good, at, ">q", -2), "read 8000"),
        "length-0.caf": (put(good, at, ">q", 0), "read 8000"),
        "length-of-the-edit-count.caf": (put(good, at, ">q", 4), "read 8000"),
        "length-halved.caf": (put(good, at, ">q", 8004), LEFT_OVER),
        "length-2-to-the-60.caf": (put(good, at, ">q", 2**60), "truncated"),
        "chunk-of-minus-9-bytes.caf": (put(good, 12, ">q", -9), "its chunks lead to no samples"),
        "another-header-inside.caf": (put(good[: at + 12] + good, at, ">q", 0), "a second header instead of samples"),
        "rate-nan.caf": (put(good, 20, ">d", float("nan")), "not a readable sound file|a sample rate of"),
        "no-channels.caf": (put(good, 44, ">I", 0), "not a readable sound file"),
        "255-channels.caf": (put(good, 44, ">I", 255), "not a readable sound file|255 channels"),
        "apple-lossless.caf": (alac, "read 32000"),
        "apple-lossless-half.caf": (alac[: len(alac) // 2], "truncated"),
    }


def sun_files() -> Table:
    """AU: position, length, encoding, rate and channels from byte 4 on."""
    good = encode(TONE, RATE, "AU", "PCM_16")
    return {
        "good.au": (good, "read 8000"),
        "law.snd": (encode(TONE, RATE, "AU", "ULAW"), "read 8000"),
        "little-endian.au": (encode(TONE, RATE, "AU", "PCM_16", endian="LITTLE"), "read 8000"),
        "half.au": (good[: len(good) // 2], "truncated: 16000 bytes of samples promised, \\d+ there"),
        "header-only.au": (good[:24], "truncated: 16000 bytes of samples promised, 0 there"),
        "magic-only.au": (good[:4], "its samples cannot begin at byte 0"),
        "length-minus-1.au": (put(good, 8, ">i", -1), "read 8000"),
        "length-0.au": (put(good, 8, ">I", 0), "read 8000"),
        "length-near-2-to-the-31.au": (put(good, 8, ">I", 0x7FFFFFFF), "read 8000"),
        "length-halved.au": (put(good, 8, ">I", 8000), LEFT_OVER),
        "length-doubled.au": (put(good, 8, ">I", 32000), "truncated: 32000 bytes"),
        "samples-at-3.au": (put(good, 4, ">I", 3), "its samples cannot begin at byte 3"),
        "samples-behind-the-end.au": (put(good, 4, ">I", 2**31), "truncated: 16000 bytes of samples promised, 0 there"),
        "encoding-99.au": (put(good, 12, ">I", 99), "not a readable sound file"),
        "no-channels.au": (put(good, 20, ">I", 0), "not a readable sound file"),
        "255-channels.au": (put(good, 20, ">I", 255), "255 channels, the most is 64"),
        "rate-0.au": (put(good, 16, ">I", 0), "not a readable sound file|a sample rate of 0 Hz"),
        "zeros-behind.au": (good + bytes(5000), "read 8000"),
        "tag-behind.au": (good + b"TAG" + bytes(125), "read 8000"),
        "noise-behind.au": (good + b"\1" * 5000, LEFT_OVER),
    }


def sphere_files() -> Table:
    """NIST SPHERE, as in TIMIT: 1024 bytes of text before the samples."""
    good = sphere(TONE, RATE)

    def forged(old: bytes, new: bytes) -> bytes:
        assert old in good
        return good[:1024].replace(old, new).ljust(1024)[:1024] + good[1024:]

    return {
        "timit.wav": (good, "read 8000"),
        "big-endian.sph": (sphere(TONE, RATE, order=">"), "read 8000"),
        "half.sph": (good[: len(good) // 2], "truncated: 16000 bytes of samples promised, \\d+ there"),
        "header-only.sph": (good[:1024], "truncated: 16000 bytes of samples promised, 0 there"),
        "magic-only.sph": (good[:8], "a SPHERE header that is not supported"),
        "count-halved.sph": (forged(b"-i 8000", b"-i 4000"), LEFT_OVER),
        "count-0.sph": (forged(b"-i 8000", b"-i 0"), "read 8000"),
        "count-missing.sph": (forged(b"sample_count -i 8000\n", b""), "read 8000"),
        "count-negative.sph": (forged(b"-i 8000", b"-i -8000"), "read 8000"),
        "count-of-5000-digits.sph": (
            b"NIST_1A\n   8192\nsample_count -i " + b"9" * 5000 + good[16:],
            "a SPHERE header that is not supported",
        ),
        "rate-missing.sph": (forged(b"sample_rate -i 16000\n", b""), "not supported \\('sample_rate'\\)"),
        "rate-0.sph": (forged(b"-i 16000", b"-i 0"), "not a readable sound file|a sample rate of 0 Hz"),
        "rate-minus-1.sph": (forged(b"-i 16000", b"-i -1"), "a SPHERE header that is not supported"),
        "channels-2-to-the-40.sph": (
            forged(b"channel_count -i 1", b"channel_count -i 1099511627776"),
            "a SPHERE header that is not supported",
        ),
        "shortened.sph": (
            forged(b"sample_coding -s3 pcm", b"sample_coding -s26 pcm,embedded-shorten-v2.00"),
            "not supported \\(.'pcm,embedded-shorten-v2.00', 2.\\): convert it",
        ),
    }


def broken_off_files() -> Table:
    """WAV and AIFF whose lengths were never filled in, whatever stands there instead, with all of the samples."""
    good, big = wav(), encode(TONE, RATE, "WAV", "PCM_16", endian="BIG")
    long, aiff = encode(TONE, RATE, "RF64", "PCM_16"), encode(TONE, RATE, "AIFF", "PCM_16")
    common, sound = aiff.index(b"COMM"), aiff.index(b"SSND")
    padded = riff(wave_format(), (b"JUNK", bytes(4096 - 44 - 8)), pcm())
    at = padded.index(b"data", 40) + 4
    files: Table = {
        "unfilled-behind-4096.wav": (put(put(padded, 4, "<I", 4088), at, "<I", 0), "read 8000"),
        "unfilled-rf64.wav": (_zeros(put(long, long.index(b"data") + 4, "<I", 0xFFFFFFFF), 20, 24), "read 8000"),
        "unfilled-bw64.wav": (b"BW64" + _zeros(long, 20, 24)[4:], "read 8000"),
        "tail-list.wav": (good + b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + bytes(18), "read 8000"),
        "tail-list-cut.wav": (riff(wave_format(), pcm(), (b"LIST", b"INFO" + bytes(500)))[:-300], "read 8000"),
        "length-with-header.wav": (put(put(good, 4, "<I", 16044), 40, "<I", 16044), "read 8000"),
        "block-of-4096-missing.wav": (padded[:-4096], "truncated: 16000 bytes of samples promised, 11904 there"),
        "as-many-bytes-missing-as-the-header-has.wav": (good[:-44], "truncated: 16000 bytes of samples promised"),
        "length-with-header-but-8.wav": (put(good, 40, "<I", 16036), "read 8000"),
        "tail-tag.wav": (good + b"ID3\3\0\0\0\0\2\0" + b"\1" * 256, "read 8000"),
        "tail-noise.wav": (good + NOISE.tobytes(), "read 8000"),
        "tag-before.wav": (b"ID3\3\0\0\0\0\2\0" + bytes(256) + good, "read 8000"),
        "zeros-before.wav": (bytes(777) + good, "read 8000"),
        "tag-before.flac": (b"ID3\3\0\0\0\0\2\0" + bytes(256) + encode(TONE, RATE, "FLAC", "PCM_16"), "read 8000"),
        "tag-before-half.wav": (b"ID3\3\0\0\0\0\2\0" + bytes(256) + good[:8000], "truncated"),
        "ten-million-tags.wav": (b"ID3\3\0\0\0\0\0\0" * 100_000 + good, "over 16 tags before the sound"),
    }
    for riff_size in (0, 8, 36, 4088, 16036, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        for data_size in (0, 36, 44, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
            for content, order in ((good, "<"), (big, ">")):
                unfilled = put(put(content, 4, f"{order}I", riff_size), 40, f"{order}I", data_size)
                kind = "unfilled" if order == "<" else "unfilled-rifx"
                is_short_and_true = riff_size == 36 + data_size and data_size
                files[f"{kind}-{riff_size}-{data_size}.wav"] = (unfilled, "read 8000" if not is_short_and_true else "")
    for size in (0, 8, 0x7F000008, 0xFFFFFFFF):
        for frames in (0, 8000, 0x3F800000, 0xFFFFFFFF):
            unfilled = put(put(aiff, sound + 4, ">I", size), common + 10, ">I", frames)
            files[f"unfilled-{size}-{frames}.aiff"] = (put(unfilled, 4, ">I", 0), "read 8000")
    return files


def _zeros(content: bytes, first: int, count: int) -> bytes:
    return content[:first] + bytes(count) + content[first + count :]


def header_files() -> Table:
    """WAV files with a number that players ignore: read, with a warning; the numbers that matter are not guessed."""
    good, float32 = wav(), wav(subtype="FLOAT")
    guid = bytes.fromhex("0100000000001000800000aa00389b71")
    extensible = struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE, 2 * RATE, 2, 16, 22, 16, 0)
    mpeg = encode(NOISE, RATE, "MP3", "MPEG_LAYER_III")
    description = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 8000, 1, 0, 12, 1, 2, 576, 1, 1393)
    return {
        "bytes-a-second-random.wav": (put(good, 28, "<I", 123456789), "read 8000 .*123456789 bytes a second"),
        "bytes-a-second-0.wav": (put(good, 28, "<I", 0), "read 8000$"),
        "bytes-a-second-of-another-rate.wav": (put(good, 28, "<I", 88200), "read 8000 .*88200 bytes a second"),
        "block-0.wav": (put(good, 32, "<H", 0), "read 8000 .*0 bytes of 1 channels of 16 bits were taken for 2"),
        "block-1.wav": (put(good, 32, "<H", 1), "read 8000 .*1 bytes of 1 channels of 16 bits were taken for 2"),
        "block-of-floats-3.wav": (put(float32, 32, "<H", 3), "read 8000 .*3 bytes of 1 channels of 32 bits"),
        "block-0-of-65535-channels.wav": (
            put(put(good, 22, "<H", 0xFFFF), 32, "<H", 0),
            "65535 channels of 16 bits cannot be 0 bytes",
        ),
        "block-0-of-0-bits.wav": (put(put(good, 32, "<H", 0), 34, "<H", 0), "not a readable sound file"),
        "fact-forged.wav": (riff(wave_format(), (b"fact", b"\1\2\3\4"), pcm()), "read 8000$"),
        "extensible.wav": (riff((b"fmt ", extensible + guid), pcm()), "read 8000$"),
        "extensible-odd-guid.wav": (
            riff((b"fmt ", extensible + guid[:2] + b"\7" * 14), pcm()),
            "read 8000 .*an unknown kind of format was taken for format 1",
        ),
        "extensible-unknown-format.wav": (
            riff((b"fmt ", extensible + b"\x42\x42" + guid[2:]), pcm()),
            "not a readable sound file",
        ),
        "mp3-inside.wav": (riff((b"fmt ", description), (b"data", mpeg)), "read 32000"),
        "mp3-inside-half.wav": (
            riff((b"fmt ", description), (b"fact", b"\0\xff\0\0"), (b"data", mpeg[: len(mpeg) // 2])),
            "truncated",
        ),
        "noise-as-mp3.wav": (riff((b"fmt ", description), pcm()), "not a readable sound file"),
    }


GROUPS: dict[str, Callable[[], Table]] = {
    "wave64": wave64_files,
    "caf": caf_files,
    "au": sun_files,
    "sphere": sphere_files,
    "broken-off": broken_off_files,
    "header": header_files,
}

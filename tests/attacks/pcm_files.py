"""Hostile WAV and AIFF files, whose samples are not compressed: what is in each, and what the reader has to say."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))  # where it is run as a program
from mutations import encode

RATE = 16000
TIME = np.arange(RATE // 2) / RATE
TONE = (0.4 * np.sin(2 * np.pi * 220 * TIME) + 0.2 * np.sin(2 * np.pi * 731 * TIME)).astype(np.float32)
NOISE = np.random.default_rng(0).normal(0, 0.2, 2 * RATE).astype(np.float32)

Table = dict[str, tuple[bytes, str]]  # file name: content, pattern of the message; "read N" for N samples


def put(content: bytes, position: int, layout: str, value: float) -> bytes:
    """Overwrite a number."""
    changed = bytearray(content)
    struct.pack_into(layout, changed, position, value)
    return bytes(changed)


def riff(*chunks: tuple[bytes, bytes], form: bytes = b"WAVE") -> bytes:
    """Build a RIFF file, chunks of odd length padded."""
    body = form + b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def wave_format(channels: int = 1, rate: int = RATE, bits: int = 16, tag: int = 1) -> tuple[bytes, bytes]:
    """Build a `fmt ` chunk that agrees with itself."""
    block = channels * ((bits + 7) // 8)
    return b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)


def pcm(num_bytes: int = 16000) -> tuple[bytes, bytes]:
    """Build a `data` chunk of 16-bit noise."""
    return b"data", (NOISE * 30000).astype("<i2").tobytes()[:num_bytes]


def wav(wave: np.ndarray = TONE, subtype: str = "PCM_16") -> bytes:
    """Encode as WAV; of TONE the fields lie at 4 (length), 22, 24, 28, 32, 34 (format) and 40 (samples)."""
    return encode(wave, RATE, "WAV", subtype)


def wav_files() -> Table:
    """WAV and its relatives."""
    good, samples = wav(), pcm()
    spoilt = {}
    for name, value in (("nan", np.nan), ("inf", np.inf), ("minus-inf", -np.inf), ("huge", 1e30)):
        wave = TONE.copy()
        wave[4321] = value
        spoilt[name] = wav(wave, "FLOAT")
    return {
        "empty.wav": (b"", "the file is empty"),
        "four-bytes.wav": (b"RIFF", "damaged or empty"),
        "header-only.wav": (good[:44], "truncated: 16000 bytes of samples promised, 0 there"),
        "no-samples.wav": (riff(wave_format(), (b"data", b"")), "no audio in it"),
        "no-data-chunk.wav": (riff(wave_format()), "its chunks lead to no samples"),
        "no-format.wav": (riff(samples), "not a readable sound file"),
        "data-before-format.wav": (riff(samples, wave_format()), "not a readable sound file"),
        "half.wav": (good[: len(good) // 2], "truncated: 16000 bytes of samples promised, 7978 there"),
        "one-byte-short.wav": (good[:-1], "truncated: 16000 bytes of samples promised, 15999 there"),
        "length-doubled.wav": (put(good, 40, "<I", 32000), "truncated: 32000 bytes of samples promised, 16000 there"),
        "length-halved.wav": (put(good, 40, "<I", 8000), "leaves over of the samples, 8000 bytes, is nothing else"),
        "length-one-sample.wav": (put(good, 40, "<I", 2), "read 8000"),
        "length-of-2-gigabytes.wav": (put(good, 40, "<I", 0x7FFFEFFF), "truncated: 2147479551 bytes"),
        "length-unknown.wav": (put(good, 40, "<I", 0xFFFFFFFF), "read 8000"),
        "length-unknown-to-sox.wav": (put(good, 40, "<I", 0x7FFFF000), "read 8000"),
        "whole-length-forged.wav": (put(good, 4, "<I", 20), "read 8000"),
        "no-channels.wav": (put(good, 22, "<H", 0), "0 channels of 16 bits cannot be 2 bytes"),
        "no-channels-consistent.wav": (
            riff(wave_format(channels=0), samples),
            "not a readable sound file \\(Channel count is zero",
        ),
        "two-channels-forged.wav": (put(good, 22, "<H", 2), "2 channels of 16 bits cannot be 2 bytes"),
        "255-channels.wav": (riff(wave_format(channels=255), samples), "255 channels, the most is 64"),
        "65535-channels.wav": (
            riff(wave_format(channels=65535, bits=8), samples),
            "not a readable sound file \\(Too many channels",
        ),
        "rate-0.wav": (riff(wave_format(rate=0), samples), "not a readable sound file"),
        "rate-1.wav": (riff(wave_format(rate=1), samples), "a sample rate of 1 Hz, outside 1000 to 768000 Hz"),
        "rate-2-gigahertz.wav": (
            riff(wave_format(rate=0x7FFFFFFF), samples),
            "a sample rate of 2147483647 Hz, outside 1000 to 768000 Hz",
        ),
        "rate-4-gigahertz.wav": (
            riff(wave_format(rate=0xFFFFFFFF), samples),
            "not a readable sound file",
        ),
        "rate-forged.wav": (put(good, 24, "<I", 81536), "81536 Hz of 2 bytes cannot be 32000 bytes a second"),
        "bits-0.wav": (put(good, 34, "<H", 0), "1 channels of 0 bits cannot be 2 bytes"),
        "bits-of-another-width.wav": (put(good, 34, "<H", 24), "1 channels of 24 bits cannot be 2 bytes"),
        "bits-65535.wav": (
            riff(wave_format(bits=65535), samples),
            "not a readable sound file \\(File contains data in an unimplemented format",
        ),
        "block-0.wav": (put(put(good, 32, "<H", 0), 28, "<I", 7), "1 channels of 16 bits were taken for 2"),
        "unknown-codec.wav": (
            riff(wave_format(tag=0x4242), samples),
            "not a readable sound file .*Malformed 'fmt ' chunk",
        ),
        "format-chunk-empty.wav": (riff((b"fmt ", b""), samples), "not a readable sound file .*Short 'fmt ' chunk"),
        "format-chunk-without-end.wav": (put(good, 16, "<I", 0x7FFFFFF0), "its chunks lead to no samples"),
        "two-formats.wav": (riff(wave_format(), wave_format(rate=8000), samples), "not a readable sound file"),
        "two-data-chunks.wav": (riff(wave_format(), samples, samples), "not a readable sound file"),
        "riff-in-riff.wav": (riff(wave_format(), (b"RIFF", good), samples), "not a readable sound file"),
        "riff-as-samples.wav": (riff(wave_format(), (b"data", good + b"\0\0")), "read 8023"),
        "2000-empty-chunks.wav": (riff(wave_format(), *[(b"junk", b"")] * 2000, samples), "over 1000 chunks"),
        "odd-chunk-padded.wav": (riff(wave_format(), (b"LIST", b"odd"), samples), "read 8000"),
        "odd-chunk-unpadded.wav": (
            riff(wave_format(), (b"LIST", b"odd"), samples).replace(b"odd\0", b"odd"),
            "read 8000",
        ),
        "odd-samples.wav": (riff(wave_format(), pcm(15999)), "read 7999"),
        "big-endian-fields.wav": (
            b"RIFF"
            + struct.pack(">I", 16036)
            + b"WAVEfmt "
            + struct.pack(">IHHIIHH", 16, 1, 1, RATE, 32000, 2, 16)
            + b"data"
            + struct.pack(">I", 16000)
            + bytes(16000),
            "its chunks lead to no samples",
        ),
        "rifx-with-small-end-first.wav": (b"RIFX" + good[4:], "its chunks lead to no samples"),
        "rf64-without-ds64.wav": (b"RF64" + good[4:], "read 8000"),
        "rf64-length-forged.wav": (put(encode(TONE, RATE, "RF64", "PCM_16"), 28, "<Q", 2**60), "truncated"),
        "nan.wav": (spoilt["nan"], "NaN or infinite samples"),
        "infinite.wav": (spoilt["inf"], "NaN or infinite samples"),
        "minus-infinite.wav": (spoilt["minus-inf"], "NaN or infinite samples"),
        "1e30.wav": (spoilt["huge"], "samples as large as 1e\\+30"),
        "all-nan.wav": (wav(np.full(1000, np.nan, np.float32), "FLOAT"), "NaN or infinite samples"),
        "1e300-double.wav": (encode(np.array([0.0, 1e300]), RATE, "WAV", "DOUBLE"), "NaN or infinite samples"),
        "sun-audio.wav": (encode(TONE, RATE, "AU", "PCM_16"), "read 8000"),
        "sony-wave64.wav": (encode(TONE, RATE, "W64", "PCM_16"), "read 8000"),
        "apple-caf.wav": (encode(TONE, RATE, "CAF", "PCM_16"), "read 8000"),
    }


def aiff_files() -> Table:
    """AIFF: COMM at 12 (frames at 22, rate at 28), SSND at 38 in what libsndfile writes."""
    good = encode(TONE, RATE, "AIFF", "PCM_16")
    common, samples = good.index(b"COMM"), good.index(b"SSND")
    compressed = b"FORM" + good[4:8] + b"AIFC" + good[12:common] + b"COMM" + struct.pack(">I", 24)
    compressed += good[common + 8 : common + 26] + b"\x04XYZ\x01?" + good[samples:]
    outside = "a sample rate of \\d+ Hz, outside 1000 to 768000 Hz"
    rates = {  # 80-bit floating point
        "nan": (b"\x7f\xff" + b"\xff" * 8, outside),
        "infinite": (b"\x7f\xff\x80" + bytes(7), outside),
        "negative": (b"\xc0\x0c\xfa" + bytes(7), "not a readable sound file"),
        "zero": (bytes(10), outside),
        "1e300": (b"\x43\xe3\xbf\x21\xe4\x40\x03\xac\xdc\xc9", outside),
    }
    files: Table = {
        "header-only.aiff": (good[:12], "damaged or empty"),
        "no-samples.aiff": (good[:samples], "its chunks lead to no samples"),
        "half.aiff": (good[: len(good) // 2], "truncated"),
        "frames-doubled.aiff": (
            put(good, common + 10, ">I", 16000),
            "its frames do not fill its 16008 bytes of samples",
        ),
        "frames-halved.aiff": (put(good, common + 10, ">I", 4000), "its frames do not fill its 16008 bytes of samples"),
        "no-frames.aiff": (put(good, common + 10, ">I", 0), "read 8000"),
        "length-halved.aiff": (put(good, samples + 4, ">I", 8008), "its frames do not fill its 8008 bytes of samples"),
        "length-0.aiff": (put(good, samples + 4, ">I", 0), "read 8000"),
        "offset-forged.aiff": (put(good, samples + 8, ">I", 4000), "its frames do not fill"),
        "no-channels.aiff": (put(good, common + 8, ">H", 0), "its frames do not fill"),
        "255-channels.aiff": (put(good, common + 8, ">H", 255), "its frames do not fill"),
        "bits-32767.aiff": (put(good, common + 14, ">H", 32767), "its frames do not fill"),
        "small-end-first.aiff": (put(good, samples + 4, "<I", 16008), "its frames do not fill its 2285764608 bytes"),
        "unknown-compression.aiff": (
            compressed,
            "not a readable sound file \\(File contains data in an unimplemented format",
        ),
        "two-headers.aiff": (good[:samples] + good[common:], "read 8000"),
        "first-of-two-headers-forged.aiff": (put(good[:samples], common + 10, ">I", 3) + good[common:], "read 8000"),
    }
    for name, (value, reason) in rates.items():
        files[f"rate-{name}.aiff"] = (good[: common + 16] + value + good[common + 26 :], reason)
    return files

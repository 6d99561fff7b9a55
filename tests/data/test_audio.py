"""Reading sound files: what comes back is right, or the file is refused in one line."""

import io
import math
import os
import pickle
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from aape.data.audio import audio_seconds, read_audio
from aape.data.audio.mpeg import count_frames
from aape.errors import AapeError, AudioError, AudioWarning

FORMATS = {  # extension: format, subtype, largest error of a round trip at 16 kHz
    "wav": ("WAV", "PCM_16", 1e-4),
    "float.wav": ("WAV", "FLOAT", 1e-7),
    "double.wav": ("WAV", "DOUBLE", 1e-7),
    "u8.wav": ("WAV", "PCM_U8", 1e-2),
    "wavex.wav": ("WAVEX", "PCM_24", 1e-6),
    "rf64.wav": ("RF64", "PCM_16", 1e-4),
    "adpcm.wav": ("WAV", "IMA_ADPCM", 2e-1),
    "gsm.wav": ("WAV", "GSM610", 2e-1),
    "ms.wav": ("WAV", "MS_ADPCM", 2e-1),
    "law.wav": ("WAV", "ALAW", 2e-2),
    "w64": ("W64", "PCM_24", 1e-6),
    "float.w64": ("W64", "FLOAT", 1e-7),
    "aiff": ("AIFF", "PCM_24", 1e-6),
    "caf": ("CAF", "PCM_24", 1e-6),
    "alac.caf": ("CAF", "ALAC_24", 1e-6),
    "au": ("AU", "PCM_32", 1e-7),
    "law.snd": ("AU", "ULAW", 2e-2),
    "flac": ("FLAC", "PCM_16", 1e-4),
    "ogg": ("OGG", "VORBIS", 1e-1),
    "opus": ("OGG", "OPUS", 1e-1),
    "mp3": ("MP3", "MPEG_LAYER_III", 1e-1),
}


def tones(seconds: float, rate: int = 16000) -> np.ndarray:
    """Two tones whose levels change, so that a shift in time shows."""
    time = np.arange(round(seconds * rate)) / rate
    envelope = 0.5 + 0.4 * np.sin(2 * np.pi * 1.3 * time)
    return (0.4 * envelope * (np.sin(2 * np.pi * 220 * time) + 0.5 * np.sin(2 * np.pi * 731 * time))).astype(np.float32)


def encode(wave: np.ndarray, rate: int = 16000, kind: str = "WAV", subtype: str | None = "PCM_16") -> bytes:
    file = io.BytesIO()
    num_channels = 1 if wave.ndim == 1 else wave.shape[1]
    with soundfile.SoundFile(file, "w", rate, num_channels, format=kind, subtype=subtype) as sound:
        for first in range(0, len(wave), 4096):  # libsndfile's Vorbis encoder crashes on long blocks
            sound.write(wave[first : first + 4096])
    return file.getvalue()


def encode_as(extension: str, wave: np.ndarray, rate: int = 16000) -> bytes:
    return encode(wave, rate, *FORMATS[extension][:2])


def refusal(source: bytes | str | Path, **options: float) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("extension", FORMATS)
def test_every_promised_format_gives_its_samples_back(extension: str, tmp_path: Path) -> None:
    wave = tones(1.0)
    path = tmp_path / f"a.{extension}"
    path.write_bytes(encode_as(extension, wave))
    out = read_audio(path)
    assert out.dtype == np.float32
    assert out.ndim == 1
    assert len(wave) <= len(out) <= len(wave) + 2048  # block codecs without a sample count pad the last block
    # libsndfile's Opus encoder drops the last few milliseconds.
    assert np.abs(out[:15000] - wave[:15000]).max() < FORMATS[extension][2]
    assert np.array_equal(read_audio(path.read_bytes()), out)
    assert audio_seconds(path) == pytest.approx(len(out) / 16000)


def test_channels_are_averaged() -> None:
    left, right = tones(0.5), np.full(8000, 0.25, np.float32)
    out = read_audio(encode(np.stack([left, right], axis=1), subtype="FLOAT"))
    np.testing.assert_allclose(out, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000, 11127])
def test_any_rate_becomes_16_khz_without_a_shift(rate: int) -> None:
    wave = tones(1.0, rate)
    out = read_audio(encode(wave, rate, subtype="FLOAT"))
    assert len(out) == 16000
    assert np.abs(out - tones(1.0))[400:-400].max() < 1e-3
    np.testing.assert_allclose(out, soxr.resample(wave, rate, 16000), atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 11127])
@pytest.mark.parametrize("extension", [name for name in FORMATS if name != "opus"])
def test_a_part_is_a_slice_of_the_whole(extension: str, rate: int) -> None:
    if extension == "mp3" and rate == 11127:
        pytest.skip("MP3 has no such rate")
    content = encode_as(extension, tones(2.5, rate), rate)
    whole = read_audio(content)
    for start, duration in [(0, 0.3), (0.2, 0.5), (1.0001, 0.1), (1.37, 5.0), (2.0, None), (2.4, None), (2.49, 3.0)]:
        first = round(start * 16000)
        stop = None if duration is None else first + round(duration * 16000)
        part = read_audio(content, start=start, duration=duration)
        expected = whole[first:stop]
        assert len(part) == len(expected)
        assert np.abs(part - expected).max() < 1e-4, (start, duration)


def test_a_part_far_into_an_mp3_is_a_slice_of_the_whole() -> None:
    content = encode_as("mp3", tones(40.0))
    whole = read_audio(content)
    for start in (29.9, 30.0, 33.3333, 39.5):
        part = read_audio(content, start=start, duration=1.0)
        expected = whole[round(start * 16000) :][:16000]
        assert len(part) == len(expected)
        assert np.abs(part - expected).max() < 1e-4, start


@pytest.mark.parametrize("rate", [16000, 48000])
def test_a_part_of_opus_is_a_slice_of_the_whole(rate: int) -> None:
    content = encode_as("opus", tones(3.0, rate), rate)
    whole = read_audio(content)
    for start in (0.0, 0.31, 1.5, 2.2, 2.9):
        part = read_audio(content, start=start, duration=0.4)
        expected = whole[round(start * 16000) :][:6400]
        assert len(part) == len(expected)
        # The decoder is predictive: 80 ms before a seek bring it close to where it would have been.
        assert np.abs(part - expected).max() < 2e-2


@pytest.mark.parametrize("seconds", [0.05, 1.0, 7.0])
def test_no_part_of_a_vorbis_file_is_shifted_near_its_end(seconds: float) -> None:
    rate = 44100
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * rate)).astype(np.float32)
    content = encode(noise, rate, "OGG", "VORBIS")
    whole = read_audio(content, sample_rate=rate)
    for back in (*range(1, min(30000, len(whole)), 977), len(whole) // 2 + 1):
        part = read_audio(content, sample_rate=rate, start=(len(whole) - back) / rate)
        assert len(part) == back
        assert np.abs(part - whole[-back:]).max() < 1e-4, back


def test_a_short_clip_gives_what_there_is() -> None:
    content = encode(tones(0.01))
    assert len(read_audio(content)) == 160
    assert len(read_audio(content, duration=3.0)) == 160
    assert len(read_audio(encode(tones(0.01)[:1]))) == 1


def test_silence_is_silence() -> None:
    assert not read_audio(encode(np.zeros(1000, np.float32), kind="FLAC")).any()


@pytest.mark.parametrize("options", [{"start": -1.0}, {"duration": 0.0}, {"start": math.nan}, {"sample_rate": 0}])
def test_an_impossible_part_is_the_callers_mistake(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no such part"):
        read_audio(encode(tones(0.1)), **options)


def test_a_start_behind_the_end_says_how_long_the_file_is() -> None:
    assert "1.00 s long, asked for from 5 s" in refusal(encode(tones(1.0)), start=5.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_bad_samples_never_reach_a_model(value: float) -> None:
    wave = tones(0.2)
    wave[1234] = value
    assert ("large" if value == 1e30 else "NaN or infinite") in refusal(encode(wave, subtype="FLOAT"))


def test_samples_too_large_for_float32_are_refused() -> None:
    assert "NaN or infinite" in refusal(encode(np.array([0.0, 1e300]), subtype="DOUBLE"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"just some text, called .wav\n" * 50, "not a readable sound file"),
        (bytes(4096), "not a readable sound file"),
        (b"\xff\xfb", "not a readable sound file"),
        (b"\x00\x00\x00\x20ftypM4A " + bytes(2000), "convert it to WAV or FLAC"),
        (b"\x1aE\xdf\xa3" + bytes(2000), "convert it to WAV or FLAC"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_what_is_no_sound_file_is_refused_with_a_way_out(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    message = refusal(path)
    assert reason in message
    assert message.startswith(f"{path}: ")


def test_formats_that_were_never_promised_are_refused() -> None:
    assert "VOC files are not supported" in refusal(encode(tones(0.1), kind="VOC"))


def test_a_file_without_samples_is_refused() -> None:
    assert "no audio" in refusal(encode(np.zeros(0, np.float32)))
    with pytest.raises(AudioError, match="no audio"):
        audio_seconds(encode(np.zeros(0, np.float32)))


@pytest.mark.parametrize("part", [{}, {"start": 0.1, "duration": 0.2}])
@pytest.mark.parametrize("kept", [0.99, 0.9, 0.5, 0.1])
@pytest.mark.parametrize("extension", FORMATS)
def test_a_truncated_file_is_refused_and_not_used_shortened(
    extension: str, kept: float, part: dict[str, float], tmp_path: Path
) -> None:
    content = encode_as(extension, tones(3.0))
    path = tmp_path / f"a.{extension}"
    path.write_bytes(content[: int(len(content) * kept)])
    if part and extension == "flac":
        return  # a part is read without looking at the rest, and FLAC says nothing about its bytes
    message = refusal(path, **part)
    assert "truncated" in message or "not a readable sound file" in message


def test_a_cut_mp3_without_an_index_is_refused() -> None:
    content = encode_as("mp3", tones(2.0))
    second_frame = content.find(content[:2], 100)
    stream = content[second_frame:]
    message = refusal(stream[: len(stream) * 2 // 3])
    assert "truncated" in message or "without an index" in message


def constant_rate_mp3(wave: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, 1, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5) as sound:
        sound.write(wave)
    content = file.getvalue()
    return content[content.find(content[:2], 100) :]  # the first frame holds the index


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_an_mp3_of_constant_rate_without_an_index_is_read_whole(rate: int) -> None:
    wave = tones(2.0, rate)
    content = constant_rate_mp3(wave, rate)
    frames = count_frames(io.BytesIO(content), len(content))
    assert frames is not None
    assert not frames.is_cut
    assert len(wave) <= frames.num_samples <= len(wave) + 4 * 1152
    assert len(read_audio(content, sample_rate=rate)) >= len(wave)
    assert audio_seconds(content) >= 2.0
    tagged = b"ID3\x03\x00\x00\x00\x00\x02\x00" + bytes(256) + content + b"TAG" + bytes(125)
    assert len(read_audio(tagged, sample_rate=rate)) >= len(wave)
    assert "last MP3 frame is cut" in refusal(content[:-10])


def test_half_of_an_mp3_is_never_dropped_in_silence() -> None:
    """libsndfile guesses the length from the first frame's bit rate and stops there."""
    wave = np.concatenate([np.random.default_rng(0).normal(0, 0.2, 32000), np.zeros(64000)]).astype(np.float32)
    wave = np.concatenate([wave, wave[::-1], wave])
    content = encode_as("mp3", wave)
    stream = content[content.find(content[:2], 100) :]
    try:
        assert len(read_audio(stream)) >= len(wave)
    except AudioError as error:
        assert "without an index" in str(error)  # noqa: PT017


def with_flac_frames(content: bytes, num_frames: int) -> bytes:
    fields = int.from_bytes(content[18:26], "big") >> 36 << 36 | num_frames
    return content[:18] + fields.to_bytes(8, "big") + content[26:]


@pytest.mark.parametrize("promised", [2**36 - 1, 10 * 16000, 16001])
def test_a_forged_flac_length_is_refused_and_asks_for_no_memory(promised: int) -> None:
    resource = pytest.importorskip("resource")
    content = with_flac_frames(encode_as("flac", tones(1.0)), promised)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB
    assert len(read_audio(content, start=0.2, duration=0.3)) == 4800  # what is there can be used


def test_a_flac_stream_of_unknown_length_is_read_to_its_end() -> None:
    wave = tones(1.0)
    content = with_flac_frames(encode_as("flac", wave), 0)
    np.testing.assert_allclose(read_audio(content), wave, atol=1e-4)
    np.testing.assert_allclose(read_audio(content, start=0.5, duration=9.0), wave[8000:], atol=1e-4)
    assert audio_seconds(content) == 1.0
    refusal(content, start=2.0)
    assert "h of audio" in refusal(content, max_seconds=0.5)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_written_to_a_pipe_is_read_to_its_end(length: int) -> None:
    content = bytearray(encode(tones(1.0)))
    position = content.find(b"data") + 4
    content[position : position + 4] = struct.pack("<I", length)
    assert len(read_audio(bytes(content))) == 16000


def test_bytes_behind_the_sound_do_not_matter() -> None:
    without = {"gsm.wav"}  # whose last block is not whole
    without |= {"caf", "alac.caf", "au", "law.snd"}  # which do not say where they end, so that it might be sound
    for extension in FORMATS.keys() - without:
        content = encode_as(extension, tones(0.5))
        assert np.array_equal(read_audio(content + b"junk" * 20), read_audio(content)), extension


@pytest.mark.parametrize(("offset", "layout", "value"), [(22, "<H", 65), (22, "<H", 1024), (24, "<I", 2**31 - 1)])
def test_absurd_channels_and_rates_are_named(offset: int, layout: str, value: int) -> None:
    content = bytearray(encode(tones(0.5)))
    content[offset : offset + struct.calcsize(layout)] = struct.pack(layout, value)
    assert str(value) in refusal(bytes(content))


@pytest.mark.parametrize("rate", [0, 1, 999, 768001])
def test_rates_outside_the_limits_are_refused(rate: int) -> None:
    content = bytearray(encode(tones(0.5)))
    content[24:28] = struct.pack("<I", rate)
    refusal(bytes(content))


def test_a_file_longer_than_the_cap_is_refused_unless_a_part_is_asked_for() -> None:
    content = encode(tones(3.0))
    assert "cut it first" in refusal(content, max_seconds=2.0)
    assert len(read_audio(content, max_seconds=2.0, start=0.5, duration=1.0)) == 16000


def test_what_is_not_a_file_cannot_hang_the_run(tmp_path: Path) -> None:
    assert "folder" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "missing.wav")
    assert "null byte" in refusal("a\0b.wav")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.wav")
        assert "pipe" in refusal(tmp_path / "pipe.wav")
        assert "device" in refusal("/dev/zero")


def test_the_message_names_the_clip_as_the_user_knows_it() -> None:
    with pytest.raises(AapeError, match=r"^shard-0.tar/a.wav: the file is empty$") as caught:
        read_audio(b"", name="shard-0.tar/a.wav")
    again = pickle.loads(pickle.dumps(caught.value))  # as a loader's worker sends it
    assert str(again) == str(caught.value)
    with pytest.raises(AudioError, match=r"two\\nlines"):
        read_audio(b"", name="two\nlines")


def test_a_misleading_extension_does_not_matter(tmp_path: Path) -> None:
    for name in ("a.raw", "a.mp3", "a.caf", "a", "\u00e4\u4e2d.flac"):
        (tmp_path / name).write_bytes(encode(tones(0.1)))
        assert len(read_audio(tmp_path / name)) == 1600


@pytest.mark.parametrize("extension", [name for name in FORMATS if name not in ("gsm.wav", "adpcm.wav")])
def test_damaged_files_raise_nothing_but_audio_errors(extension: str) -> None:
    rng = np.random.default_rng(7)
    content = encode_as(extension, tones(0.5))
    for _ in range(60):
        damaged = bytearray(content)
        reach = 64 if rng.random() < 0.5 else len(damaged)  # half of them in the header
        for position in rng.integers(0, min(reach, len(damaged)), 3):
            damaged[position] = rng.integers(256)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AudioWarning)
                out = read_audio(bytes(damaged), max_seconds=60)
        except AudioError:
            continue
        assert 0 < len(out) <= 60 * 16000
        assert np.isfinite(out).all()

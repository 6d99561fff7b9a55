"""Sound as recorders, pipes and converters leave it: the right samples are read, whatever the header says."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from test_audio import encode, refusal, tones

from aape.commands.data import DataCheckConfig, check
from aape.data.audio import audio_seconds, read_audio
from aape.data.audio.decoding import AUDIO_EXTENSIONS, audio_format, stream_audio
from aape.data.manifest import read_manifest
from aape.errors import AudioWarning, RangeWarning
from mutations import sphere

WAVE = tones(2.5)


def put(content: bytes, position: int, layout: str, *values: float) -> bytes:
    changed = bytearray(content)
    struct.pack_into(layout, changed, position, *values)
    return bytes(changed)


def broken_off(kind: str) -> bytes:
    """A recording whose header was never finished."""
    content = encode(WAVE, kind=kind)
    data = content.find(b"data")
    if kind == "WAV":
        return put(put(content, 4, "<I", 0), data + 4, "<I", 0)
    if kind == "RF64":
        return put(put(content, 20, "<QQ", 0, 0), data + 4, "<I", 0xFFFFFFFF)
    if kind == "AIFF":
        sound = content.find(b"SSND")
        return put(put(put(content, 4, ">I", 0), sound + 4, ">I", 8), content.find(b"COMM") + 10, ">I", 0)
    if kind == "W64":
        return put(put(content, 16, "<Q", 0), data + 16, "<Q", 24)
    return put(content, 8, ">i", -1) if kind == "AU" else put(content, data + 4, ">q", -1)


BROKEN_OFF = {kind: broken_off(kind) for kind in ("WAV", "RF64", "AIFF", "W64", "AU", "CAF")}
BROKEN_OFF["SPHERE"] = sphere(WAVE, 16000).replace(b"sample_count -i 40000\n", b"").replace(b" \0", b" \0", 1)
BROKEN_OFF["SPHERE"] = BROKEN_OFF["SPHERE"].replace(b"end_head\n", b"end_head\n" + b" " * 22, 1)  # 1024 bytes of header


@pytest.mark.parametrize("kind", BROKEN_OFF)
def test_a_recording_that_was_broken_off_is_read_to_its_end(kind: str, tmp_path: Path) -> None:
    """The battery of a field recorder ends in the night: what it has written is all there is of it."""
    content = BROKEN_OFF[kind]
    whole = read_audio(content)
    np.testing.assert_allclose(whole, WAVE, atol=1e-4)
    assert audio_seconds(content) == 2.5
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(content))), whole)
    for start, duration in ((0.3, 0.5), (1.0001, 0.1), (2.4, None)):
        first = round(start * 16000)
        part = read_audio(content, start=start, duration=duration)
        np.testing.assert_array_equal(part, whole[first:][: None if duration is None else round(duration * 16000)])
    (tmp_path / "a.wav").write_bytes(content)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), whole)
    np.testing.assert_array_equal(read_audio(content + bytes(content[:1] != b"N")), whole)  # half a sample


@pytest.mark.parametrize(("order", "magic"), [("<", b"dns."), (">", b".snd")])
def test_sphere_is_read_in_either_byte_order(order: str, magic: bytes, tmp_path: Path) -> None:
    """TIMIT's files are called .WAV, and are none."""
    path = tmp_path / "SA1.WAV"
    path.write_bytes(sphere(WAVE, 16000, order=order))
    np.testing.assert_allclose(read_audio(path), WAVE, atol=1e-4)
    assert audio_format(path) == (16000, 1, "NIST PCM_16")
    path.write_bytes(path.read_bytes()[:-2])
    assert "truncated: 80000 bytes of samples promised, 79998 there" in refusal(path)


def test_a_folder_is_searched_for_every_kind_of_sound_that_is_read(tmp_path: Path) -> None:
    """A corpus of another kind than WAV must not look empty."""
    for extension in AUDIO_EXTENSIONS:
        (tmp_path / f"a{extension}").write_bytes(encode(tones(0.1)))
        (tmp_path / f"B{extension.upper()}").write_bytes(encode(tones(0.1)))
    assert len(read_manifest(tmp_path)) == 2 * len(AUDIO_EXTENSIONS)
    assert {".w64", ".rf64", ".au", ".snd", ".caf", ".aifc", ".sph", ".nist"} <= set(AUDIO_EXTENSIONS)


def test_samples_without_a_header_are_refused(tmp_path: Path) -> None:
    """Read as anything else they would be noise."""
    (tmp_path / "a.wav").write_bytes((WAVE * 32767).astype("<i2").tobytes())
    assert "not a readable sound file" in refusal(tmp_path / "a.wav")


def test_wave64_of_floats_as_ffmpeg_writes_it_is_not_taken_for_integers() -> None:
    """libsndfile 1.2 ignores the kind of samples in an extensible Wave64 header: what comes back is rubbish."""
    content = encode(WAVE, kind="W64", subtype="FLOAT")
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 16000, 64000, 4, 32, 22, 32, 4)
    form += bytes.fromhex("0300000000001000800000aa00389b71")
    at, data = content.find(b"fmt "), content.find(b"data")
    guid = content[at + 4 : at + 16]
    content = content[:at] + b"fmt " + guid + struct.pack("<Q", 24 + len(form)) + form + content[data:]
    np.testing.assert_allclose(read_audio(content), WAVE, atol=1e-7)


def test_a_recording_with_more_behind_its_end_says_so() -> None:
    """A recorder that died after its last update of the header has more sound than that states."""
    with pytest.warns(AudioWarning, match="a.wav: 40000 bytes behind its end, by its own header, were left out"):
        wave = read_audio(encode(WAVE) + encode(WAVE)[44:40044], name="a.wav")
    np.testing.assert_allclose(wave, WAVE, atol=1e-4)


def test_a_number_that_players_ignore_is_a_warning() -> None:
    """Thousands of files of one recorder have such a header, and are played everywhere."""
    with pytest.warns(AudioWarning, match="bytes a second in its header do not fit 16000 Hz"):
        np.testing.assert_allclose(read_audio(put(encode(WAVE), 28, "<I", 123456789)), WAVE, atol=1e-4)
    with pytest.warns(AudioWarning, match="were taken for 2"):
        np.testing.assert_allclose(read_audio(put(encode(WAVE), 32, "<H", 0)), WAVE, atol=1e-4)


def ultrasound(hertz: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("start", [0.0, 0.1])
@pytest.mark.parametrize(("hertz", "rate"), [(40000, 384000), (40000, 192000), (9500, 22050), (12000, 48000)])
def test_sound_above_the_range_of_the_front_end_is_a_warning(hertz: float, rate: int, start: float) -> None:
    """The calls of a bat would get the vector of silence, without a word."""
    content = encode(ultrasound(hertz, rate), rate)
    with pytest.warns(RangeWarning, match="bat.wav: over 99% of its energy lies above 8 kHz") as caught:
        read_audio(content, name="bat.wav", start=start, duration=0.2)
    assert len(caught) == 1
    read_audio(content, sample_rate=rate)  # a front end of that rate reads it


def test_an_offset_is_no_sound() -> None:
    """A broken microphone gives a constant: loud, and silent to the front end."""
    for rate in (16000, 44100):
        with pytest.warns(RangeWarning, match="lies below 10 Hz, as of a constant offset"):
            read_audio(encode(np.full(rate, 0.5, np.float32), rate))
        read_audio(encode(tones(1.0, rate) + 0.5, rate))
    with pytest.warns(RangeWarning, match="lies below 10 Hz or above 8 kHz"):
        read_audio(encode(ultrasound(40000, 96000) + 0.2, 96000))


@pytest.mark.parametrize("hertz", [30, 50, 440, 7000])
def test_real_sound_and_silence_are_no_warning(hertz: float) -> None:
    """A warning of everything is a warning of nothing."""
    read_audio(encode(ultrasound(hertz, 44100), 44100))
    read_audio(encode(ultrasound(hertz, 44100) * 0.3 + ultrasound(18000, 44100), 44100))
    dither = np.random.default_rng(0).normal(0, 1e-5, 192000).astype(np.float32)
    read_audio(encode(np.diff(dither, 3), 192000, subtype="FLOAT"))
    read_audio(encode(np.zeros(44100, np.float32), 44100))


@pytest.mark.parametrize("workers", [0, 1])
def test_data_check_counts_what_was_read_with_a_warning(
    workers: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Such files are known before the training, not after it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bat.wav").write_bytes(encode(ultrasound(40000, 192000), 192000))
    (tmp_path / "data" / "flat.wav").write_bytes(encode(np.full(44100, 0.5, np.float32), 44100))
    (tmp_path / "data" / "good.wav").write_bytes(encode(WAVE))
    (tmp_path / "data" / "rate.wav").write_bytes(put(encode(WAVE), 28, "<I", 123456789))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        check(DataCheckConfig(data=str(tmp_path / "data"), out=str(tmp_path / "report.json"), workers=workers))
    captured = capfd.readouterr()
    assert "out of the range of a front end of 16 kHz: 2, the first is bat.wav\n" in captured.out
    assert "read in spite of their headers: 1, the first is rate.wav: 123456789 bytes a second" in captured.out
    assert "Warning" not in captured.err

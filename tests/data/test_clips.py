"""Parts of recordings: the samples between two times, in whatever the recording lies; the wrong line is named."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_manifest import refusal, write_csv, write_tar

from aape.data.clips import Clip, check_clip, clip_seconds, load_clip, stream_clip
from aape.data.manifest import read_manifest
from aape.errors import AudioError

RATE = 16000
pytestmark = pytest.mark.filterwarnings("ignore::aape.errors.RangeWarning")  # a level tells samples apart


@pytest.fixture
def ramp(tmp_path: Path) -> np.ndarray:
    """Ten seconds whose every sample tells its time; as a file, at another rate, and in a shard."""
    samples = np.arange(10 * RATE, dtype=np.float32) / (10 * RATE)
    soundfile.write(tmp_path / "ramp.wav", samples, RATE, subtype="FLOAT")
    write_tar(tmp_path / "s.tar", {"ramp.wav": (tmp_path / "ramp.wav").read_bytes()})
    return samples


def test_a_part_is_the_samples_between_two_times(tmp_path: Path, ramp: np.ndarray) -> None:
    rows = ("ramp.wav,1.5,3", "ramp.wav,0,0.25", "ramp.wav,9.5,10", "ramp.wav,,")
    clips = read_manifest(write_csv(tmp_path / "t.csv", "file,start,end", *rows))
    assert [clip.name for clip in clips] == [
        "ramp.wav#t=1.5,3", "ramp.wav#t=0,0.25", "ramp.wav#t=9.5,10", "ramp.wav",
    ]  # fmt: skip
    assert [clip.file for clip in clips] == ["ramp.wav"] * 4
    for clip, (first, stop) in zip(clips, ((24000, 48000), (0, 4000), (152000, 160000), (0, 160000)), strict=True):
        np.testing.assert_array_equal(load_clip(clip), ramp[first:stop])
        np.testing.assert_array_equal(np.concatenate(list(stream_clip(clip))), ramp[first:stop])
        assert clip_seconds(clip) == check_clip(clip).seconds == (stop - first) / RATE
    part = load_clip(clips[0], start=0.5, duration=100.0)  # of a part no more than the part
    np.testing.assert_array_equal(part, ramp[32000:48000])
    np.testing.assert_array_equal(load_clip(clips[0], start=0.5, duration=0.25), ramp[32000:36000])
    with pytest.raises(AudioError, match=r"1\.50 s long, asked for from 2 s"):
        load_clip(clips[0], start=2.0)


def test_a_part_of_a_shard_is_read_in_place(tmp_path: Path, ramp: np.ndarray) -> None:
    (clip,) = read_manifest(write_csv(tmp_path / "t.csv", "shard,name,start,end", "s.tar,ramp.wav,2,3"))
    np.testing.assert_array_equal(load_clip(clip), ramp[32000:48000])
    assert clip.name == "s.tar/ramp.wav#t=2,3"


@pytest.mark.parametrize("sample_rate", [8000, 22050, 48000])
def test_a_part_of_a_resampled_recording_is_that_of_the_whole(tmp_path: Path, sample_rate: int) -> None:
    noise = np.random.default_rng(0).standard_normal(4 * sample_rate).astype(np.float32) / 8
    soundfile.write(tmp_path / "a.flac", noise, sample_rate)
    (clip,) = read_manifest(write_csv(tmp_path / "t.csv", "file,start,end", "a.flac,1.25,2.5"))
    whole = load_clip(Clip(clip.path, "a.flac"))
    np.testing.assert_allclose(load_clip(clip), whole[20000:40000], atol=1e-5)
    np.testing.assert_array_equal(np.concatenate(list(stream_clip(clip))), load_clip(clip))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["file,start,end", "ramp.wav,9,11"], "line 2: 9 to 11 s is outside 'ramp.wav', which is 10.000 s long"),
        (["file,start,end", "ramp.wav,0,1", "ramp.wav,12,13"], "line 3: 12 to 13 s is outside"),
        (["file,start,end", "ramp.wav,2,2"], "line 2: nothing lies between start 2 and end 2"),
        (["file,start,end", "ramp.wav,3,2"], "line 2: nothing lies between start 3 and end 2"),
        (["file,start,end", "ramp.wav,-1,2"], "line 2: start '-1' and end '2' are not both times in seconds"),
        (["file,start,end", "ramp.wav,1,"], "line 2: start '1' and end '' are not both times"),
        (["file,start,end", "ramp.wav,nan,2"], "line 2: start 'nan'"),
        (["file,start,end", "ramp.wav,0,inf"], "line 2: start '0' and end 'inf'"),
        (["file,start,end", "ramp.wav,0:01,0:02"], "line 2: start '0:01'"),
        (["file,start,end", "ramp.wav,9.9995,10.005"], "line 2: 9.9995 to 10.005 s is outside"),
        (["file,start", "ramp.wav,1"], "a column `start` and no `end`"),
        (["shard,name,offset", "s.tar,ramp.wav,1"], "a column `offset` and no `size`"),
        (["file,end", "ramp.wav,1"], "a column `end` and no `start`"),
        (
            ["file,start,end", "ramp.wav,1,2", "ramp.wav,1.0,2.00"],
            "line 3: 'ramp.wav#t=1,2' was already listed in line 2",
        ),
        (["shard,name,start,end", "s.tar,ramp.wav,9,11"], "line 2: 9 to 11 s is outside 's.tar/ramp.wav'"),
    ],
)
def test_parts_that_are_none_are_refused_with_the_row(
    tmp_path: Path, ramp: np.ndarray, lines: list[str], reason: str
) -> None:
    assert reason in refusal(write_csv(tmp_path / "t.csv", *lines))


def test_times_rounded_up_and_decimal_commas_are_meant_well(tmp_path: Path, ramp: np.ndarray) -> None:
    first, second = read_manifest(
        write_csv(tmp_path / "t.csv", "file;start;end", "ramp.wav;1,5;2", "ramp.wav;9;10,005")
    )
    assert (first.start, first.end, second.end) == (1.5, 2.0, 10.005)
    assert len(load_clip(second)) == RATE


def test_a_part_of_a_broken_file_is_one_bad_clip(tmp_path: Path) -> None:
    """Its length is unknown; training and embedding list it and go on."""
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    (clip,) = read_manifest(write_csv(tmp_path / "t.csv", "file,start,end", "bad.wav,1,2"))
    with pytest.raises(AudioError, match=r"bad\.wav#t=1,2"):
        load_clip(clip)


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_one_sound_under_two_names_is_refused(tmp_path: Path, ramp: np.ndarray, kind: str) -> None:
    copy = tmp_path / "copy.wav"
    copy.symlink_to(tmp_path / "ramp.wav") if kind == "symlink" else copy.hardlink_to(tmp_path / "ramp.wav")
    path = write_csv(tmp_path / "t.csv", "file,split", "ramp.wav,train", "copy.wav,test")
    assert "line 3: 'copy.wav' is the same sound as 'ramp.wav', listed in line 2" in refusal(path, split="split")
    path = write_csv(tmp_path / "t.csv", "file,split,start,end", "ramp.wav,train,0,1", "copy.wav,test,0,1")
    assert "is the same sound as 'ramp.wav#t=0,1'" in refusal(path, split="split")
    path = write_csv(tmp_path / "t.csv", "file,split,start,end", "ramp.wav,train,0,1", "copy.wav,test,1,2")
    assert len(read_manifest(path, split="split")) == 2


def test_a_clip_travels_to_workers_and_stays_small() -> None:
    clip = Clip("/data/s.tar", "s.tar/a.wav#t=1,2", 512, 1000, 1.5, "dog", "train", "1", "ann", 1.0, 2.0)
    assert pickle.loads(pickle.dumps(clip)) == clip
    assert not hasattr(clip, "__dict__")

"""Manifests: every clip of a data set is found and named, or the wrong line is named."""

import errno
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from aape.data.clips import clip_seconds, load_clip
from aape.data.manifest import read_inputs, read_manifest
from aape.errors import AudioError, DataError

pytestmark = pytest.mark.filterwarnings("ignore::aape.errors.RangeWarning")  # a level tells samples apart


def write_wav(path: Path, level: float = 0.25, num_samples: int = 800) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(num_samples, level, np.float32), 16000, format="WAV", subtype="FLOAT")


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))


def wav(level: float = 0.25, num_samples: int = 800) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full(num_samples, level, np.float32), 16000, format="WAV", subtype="FLOAT")
    return file.getvalue()


def write_csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def refusal(path: Path, **columns: str) -> str:
    with pytest.raises(DataError) as caught:
        read_manifest(path, **columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, a shard of three clips, and what lies around in real folders."""
    root = tmp_path / "corpus"
    write_wav(root / "b.wav", 0.1)
    write_wav(root / "a" / "z.WAV", 0.2)
    write_wav(root / ".hidden" / "x.wav")
    write_wav(root / "a" / "._z.wav")
    members = {"2.wav": wav(0.5), "1.wav": wav(0.6), "readme.txt": b"hello", "deep/3.wav": wav(0.7), "._1.wav": b"\0"}
    write_tar(root / "shard-0.tar", members)
    write_csv(root / "clips.csv", "shard,name,seconds", "shard-0.tar,1.wav,0.05")
    return root


def test_a_folder_is_its_sound_files_and_shards_in_a_fixed_order(folder: Path) -> None:
    clips = read_manifest(folder)
    names = ["a/z.WAV", "b.wav", "shard-0.tar/2.wav", "shard-0.tar/1.wav", "shard-0.tar/deep/3.wav"]
    assert [clip.name for clip in clips] == names
    levels = [float(load_clip(clip).mean()) for clip in clips]
    np.testing.assert_allclose(levels, [0.2, 0.1, 0.5, 0.6, 0.7], atol=1e-6)


def test_a_single_shard_is_a_data_set(folder: Path) -> None:
    clips = read_manifest(folder / "shard-0.tar")
    assert [clip.name for clip in clips] == ["shard-0.tar/2.wav", "shard-0.tar/1.wav", "shard-0.tar/deep/3.wav"]


def test_a_part_of_a_tar_member_is_read_in_place(tmp_path: Path) -> None:
    ramp = np.arange(16000, dtype=np.float32) / 16000
    file = io.BytesIO()
    soundfile.write(file, ramp, 16000, format="WAV", subtype="FLOAT")
    write_tar(tmp_path / "s.tar", {"0.wav": wav(), "ramp.wav": file.getvalue()})
    clip = read_manifest(tmp_path)[1]
    np.testing.assert_array_equal(load_clip(clip, start=0.5, duration=0.25), ramp[8000:12000])
    assert clip_seconds(clip) == 1.0


def test_links_between_folders_are_followed_once(tmp_path: Path) -> None:
    write_wav(tmp_path / "elsewhere" / "a.wav")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "corpus")
    assert [clip.name for clip in read_manifest(tmp_path / "corpus")] == ["link/a.wav"]


def test_a_csv_gives_labels_folds_and_seconds(folder: Path) -> None:
    path = write_csv(
        folder / "meta.csv", "filename,class,fold,split,seconds", "b.wav,dog,1,train,0.05", "./a/z.WAV,cat,2,test,"
    )
    first, second = read_manifest(path, label="class", fold="fold", split="split")
    assert (first.name, first.label, first.fold, first.split, first.seconds) == ("b.wav", "dog", "1", "train", 0.05)
    assert (second.name, second.label, second.seconds) == ("a/z.WAV", "cat", None)
    assert clip_seconds(first) == 0.05
    assert clip_seconds(second) == 0.05
    assert load_clip(second).mean() == pytest.approx(0.2)
    with pytest.warns(UserWarning, match="columns that are not used: class, fold, split"):
        assert read_manifest(path)[0].label is None


def test_a_csv_of_a_spreadsheet_with_its_byte_order_mark_is_read(folder: Path) -> None:
    path = folder / "meta.csv"
    path.write_bytes("file,label\r\nb.wav,\u00e9\r\n".encode("utf-8-sig"))
    assert read_manifest(path, label="label")[0].label == "\u00e9"


def test_a_csv_of_shards_and_members(folder: Path) -> None:
    path = write_csv(folder / "clips.csv", "shard,name,seconds,label", "shard-0.tar,deep/3.wav,0.05,x")
    (clip,) = read_manifest(path, label="label")
    assert (clip.name, clip.seconds, clip.label) == ("shard-0.tar/deep/3.wav", 0.05, "x")
    assert load_clip(clip).mean() == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([""], "empty"),
        (["file,label"], "no rows"),
        (["path,label", "b.wav,x"], "no column `file` or `filename`, nor `shard` and `name`; it has path, label"),
        (["file,class", "b.wav,x"], "no label column 'label'; it has file, class"),
        (["file,label", "b.wav,x", "a/z.WAV, "], "line 3: column 'label' is empty"),
        (["file,label", "b.wav"], "line 2: not as many fields"),
        (["file,label", "b.wav,x,y"], "line 2: not as many fields"),
        (["file,label", "b.wav,x", "./b.wav,y"], "line 3: 'b.wav' was already listed in line 2"),
        (["file,label", "b.wav,x", "no.wav,x", "nor.wav,y"], "2 of 3 listed files are missing, the first is 'no.wav'"),
        (["file,label,seconds", "b.wav,x,long"], "line 2: 'long' is not a length"),
        (["file,label,seconds", "b.wav,x,-1"], "line 2: '-1' is not a length"),
        (["file,label,seconds", "b.wav,x,inf"], "line 2: 'inf' is not a length"),
        (["shard,name,label", "shard-0.tar,9.wav,x"], "1 of 1 listed files are missing"),
        (["shard,name,label", "shard-1.tar,1.wav,x"], "shard 'shard-1.tar' is missing"),
        (["shard,name,label", "b.wav,1.wav,x"], "not an uncompressed tar"),
        (["file,label", '"b.wav,x'], "not a CSV"),
    ],
)
def test_a_wrong_csv_is_refused_with_what_is_wrong(folder: Path, lines: list[str], reason: str) -> None:
    assert reason in refusal(write_csv(folder / "meta.csv", *lines), label="label")


def test_text_that_is_not_utf8_is_refused(folder: Path) -> None:
    path = folder / "meta.csv"
    path.write_bytes("file,label\nb.wav,\u00e9\n".encode("latin-1"))
    assert "not UTF-8" in refusal(path)


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    assert ".flac" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "missing")
    (tmp_path / "a.json").write_text("x")
    assert "not a folder" in refusal(tmp_path / "a.json")


def test_a_folder_has_no_labels(folder: Path) -> None:
    assert "only a CSV has columns" in refusal(folder, label="label")


@pytest.mark.parametrize("name", ["/etc/a.wav", "../a.wav", "a/../../b.wav"])
def test_members_that_point_outside_a_shard_are_refused(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "s.tar", {name: wav()})
    assert "points outside" in refusal(tmp_path / "s.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_in_a_shard_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        entry = tarfile.TarInfo("a.wav")
        entry.type, entry.linkname = kind, "/etc/passwd"
        shard.addfile(entry)
    assert "not a plain file" in refusal(tmp_path / "s.tar")


def test_damaged_shards_lose_no_clip_in_silence(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {f"{index}.wav": wav() for index in range(4)})
    content = (tmp_path / "s.tar").read_bytes()
    second = content.index(b"1.wav")
    for damaged in (
        content[: second + 700],  # inside a member
        content[:second],  # between two members
        content[:second] + b"\xff" * 512 + content[second + 512 :],  # a broken header
        content[: second + 100],
        b"text" * 1000,
        b"",
    ):
        (tmp_path / "s.tar").write_bytes(damaged)
        assert "s.tar" in refusal(tmp_path / "s.tar")


def test_a_compressed_shard_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w:gz") as shard:
        shard.addfile(tarfile.TarInfo("a.wav"))
    assert "not an uncompressed tar" in refusal(tmp_path / "s.tar")


def test_a_shard_with_one_name_twice_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for name in ("a.wav", "./a.wav"):
            shard.addfile(tarfile.TarInfo(name))
    assert "two members are called 'a.wav'" in refusal(tmp_path / "s.tar")


def test_a_shard_that_changed_since_is_one_bad_clip_and_no_crash(folder: Path) -> None:
    clip = read_manifest(folder / "shard-0.tar")[-1]
    (folder / "shard-0.tar").write_bytes(b"short")
    with pytest.raises(AudioError, match=r"^shard-0.tar/deep/3.wav: truncated"):
        load_clip(clip)
    (folder / "shard-0.tar").unlink()
    with pytest.raises(AudioError, match="No such file"):
        load_clip(clip)


def test_inputs_keep_their_order(folder: Path) -> None:
    clips, bad = read_inputs([str(folder / "b.wav"), folder / "a", "missing.wav", folder / ".hidden"])
    hidden = str(folder / ".hidden" / "x.wav")
    assert [clip.name for clip in clips] == [str(folder / "b.wav"), str(folder / "a/z.WAV"), "missing.wav", hidden]
    assert bad == []


def test_tables_and_shards_are_inputs_as_they_are_data(folder: Path) -> None:
    """Names lead to the sounds from here, so that what was embedded can be opened again."""
    write_csv(folder / "list.csv", "file,start,end", "b.wav,,", "b.wav,0.01,0.02")
    clips, bad = read_inputs([folder / "list.csv", folder / "shard-0.tar", folder / "clips.csv", folder])
    members = [f"{folder}/shard-0.tar/{name}" for name in ("2.wav", "1.wav", "deep/3.wav")]
    in_list = [f"{folder}/b.wav", f"{folder}/b.wav#t=0.01,0.02"]
    in_folder = [f"{folder}/a/z.WAV", f"{folder}/b.wav", *members]
    assert [clip.name for clip in clips] == [*in_list, *members, members[1], *in_folder]
    assert bad == []
    assert all(len(load_clip(clip)) for clip in clips)


@pytest.mark.parametrize("between", [b"\n", b"\r\n", b"\0"])
def test_names_come_on_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch, between: bytes) -> None:
    names = [os.fsencode(folder / "b.wav"), os.fsencode(folder / "shard-0.tar")]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(between.join([*names, b""]))))
    clips, _ = read_inputs("-")
    assert [clip.name for clip in clips[:2]] == [str(folder / "b.wav"), f"{folder}/shard-0.tar/2.wav"]
    assert len(clips) == 4
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    with pytest.raises(DataError, match="no names on standard input"):
        read_inputs("-")


def test_names_of_a_list_in_two_bytes_are_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PowerShell writes it: cut at its zeros, `/` would be a name, and the whole disk be searched."""
    for encoding in ("utf-16", "utf-8-sig"):
        names = f"{folder / 'b.wav'}\r\n{folder / 'a'}\r\n".encode(encoding)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(names)))
        assert [clip.name for clip in read_inputs("-")[0]] == [str(folder / "b.wav"), str(folder / "a/z.WAV")]


def test_a_table_that_cannot_be_read_hides_no_other_input(folder: Path) -> None:
    write_csv(folder / "bad.csv", "file", "gone.wav")
    clips, bad = read_inputs([folder / "bad.csv", folder / "b.wav"])
    assert [clip.name for clip in clips] == [str(folder / "b.wav")]
    assert bad == [(str(folder / "bad.csv"), "1 of 1 listed files are missing, the first is 'gone.wav'")]
    write_csv(folder / "bad.csv", "file,start,end", "b.wav,90,91")
    ((name, reason),) = read_inputs([folder / "bad.csv"])[1]
    assert name == str(folder / "bad.csv")
    assert reason.startswith("line 2: ")


def test_names_that_a_link_makes_different_stay_apart(tmp_path: Path) -> None:
    """`link/..` is not the folder that it seems to be."""
    write_wav(tmp_path / "real/sub/x.wav")
    write_wav(tmp_path / "real/0.wav", 0.1)
    write_wav(tmp_path / "0.wav", 0.2)
    (tmp_path / "ln").symlink_to(tmp_path / "real/sub")
    clips = read_manifest(write_csv(tmp_path / "t.csv", "file", "0.wav", "ln/../0.wav"))
    assert [clip.name for clip in clips] == ["0.wav", "ln/../0.wav"]
    assert [round(float(load_clip(clip).mean()), 1) for clip in clips] == [0.2, 0.1]


def test_a_folder_that_may_not_be_read_hides_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, scandir = str(folder / "a"), os.scandir

    def refuse(path: str) -> Iterator[os.DirEntry[str]]:  # root may read everything
        if str(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", closed)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    clips, bad = read_inputs([folder, "missing.wav"])
    assert [clip.name for clip in clips[:1] + clips[-1:]] == [str(folder / "b.wav"), "missing.wav"]
    assert bad == [(closed, "a folder that cannot be read: Permission denied")]
    assert "a: cannot be read: Permission denied" in refusal(folder)


def test_inputs_without_audio_are_named_and_hide_no_other(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (folder / "broken.tar").write_bytes(b"text" * 1000)
    write_tar(tmp_path / "texts.tar", {"a.txt": b"hello"})
    clips, bad = read_inputs([tmp_path / "empty", folder, tmp_path / "texts.tar"])
    assert len(clips) == 5
    assert [(os.path.basename(name), reason.partition(" (")[0]) for name, reason in bad] == [
        ("empty", "a folder, and no sound file in it"),
        ("broken.tar", "not an uncompressed tar, or a truncated one"),
        ("texts.tar", "no audio in it"),
    ]


def test_a_sound_file_is_a_data_set_of_one(folder: Path) -> None:
    assert [clip.name for clip in read_manifest(folder / "b.wav")] == ["b.wav"]

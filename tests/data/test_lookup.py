"""Files that `ls` shows are found, however another machine wrote their names; else there is a hint."""

import unicodedata
from pathlib import Path

import pytest
from test_manifest import refusal, wav, write_csv, write_tar, write_wav

from aape.data.manifest import read_manifest
from aape.errors import DataError

COMPOSED = "Übung/Café.wav"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


@pytest.mark.parametrize(
    ("there", "listed"),
    [
        (COMPOSED, DECOMPOSED),  # an archive made on a Mac, or a table
        (DECOMPOSED, COMPOSED),
        ("audio/a.wav", "audio\\a.wav"),  # Windows
        ("audio/a.wav", ".\\audio\\a.wav"),
        ("audio/a.WAV", "Audio/A.wav"),  # neither Windows nor macOS tells capitals apart
        (" a.wav", '" a.wav"'),
        ("take#1.wav", "take#1.wav"),
        ("audio/a.wav", "./audio/../audio/a.wav"),
        ("100%20.wav", "100%20.wav"),
    ],
)
def test_other_ways_to_write_a_path_lead_to_its_file(tmp_path: Path, there: str, listed: str) -> None:
    write_wav(tmp_path / there)
    (clip,) = read_manifest(write_csv(tmp_path / "t.csv", "file", listed))
    assert clip.path == str(tmp_path / there) or Path(clip.path).samefile(tmp_path / there)


def test_a_name_that_fits_two_files_is_not_guessed(tmp_path: Path) -> None:
    write_wav(tmp_path / "A.wav", 0.1)
    write_wav(tmp_path / "a.WAV", 0.2)
    assert "1 of 1 listed files are missing, the first is 'a.wav'; is it 'A.wav' or 'a.WAV'?" in refusal(
        write_csv(tmp_path / "t.csv", "file", "a.wav")
    )
    (clip,) = read_manifest(write_csv(tmp_path / "t.csv", "file", "A.wav"))
    assert clip.path == str(tmp_path / "A.wav")


def test_members_of_a_shard_are_found_likewise(tmp_path: Path) -> None:
    write_tar(tmp_path / "S.tar", {DECOMPOSED: wav()})
    (clip,) = read_manifest(write_csv(tmp_path / "t.csv", "shard,name", f"s.tar,{COMPOSED}"))
    assert clip.size


@pytest.mark.parametrize("root", ["/home/ann/corpus", "C:\\data\\corpus", "file:///mnt/my%20corpus", "corpus"])
def test_folders_of_another_machine_are_left_out_of_all_paths(tmp_path: Path, root: str) -> None:
    names = ("dog/1.wav", "cat/1.wav")
    for level, name in enumerate(names, start=1):
        write_wav(tmp_path / name, level / 10)
    mark = "\\" if "\\" in root else "/"
    rows = [f"{root}{mark}{name.replace('/', mark)},0.01,0.02" for name in names]
    with pytest.warns(UserWarning, match="corpus' is not here, and is left out of all 2 paths"):
        clips = read_manifest(write_csv(tmp_path / "t.csv", "file,start,end", *rows))
    assert [clip.name for clip in clips] == [f"{name}#t=0.01,0.02" for name in names]
    assert [clip.path for clip in clips] == [str(tmp_path / name) for name in names]


def test_folders_are_only_left_out_where_there_is_one_way(tmp_path: Path) -> None:
    """A file of the same name in another folder is another sound."""
    for name in ("1.wav", "dog/1.wav"):
        write_wav(tmp_path / name)
    reason = refusal(write_csv(tmp_path / "t.csv", "file", "/home/ann/dog/1.wav"))
    assert "missing" in reason
    assert "'1.wav' or 'dog/1.wav'" in reason
    write_wav(tmp_path / "x/2.wav")
    assert "1 of 2 listed files are missing" in refusal(write_csv(tmp_path / "t.csv", "file", "1.wav", "/home/x/2.wav"))


@pytest.mark.parametrize("root", ["C:\\", "/", "\\\\server\\share\\"])
def test_the_root_of_another_machine_is_left_out(tmp_path: Path, root: str) -> None:
    write_wav(tmp_path / "sub/a.wav")
    path = write_csv(tmp_path / "t.csv", "file", f"{root}sub{root[-1]}a.wav")
    with pytest.warns(UserWarning, match="is not here, and is left out of all 1 paths"):
        (clip,) = read_manifest(path)
    assert clip.path == str(tmp_path / "sub/a.wav")
    write_wav(tmp_path / "a.wav")
    assert "missing" in refusal(path)  # two could be meant


@pytest.mark.parametrize(
    ("there", "listed"),
    [
        ("Maße.wav", "Masse.wav"),
        ("50A.wav", "50%41.wav"),
        ("take", "file:take#1.wav"),
        ("a.wav", "https://example.org/d/a.wav"),
        ("a.wav", "s3://bucket/a.wav"),
        ("a.wav", "file://[x]y"),
        ("fin.wav", "ﬁn.wav"),
    ],
)
def test_another_name_is_another_sound(tmp_path: Path, there: str, listed: str) -> None:
    """A wrong file in silence would be worse than none."""
    write_wav(tmp_path / there)
    assert "1 of 1 listed files are missing" in refusal(write_csv(tmp_path / "t.csv", "file", listed))


def test_spaces_around_a_name_belong_to_it_if_there_is_such_a_file(tmp_path: Path) -> None:
    for level, name in enumerate(("a.wav", " a.wav", "a.wav "), start=1):
        write_wav(tmp_path / name, level / 10)
    clips = read_manifest(write_csv(tmp_path / "t.csv", "file", "a.wav", '" a.wav"', '"a.wav "'))
    assert [Path(clip.path).name for clip in clips] == ["a.wav", " a.wav", "a.wav "]


def test_hints_say_what_may_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wav(tmp_path / "audio" / "a.wav")
    write_wav(tmp_path / "train_01.wav")
    (tmp_path / "lists").mkdir()

    def hint(listed: str, folder: str = "") -> str:
        return refusal(write_csv(tmp_path / folder / "t.csv", "file", listed)).rpartition(";")[2]

    assert hint("a.wav") == " is it 'audio/a.wav'?"
    assert hint("a") == " is it 'audio/a.wav'?"
    assert hint("train_1.wav") == " is it 'train_01.wav'?"
    assert hint("https://example.org/a.wav") == " it is an address: download it first"
    monkeypatch.chdir(tmp_path)
    assert (
        hint("audio/a.wav", "lists") == " it is there seen from the current folder, but paths are relative to the CSV"
    )


def test_a_name_that_is_no_path_is_missing_and_no_crash(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav")
    for listed in ("a\0b.wav", "x" * 5000, "..", "/", "file:", "%"):
        with pytest.raises(DataError, match=r"missing|cannot be read|not a CSV"):
            read_manifest(write_csv(tmp_path / "t.csv", "file", listed))

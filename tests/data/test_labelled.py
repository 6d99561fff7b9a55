"""Labelled tables: what is trained on is never tested."""

from pathlib import Path

import pytest
from test_manifest import write_csv, write_wav

from aape.data.labelled import read_csv
from aape.errors import DataError

HEADER = "file,start,end,label,split"


def table(folder: Path, *rows: str) -> Path:
    for name in ("a.wav", "b.wav"):
        write_wav(folder / name, num_samples=16000)
    (folder / "link.wav").symlink_to("a.wav")
    return write_csv(folder / "t.csv", HEADER, *rows, "b.wav,,,dog,train", "b.wav,0,0.1,cat,train")


@pytest.mark.parametrize(
    ("rows", "sides"),
    [
        (("a.wav,,,dog,train", "a.wav,0,1,dog,test"), "'a.wav' of train and 'a.wav#t=0,1' of test"),
        (("a.wav,0.5,1,dog,test", "a.wav,,,dog,train"), "'a.wav' of train and 'a.wav#t=0.5,1' of test"),
        (
            ("a.wav,0,0.5,dog,train", "link.wav,0.4,0.9,dog,Test"),
            "'a.wav#t=0,0.5' of train and 'link.wav#t=0.4,0.9' of test",
        ),
        (("a.wav,0,0.9,a,train", "a.wav,0.1,0.2,a,train", "a.wav,0.5,0.6,b,test"), "'a.wav#t=0,0.9' of train and"),
    ],
)
def test_sound_in_two_splits_is_refused(tmp_path: Path, rows: tuple[str, ...], sides: str) -> None:
    with pytest.raises(DataError) as caught:
        read_csv(table(tmp_path, *rows), split="split")
    assert sides in str(caught.value)
    assert "are the same sound: keep it in one split or fold" in str(caught.value)


def test_neighbouring_parts_in_two_splits_are_a_warning_and_overlapping_ones_in_one_are_fine(tmp_path: Path) -> None:
    rows = ("a.wav,0,0.5,dog,train", "a.wav,0.25,0.502,cat,train", "a.wav,0.5,1,dog,test")
    labelled = read_csv(table(tmp_path, *rows), split="split")
    assert labelled.warnings == ("1 of 2 recordings have parts in several splits or folds: scores may be too high",)


def test_one_file_in_two_folders_of_classes_is_refused(tmp_path: Path) -> None:
    for name in ("train/dog/1.wav", "train/cat/2.wav", "test/dog/3.wav"):
        write_wav(tmp_path / name)
    (tmp_path / "test/dog/4.wav").hardlink_to(tmp_path / "train/dog/1.wav")
    with pytest.raises(DataError, match=r"is the same file as .*: remove one of the two"):
        read_csv(tmp_path)

"""UrbanSound8K: 8,732 recordings of 10 city sounds in 10 official folds (Salamon et al., 2014)."""

from __future__ import annotations

from pathlib import Path

from aape.data.clips import Clip
from aape.data.corpora.layout import PAPER_VECTOR, Corpus, assemble, read_table, require
from aape.data.labelled import LabelledSet

NAMES = """
air_conditioner car_horn children_playing dog_bark drilling engine_idling gun_shot jackhammer siren street_music
"""
CLASSES = NAMES.split()


def read(root: Path) -> LabelledSet:
    """Read `UrbanSound8K`: `metadata/UrbanSound8K.csv` and `audio/fold1` to `audio/fold10`."""
    require(root, "UrbanSound8K", "metadata/UrbanSound8K.csv", "audio")
    rows = read_table(root / "metadata/UrbanSound8K.csv", "slice_file_name", "fsID", "fold", "class")
    clips = []
    for row in rows:
        name = f"audio/fold{row['fold']}/{row['slice_file_name']}"
        clips.append(Clip(str(root / name), name, label=row["class"], fold=row["fold"]))
    folds = [str(fold) for fold in range(1, 11)]
    groups = [row["fsID"] for row in rows]  # slices of one recording
    return assemble("UrbanSound8K", root, clips, classes=CLASSES, published={"clips": 8732}, folds=folds, groups=groups)


US8K = Corpus("UrbanSound8K", read, probing={"steps": 8000, "batch": 128, **PAPER_VECTOR})

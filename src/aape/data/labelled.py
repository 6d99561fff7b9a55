"""Clips with labels: from your CSV or folder of classes, or as `aape.data.corpora` reads them.

n clips.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aape.data.clips import Clip, read_manifest
from aape.errors import ConfigError, DataError

SPLIT_NAMES = ("train", "valid", "val", "validation", "dev", "test")
HELD_OUT = 5  # of a folder of classes, one clip in so many is held out for testing


@dataclass(frozen=True)
class LabelledSet:
    """A data set with labels, and what its reader noticed.

    Attributes:
        clips: n of them, with `split` or `fold` filled.
        classes: their names.
        targets: the classes of each clip, as indices; exactly one unless `is_multi_label`.
        has_folds: `fold` is filled, not `split`.
        is_multi_label: a clip may have several classes.
        groups: what clips have in common (a speaker, an instrument), or None.
        counts: clips here and clips published, by split or list.
        num_missing: listed clips that are not there, where that is tolerated.
        warnings: what a reader of the numbers should know, in sentences.
    """

    clips: list[Clip]
    classes: list[str]
    targets: list[tuple[int, ...]]
    has_folds: bool = False
    is_multi_label: bool = False
    groups: list[str] | None = None
    counts: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    num_missing: int = 0
    warnings: tuple[str, ...] = ()

    def without(self, names: set[str]) -> LabelledSet:
        """Return the set without the clips of these names; classes keep their indices."""
        kept = [index for index, clip in enumerate(self.clips) if clip.name not in names]
        return dataclasses.replace(
            self,
            clips=[self.clips[index] for index in kept],
            targets=[self.targets[index] for index in kept],
            groups=None if self.groups is None else [self.groups[index] for index in kept],
        )

    def digest(self) -> str:
        """Return a SHA-256 of all that a training depends on but the sound: names, splits, folds, classes, targets."""
        rows = [(clip.name, clip.split, clip.fold) for clip in self.clips]
        return hashlib.sha256(json.dumps([rows, self.classes, self.targets]).encode()).hexdigest()

    def labels(self) -> NDArray[np.int64]:
        """Return the class of every clip, (n,), of a set with one each."""
        return np.asarray([target for (target,) in self.targets], dtype=np.int64)

    def target_matrix(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the classes of some clips as 0 and 1, (indices, classes)."""
        matrix = np.zeros((len(indices), len(self.classes)), dtype=np.int64)
        for row, index in enumerate(indices):
            matrix[row, list(self.targets[index])] = 1
        return matrix


def label_clips(clips: Sequence[Clip], *, classes: Sequence[str] | None = None, separator: str = "") -> LabelledSet:
    """Number the labels of clips.

    Args:
        clips: with a label each.
        classes: their names in order; by default those of the labels, sorted.
        separator: regular expression between several labels of a clip; "" for one label each.

    Raises:
        DataError: a label is not among the classes.
    """
    labels = [[str(clip.label)] for clip in clips]
    if separator:
        labels = [[part.strip() for part in re.split(separator, label) if part.strip()] for (label,) in labels]
    names = sorted({name for parts in labels for name in parts}) if classes is None else list(classes)
    numbers = {name: number for number, name in enumerate(names)}
    pairs = [(clip.name, label) for clip, parts in zip(clips, labels, strict=True) for label in parts]
    unknown = [(name, label) for name, label in pairs if label not in numbers]
    if unknown:
        name, label = unknown[0]
        total = f"{len(unknown)} of {len(pairs)} labels are none of the {len(names)} classes"
        raise DataError(f"{total}, the first is {label!r} of {name}")
    targets = [tuple(sorted({numbers[name] for name in parts})) for parts in labels]
    return LabelledSet(list(clips), names, targets, is_multi_label=bool(separator))


def read_csv(
    data: str | os.PathLike[str],
    *,
    label: str = "label",
    split: str | None = None,
    fold: str | None = None,
    where: str | None = None,
    group: str | None = None,
    multi_label: bool = False,
) -> LabelledSet:
    """Read your data: a CSV, or a folder with a folder of sound files for each class.

    A folder may hold `train` and `test` (and `valid`), with the classes in them, and nothing else; without such splits
    one clip in five of every class, chosen by its name, is for testing, and a warning says so.

    Args:
        data: the CSV or the folder.
        label: the CSV's column of labels.
        split: its column of train, valid or test.
        fold: its column of folds; one of `split` and `fold` is needed.
        where: COLUMN=VALUE: only rows where COLUMN equals VALUE.
        group: its group column (speaker, instrument).
        multi_label: labels are several per clip, separated by commas or semicolons.

    Raises:
        ConfigError: options that exclude each other.
        DataError: what `read_manifest` raises; no clip left; fewer than two classes; splits without a train or a test.
    """
    if os.path.isdir(data):
        clips = read_manifest(data, split=split, fold=fold)
        if where is not None or group is not None:
            raise DataError(f"{data}: a column asked for, but only a CSV has columns")
        clips, warnings = _read_classes(Path(data), clips)
        return dataclasses.replace(_with_classes(data, clips, False), warnings=warnings)
    if (split is None) == (fold is None):
        which = "both are" if split is not None else "neither is"
        raise ConfigError(f"give either --split COLUMN or --fold COLUMN: {which} given")
    clips = read_manifest(data, label=label, split=split, fold=fold)
    groups = _column(data, group) if group else None
    if where is not None:
        kept = _rows_where(data, where)
        clips = [clips[index] for index in kept]
        groups = None if groups is None else [groups[index] for index in kept]
    return dataclasses.replace(_with_classes(data, clips, multi_label), groups=groups, has_folds=fold is not None)


def _rows_where(data: str | os.PathLike[str], where: str) -> list[int]:
    """Return the rows of a CSV that hold COLUMN=VALUE."""
    column, separator, value = (part.strip() for part in where.partition("="))
    if not (separator and column and value):
        raise ConfigError(f"where: expected COLUMN=VALUE, got {where!r}")
    cells = _column(data, column)
    if value not in cells:
        known = sorted(set(cells))
        listed = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
        raise DataError(f"{data}: no clip has {column} = {value!r}; there are {listed}")
    return [row for row, cell in enumerate(cells) if cell == value]


def describe(labelled: LabelledSet) -> list[str]:
    """Return what a reader of the numbers should know of the set, in sentences."""
    notes, counts = list(labelled.warnings), Counter(target for targets in labelled.targets for target in targets)
    single = [name for number, name in enumerate(labelled.classes) if counts[number] == 1]
    if single:
        total = f"{len(single)} of {len(labelled.classes)}"
        notes.append(f"classes with a single clip, never both trained on and tested: {total}: {', '.join(single)}")
    return notes


def _with_classes(data: str | os.PathLike[str], clips: list[Clip], multi_label: bool) -> LabelledSet:
    labelled = label_clips(clips, separator="[,;]" if multi_label else "")
    if len(labelled.classes) < 2:
        raise DataError(f"{data}: the only label is {labelled.classes[0]!r}: two classes or more are needed")
    return labelled


def _column(data: str | os.PathLike[str], column: str) -> list[str]:
    # Any column can be read as the label: same rows, same order, and the same words for a column that is missing.
    return [str(clip.label) for clip in read_manifest(data, label=column)]


def _read_classes(root: Path, clips: list[Clip]) -> tuple[list[Clip], tuple[str, ...]]:
    """Label the clips of a folder of classes; returns them with label and split, and warnings."""
    if any(clip.offset is not None for clip in clips):
        raise DataError(f"{root}: clips in tar shards need a CSV with columns `shard`, `name` and the label")
    parts = [clip.name.split("/") for clip in clips]
    has_splits = _has_splits(root, parts)
    depth = 2 if has_splits else 1
    loose = [clip.name for clip, names in zip(clips, parts, strict=True) if len(names) <= depth]
    if loose:
        raise DataError(
            f"{root}: {len(loose)} of {len(clips)} sound files lie in no folder of a class, the first is {loose[0]!r}"
        )
    folders = {path.relative_to(root).as_posix() for path in root.glob("/".join("*" * depth)) if path.is_dir()}
    folders = {name for name in folders if not any(part.startswith(".") for part in name.split("/"))}
    empty = sorted(folders - {"/".join(names[:depth]) for names in parts})
    total = f"{len(empty)} of {len(folders)} class folders hold no sound"
    warnings = [f"{total}, the first is {empty[0]!r}"] if empty else []
    labels = [names[depth - 1] for names in parts]
    if has_splits:
        splits = [names[0].lower() for names in parts]
    else:
        by_class: dict[str, list[int]] = defaultdict(list)
        for index in sorted(range(len(clips)), key=lambda index: zlib.crc32(clips[index].name.encode())):
            by_class[labels[index]].append(index)
        tested = {index for members in by_class.values() for index in members[1:][::HELD_OUT]}
        splits = ["test" if index in tested else "train" for index in range(len(clips))]
        warnings.append(f"the split is ours: {len(tested)} of {len(clips)} clips held out for testing, by file name")
    rows = zip(clips, labels, splits, strict=True)
    return [dataclasses.replace(clip, label=label, split=split) for clip, label, split in rows], tuple(warnings)


def _has_splits(root: Path, parts: list[list[str]]) -> bool:
    """Tell whether the topmost folders are splits; refuse a folder where only some are."""
    tops = {names[0].lower() for names in parts}
    has_splits = {"train", "test"} <= tops <= set(SPLIT_NAMES)
    halves = sorted({names[0] for names in parts if names[0].lower() in SPLIT_NAMES and len(names) > 2})
    if halves and not has_splits:
        wrong = [f"{name!r} is missing" for name in ("train", "test") if name not in tops]
        others = sorted({names[0] for names in parts if names[0].lower() not in SPLIT_NAMES})
        wrong += [f"{name!r} is none of {', '.join(SPLIT_NAMES)}" for name in others[:1]]
        raise DataError(
            f"{root}: {', '.join(halves)} hold folders, as splits do, but {' and '.join(wrong)}: bring it to train, "
            "test and perhaps valid, each with folders of classes, or give a CSV with --split"
        )
    return has_splits

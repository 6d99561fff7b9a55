"""Clips with labels: from your CSV or folder of classes, or as `aape.data.corpora` reads them.

n clips.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aape.data.clips import Clip
from aape.data.label_cells import LabelCells
from aape.data.manifest import read_manifest
from aape.errors import ConfigError, DataError

SPLIT_NAMES = ("train", "valid", "val", "validation", "dev", "test")
OVERLAP = 0.01  # seconds that two parts of a recording may share, as times are rounded
HELD_OUT = 5  # of a folder of classes, one clip in so many is held out for testing


@dataclass(frozen=True)
class LabelledSet:
    """A data set with labels, and what its reader noticed.

    Attributes:
        clips: n of them, with `split` or `fold` filled.
        classes: their names.
        targets: the classes of each clip, as indices; exactly one unless `is_multi_label`, where there may be none.
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

    def shared_with(self, pretrained_on: Sequence[Clip]) -> tuple[str, ...]:
        """Say, in a sentence or none, how many clips are of a file, under whatever path, that is pre-trained on."""
        sounds = {clip.sound() for clip in pretrained_on}
        shared = [clip.name for clip in self.clips if clip.sound() in sounds]
        count = f"{len(shared)} of {len(self.clips)} labelled clips are also pre-trained on"
        return (f"{count}, the first is {shared[0]}",) if shared else ()

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


def label_clips(
    clips: Sequence[Clip], *, classes: Sequence[str] | None = None, labels: Sequence[Sequence[str]] | None = None
) -> LabelledSet:
    """Number the labels of clips.

    Args:
        clips: with a label each.
        classes: their names in order; by default those of the labels, sorted.
        labels: several labels of each clip, or none; by default the one that the clip has.

    Raises:
        DataError: a label is not among the classes.
    """
    of_clips = [[str(clip.label)] for clip in clips] if labels is None else labels
    names = sorted({name for parts in of_clips for name in parts}) if classes is None else list(classes)
    numbers = {name: number for number, name in enumerate(names)}
    pairs = [(clip.name, label) for clip, parts in zip(clips, of_clips, strict=True) for label in parts]
    unknown = [(name, label) for name, label in pairs if label not in numbers]
    if unknown:
        name, label = unknown[0]
        total = f"{len(unknown)} of {len(pairs)} labels are none of the {len(names)} classes"
        raise DataError(f"{total}, the first is {label!r} of {name}")
    targets = [tuple(sorted({numbers[name] for name in parts})) for parts in of_clips]
    return LabelledSet(list(clips), names, targets, is_multi_label=labels is not None)


def read_csv(
    data: str | os.PathLike[str],
    *,
    label: str = "label",
    split: str | None = None,
    fold: str | None = None,
    where: str | None = None,
    group: str | None = None,
    multi_label: bool | str = False,
) -> LabelledSet:
    """Read your data: a table, or a folder with a folder of sound files for each class.

    A folder may hold `train` and `test` (and `valid`), with the classes in them, and nothing else; without such splits
    one clip in five of every class, chosen by its name, is for testing, and a warning says so.

    Args:
        data: the table (see `read_manifest`) or the folder.
        label: the table's column of labels.
        split: its column of train, valid or test.
        fold: its column of folds; one of `split` and `fold` is needed.
        where: COLUMN=VALUE: only rows where COLUMN equals VALUE.
        group: its group column (speaker, instrument).
        multi_label: labels are several per clip, or none, written as `LabelCells` says; or what stands between them.

    Raises:
        ConfigError: options that exclude each other.
        DataError: what `read_manifest` raises; no clip left; fewer than two classes; splits without a train or a test;
            labels that look like pieces; one sound under two names.
    """
    if os.path.isdir(data):
        clips = read_manifest(data, split=split, fold=fold)
        if where is not None or group is not None or multi_label:
            raise DataError(f"{data}: a column asked for, but only a CSV has columns")
        clips, notes = _read_classes(Path(data), clips)
        _refuse_twins(data, clips)
        return dataclasses.replace(_with_classes(data, label_clips(clips)), warnings=notes)
    if (split is None) == (fold is None):
        which = "both are" if split is not None else "neither is"
        raise ConfigError(f"give either --split COLUMN or --fold COLUMN: {which} given")
    clips = read_manifest(
        data, label=label, split=split, fold=fold, group=group, where=_condition(where), needs_labels=not multi_label
    )
    separator = multi_label if isinstance(multi_label, str) else None
    cells = LabelCells(data, [str(clip.label) for clip in clips], separator) if multi_label else None
    labelled = _with_classes(data, label_clips(clips, labels=None if cells is None else cells.labels))
    notes = (*([] if cells is None else [cells.note]), *_shared_recordings(data, clips))
    groups = [str(clip.group) for clip in clips] if group else None
    return dataclasses.replace(labelled, groups=groups, has_folds=fold is not None, warnings=notes)


def _condition(where: str | None) -> tuple[str, str] | None:
    """Return column and value of COLUMN=VALUE."""
    if where is None:
        return None
    column, separator, value = (part.strip() for part in where.partition("="))
    if not (separator and column and value):
        raise ConfigError(f"where: expected COLUMN=VALUE, got {where!r}")
    return column, value


def _refuse_twins(data: str | os.PathLike[str], clips: Sequence[Clip]) -> None:
    """Refuse one file under two names: it would be trained on and tested, or be of two classes."""
    names: dict[tuple[object, ...], str] = {}
    for clip in clips:
        first = names.setdefault(clip.sound(), clip.name)
        if first != clip.name:
            raise DataError(f"{data}: {clip.name!r} is the same file as {first!r}: remove one of the two")


def _shared_recordings(data: str | os.PathLike[str], clips: Sequence[Clip]) -> list[str]:
    """Say how many recordings have parts in several splits or folds; parts that overlap there are an error."""
    sounds: dict[tuple[object, ...], list[Clip]] = defaultdict(list)
    for clip in clips:
        sounds[clip.sound()].append(clip)
    num_shared = 0
    for parts in sounds.values():
        num_shared += len(set(map(_side, parts))) > 1
        last: dict[str, Clip] = {}  # of each split or fold, the part that ends last
        for part in sorted(parts, key=lambda part: part.start):
            for side, other in last.items():
                if side != _side(part) and _end(other) > part.start + OVERLAP:
                    sides = f"{other.name!r} of {side} and {part.name!r} of {_side(part)}"
                    raise DataError(f"{data}: {sides} are the same sound: keep it in one split or fold")
            if _end(part) > (_end(last[_side(part)]) if _side(part) in last else 0.0):
                last[_side(part)] = part
    count = f"{num_shared} of {len(sounds)} recordings have parts in several splits or folds"
    return [f"{count}: scores may be too high"] if num_shared else []


def _side(clip: Clip) -> str:
    return str(clip.split or clip.fold).strip().lower()


def _end(clip: Clip) -> float:
    return math.inf if clip.end is None else clip.end


def describe(labelled: LabelledSet) -> list[str]:
    """Return what a reader of the numbers should know of the set, in sentences."""
    notes, counts = list(labelled.warnings), Counter(target for targets in labelled.targets for target in targets)
    single = [name for number, name in enumerate(labelled.classes) if counts[number] == 1]
    if single:
        total = f"{len(single)} of {len(labelled.classes)}"
        notes.append(f"classes with a single clip, never both trained on and tested: {total}: {', '.join(single)}")
    return notes


def _with_classes(data: str | os.PathLike[str], labelled: LabelledSet) -> LabelledSet:
    if len(labelled.classes) < 2:
        only = f"the only label is {labelled.classes[0]!r}" if labelled.classes else "there is no label"
        raise DataError(f"{data}: {only}: two classes or more are needed")
    return labelled


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
    notes = [f"{total}, the first is {empty[0]!r}"] if empty else []
    labels = [names[depth - 1] for names in parts]
    if has_splits:
        splits = [names[0].lower() for names in parts]
    else:
        by_class: dict[str, list[int]] = defaultdict(list)
        for index in sorted(range(len(clips)), key=lambda index: zlib.crc32(clips[index].name.encode())):
            by_class[labels[index]].append(index)
        tested = {index for members in by_class.values() for index in members[1:][::HELD_OUT]}
        splits = ["test" if index in tested else "train" for index in range(len(clips))]
        notes.append(f"the split is ours: {len(tested)} of {len(clips)} clips held out for testing, by file name")
    rows = zip(clips, labels, splits, strict=True)
    return [dataclasses.replace(clip, label=label, split=split) for clip, label, split in rows], tuple(notes)


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

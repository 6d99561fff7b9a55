"""Partitions of n labelled clips: a fixed split, or leave one fold out (docs/method.md 9)."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aape.data.clips import Clip
from aape.data.corpora import read_task
from aape.data.labelled import LabelledSet
from aape.data.manifest import read_manifest
from aape.errors import DataError
from aape.runs.folder import read_config

Indices = NDArray[np.int64]
VALIDATION_SPLITS = ("valid", "val", "validation", "dev")


@dataclass(frozen=True)
class Partition:
    """One training set and what it is scored on.

    Attributes:
        name: the test fold, or "test" for a split.
        train: clips to train on.
        test: clips to score.
        validation: clips to select the step on; empty if there are none. Of a split they are apart from `train`; of a
            fold set they are the next fold, which belongs to `train` and is held out for selecting only.
    """

    name: str
    train: Indices
    test: Indices
    validation: Indices

    @property
    def selection_train(self) -> Indices:
        """The clips that a run whose validation score selects may train on: `train` without `validation`."""
        return np.setdiff1d(self.train, self.validation)

    @property
    def needs_selection_run(self) -> bool:
        """Whether validation clips are training clips too, so that choosing a step takes a run without them."""
        return len(np.intersect1d(self.train, self.validation)) > 0

    def without(self, clips: Indices) -> Partition:
        """Return the partition without these clips."""
        parts = (np.setdiff1d(indices, clips) for indices in (self.train, self.test, self.validation))
        return Partition(self.name, *parts)

    def unseen(self, targets: Sequence[Sequence[int]]) -> tuple[list[int], set[int]]:
        """Return the test clips of classes that no training clip has, and these classes; `targets` are of all clips."""
        seen = {target for index in self.train for target in targets[index]}
        clips = [index for index in self.test.tolist() if not seen.issuperset(targets[index])]
        return clips, {target for index in clips for target in targets[index]} - seen


def read_set(config: Any) -> LabelledSet:
    """Read the data set that a run's options name, and check that it can be partitioned.

    Args:
        config: of `aape finetune` or `aape probe`.

    Raises:
        ConfigError: options that do not belong to the task.
        DataError: see `aape.data.corpora.read_task`; nothing to train or to test on.
    """
    names = ("label", "split", "fold", "where", "group", "multi_label")
    columns = {name: getattr(config, name) for name in names if hasattr(config, name)}
    labelled = read_task(config.task, config.data, **columns)
    partitions(labelled, config)
    shared = labelled.shared_with(_pretrained_on(Path(config.checkpoint)))
    return dataclasses.replace(labelled, warnings=(*labelled.warnings, *shared))


def _pretrained_on(checkpoint: Path) -> list[Clip]:
    """Return the clips of the run that left a model, where its folder and its data are still here."""
    for folder in (checkpoint, checkpoint.parent):
        options = read_config(folder)
        if options is not None and "masking" in options:  # of `aape pretrain`
            with contextlib.suppress(DataError, OSError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return read_manifest(options["data"])
    return []


def partitions(labelled: LabelledSet, config: Any) -> list[Partition]:
    """Return the training and test sets that the splits or the folds of a set stand for.

    Args:
        labelled: the set.
        config: `num_folds` to merge the folds into, 0 to keep them; `min_fold_clips`, where there is one.

    Raises:
        DataError: nothing to train or test on, or a training set of one class.
    """
    names = [clip.name for clip in labelled.clips]
    if labelled.has_folds:
        folds = [clip.fold for clip in labelled.clips]
        if config.num_folds:
            folds = [*group_folds(folds, names, config.num_folds)]
        parts = fold_partitions(folds, names, min_clips=getattr(config, "min_fold_clips", 1))
    else:
        parts = [split_partition([clip.split for clip in labelled.clips], names)]
    for item in parts:
        if len({target for index in item.train for target in labelled.targets[index]}) < 2:
            what = f"without fold {item.name!r} " if labelled.has_folds else ""
            raise DataError(f"the training set {what}has a single class")
    return parts


def group_folds(folds: Sequence[str | None], names: Sequence[str], num_folds: int) -> list[str]:
    """Merge folds into fewer of similar size, "1" and up: the largest first, each into the smallest so far.

    Args:
        folds: the column, (n,).
        names: the clips' names, for messages.
        num_folds: how many.

    Raises:
        DataError: a blank value, or fewer folds than that.
    """
    column = _fold_column(folds, names)
    counts = Counter(column)
    if not 2 <= num_folds <= len(counts):
        raise DataError(f"{len(counts)} folds cannot become {num_folds}: give a number from 2 to {len(counts)}")
    sizes = [0] * num_folds
    group = {}
    for fold in sorted(counts, key=lambda fold: (-counts[fold], _natural_key(fold))):
        smallest = sizes.index(min(sizes))
        group[fold] = str(smallest + 1)
        sizes[smallest] += counts[fold]
    return [group[fold] for fold in column]


def split_partition(splits: Sequence[str | None], names: Sequence[str]) -> Partition:
    """Read a split column: `train`, one of `VALIDATION_SPLITS` (optional), and everything that starts with `test`.

    Args:
        splits: the column, (n,).
        names: the clips' names, for messages.

    Raises:
        DataError: for a blank or unknown value, and if there is nothing to train or to test on.
    """
    column = np.asarray([(split or "").strip().lower() for split in splits], dtype=np.str_)
    train, validation = column == "train", np.isin(column, VALIDATION_SPLITS)
    test = np.char.startswith(column, "test")
    unknown = np.flatnonzero(~(train | validation | test))
    if len(unknown):
        first = unknown[0]
        problem = f"unknown split {splits[first]!r}" if column[first] else "no split"
        known = f"train, {', '.join(VALIDATION_SPLITS)} or test*"
        total = f"{len(unknown)} of {len(names)} clips have no known split"
        raise DataError(f"{total}, {names[first]}: {problem}: expected {known}")
    for part, name in ((train, "train"), (test, "test")):
        if not part.any():
            raise DataError(f"no clip has split {name!r}: the values are {', '.join(sorted(set(map(str, splits))))}")
    return Partition("test", *map(np.flatnonzero, (train, test, validation)))


def fold_partitions(folds: Sequence[str | None], names: Sequence[str], *, min_clips: int = 1) -> list[Partition]:
    """Leave one fold out, each in turn; the next one (cyclic, in natural order) is its validation fold.

    If only one other fold exists, taking it away would leave nothing to train on, and `validation` is empty.

    Args:
        folds: the column, (n,).
        names: the clips' names, for messages.
        min_clips: folds of fewer clips are trained on and neither tested nor used for validation.

    Raises:
        DataError: for a blank value, fewer than two folds, or none of `min_clips`.
    """
    column = np.asarray(_fold_column(folds, names))
    counts = Counter(column.tolist())
    if len(counts) < 2:
        raise DataError(f"leave one fold out needs two folds or more, there is only {', '.join(counts) or 'none'}")
    tested = sorted((fold for fold, count in counts.items() if count >= min_clips), key=_natural_key)
    if not tested:
        raise DataError(f"no fold has {min_clips} clips: the largest has {max(counts.values())}")
    parts = []
    for position, fold in enumerate(tested):
        following = tested[(position + 1) % len(tested)]
        train = np.flatnonzero(column != fold)
        validation = np.flatnonzero((column == following) & (column != fold))
        if len(validation) == len(train):
            validation = validation[:0]
        parts.append(Partition(fold, train, np.flatnonzero(column == fold), validation))
    return parts


def hold_out(
    candidates: Indices, labels: NDArray[np.int64], groups: NDArray[np.int64] | None, *, fraction: float, seed: int
) -> Indices:
    """Choose a share of every class for validation, whole groups at a time; returns the chosen clips, sorted.

    No class loses its last training clip or group, so a class of a single one is left alone.

    Args:
        candidates: the clips to choose from.
        labels: the classes of all clips, (n,).
        groups: integers of all clips, (n,), whose clips stay together; None takes clips one by one.
        fraction: the share of every class; at least one clip.
        seed: random seed of the order in which groups are considered.
    """
    groups = np.arange(len(labels)) if groups is None else groups
    generator = np.random.default_rng(seed)
    remaining = np.bincount(labels[candidates], minlength=int(labels.max()) + 1)
    share = np.maximum(1, np.round(fraction * remaining)).astype(np.int64)
    held_counts = np.zeros_like(remaining)
    held: set[int] = set()
    for label in np.unique(labels[candidates]):
        groups_of_class = np.unique(groups[candidates][labels[candidates] == label])
        for group in generator.permutation(groups_of_class):
            if held_counts[label] >= share[label]:
                break
            clips = candidates[groups[candidates] == group]
            counts = np.bincount(labels[clips], minlength=len(remaining))
            if int(group) in held or np.any((counts > 0) & (remaining - counts < 1)):
                continue
            held.add(int(group))
            held_counts += counts
            remaining -= counts
    return candidates[np.isin(groups[candidates], list(held))] if held else candidates[:0]


def _fold_column(folds: Sequence[str | None], names: Sequence[str]) -> list[str]:
    column = [(fold or "").strip() for fold in folds]
    blank = [name for fold, name in zip(column, names, strict=True) if not fold]
    if blank:
        raise DataError(f"{len(blank)} of {len(names)} clips have no fold, the first is {blank[0]}")
    return column


def _natural_key(fold: str) -> list[tuple[int, int, str]]:
    # "fold2" before "fold10": official sets number their folds, and "the next one" must mean the next number.
    parts = re.split(r"(\d+)", fold)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]

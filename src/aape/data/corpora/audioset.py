"""AudioSet: ten-second clips of 527 sound events, by the official segment lists (Gemmeke et al., 2017).

Clips vanish from the web, so every copy of AudioSet is incomplete: what is missing is counted.
"""

from __future__ import annotations

import csv
import dataclasses
from functools import partial
from pathlib import Path

from aape.data.clips import Clip
from aape.data.corpora.layout import Corpus, count_warnings, read_table, require
from aape.data.labelled import LabelledSet
from aape.data.manifest import read_manifest
from aape.errors import DataError

LABELS = "class_labels_indices.csv"
NUM_CLASSES = 527
LISTS = {
    "balanced_train_segments.csv": ("train", 22_160),
    "unbalanced_train_segments.csv": ("train", 2_041_789),
    "eval_segments.csv": ("test", 20_371),
}


def read(root: Path, train_lists: tuple[str, ...]) -> LabelledSet:
    """Read the segment lists and `class_labels_indices.csv`, and find the clips anywhere below, in shards too.

    A clip is called by its YouTube id: `ID`, `YID`, or either with the segment's start and end behind it.
    """
    require(root, "AudioSet", LABELS, *train_lists, "eval_segments.csv")
    classes, numbers = _read_classes(root / LABELS)
    stems = {Path(clip.name).stem: clip for clip in read_manifest(root)}
    clips: list[Clip] = []
    targets: list[tuple[int, ...]] = []
    counts: dict[str, tuple[int, int]] = {}
    warnings: list[str] = []
    num_missing = 0
    if len(classes) != NUM_CLASSES:
        number = f"{len(classes)} classes, {NUM_CLASSES} published"
        warnings.append(f"{root / LABELS} has {number}: a file of another version?")
    for file in (*train_lists, "eval_segments.csv"):
        split, published = LISTS[file]
        segments = _read_segments(root / file)
        mids = [mid for segment in segments for mid in segment[3]]
        unknown = [mid for mid in mids if mid not in numbers]
        if unknown:
            raise DataError(
                f"{root / file}: {len(unknown)} of {len(mids)} labels are none of the {len(classes)} of {LABELS}, the "
                f"first is {unknown[0]!r}"
            )
        before = len(clips)
        for name, start, end, labels in segments:
            clip = next((stems[stem] for stem in _stems(name, start, end) if stem in stems), None)
            if clip is not None:
                clips.append(dataclasses.replace(clip, label=",".join(labels), split=split))
                targets.append(tuple(sorted({numbers[mid] for mid in labels})))
        counts[file] = (len(clips) - before, published)
        missing = len(segments) - counts[file][0]
        num_missing += missing
        if missing:
            warnings.append(f"AudioSet: {missing:,} of the {len(segments):,} clips listed in {file} are missing")
        if len(segments) != published:
            warnings.append(f"AudioSet: {file} lists {len(segments):,} clips, {published:,} published: not all of it?")
        if not counts[file][0]:
            raise DataError(f"{root}: 0 of the {len(segments):,} clips of {file} are here")
    notes = (*warnings, *count_warnings("AudioSet", counts))
    return LabelledSet(
        clips, classes, targets, is_multi_label=True, counts=counts, num_missing=num_missing, warnings=notes
    )


def _read_classes(path: Path) -> tuple[list[str], dict[str, int]]:
    """Read the names of the classes, and the number of each label's `mid`."""
    rows = read_table(path, "index", "mid", "display_name")
    numbers = {row["mid"]: number for number, row in enumerate(rows)}
    if len(numbers) < len(rows) or any(row["index"] != str(number) for number, row in enumerate(rows)):
        raise DataError(
            f"{path}: {len(numbers)} different labels in {len(rows)} rows, or rows not numbered from 0: "
            "a file of another version?"
        )
    return [row["display_name"] for row in rows], numbers


def _read_segments(path: Path) -> list[tuple[str, float, float, list[str]]]:
    segments: list[tuple[str, float, float, list[str]]] = []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.reader((line for line in file if not line.startswith("#")), skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a segment list of AudioSet ({error})") from error
    for row in rows:
        try:
            name, start, end, mids = row
            segments.append((name, float(start), float(end), mids.split(",")))
        except ValueError as error:
            raise DataError(
                f"{path}: segment {len(segments) + 1} of {len(rows)} is not an id, start, end and labels: "
                f"{', '.join(row)!r}: not a segment list of AudioSet, or not all of it"
            ) from error
    return segments


def _stems(name: str, start: float, end: float) -> list[str]:
    endings = ("", f"_{start:g}_{end:g}", f"_{start:.3f}_{end:.3f}", f"_{round(1000 * start)}_{round(1000 * end)}")
    return [f"{prefix}{name}{ending}" for ending in endings for prefix in ("", "Y")]


AS20K = Corpus(
    "AudioSet-20K",
    partial(read, train_lists=("balanced_train_segments.csv",)),
    finetuning={
        "steps": 40_000, "batch": 128, "optim.learning_rate": 5e-5, "optim.layer_decay": 0.7, "optim.ema": 0.995,
        "augment.mixup": 0.8, "augment.spec_augment": 0.2, "balanced_draws": 0, "num_frames": 1008,
    },
)  # fmt: skip
AS2M = Corpus(
    "AudioSet-2M",
    partial(read, train_lists=("balanced_train_segments.csv", "unbalanced_train_segments.csv")),
    finetuning={**AS20K.finetuning, "steps": 300_000, "balanced_draws": 200_000},
)

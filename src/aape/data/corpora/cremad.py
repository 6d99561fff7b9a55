"""CREMA-D: 7,442 sentences in 6 emotions by 91 actors (Cao et al., 2014), split by actor."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from aape.data.clips import Clip
from aape.data.corpora.layout import PAPER_VECTOR, Corpus, assemble, read_table, require
from aape.data.labelled import LabelledSet
from aape.data.manifest import read_manifest
from aape.errors import DataError

CLASSES = ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
PUBLISHED = {"train": 5155, "valid": 732, "test": 1551}
NUM_CLIPS = 7442  # of the data set; the paper's split leaves four out
SPLIT_FILE = "split.csv"  # the user's, beside AudioWAV: columns filename and split


def read(root: Path) -> LabelledSet:
    """Read `AudioWAV/1001_DFA_ANG_XX.wav` (actor, sentence, emotion, level), and `split.csv` if there is one."""
    require(root, "CREMA-D", "AudioWAV")
    files = {clip.name: clip.path for clip in read_manifest(root / "AudioWAV")}
    parts = {name: Path(name).stem.split("_") for name in files}
    misnamed = [name for name, fields in parts.items() if len(fields) != 4]
    if misnamed:
        raise DataError(
            f"{root}: {len(misnamed)} of {len(files)} files are not named ACTOR_SENTENCE_EMOTION_LEVEL: {misnamed[0]}"
        )
    if (root / SPLIT_FILE).is_file():
        splits = _read_split(root / SPLIT_FILE)
        unused = len(files.keys() - splits.keys())
        warnings = [f"{SPLIT_FILE} leaves out {unused} of {len(files)} files of AudioWAV"] if unused else []
        files = {name: files.get(name, str(root / "AudioWAV" / name)) for name in splits}
        parts |= {name: Path(name).stem.split("_") for name in files}
        published = PUBLISHED
    else:
        published = {"clips": NUM_CLIPS, **PUBLISHED}
        actors = split_actors(Counter(fields[0] for fields in parts.values()))
        splits = {name: actors[fields[0]] for name, fields in parts.items()}
        warnings = [f"the split by actor is ours; with the paper's, put {SPLIT_FILE} (filename,split) beside AudioWAV"]
    clips = [Clip(path, name, label=(parts[name] + [""] * 3)[2], split=splits[name]) for name, path in files.items()]
    groups = [parts[name][0] for name in files]
    return assemble("CREMA-D", root, clips, classes=CLASSES, published=published, groups=groups, warnings=warnings)


def _read_split(path: Path) -> dict[str, str]:
    rows = read_table(path, "filename", "split")
    splits = {row["filename"]: row["split"] for row in rows}
    if len(splits) < len(rows):
        raise DataError(f"{path}: {len(rows) - len(splits)} of {len(rows)} rows name a file again")
    unknown = [split for split in splits.values() if split not in PUBLISHED]
    if unknown:
        raise DataError(
            f"{path}: {len(unknown)} of {len(rows)} splits are none of {', '.join(PUBLISHED)}: {unknown[0]!r}"
        )
    return splits


def split_actors(clips_per_actor: Counter[str]) -> dict[str, str]:
    """Deal whole actors out, in one fixed random order, until each split has its published share of the clips."""
    actors = sorted(clips_per_actor)
    random.Random(0).shuffle(actors)
    dealt: dict[str, str] = {}
    filled: Counter[str] = Counter()
    for actor in actors:
        # To the split that is furthest below its share.
        split = min(PUBLISHED, key=lambda name: filled[name] / PUBLISHED[name])
        dealt[actor] = split
        filled[split] += clips_per_actor[actor]
    return dealt


CREMAD = Corpus("CREMA-D", read, probing={"steps": 50_000, "batch": 16, **PAPER_VECTOR})

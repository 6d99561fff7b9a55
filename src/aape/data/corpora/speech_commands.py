"""Speech Commands V2: one-second recordings of 35 words, with the official lists (Warden, 2018)."""

from __future__ import annotations

from pathlib import Path

from aape.data.clips import Clip
from aape.data.corpora.layout import Corpus, assemble, read_lines, require
from aape.data.labelled import LabelledSet
from aape.data.manifest import read_manifest
from aape.errors import DataError

NAMES = """
backward bed bird cat dog down eight five follow forward four go happy house learn left marvin nine no off on one right
seven sheila six stop three tree two up visual wow yes zero
"""
CLASSES = NAMES.split()
LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}


def read(root: Path) -> LabelledSet:
    """Read the unpacked archive: a folder per word and two lists; what is on neither list is for training."""
    require(root, "Speech Commands V2", *LISTS.values())
    lines = [(name, split) for split, file in LISTS.items() for name in read_lines(root / file)]
    listed = dict(lines)
    if len(listed) < len(lines):
        twice = len(lines) - len(listed)
        raise DataError(f"{root}: {twice} of {len(lines)} lines of {' and '.join(LISTS.values())} name a file again")
    recordings = {clip.name: clip for clip in read_manifest(root) if not clip.name.startswith("_background_noise_/")}
    absent = [name for name in listed if name not in recordings]
    if absent:
        raise DataError(
            f"{root}: {len(absent)} of {len(listed)} listed files of Speech Commands V2 are missing, "
            f"the first is {absent[0]!r}: unpack the archive again"
        )
    clips = [
        Clip(clip.path, name, label=name.split("/")[0], split=listed.get(name, "train"))
        for name, clip in recordings.items()
    ]
    published = {"train": 84_843, "valid": 9_981, "test": 11_005}
    # A speaker's hash stands before the first underscore: the official lists keep speakers apart.
    groups = [Path(clip.name).name.partition("_")[0] for clip in clips]
    return assemble("Speech Commands V2", root, clips, classes=CLASSES, published=published, groups=groups)


SCV2 = Corpus("Speech Commands V2", read, finetuning={
    "steps": 160_000, "batch": 128, "optim.learning_rate": 2e-4, "optim.layer_decay": 0.75, "optim.ema": 0.995,
    "augment.mixup": 0.8, "augment.spec_augment": 0.2, "balanced_draws": 0, "num_frames": 112,
})  # fmt: skip

"""The public data sets that the method is judged on, in their published layouts: `--task` to what reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aape.data.corpora.audioset import AS2M, AS20K
from aape.data.corpora.cremad import CREMAD
from aape.data.corpora.esc50 import ESC50
from aape.data.corpora.layout import Corpus
from aape.data.corpora.nsynth import NSYNTH
from aape.data.corpora.speech_commands import SCV2
from aape.data.corpora.urbansound import US8K
from aape.data.labelled import LabelledSet, read_own
from aape.errors import ConfigError

__all__ = ["CORPORA", "OWN", "protocol", "read_task"]

OWN = "csv"  # the task that is the user's own data
CORPORA: dict[str, Corpus] = {
    "as2m": AS2M,
    "as20k": AS20K,
    "esc50": ESC50,
    "scv2": SCV2,
    "us8k": US8K,
    "nsynth": NSYNTH,
    "cremad": CREMAD,
}
# Methods 8 and 9 by task, and ours for a set without a published protocol.
_FINETUNING_OPTIONS = (
    "steps", "batch", "optim.learning_rate", "optim.layer_decay", "optim.ema",
    "augment.mixup", "augment.spec_augment", "balanced_draws", "num_frames",
)  # fmt: skip
_FINETUNING = {
    OWN: (2000, 32, 5e-4, 0.75, 0.995, 0.8, 0.2, 0),
    "as2m": (300_000, 128, 5e-5, 0.70, 0.995, 0.8, 0.2, 200_000, 1008),
    "as20k": (40_000, 128, 5e-5, 0.70, 0.995, 0.8, 0.2, 0, 1008),
    "esc50": (8000, 128, 5e-5, 0.65, 0.0, 0.0, 0.0, 0, 512),
    "scv2": (160_000, 128, 2e-4, 0.75, 0.995, 0.8, 0.2, 0, 112),
}
_PROBING = {OWN: (8000, 128), "us8k": (8000, 128), "nsynth": (50_000, 512), "cremad": (50_000, 16)}


def read_task(task: str, data: str | os.PathLike[str], **columns: Any) -> LabelledSet:
    """Read the data set of a task.

    Args:
        task: one of `CORPORA`, or `OWN`.
        data: its folder; for `OWN` see `read_own`.
        columns: of `read_own`.

    Raises:
        ConfigError: an unknown task, or columns for a set that has its own.
        DataError: what is wrong with the data, with both numbers where something is missing.
    """
    if task == OWN:
        return read_own(data, **columns)
    corpus = _corpus(task)
    options = [name for name, value in columns.items() if value and name != "label"]
    if options:
        raise ConfigError(
            f"--{options[0].replace('_', '-')} is for --task {OWN}: {corpus.title} brings its own protocol"
        )
    return corpus.read(Path(data))


def protocol(task: str, stage: str) -> Mapping[str, Any]:
    """Return what a task sets, by option: those of its "finetuning" or its "probing", ours where it has none.

    Raises:
        ConfigError: an unknown task.
    """
    if task != OWN:
        _corpus(task)
    if stage == "probing":
        return dict(zip(("steps", "batch"), _PROBING.get(task, _PROBING[OWN]), strict=True))
    return dict(zip(_FINETUNING_OPTIONS, _FINETUNING.get(task, _FINETUNING[OWN]), strict=False))


def _corpus(task: str) -> Corpus:
    if task not in CORPORA:
        raise ConfigError(f"task: {task!r} is not built in; choose one of {', '.join((OWN, *CORPORA))}")
    return CORPORA[task]

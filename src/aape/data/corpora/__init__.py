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
from aape.data.labelled import LabelledSet, read_csv
from aape.errors import ConfigError

__all__ = ["CORPORA", "CSV", "protocol", "read_task"]

CSV = "csv"  # the task of your data
CORPORA: dict[str, Corpus] = {
    "as2m": AS2M,
    "as20k": AS20K,
    "esc50": ESC50,
    "scv2": SCV2,
    "us8k": US8K,
    "nsynth": NSYNTH,
    "cremad": CREMAD,
}
# Ours, for your data and for sets without a published protocol; `balanced_draws` is not an option
_CSV_PROTOCOL: dict[str, dict[str, Any]] = {
    "finetuning": {
        "steps": 2000, "batch": 32, "optim.learning_rate": 5e-4, "optim.layer_decay": 0.75, "optim.ema": 0.995,
        "augment.mixup": 0.8, "augment.spec_augment": 0.2, "balanced_draws": 0,
    },
    "probing": {"steps": 8000, "batch": 128},
}  # fmt: skip


def read_task(task: str, data: str | os.PathLike[str], **columns: Any) -> LabelledSet:
    """Read the data set of a task.

    Args:
        task: one of `CORPORA`, or `CSV`.
        data: its folder; for `CSV` see `read_csv`.
        columns: of `read_csv`.

    Raises:
        ConfigError: an unknown task, or columns for a set with a protocol.
        DataError: what is wrong with the data, with both numbers where something is missing.
    """
    if task == CSV:
        return read_csv(data, **columns)
    corpus = _corpus(task)
    options = [name for name, value in columns.items() if value and name != "label"]
    if options:
        raise ConfigError(
            f"--{options[0].replace('_', '-')} is for --task {CSV}: {corpus.title} brings its own protocol"
        )
    return corpus.read(Path(data))


def protocol(task: str, stage: str) -> Mapping[str, Any]:
    """Return what a task sets, by option: those of its "finetuning" or its "probing", csv's where it has none.

    Raises:
        ConfigError: an unknown task.
    """
    published = {} if task == CSV else getattr(_corpus(task), stage)
    return published or _CSV_PROTOCOL[stage]


def _corpus(task: str) -> Corpus:
    if task not in CORPORA:
        raise ConfigError(f"task: {task!r} is not built in; choose one of {', '.join((CSV, *CORPORA))}")
    return CORPORA[task]

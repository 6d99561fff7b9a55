"""What most runs of the tests start from: real notes in a folder or a table, and an encoder of random weights."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import torch

from aape.cli import main
from aape.data.demo import AUDIO
from aape.inference import AudioModel
from aape.models.config import FrontEndConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.models.heads import ClassificationHead
from aape.models.saved import save_model

NOTES = sorted(AUDIO.glob("*.opus"))
FRONT_END = FrontEndConfig(mean=-6.0, std=4.0)
LABELS = ["bell", "drum", "flute [low]", "Ωmega"]


def link_notes(folder, count=None):
    """Fill a new folder with links to the first notes."""
    folder.mkdir()
    for note in NOTES[:count]:
        (folder / note.name).symlink_to(note)
    return folder


def measure(folder):
    """Write the statistics of a folder beside it."""
    stats = folder.parent / "stats.json"
    assert main(["stats", "--data", str(folder), "--out", str(stats)]) == 0
    return stats


def bass_and_flute():
    """Return the rows of metadata.csv for two classes, with whole paths."""
    with open(AUDIO / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] in ("bass", "flute") and row["split"] != "valid"]
    return [{**row, "file": str(AUDIO / row["file"])} for row in rows]


def nano(**options):
    """Build a nano encoder, always the same."""
    torch.manual_seed(0)
    return AudioEncoder(encoder_config("nano", **options))


def save_nano(folder, **options):
    """Save that encoder."""
    save_model(folder, nano(), FRONT_END, **options)
    return folder


def classifier(*, multi_label=False, labels=LABELS):
    """Build that encoder with a classifier."""
    torch.manual_seed(0)
    head = ClassificationHead(64, 4)
    with torch.no_grad():
        head.linear.weight.mul_(40)  # scores that differ
    return AudioModel(nano(), FRONT_END, head=head, labels=labels, multi_label=multi_label)


def save_classifier(folder, model):
    """Save such a model."""
    options = {"head": model.head, "labels": model.labels, "multi_label": model.multi_label}
    save_model(folder, model.encoder, FRONT_END, **options)
    return folder


def noise(seconds, seed=0):
    """Return noise at 16 kHz, (samples,), float32."""
    return 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16000)).astype(np.float32)


def read_lines(path):
    """Read a file of one JSON object a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_ranks(ranks, *arguments):
    """Run Python with these arguments in so many processes of one thread each."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    return subprocess.run(
        [sys.executable, *launch, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip

"""A run of fine-tuning that takes seconds."""

import pytest

from aape.commands.finetune import FinetuneConfig
from corpus_copies import table
from notes import bass_and_flute, save_nano


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return str(save_nano(tmp_path_factory.mktemp("nano"), training={"steps": 3}))


@pytest.fixture
def make_config(checkpoint, tmp_path):
    """Configure a few steps over notes of two classes; changes are options."""

    def make(**changes):
        table(tmp_path / "notes.csv", bass_and_flute())
        options = {"data": str(tmp_path / "notes.csv"), "checkpoint": checkpoint, "out": str(tmp_path / "run")}
        options |= {"split": "split", "steps": 4, "batch": 4, "seeds": 1, "evaluations": 2, "workers": 0}
        return FinetuneConfig(**{**options, "device": "cpu", **changes})

    return make

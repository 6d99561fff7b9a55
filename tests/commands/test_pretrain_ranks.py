"""Two processes train what one trains: losses, negatives of the contrastive loss, gradients."""

import json
import os
import subprocess
import sys

import pytest

from aape.data.demo import AUDIO

# The run of a rank, in float64 so that nothing but the order of sums can differ
PROGRAM = """
import json, os, sys
import torch
from aape.commands.pretrain import PretrainConfig, Pretraining
from aape.pretraining.config import LossConfig, MaskingConfig, OptimConfig
from aape.runs.devices import close_ranks
data, stats, out, accumulate = *sys.argv[1:4], int(sys.argv[4])
run = Pretraining(PretrainConfig(
    data=data, stats=stats, out=out, model="nano", steps=20, clips=8, workers=0, crop_seconds=1.0, device="cpu",
    log_every=1, save_every=1000, masking=MaskingConfig(num_views=2), loss=LossConfig(contrastive_weight=1.0),
    optim=OptimConfig(accumulate=accumulate, precision="float32")))
run.method.double()
spectrograms = run.spectrograms
run.spectrograms = lambda wave, lengths: spectrograms(wave.double(), lengths)
run.train()
close_ranks(run.accelerator)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    from aape.cli import main

    folder = tmp_path_factory.mktemp("sound")
    for note in sorted(AUDIO.glob("*.opus"))[:24]:
        (folder / note.name).symlink_to(note)
    assert main(["stats", "--data", str(folder), "--out", str(folder.parent / "stats.json")]) == 0
    return str(folder), str(folder.parent / "stats.json")


def losses(corpus, out, ranks):
    """Train in `ranks` processes; return the three losses and the gradient's norm of every step."""
    program = out.with_suffix(".py")
    program.write_text(PROGRAM)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *launch, str(program), *corpus, str(out), "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    # Not the exit status: gloo's threads can still abort a process of a busy machine while it exits, after all is done
    assert (out / "metrics.jsonl").exists(), done.stderr[-3000:]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    names = ("loss_mask", "loss_utterance", "loss_contrastive", "grad_norm")
    return [[line[name] for name in names] for line in lines]


def test_two_processes_train_what_one_does(corpus, tmp_path):
    """Same global batch, 20 steps, float64: all three losses within 1e-10."""
    one, two = (losses(corpus, tmp_path / f"run-{ranks}", ranks) for ranks in (1, 2))
    assert len(one) == 20
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, abs=1e-10)

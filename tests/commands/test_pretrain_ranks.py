"""Two processes train what one trains: losses, negatives of the contrastive loss, gradients."""

import pytest

from notes import link_notes, measure, read_lines, run_ranks

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
    folder = link_notes(tmp_path_factory.mktemp("corpus") / "sound", 24)
    return folder, measure(folder)


def losses(corpus, out, ranks):
    """Train in `ranks` processes; return the three losses and the gradient's norm of every step."""
    program = out.with_suffix(".py")
    program.write_text(PROGRAM)
    done = run_ranks(ranks, program, *corpus, out, 1)
    # Not the exit status: gloo's threads can still abort a process of a busy machine while it exits, after all is done
    assert (out / "metrics.jsonl").exists(), done.stderr[-3000:]
    names = ("loss_mask", "loss_utterance", "loss_contrastive", "grad_norm")
    return [[line[name] for name in names] for line in read_lines(out / "metrics.jsonl")]


def test_two_processes_train_what_one_does(corpus, tmp_path):
    """Same global batch, 20 steps, float64: all three losses within 1e-10."""
    one, two = (losses(corpus, tmp_path / f"run-{ranks}", ranks) for ranks in (1, 2))
    assert len(one) == 20
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, abs=1e-10)

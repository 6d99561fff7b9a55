"""A few steps of the trainer against the same steps written out: rates, decay, average, loss (method 8)."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aape.commands.finetune import AugmentConfig, FinetuneConfig, FinetuneOptimConfig
from aape.data.clips import Clip
from aape.data.labelled import LabelledSet
from aape.downstream import finetuning as training
from aape.downstream.finetuning import Classifier, Job, Trainer
from aape.errors import TrainingError
from aape.models.config import encoder_config
from aape.models.encoder import AudioEncoder

STEPS, WARMUP, RATE, LAYER_DECAY, WEIGHT_DECAY, AVERAGE = 5, 2, 1e-2, 0.5, 0.1, 0.7
LAYERS = {"encoder.stem": 0, "encoder.cls_token": 0, "encoder.blocks.0": 1, "encoder.blocks.1": 2}  # else 3
LABELS = [(0,), (1,), (2,), (0,), (1,), (2,)]


class Mels:
    """Six clips of 40 frames, at hand."""

    def __init__(self):
        self.device, self.bad = torch.device("cpu"), {}
        self.mels = torch.randn(6, 128, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def by_length(self, indices):
        return indices

    def stream(self, batches, steps):
        for step in steps:
            yield [(index, self.mels[index]) for index in batches[step].tolist()]


def build(targets, mixup=0.0, ema=AVERAGE, **changes):
    torch.manual_seed(0)
    is_multi_label = any(len(own) != 1 for own in targets)
    clips = [Clip(f"{i}.wav", f"{i}.wav") for i in range(6)]
    labelled = LabelledSet(clips, ["a", "b", "c"], targets, is_multi_label=is_multi_label)
    optim = FinetuneOptimConfig(RATE, LAYER_DECAY, WARMUP / STEPS, WEIGHT_DECAY, ema=ema, precision="float32")
    options = {"steps": STEPS, "batch": 4, "evaluations": 1, "optim": optim, **changes}
    augment = AugmentConfig(mixup=mixup, spec_augment=0.0, drop_path=0.0)
    config = FinetuneConfig("d", "c", "o", augment=augment, **options)
    job = Job("job", 0, np.arange(6), {"test": np.arange(6)})
    # In float64: where a gradient is 0 but for rounding, AdamW's step would be its sign.
    return Trainer(job, Classifier(AudioEncoder(encoder_config("nano")), 3).double(), labelled, Mels(), config)


def half_and_half(pieces, targets, *, alpha, generator):
    assert alpha == 0.8
    return [(own + other) / 2 for own, other in zip(pieces, pieces[::-1], strict=True)], (targets + targets.flip(0)) / 2


def written_out(trainer, mixup, is_binary):
    """Return the weights and their average after STEPS steps, and the mean loss: AdamW, one parameter at a time."""
    model = copy.deepcopy(trainer.classifier)
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    average = {name: p.detach().clone() for name, p in own.items()}
    first, second = ({name: torch.zeros_like(p) for name, p in own.items()} for _ in range(2))
    losses = []
    for step in range(STEPS):
        indices = trainer.draws[step]
        x = F.pad(trainer.spectrograms.mels[indices], (0, 8))  # to whole patches
        y = torch.zeros(4, 3)
        for row, index in enumerate(indices):
            y[row, list(trainer.labelled.targets[index])] = 1
        if mixup:
            x, y = (x + x.flip(0)) / 2, (y + y.flip(0)) / 2
        logits = model(x[:, None]).float()
        if is_binary:
            loss = -(y * F.logsigmoid(logits) + (1 - y) * F.logsigmoid(-logits)).mean()
        else:
            loss = -(y * logits.log_softmax(-1)).sum(-1).mean()
        losses.append(float(loss.detach()))
        gradients = dict(zip(own, torch.autograd.grad(loss, list(own.values()), allow_unused=True), strict=True))
        cosine = 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))
        factor = step / WARMUP if step < WARMUP else cosine
        for name, p in own.items():
            layer = next((number for start, number in LAYERS.items() if name.startswith(start)), 3)
            rate = RATE * factor * LAYER_DECAY ** (3 - layer)
            is_decayed = p.ndim > 1 and not any(part in name for part in ("token", "pos_embed", "raw", "encoder.head"))
            if gradients[name] is not None:
                first[name] = 0.9 * first[name] + 0.1 * gradients[name]
                second[name] = 0.95 * second[name] + 0.05 * gradients[name] ** 2
                p.data -= rate * WEIGHT_DECAY * p.data if is_decayed else 0
                root = (second[name] / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8
                p.data -= rate * first[name] / (1 - 0.9 ** (step + 1)) / root
            average[name] = AVERAGE * average[name] + (1 - AVERAGE) * p.data
    return {name: p.detach() for name, p in own.items()}, average, np.mean(losses)


@pytest.mark.parametrize(
    ("targets", "mixup", "is_binary"),
    [(LABELS, 0.0, False), (LABELS, 0.8, True), ([(0, 1), *LABELS[1:]], 0.0, True)],
    ids=["one label: cross-entropy", "with mixup: BCE", "several labels: BCE"],
)
def test_the_trainer_does_what_the_method_says(targets, mixup, is_binary, tmp_path, monkeypatch):
    """Any slip in a rate, the average or the loss rule gives plausible, wrong numbers for weeks."""
    monkeypatch.setattr(training, "mix_up", half_and_half)
    trainer = build(targets, mixup)
    weights, average, loss = written_out(trainer, mixup, is_binary)
    trainer.run(tmp_path, lambda *_: None)
    assert trainer.history.loss == [pytest.approx(loss, rel=1e-4)]
    found = dict(trainer.classifier.named_parameters())
    averaged = dict(trainer.average.module.named_parameters())
    for name, wanted in weights.items():
        torch.testing.assert_close(found[name].detach(), wanted, atol=1e-6, rtol=1e-5, msg=name)
        torch.testing.assert_close(averaged[name], average[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("evaluations", [1, 2, 4])
def test_no_more_looks_at_the_test_data_than_asked_for(evaluations, tmp_path):
    """`best` is a maximum over the looks: one more of them is another number."""
    trainer = build(LABELS, evaluations=evaluations)
    trainer.run(tmp_path, lambda *_: None)
    assert len(trainer.history.steps) <= evaluations
    assert trainer.history.steps[-1] == STEPS


def test_bad_files_found_on_the_way_are_not_forgotten_by_a_kill(tmp_path):
    """Too many of them stop a run, and its result counts them: nobody reads them twice."""
    trainer, resumed = build(LABELS), build(LABELS)
    trainer.spectrograms.bad["0.wav"] = "empty"
    trainer._save(tmp_path / training.CHECKPOINT)
    resumed.spectrograms.bad["1.wav"] = "silent"
    resumed._restore(tmp_path / training.CHECKPOINT)
    assert resumed.spectrograms.bad == resumed.history.bad == {"0.wav": "empty", "1.wav": "silent"}


@pytest.mark.parametrize("what", ["loss", "probabilities", "weights"])
def test_a_training_that_diverges_is_no_score(what, tmp_path, monkeypatch):
    """The arg max of NaN is the first class, and its accuracy looks like any other."""
    optim = FinetuneOptimConfig(1e30 if what == "weights" else 1e-3, precision="float32", ema=0.0)
    trainer = build(LABELS, optim=optim)
    train_step, predict = trainer._train_step, trainer.predict
    if what == "loss":
        monkeypatch.setattr(trainer, "_train_step", lambda found: train_step(found) + math.inf)
    if what == "probabilities":
        monkeypatch.setattr(trainer, "predict", lambda indices: (indices, predict(indices)[1] * math.nan))
    with pytest.raises(TrainingError, match=r"job: .* not finite at step 5: lower --optim.learning-rate"):
        trainer.run(tmp_path, lambda *_: None)
    assert not trainer.history.scores


def test_clips_that_keep_their_length_are_cut_in_training_only():
    """Short crops are what makes training on a CPU bearable; the score is of the whole clip."""
    trainer = build(LABELS, crop_frames=16)
    own, generator = trainer.spectrograms.mels[0], np.random.default_rng(0)
    crops = [trainer._crop(own, generator) for _ in range(20)]
    assert {crop.shape[-1] for crop in crops} == {16}
    assert len({float(crop[0, 0]) for crop in crops}) > 5
    assert trainer._crop(own[:, :9], generator).shape[-1] == 9
    assert [piece.shape[-1] for piece in trainer._windows(own)] == [40]

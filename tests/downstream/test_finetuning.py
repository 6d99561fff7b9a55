"""A few steps of the training against the same steps written out: rates, decay, average, loss (method 8)."""

import copy
import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aape.data import augment
from aape.data.clips import Clip
from aape.data.labelled import LabelledSet
from aape.downstream.finetuning import WARMUP as WARMUP_SHARE
from aape.downstream.finetuning import WEIGHT_DECAY, Classifier, Job, Settings, Training
from aape.errors import TrainingError
from aape.models.config import encoder_config
from aape.models.encoder import AudioEncoder
from aape.runs.checkpoints import find_checkpoint
from aape.runs.devices import start_ranks
from aape.runs.files import Records
from aape.runs.guards import BadFiles

STEPS, RATE, LAYER_DECAY, AVERAGE = 20, 1e-2, 0.5, 0.7
WARMUP = round(WARMUP_SHARE * STEPS)
LAYERS = {"encoder.stem": 0, "encoder.cls_token": 0, "encoder.blocks.0": 1, "encoder.blocks.1": 2}  # else 3
LOST = torch.tensor(math.inf, requires_grad=True)
LABELS = [(0,), (1,), (2,), (0,), (1,), (2,)]


class Mels:
    """Six clips of 40 frames, at hand."""

    def __init__(self):
        self.device, self.bad, self.log_mel = torch.device("cpu"), BadFiles(6, 0.5), SimpleNamespace(n_mels=128)
        self.mels = torch.randn(6, 128, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.frames = np.full(6, 40)

    def by_length(self, indices):
        return indices

    def stream(self, batches, steps):
        for step in steps:
            yield [(index, self.mels[index]) for index in batches[step].tolist()]


def build(folder, targets, **changes):
    torch.manual_seed(0)
    is_multi_label = any(len(labels) != 1 for labels in targets)
    clips = [Clip(f"{i}.wav", f"{i}.wav") for i in range(6)]
    labelled = LabelledSet(clips, ["a", "b", "c"], targets, is_multi_label=is_multi_label)
    options = {
        "steps": STEPS, "batch": 4, "learning_rate": RATE, "layer_decay": LAYER_DECAY, "ema": AVERAGE, "mixup": 0.0,
        "spec_augment": 0.0, "drop_path": 0.0, "evaluations": 1, "precision": "float32", **changes,
    }  # fmt: skip
    job = Job("job", 0, np.arange(6), {"test": np.arange(6)})
    # In float64: where a gradient is 0 but for rounding, AdamW's step would be its sign.
    classifier = Classifier(AudioEncoder(encoder_config("nano")), 3, options["drop_path"]).double()
    return Training(
        job, classifier, labelled, Mels(), Settings(**options), accelerator=start_ranks("cpu"), folder=folder
    )


def half_and_half(draw):
    """Every clip is mixed with the one at the other end of the batch, in equal parts."""

    def mixed(self, *arguments):
        draws = draw(self, *arguments)
        assert self.mixup in (0, 0.8)
        draws.partners, draws.shares = draws.partners[::-1] if not self.mixup else np.arange(4)[::-1], np.full(4, 0.5)
        return draws

    return mixed


def written_out(trainer, mixup, is_binary):
    """Return the weights and their average after STEPS steps, and the mean loss: AdamW, one parameter at a time."""
    model = copy.deepcopy(trainer.classifier)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    average = {name: p.detach().clone() for name, p in parameters.items()}
    first, second = ({name: torch.zeros_like(p) for name, p in parameters.items()} for _ in range(2))
    losses = []
    for step in range(STEPS):
        indices = trainer.augmentation.draws[step]
        x = F.pad(trainer.spectrograms.mels[indices], (0, 8))  # to whole patches
        y = torch.zeros(4, 3, dtype=torch.float64)
        for row, index in enumerate(indices):
            y[row, list(trainer.labelled.targets[index])] = 1
        if mixup:
            x, y = (x + x.flip(0)) / 2, (y + y.flip(0)) / 2
        logits = model(x[:, None])
        if is_binary:
            loss = -(y * F.logsigmoid(logits) + (1 - y) * F.logsigmoid(-logits)).mean()
        else:
            loss = -(y * logits.log_softmax(-1)).sum(-1).mean()
        losses.append(float(loss.detach()))
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        gradients = dict(zip(parameters, gradients, strict=True))
        cosine = 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))
        factor = step / WARMUP if step < WARMUP else cosine
        for name, p in parameters.items():
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
    return {name: p.detach() for name, p in parameters.items()}, average, np.mean(losses)


@pytest.mark.parametrize(
    ("targets", "mixup", "is_binary"),
    [(LABELS, 0.0, False), (LABELS, 0.8, True), ([(0, 1), *LABELS[1:]], 0.0, True)],
    ids=["one label: cross-entropy", "with mixup: BCE", "several labels: BCE"],
)
def test_the_trainer_does_what_the_method_says(targets, mixup, is_binary, tmp_path, monkeypatch):
    """Any slip in a rate, the average or the loss rule gives plausible, wrong numbers for weeks."""
    monkeypatch.setattr(augment.Augmentation, "draw", half_and_half(augment.Augmentation.draw))
    trainer = build(tmp_path, targets, mixup=mixup)
    weights, average, loss = written_out(trainer, mixup, is_binary)
    assert trainer.run()
    assert trainer.history.loss == [pytest.approx(loss, rel=1e-9)]
    trained = dict(trainer.classifier.named_parameters())
    averaged = dict(trainer.average.module.named_parameters())
    for name, expected in weights.items():
        torch.testing.assert_close(trained[name].detach(), expected, atol=1e-6, rtol=1e-5, msg=name)
        torch.testing.assert_close(averaged[name], average[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("evaluations", [1, 3, 7])
def test_no_more_looks_at_the_test_data_than_asked_for(evaluations, tmp_path):
    """`best` is a maximum over the looks: one more of them is another number."""
    trainer = build(tmp_path, LABELS, evaluations=evaluations)
    trainer.run()
    assert len(trainer.history.steps) <= evaluations
    assert trainer.history.steps[-1] == STEPS


def test_bad_files_met_on_the_way_survive_a_kill(tmp_path):
    """Too many of them stop a run, and its result counts them: nobody reads them twice."""
    trainer, resumed = build(tmp_path, LABELS), build(tmp_path, LABELS)
    for run, name in ((trainer, "0.wav"), (resumed, "1.wav")):
        run.spectrograms.bad.records = Records(tmp_path / "bad_files.jsonl")
        run.spectrograms.bad.note([(name, "empty")])
    trainer.loop.resume(None)
    trainer.loop.step = 3
    trainer.loop.save()
    resumed.loop.resume(find_checkpoint(tmp_path))
    resumed.loop.save()
    assert resumed.spectrograms.bad.reasons == {"0.wav": "empty", "1.wav": "empty"}


@pytest.mark.parametrize("what", ["loss", "probabilities", "weights"])
def test_a_training_that_diverges_is_no_score(what, tmp_path, monkeypatch):
    """The arg max of NaN is the first class, and its accuracy looks like any other."""
    trainer = build(tmp_path, LABELS, learning_rate=1e300 if what == "weights" else 1e-3, ema=0.0)
    forward, predict = trainer._forward, trainer.predict
    if what == "loss":
        trainer.loop.forward = lambda step, batch: dataclasses.replace(forward(step, batch), loss=LOST)
    if what == "probabilities":
        monkeypatch.setattr(trainer, "predict", lambda indices: (indices, predict(indices)[1] * math.nan))
    with pytest.raises(TrainingError, match=r"not finite .*: lower --optim.learning-rate"):
        trainer.run()
    assert not trainer.history.scores


def test_clips_that_keep_their_length_are_cut_in_training_only(tmp_path):
    """Short crops are what makes training on a CPU bearable; the score is of the whole clip."""
    trainer = build(tmp_path, LABELS, crop_frames=16)
    batches = [part for step in itertools.islice(trainer._batches(), 20) for part in step]
    assert {inputs.shape[-1] for _, inputs, _, _ in batches} == {16}
    assert len({float(inputs[0, 0, 0, 0]) for _, inputs, _, _ in batches}) > 5
    mel = trainer.spectrograms.mels[0]
    assert trainer._crop(mel[:, :9], 0).shape[-1] == 9
    assert [piece.shape[-1] for piece in trainer._windows(mel)] == [40]

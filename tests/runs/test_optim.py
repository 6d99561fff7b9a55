"""The optimiser: schedules, decay, learning rates by layer and the average of the weights."""

import pytest
import torch
from torch import nn

from aape.downstream.finetuning import Classifier
from aape.models.config import encoder_config
from aape.models.encoder import AudioEncoder
from aape.pretraining.config import OptimConfig
from aape.runs.optim import WeightAverage, adamw, cosine_between, layer_decay, warmup_cosine


def test_schedules_and_decay_groups():
    """Warm-up, cosine to 0, momentum to 1; no decay where method 7 says none."""
    assert [warmup_cosine(s, warmup=10, total=110) for s in (0, 5, 10, 60, 110)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    momentum = {"start": OptimConfig().momentum_start, "end": OptimConfig().momentum_end, "total": 100}
    assert cosine_between(0, **momentum) == pytest.approx(0.994)
    assert cosine_between(100, **momentum) == 1.0
    encoder = AudioEncoder(encoder_config("nano"))
    groups = adamw(encoder, learning_rate=1.0, weight_decay=0.05, betas=(0.9, 0.95)).param_groups
    exempt = {id(p) for p in groups[1]["params"]}
    assert id(encoder.cls_token) in exempt
    assert id(encoder.stem.lambda_encoder.head.weight) in exempt
    assert id(encoder.stem.fuse.weight) not in exempt


def test_rates_fall_from_the_head_to_the_stem():
    """The pre-trained stem would be washed out at the head's rate."""
    classifier = Classifier(AudioEncoder(encoder_config("nano")), 3)
    optimizer = adamw(classifier, learning_rate=1.0, weight_decay=0.05, betas=(0.9, 0.95), rate_of=layer_decay(2, 0.5))
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert set(rates) == {name for name, p in classifier.named_parameters() if p.requires_grad}
    for name, rate in rates.items():
        if "stem" in name or "cls_token" in name:  # the Lambda Encoder's own blocks are part of the stem
            assert rate == 0.5**3, name
        elif "blocks.0" in name:
            assert rate == 0.5**2, name
        elif "blocks.1" in name:
            assert rate == 0.5, name
        else:
            assert rate == 1, name
    assert decays["head.linear.weight"] == 0.05
    assert decays["head.norm.weight"] == decays["encoder.cls_token"] == 0


def test_the_average_follows_the_weights():
    layer = nn.Linear(2, 1)
    average = WeightAverage(layer, 0.9)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    average.update(torch.tensor(1.0))
    torch.testing.assert_close(average.module.weight, before)
    average.update(torch.tensor(0.0))
    torch.testing.assert_close(average.module.weight, before + 0.1)
    assert not average.module.weight.requires_grad
    assert WeightAverage(layer, 0.0).module is layer

"""The optimiser: schedules, decay, learning rates by layer and the average of the weights."""

import copy
import math

import pytest
import torch
from torch import nn

from aape.downstream.finetuning import Classifier
from aape.models.config import encoder_config
from aape.models.encoder import AudioEncoder
from aape.pretraining.config import OptimConfig
from aape.runs.optim import WeightAverage, adamw, cosine_between, layer_decay, orthogonal, warmup_cosine


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


def orthogonal_by_loops(matrix):
    """The iteration on singular values alone, float64: the judge."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / (values.square().sum().sqrt() + 1e-7)
    for _ in range(5):
        values = torch.tensor([3.4445 * v - 4.775 * v**3 + 2.0315 * v**5 for v in values.tolist()]).double()
    return left @ torch.diag(values) @ right


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (32, 32)])
def test_muons_steps_are_nearly_orthogonal(shape):
    """As large in every direction: what the largest singular values of a gradient drown is learned, too."""
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape, dtype=torch.float64) * torch.tensor([1e-6, 1.0, 1e3]).view(3, 1, 1)
    exact, steps = orthogonal(matrices, torch.float64), orthogonal(matrices.float())
    for matrix, precise, step in zip(matrices, exact, steps, strict=True):
        expected = orthogonal_by_loops(matrix)
        assert (precise - expected).norm() < 1e-6 * expected.norm()
        assert (step - expected).norm() < 0.1 * expected.norm()
        assert ((torch.linalg.svdvals(step) > 0.3) & (torch.linalg.svdvals(step) < 1.3)).all()


def test_muon_is_for_the_matrices_of_blocks():
    """The rest steps as with AdamW; query, key and value are three maps; a step that is skipped changes nothing."""
    torch.manual_seed(0)
    encoder = AudioEncoder(encoder_config("nano"))
    settings = {"learning_rate": 1e-2, "weight_decay": 0.05, "betas": (0.9, 0.95)}
    plain = copy.deepcopy(encoder)
    modules, optimizer, other = {"student": encoder}, None, adamw({"student": plain}, **settings)
    optimizer = adamw(modules, **settings, muon=True)
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    gradients = {name: torch.randn_like(p) for name, p in encoder.named_parameters()}
    for parameter in encoder.parameters():
        parameter.grad = torch.full_like(parameter, math.nan)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in encoder.named_parameters())
    for name, parameter in (*encoder.named_parameters(), *plain.named_parameters()):
        parameter.grad = gradients[name].clone()
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    other.step()
    stepped = dict(plain.named_parameters())
    for name, parameter in encoder.named_parameters():
        if ".blocks." not in f".{name}" or parameter.ndim < 2:
            assert torch.equal(parameter, stepped[name]), name
            continue
        parts = 3 if "qkv" in name else 1
        for part, old, gradient in zip(
            *(x.chunk(parts) for x in (parameter, before[name], gradients[name])), strict=True
        ):
            # The momentum of the first step is 0.05 g, and Nesterov's 0.05 g + 0.95 * 0.05 g: along g
            step = 0.2 * max(part.shape) ** 0.5 * orthogonal_by_loops(gradient)
            expected = old * (1 - 1e-2 * 0.05) - 1e-2 * step.to(old.dtype)
            assert (part - expected).norm() < 0.1 * (expected - old).norm(), name

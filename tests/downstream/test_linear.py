"""The linear layers behind every score: against torch.optim.Adam, and alone against in company."""

import math

import numpy as np
import pytest
import torch

from aape.downstream.linear import Run, standardisation, train_linear

BUDGET = {"num_classes": 3, "steps": 60, "batch": 16, "validate_every": 20}


@pytest.fixture
def blobs():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 120)
    centres = generator.normal(size=(3, 8)) * 2
    values = centres[labels] + generator.normal(size=(120, 8))
    return (values * 50 + 1000).astype(np.float32)[None], labels.astype(np.int64)


def test_standardisation_is_that_of_the_training_rows_alone():
    generator = np.random.default_rng(1)
    features = generator.normal(5, 3, size=(9000, 4)).astype(np.float32)
    features[:, 2] = 0.1  # constant, and not exactly representable
    rows = generator.permutation(9000)[:8200]
    mean, scale = standardisation(features, rows)
    np.testing.assert_allclose(mean, features[rows].astype(np.float64).mean(axis=0), rtol=1e-12)
    expected = 1 / features[rows].astype(np.float64).std(axis=0)[[0, 1, 3]]
    np.testing.assert_allclose(scale[[0, 1, 3]], expected, rtol=1e-9)
    assert scale[2] == 0


def test_a_run_equals_torch_adam_with_a_cosine(blobs):
    features, labels = blobs
    train, test = np.arange(80), np.arange(80, 120)
    history = train_linear(features, labels, [Run(train, (test,), 0.05, seed=3)], **BUDGET)[0]

    mean, std = features[0, :80].mean(axis=0), features[0, :80].std(axis=0)
    inputs = torch.from_numpy((features[0] - mean) / std)
    targets = torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(3)
    start = torch.empty(3, 9).uniform_(-1 / math.sqrt(8), 1 / math.sqrt(8), generator=generator)
    layer = torch.nn.Linear(8, 3)
    layer.weight.data, layer.bias.data = start[:, :8].clone(), start[:, 8].clone()
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / 60)))
    stream = torch.cat([torch.randperm(80, generator=generator) for _ in range(12)])
    losses = []
    for step in range(60):
        batch = stream[step * 16 : (step + 1) * 16]
        loss = torch.nn.functional.cross_entropy(layer(inputs[batch]), targets[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())

    logits = layer(inputs[80:]).detach()
    loss = torch.nn.functional.cross_entropy(logits, targets[80:]).item()
    assert history.steps.tolist() == [20, 40, 60]
    assert history.loss[0, -1] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, targets[80:]).item(), rel=1e-4
    )
    np.testing.assert_array_equal(history.predictions[0], logits.argmax(dim=1).numpy())
    np.testing.assert_allclose(history.train_loss, np.reshape(losses, (3, 20)).mean(axis=1), rtol=1e-4)
    assert history.accuracy[0, -1] == np.mean(history.predictions[0] == labels[80:])


def test_a_run_is_the_same_alone_and_in_company(blobs):
    features, labels = blobs
    two = np.concatenate([features, features[:, ::-1]])
    runs = [
        Run(np.arange(0, 120, 2), (np.arange(1, 120, 2),), 0.01, seed=0),
        Run(np.arange(50), (np.arange(50, 120), np.arange(10)), 0.1, seed=1, matrix=1),
        Run(np.arange(7), (np.arange(50, 120),), 0.1, seed=2),  # fewer clips than a batch holds
    ]
    together = train_linear(two, labels, runs, **BUDGET)
    for run, history in zip(runs, together, strict=True):
        alone = train_linear(two, labels, [run], **BUDGET)[0]
        np.testing.assert_allclose(alone.loss, history.loss, rtol=1e-4)
        again = train_linear(two, labels, [run], **BUDGET)[0]
        np.testing.assert_array_equal(alone.loss, again.loss)


def test_test_labels_and_test_features_never_reach_the_layer(blobs):
    features, labels = blobs
    train, test = np.arange(80), np.arange(80, 120)
    run = Run(train, (test,), 0.05, seed=0)
    first = train_linear(features, labels, [run], **BUDGET)[0]
    shuffled = labels.copy()
    shuffled[80:] = (shuffled[80:] + 1) % 3
    second = train_linear(features, shuffled, [run], **BUDGET)[0]
    np.testing.assert_array_equal(first.predictions[0], second.predictions[0])
    strange = features.copy()
    strange[:, 80:119] *= 1000
    third = train_linear(strange, labels, [run], **BUDGET)[0]
    assert third.predictions[0][-1] == first.predictions[0][-1]
    np.testing.assert_array_equal(first.train_loss, third.train_loss)


def test_seeds_differ_and_separable_classes_are_separated(blobs):
    features, labels = blobs
    everything = np.arange(120)
    budget = {**BUDGET, "steps": 300}
    runs = [Run(everything, (everything,), 0.05, seed) for seed in range(2)]
    first, second = train_linear(features, labels, runs, **budget)
    assert first.accuracy[0, -1] > 0.95
    assert first.loss[0, 0] != second.loss[0, 0]


def test_the_last_step_is_evaluated_when_it_is_no_multiple(blobs):
    features, labels = blobs
    run = Run(np.arange(80), (np.arange(80, 120),), 0.05, seed=0)
    history = train_linear(features, labels, [run], num_classes=3, steps=25, batch=16, validate_every=10)[0]
    assert history.steps.tolist() == [10, 20, 25]

"""The linear layers behind every score: against torch.optim.Adam, Adam written out, and alone against in company."""

import math

import numpy as np
import pytest
import torch

from aape.downstream.linear import LinearRun, standardisation, train_linear

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
    history = train_linear(features, labels, [LinearRun(train, (test,), 0.05, seed=3)], **BUDGET)[0]

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


def written_out(features, labels, run, steps, batch):
    """Return the test logits of one run, one step at a time in float64: gradients and Adam by hand."""
    x = features[run.matrix].astype(np.float64)
    x = (x - x[run.train].mean(0)) / x[run.train].std(0)
    width = x.shape[1]
    generator = torch.Generator().manual_seed(run.seed)
    bound = 1 / math.sqrt(width)
    weight = torch.empty(3, width + 1).uniform_(-bound, bound, generator=generator).double().numpy()
    count = -(-steps * batch // len(run.train))
    order = torch.cat([torch.randperm(len(run.train), generator=generator) for _ in range(count)]).numpy()
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step in range(steps):
        rows = run.train[order[step * batch : (step + 1) * batch]]
        inputs = np.concatenate([x[rows], np.ones((batch, 1))], 1)
        logits = inputs @ weight.T
        softmax = np.exp(logits - logits.max(1, keepdims=True))
        softmax /= softmax.sum(1, keepdims=True)
        gradient = (softmax - np.eye(3)[labels[rows]]).T @ inputs / batch
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        rate = run.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        root = np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
        weight = weight - rate * first / (1 - 0.9 ** (step + 1)) / root
    return np.concatenate([x[run.evaluate[0]], np.ones((len(run.evaluate[0]), 1))], 1) @ weight.T


def test_runs_of_any_rates_and_seeds_equal_adam_written_out(blobs):
    """Many layers share a product: none may see another's rate, seed, clips or matrix."""
    features, labels = blobs
    two = np.concatenate([features, features[:, ::-1]])
    train = np.random.default_rng(2).permutation(120)
    runs = [
        LinearRun(np.sort(train[:size]), (train[size:],), rate, seed, matrix=seed % 2)
        for rate, size in ((0.01, 70), (0.1, 70), (0.01, 50))
        for seed in range(2)
    ]
    histories = train_linear(two, labels, runs, **BUDGET)
    for run, history in zip(runs, histories, strict=True):
        logits = written_out(two, labels, run, BUDGET["steps"], BUDGET["batch"])
        truth = labels[run.evaluate[0]]
        log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        loss = -log_softmax[np.arange(len(truth)), truth].mean()
        assert history.loss[0, -1] == pytest.approx(loss, rel=1e-4)
        np.testing.assert_array_equal(history.predictions[0], logits.argmax(1))


def test_a_run_is_the_same_alone_and_in_company(blobs):
    features, labels = blobs
    two = np.concatenate([features, features[:, ::-1]])
    runs = [
        LinearRun(np.arange(0, 120, 2), (np.arange(1, 120, 2),), 0.01, seed=0),
        LinearRun(np.arange(50), (np.arange(50, 120), np.arange(10)), 0.1, seed=1, matrix=1),
        LinearRun(np.arange(7), (np.arange(50, 120),), 0.1, seed=2),  # fewer clips than a batch holds
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
    run = LinearRun(train, (test,), 0.05, seed=0)
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
    runs = [LinearRun(everything, (everything,), 0.05, seed) for seed in range(2)]
    first, second = train_linear(features, labels, runs, **budget)
    assert first.accuracy[0, -1] > 0.95
    assert first.loss[0, 0] != second.loss[0, 0]


def test_the_last_step_is_evaluated_when_it_is_no_multiple(blobs):
    features, labels = blobs
    run = LinearRun(np.arange(80), (np.arange(80, 120),), 0.05, seed=0)
    history = train_linear(features, labels, [run], num_classes=3, steps=25, batch=16, validate_every=10)[0]
    assert history.steps.tolist() == [10, 20, 25]

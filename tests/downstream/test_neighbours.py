"""The nearest training clips vote: each number against a loop over clips."""

import math

import numpy as np
import pytest

from aape.downstream import neighbours
from aape.downstream.neighbours import K, nearest_classes, score
from aape.downstream.partitions import fold_partitions, split_partition
from aape.downstream.probing import ProbeProtocol


def by_loops(train, labels, test, num_classes):
    """Return the votes of every class for every test clip, and the winners."""
    winners = []
    for query in test.tolist():
        cosines = []
        for index, vector in enumerate(train.tolist()):
            lengths = math.sqrt(sum(x * x for x in query)) * math.sqrt(sum(x * x for x in vector))
            product = sum(a * b for a, b in zip(query, vector, strict=True))
            cosines.append((-product / lengths if lengths else 0.0, index))
        votes = [0.0] * num_classes
        for cosine, index in sorted(cosines)[:10]:
            votes[labels[index]] += math.exp(-cosine / 0.07)
        winners.append(max(range(num_classes), key=lambda label: (votes[label], -label)))
    return winners


@pytest.mark.parametrize("num_train", [1, 7, 10, 61])
def test_the_vote_is_that_of_a_loop(monkeypatch, num_train):
    """Few clips, odd numbers of blocks, unequal lengths, offsets that make all cosines large."""
    monkeypatch.setattr(neighbours, "BLOCK", 500)
    generator = np.random.default_rng(num_train)
    for offset in (0.0, 3.0):
        train, test = (
            (generator.lognormal(size=(num, 1)) * (generator.normal(size=(num, 9)) + offset)).astype(np.float32)
            for num in (num_train, 53)
        )
        labels = generator.integers(0, 4, num_train)
        assert nearest_classes(train, labels, test, 4).tolist() == by_loops(train, labels, test, 4)


def test_the_length_of_a_vector_is_of_no_account_and_zeros_are_no_nan():
    generator = np.random.default_rng(0)
    train, test = generator.normal(size=(2, 40, 5)).astype(np.float32)
    labels = np.arange(40) % 3
    expected = nearest_classes(train, labels, test, 3)
    for scale in (1e-20, 1e15):
        scales = np.float32(scale) * 2.0 ** generator.integers(-3, 3, (40, 1)).astype(np.float32)
        np.testing.assert_array_equal(nearest_classes(train * scales, labels, test * scales[::-1], 3), expected)
    train[:2] = test[:2] = 0
    assert nearest_classes(train, labels, test, 3).tolist() == by_loops(train, labels, test, 3)


def test_each_fold_is_held_out_and_each_untrained_encoder_scored():
    generator = np.random.default_rng(0)
    labels = np.tile(np.arange(3), 40)
    features = (generator.normal(size=(3, 6))[labels] + 0.5 * generator.normal(size=(120, 6))).astype(np.float32)
    noise = generator.normal(size=features.shape).astype(np.float32)
    names = list(map(str, range(120)))
    protocol = ProbeProtocol(labels, 3, fold_partitions([str(index % 5) for index in range(120)], names))
    counts = []
    summary = score(np.stack([features, noise]), protocol, counts.append).summary
    accuracy = summary["scores"]["last"]["accuracy"]
    assert np.shape(accuracy["values"]) == (2, 5)  # encoders, folds
    assert sum(counts) == 5
    assert summary["k"] == K == 10
    trained, untrained = np.mean(accuracy["values"], axis=1)
    assert untrained < 0.5 < trained
    low, high = accuracy["interval"]
    assert low < accuracy["mean"] < high


def test_the_test_clips_vote_for_nothing():
    """A vector among those that it is compared with would name itself."""
    labels = np.repeat(np.arange(4), 12)
    wrong = labels.copy()
    wrong[1::2] = (wrong[1::2] + 1) % 4
    features = np.eye(4, dtype=np.float32)[labels]
    part = split_partition(["train", "test"] * 24, list(map(str, range(48))))
    assert score(features[None], ProbeProtocol(labels, 4, [part])).summary["pooled"]["accuracy"] == 1
    assert score(features[None], ProbeProtocol(wrong, 4, [part])).summary["pooled"]["accuracy"] == 0

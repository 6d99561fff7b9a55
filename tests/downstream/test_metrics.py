"""Scores that a table prints: against loops and by hand."""

from statistics import NormalDist

import numpy as np
import pytest

from aape.downstream.metrics import (
    accuracy,
    balanced_accuracy,
    bootstrap_scores,
    confusion_matrix,
    macro_f1,
    multi_label_scores,
    percentile_interval,
    recall_per_class,
)
from aape.downstream.scores import standard_deviation


def test_scores_equal_loops_and_absent_classes_weigh_nothing():
    generator = np.random.default_rng(0)
    labels, predictions = generator.choice([0, 1, 3], 200), generator.integers(0, 4, 200)
    confusion = confusion_matrix(labels, predictions, 4)
    for true in range(4):
        for predicted in range(4):
            assert confusion[true, predicted] == sum((labels == true) & (predictions == predicted))
    recalls = [np.mean(predictions[labels == label] == label) for label in (0, 1, 3)]
    assert accuracy(confusion) == pytest.approx(np.mean(labels == predictions))
    assert balanced_accuracy(confusion) == pytest.approx(np.mean(recalls))
    assert np.isnan(recall_per_class(confusion)[2])
    f1 = []
    for label in range(4):  # the absent class is predicted, and counts with 0
        right = np.sum((labels == label) & (predictions == label))
        f1.append(2 * right / (np.sum(labels == label) + np.sum(predictions == label)))
    assert macro_f1(confusion) == pytest.approx(np.mean(f1))
    assert macro_f1(confusion_matrix([0, 0, 1], [0, 1, 1], 9)) == pytest.approx(2 / 3)  # the others are nowhere


def test_a_majority_guess_has_the_balanced_accuracy_of_chance():
    confusion = confusion_matrix([0] * 98 + [1, 1], [0] * 100, 2)
    assert accuracy(confusion) == 0.98
    assert balanced_accuracy(confusion) == 0.5


def test_standard_deviation_is_that_of_a_sample_and_absent_for_one_value():
    assert standard_deviation([1.0, 2.0, 3.0]) == pytest.approx(1.0)
    assert standard_deviation([1.0]) is None


def test_the_bootstrap_interval_is_as_wide_as_the_binomial_says():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 400)
    correct = (generator.random(400) < 0.7).astype(float)
    resamples = bootstrap_scores([labels], [correct], num_classes=3)
    low, high = percentile_interval(resamples[:, 0])
    assert low < correct.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 400), rel=0.15)


def test_clips_of_one_group_are_drawn_together():
    # Ten instruments of forty notes each, all right or all wrong: there are ten observations here, not four hundred.
    labels = np.zeros(400, dtype=np.int64)
    groups = np.repeat(np.arange(10), 40)
    correct = (groups < 5).astype(float)
    alone = bootstrap_scores([labels], [correct], num_classes=1)[:, 0]
    together = bootstrap_scores([labels], [correct], [groups], num_classes=1)[:, 0]
    assert together.std() > 4 * alone.std()
    single = bootstrap_scores([labels], [correct], [np.zeros(400, dtype=np.int64)], num_classes=1)[:, 0]
    assert single.std() == pytest.approx(alone.std())


def test_folds_weigh_the_same_however_many_clips_they_have():
    labels = [np.zeros(10, dtype=np.int64), np.zeros(1000, dtype=np.int64)]
    resamples = bootstrap_scores(labels, [np.ones(10), np.zeros(1000)], num_classes=1)
    np.testing.assert_allclose(resamples, 0.5)


def test_average_precision_equals_a_loop_and_classes_without_positives_are_nan():
    """AudioSet's mAP is a mean over classes; a class that nobody could score must not count as zero."""
    generator = np.random.default_rng(0)
    targets = (generator.uniform(size=(60, 4)) < 0.3).astype(int)
    targets[:, 2] = 0
    probabilities = generator.uniform(size=(60, 4))
    scores = multi_label_scores(probabilities, targets)
    for label in (0, 1, 3):
        order = np.argsort(-probabilities[:, label])
        hits = targets[order, label]
        precision = np.cumsum(hits) / np.arange(1, 61)
        assert scores.average_precision[label] == pytest.approx(precision[hits == 1].mean(), abs=1e-6)
        positive, negative = (probabilities[targets[:, label] == value, label] for value in (1, 0))
        area = (positive[:, None] > negative).mean()
        assert scores.area[label] == pytest.approx(area, abs=1e-6)
    assert np.isnan(scores.average_precision[2])
    assert scores.mean_average_precision == pytest.approx(scores.average_precision[[0, 1, 3]].mean())
    perfect = multi_label_scores(np.linspace(0, 1, 8)[:, None], np.arange(8)[:, None] > 3)
    assert perfect.mean_average_precision == 1
    assert 6 < perfect.d_prime < 7  # the area is 1, whose quantile is infinite
    # Areas of 0.5 are chance: d-prime 0.
    assert multi_label_scores(np.zeros((8, 1)), np.arange(8)[:, None] % 2).d_prime == pytest.approx(0)


def test_equal_probabilities_are_one_threshold_and_d_prime_comes_from_the_mean_area():
    """A model that gives many clips the same score must not profit from the order they are listed in."""
    generator = np.random.default_rng(1)
    targets = (generator.uniform(size=(80, 3)) < 0.3).astype(int)
    probabilities = np.round(0.3 * targets + 0.7 * generator.uniform(size=(80, 3)), 1)
    scores = multi_label_scores(probabilities, targets)
    areas = []
    for label in range(3):
        truth, scored = targets[:, label], probabilities[:, label]
        precision, recall = 0.0, 0.0
        for threshold in sorted(set(scored), reverse=True):
            chosen = truth[scored >= threshold]
            precision += chosen.mean() * (chosen.sum() / truth.sum() - recall)
            recall = chosen.sum() / truth.sum()
        assert scores.average_precision[label] == pytest.approx(precision, abs=1e-6)
        pairs = scored[truth == 1][:, None] - scored[truth == 0]
        areas.append(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
        assert scores.area[label] == pytest.approx(areas[-1], abs=1e-6)
    assert scores.d_prime == pytest.approx(2**0.5 * NormalDist().inv_cdf(np.mean(areas)), abs=1e-5)

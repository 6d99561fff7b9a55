"""How learning rate and step are chosen, and that what is called honest never looked at test labels."""

import dataclasses

import numpy as np
import pytest

from aape.downstream.linear import LinearRun, train_linear
from aape.downstream.partitions import fold_partitions, split_partition
from aape.downstream.probing import METRICS, ProbeProtocol, choose_learning_rate, margin, score
from aape.errors import DataError

NAMES = [str(index) for index in range(120)]
BUDGET = {"steps": 60, "batch": 16, "validate_every": 10, "seeds": 2, "learning_rates": (1e-3, 3e-2)}


@pytest.fixture
def blobs():
    generator = np.random.default_rng(0)
    labels = np.tile(np.arange(3), 40)
    centres = generator.normal(size=(3, 6))
    return (centres[labels] + 1.5 * generator.normal(size=(120, 6))).astype(np.float32)[None], labels.astype(np.int64)


def folds_protocol(labels, **changes):
    folds = [str(index // 24) for index in range(120)]
    return ProbeProtocol(labels, 3, fold_partitions(folds, NAMES), **{**BUDGET, **changes})


def split_protocol(labels, splits, **changes):
    return ProbeProtocol(labels, 3, [split_partition(splits, NAMES)], **{**BUDGET, **changes})


def test_best_is_never_below_the_honest_scores(blobs):
    features, labels = blobs
    summary = score(features, folds_protocol(labels)).summary
    for metric in METRICS:
        best = np.asarray(summary["scores"]["best"][metric]["values"])
        assert best.shape == (2, 5)  # seeds, folds
        for name in ("last", "best_on_validation"):
            assert np.all(best >= np.asarray(summary["scores"][name][metric]["values"]))


def test_means_and_deviations_are_those_of_the_listed_values(blobs):
    features, labels = blobs
    last = score(features, folds_protocol(labels)).summary["scores"]["last"]["accuracy"]
    values = np.asarray(last["values"])
    assert last["mean"] == pytest.approx(values.mean())
    assert last["std_seeds"] == pytest.approx(values.mean(axis=1).std(ddof=1))
    assert last["std_folds"] == pytest.approx(values.mean(axis=0).std(ddof=1))
    assert last["interval"][0] <= last["mean"] <= last["interval"][1]


def test_test_labels_influence_neither_the_rate_nor_the_step(blobs):
    features, labels = blobs
    splits = ["train"] * 60 + ["valid"] * 30 + ["test"] * 30
    wrong = labels.copy()
    wrong[90:] = (wrong[90:] + 1) % 3
    truth = score(features, split_protocol(labels, splits))
    lie = score(features, split_protocol(wrong, splits))
    assert truth.summary["learning_rate"] == lie.summary["learning_rate"]
    assert truth.summary["sweep"] == lie.summary["sweep"]
    # The same predictions, by another name: a column of the one confusion matrix sums to that of the other.
    np.testing.assert_array_equal(np.sum(truth.summary["confusion"], axis=0), np.sum(lie.summary["confusion"], axis=0))
    first = [entry["validation_accuracy"] for entry in truth.curves]
    assert first == [entry["validation_accuracy"] for entry in lie.curves]


def test_the_step_of_a_fold_is_chosen_without_its_next_fold_and_applied_to_the_full_run(blobs):
    features, labels = blobs
    protocol = folds_protocol(labels, seeds=1, learning_rates=(3e-2,))
    summary = score(features, protocol).summary
    for fold, partition in enumerate(protocol.partitions):
        following = protocol.partitions[(fold + 1) % 5]
        runs = [
            LinearRun(partition.train, (partition.test,), 3e-2, seed=0),
            LinearRun(np.setdiff1d(partition.train, following.test), (following.test,), 3e-2, seed=0),
        ]
        budget = {"num_classes": 3, "steps": 60, "batch": 16, "validate_every": 10}
        full, chooser = train_linear(features, labels, runs, **budget)
        expected = full.accuracy[0, int(np.argmax(chooser.accuracy[0]))]
        assert summary["scores"]["best_on_validation"]["accuracy"]["values"][0][fold] == pytest.approx(expected)


def test_without_validation_data_there_is_no_such_score_but_there_is_a_rate(blobs):
    features, labels = blobs
    protocol = split_protocol(labels, ["train"] * 80 + ["test"] * 40)
    summary = score(features, protocol).summary
    assert summary["scores"]["best_on_validation"] is None
    assert "held out" in summary["sweep"]["validation"]
    train, validation, _ = protocol.sweep_sets()
    assert set(train) | set(validation) == set(range(80))  # never a test clip
    assert not set(train) & set(validation)


def test_the_first_fold_chooses_the_rate_with_the_next_one_held_out(blobs):
    _, labels = blobs
    train, validation, _ = folds_protocol(labels).sweep_sets()
    assert validation.tolist() == list(range(24, 48))
    assert train.tolist() == list(range(48, 120))


def test_a_rate_that_learns_is_chosen_and_the_edge_of_the_sweep_is_reported(blobs):
    features, labels = blobs
    rate, sweep = choose_learning_rate(features, folds_protocol(labels, learning_rates=(1e-6, 3e-2, 1e-7)))
    assert rate == 3e-2
    assert sweep["is_at_edge"]
    assert choose_learning_rate(features, folds_protocol(labels, learning_rates=(0.5,))) == (0.5, None)


def test_one_matrix_per_seed_is_used_by_its_seed(blobs):
    features, labels = blobs
    noise = np.random.default_rng(1).normal(size=features.shape).astype(np.float32)
    protocol = folds_protocol(labels, learning_rates=(3e-2,))
    values = score(np.concatenate([features, noise]), protocol).summary["scores"]["last"]["accuracy"]["values"]
    alone = score(features, protocol).summary["scores"]["last"]["accuracy"]["values"]
    np.testing.assert_allclose(values[0], alone[0], atol=0.05)
    assert np.mean(values[1]) < 0.55 < np.mean(values[0])


def test_the_margin_over_itself_is_nothing_and_over_noise_is_certain(blobs):
    features, labels = blobs
    noise = np.random.default_rng(1).normal(size=features.shape).astype(np.float32)
    protocol = folds_protocol(labels, learning_rates=(3e-2,))
    ours, theirs = score(features, protocol), score(noise, protocol)
    assert margin(ours, ours)["accuracy"] == {"mean": 0.0, "interval": [0.0, 0.0]}
    assert margin(ours, theirs)["accuracy"]["interval"][0] > 0


def test_progress_reports_as_many_runs_as_were_promised(blobs):
    features, labels = blobs
    for protocol in (folds_protocol(labels), split_protocol(labels, ["train"] * 80 + ["test"] * 40)):
        counts = []
        score(features, protocol, progress=counts.append)
        assert sum(counts) == protocol.num_runs


def test_a_sweep_without_a_clip_to_spare_is_refused():
    labels = np.asarray([0, 1, 2, 0], dtype=np.int64)
    partition = split_partition(["train", "train", "train", "test"], NAMES[:4])
    protocol = ProbeProtocol(labels, 3, [partition], **BUDGET)
    with pytest.raises(DataError, match="give one"):
        score(np.zeros((1, 4, 2), np.float32), protocol)
    single = dataclasses.replace(protocol, learning_rates=(1e-2,))
    assert score(np.eye(4, 2, dtype=np.float32)[None], single).summary["sweep"] is None

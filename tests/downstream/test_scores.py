"""Best, best on validation and last, over seeds and folds: one definition for both verbs, and its table."""

import io

import numpy as np
import pytest
from rich.console import Console

from aape.data.clips import Clip
from aape.data.labelled import LabelledSet
from aape.downstream.partitions import Partition
from aape.downstream.scores import describe_run, score_table, summarise_curves

TESTS = [[{"accuracy": [0.2, 0.9, 0.5]}, {"accuracy": [0.1, 0.3, 0.4]}], [{"accuracy": [0.6, 0.6, 0.7]}] * 2]
CHOOSERS = [[{"accuracy": [0.5, 0.1, 0.5]}, {"accuracy": [0, 0, 1]}], [{"accuracy": [0, 2, 1]}] * 2]


def test_three_scores_are_those_of_their_steps():
    """The first of equally good validation steps counts; test scores choose nothing but `best`."""
    scores = summarise_curves(TESTS, CHOOSERS)
    assert scores["best"]["accuracy"]["values"] == [[0.9, 0.4], [0.7, 0.7]]
    assert scores["last"]["accuracy"]["values"] == [[0.5, 0.4], [0.7, 0.7]]
    assert scores["best_on_validation"]["accuracy"]["values"] == [[0.2, 0.4], [0.6, 0.6]]
    last = scores["last"]["accuracy"]
    assert last["mean"] == pytest.approx(0.575)
    assert last["std_seeds"] == pytest.approx(np.std([0.45, 0.7], ddof=1))
    assert last["std_folds"] == pytest.approx(np.std([0.6, 0.55], ddof=1))
    assert summarise_curves(TESTS, [])["best_on_validation"] is None


def test_the_table_shows_every_number_whole_and_says_what_is_missing():
    """Of a probe with intervals, and of several labels per clip, whose d-prime is no share."""
    scores = summarise_curves(TESTS, [])
    scores["last"]["accuracy"]["interval"] = [0.1, 0.999]
    both = summarise_curves([[{"mAP": [0.123], "d_prime": [2.5]}]], [])
    for rows, shown in (
        ({"encoder": {"scores": scores}}, ["67.5", "±3.5", "57.5", "10.0-99.9", "n/a"]),
        ({"fine-tuned": {"scores": both}}, ["12.3", "2.5", "n/a"]),
    ):
        text = io.StringIO()
        Console(file=text, width=80).print(score_table(rows))
        assert all(number in text.getvalue() for number in shown), text.getvalue()


def test_test_clips_of_classes_never_trained_on_are_counted():
    """A class that only the test set has cannot be learnt: the mean over classes is lower by it."""
    clips = [Clip(f"{n}.wav", f"{n}.wav") for n in range(6)]
    labelled = LabelledSet(clips, ["a", "b", "c"], [(0,), (1,), (0,), (2,), (1, 2), (2,)], is_multi_label=True)
    part = Partition("test", np.arange(2), np.arange(2, 6), np.arange(0))
    described = describe_run(labelled, [part], {"5.wav": "silent"})
    assert described["warnings"] == ["3 test clips are of classes their training set lacks: c"]
    assert described["partitions"][0]["unseen_classes"] == ["c"]
    assert (described["num_clips"], described["num_bad"], described["protocol"]) == (5, 1, "split")

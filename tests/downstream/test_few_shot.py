"""Eight clips a class: a number that is not mteb's could not stand beside the leaderboard's."""

import sys
import warnings

import numpy as np
import pytest

from aape.downstream.few_shot import DRAWS, SHOTS, draw_clips, require_sklearn, scarce_classes, score
from aape.downstream.partitions import Partition, fold_partitions, split_partition
from aape.downstream.probing import ProbeProtocol
from aape.errors import ConfigError

NUM, CLASSES = 160, 5
UNEVEN = 10 ** np.linspace(-3, 2, 12, dtype=np.float32)


@pytest.fixture
def blobs():
    """Clips of five classes, one of them rare, in train and test."""
    generator = np.random.default_rng(0)
    labels = generator.choice(CLASSES, NUM, p=(0.4, 0.25, 0.2, 0.11, 0.04)).astype(np.int64)
    features = generator.normal(size=(CLASSES, 12))[labels] + 1.5 * generator.normal(size=(NUM, 12))
    splits = np.where(np.arange(NUM) % 3 == 0, "test", "train").tolist()
    return features.astype(np.float32), labels, split_partition(splits, list(map(str, range(NUM))))


def mteb_scores(features, labels, part):
    """Return what mteb's own classification task gives for these vectors."""
    from datasets import Dataset, DatasetDict
    from mteb import TaskMetadata
    from mteb.abstasks import AbsTaskClassification

    class Task(AbsTaskClassification):
        metadata = TaskMetadata(
            name="Blobs", description="", dataset={"path": "none", "revision": "1"}, type="Classification",
            category="t2c", modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn"], main_score="accuracy",
            reference=None, date=None, domains=None, task_subtypes=None, license=None, annotations_creators=None,
            dialect=None, sample_creation=None, bibtex_citation=None,
        )  # fmt: skip

    class Encoder:
        def encode(self, inputs, **_):
            return features[[int(text) for batch in inputs for text in batch["text"]]]

        similarity = similarity_pairwise = mteb_model_meta = encode  # of the protocol, and never called

    def clips(indices):
        return Dataset.from_dict({"text": list(map(str, indices)), "label": labels[indices].tolist()})

    task = Task()
    task.dataset, task.data_loaded = DatasetDict(train=clips(part.train), test=clips(part.test)), True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that do not converge
        return task.evaluate(Encoder(), encode_kwargs={"batch_size": 32})["default"]


@pytest.mark.parametrize("scale", [np.float32(1), UNEVEN])
def test_the_scores_are_those_of_mteb(blobs, scale):
    """All ten draws, to the last clip; with columns of unequal size no fit converges."""
    pytest.importorskip("mteb")
    features, labels, part = blobs
    theirs = mteb_scores(scale * features, labels, part)
    summary = score((scale * features)[None], ProbeProtocol(labels, CLASSES, [part])).summary
    for ours, name in (("accuracy", "accuracy"), ("f1", "f1"), ("balanced_accuracy", "recall")):
        values = summary["scores"]["last"][ours]["values"]
        assert np.ravel(values) == pytest.approx([one[name] for one in theirs["scores_per_experiment"]], abs=1e-12)
        assert summary["scores"]["last"][ours]["mean"] == pytest.approx(theirs[name], abs=1e-12)
    assert len({*map(tuple, summary["scores"]["last"]["accuracy"]["values"])}) > 1


def test_a_draw_has_eight_clips_a_class_or_all_there_are(blobs):
    _, labels, part = blobs
    counts = np.bincount(labels[part.train])
    assert counts.min() < SHOTS < counts.max()
    draws = draw_clips(labels[part.train])
    assert len(draws) == DRAWS
    for draw in draws:
        assert len({*draw.tolist()}) == len(draw)
        assert np.bincount(labels[part.train][draw]).tolist() == np.minimum(counts, SHOTS).tolist()
    assert len({*map(tuple, draws)}) == DRAWS
    assert scarce_classes(ProbeProtocol(labels, CLASSES, [part])) == np.flatnonzero(counts < SHOTS).tolist()


def test_each_fold_is_held_out_and_each_untrained_encoder_has_its_draws(blobs):
    features, labels, _ = blobs
    parts = fold_partitions([str(index % 4) for index in range(NUM)], list(map(str, range(NUM))))
    noise = np.random.default_rng(1).normal(size=features.shape).astype(np.float32)
    protocol = ProbeProtocol(labels, CLASSES, parts)
    counts = []
    values = score(np.stack([features, noise]), protocol, counts.append).summary["scores"]["last"]["accuracy"]["values"]
    assert np.shape(values) == (DRAWS, 4)
    assert sum(counts) == DRAWS * 4
    alone = score(features[None], protocol).summary["scores"]["last"]["accuracy"]["values"]
    assert values[0::2] == alone[0::2]
    assert np.mean(values[1::2]) < np.mean(values[0::2]) - 0.1


def test_test_labels_and_validation_clips_change_no_prediction(blobs):
    features, labels, part = blobs
    wrong = labels.copy()
    wrong[part.test] = (wrong[part.test] + 1) % CLASSES
    with_validation = Partition(part.name, part.train, part.test[1::2], part.test[0::2])
    for first, second in (
        (ProbeProtocol(labels, CLASSES, [part]), ProbeProtocol(wrong, CLASSES, [part])),
        (
            ProbeProtocol(labels, CLASSES, [with_validation]),
            ProbeProtocol(labels, CLASSES, [with_validation.without(part.test[0::2])]),
        ),
    ):
        named = [np.sum(score(features[None], each).summary["confusion"], axis=0) for each in (first, second)]
        np.testing.assert_array_equal(*named)


def test_fits_that_do_not_converge_are_counted_and_not_shown(blobs):
    """A hundred iterations are mteb's, and often too few: a terminal full of warnings hides what matters."""
    features, labels, part = blobs
    protocol = ProbeProtocol(labels, CLASSES, [part])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        uneven = score(UNEVEN * features[None], protocol).summary
        even = score(features[None] / 10, protocol).summary
    assert (even["num_fits"], even["not_converged"]) == (DRAWS, 0)
    assert uneven["not_converged"] == DRAWS


def test_a_missing_package_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(ConfigError, match=r"few-shot needs scikit-learn: pip install 'aape\[sklearn\]'"):
        require_sklearn()

"""Which clips are trained on: a leak here would make every number of a table worthless."""

import numpy as np
import pytest

from aape.downstream.partitions import fold_partitions, group_folds, hold_out, split_partition
from aape.errors import DataError

NAMES = [f"{index}.wav" for index in range(6)]


def test_a_split_is_read_as_people_write_it():
    partition = split_partition(["train", "Train ", "valid", "test", "test_program", "dev"], NAMES)
    assert partition.train.tolist() == [0, 1]
    assert partition.validation.tolist() == [2, 5]
    assert partition.test.tolist() == [3, 4]
    assert partition.selection_train.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (["train", "train", "holdout"], "2.wav: unknown split 'holdout'"),
        (["train", "", "test"], "1.wav: no split"),
        (["train", "train", "valid"], "no clip has split 'test'"),
        (["valid", "test", "test"], "no clip has split 'train'"),
    ],
)
def test_a_split_that_cannot_be_used_is_refused_by_name(splits, words):
    with pytest.raises(DataError, match=words):
        split_partition(splits, NAMES[:3])


def test_every_fold_is_tested_once_and_never_trained_on():
    folds = ["1", "2", "10", "2", "1", "10"]
    partitions = fold_partitions(folds, NAMES)
    assert [partition.name for partition in partitions] == ["1", "2", "10"]  # as numbers, not as text
    assert sorted(np.concatenate([partition.test for partition in partitions]).tolist()) == list(range(6))
    for partition, following in zip(partitions, ["2", "10", "1"], strict=True):
        assert {folds[index] for index in partition.test} == {partition.name}
        assert partition.name not in {folds[index] for index in partition.train}
        assert {folds[index] for index in partition.validation} == {following}
        assert not set(partition.selection_train) & (set(partition.validation) | set(partition.test))


def test_small_folds_are_trained_on_only():
    partitions = fold_partitions(["a", "a", "b", "b", "c", "c", "tiny"], [*NAMES, "6.wav"], min_clips=2)
    assert [partition.name for partition in partitions] == ["a", "b", "c"]
    assert all(6 in partition.train for partition in partitions)
    assert all(6 not in partition.validation for partition in partitions)


def test_two_folds_leave_no_validation_data():
    for partition in fold_partitions(["a", "b", "a"], NAMES[:3]):
        assert len(partition.train)
        assert not len(partition.validation)


@pytest.mark.parametrize(
    ("folds", "min_clips", "words"),
    [
        (["a", "a", "a"], 1, "there is only a"),
        (["a", "", "b"], 1, "1 of 3 clips have no fold, the first is 1.wav"),
        (["a", "b", "b"], 3, "no fold has 3 clips: the largest has 2"),
    ],
)
def test_folds_that_cannot_be_used_are_refused(folds, min_clips, words):
    with pytest.raises(DataError, match=words):
        fold_partitions(folds, NAMES[:3], min_clips=min_clips)


def test_held_out_clips_are_a_share_of_every_class_and_empty_none():
    labels = np.asarray([0] * 100 + [1] * 20 + [2])
    held = hold_out(np.arange(121), labels, None, fraction=0.1, seed=0)
    assert np.bincount(labels[held], minlength=3).tolist() == [10, 2, 0]
    np.testing.assert_array_equal(held, hold_out(np.arange(121), labels, None, fraction=0.1, seed=0))
    assert held.tolist() != hold_out(np.arange(121), labels, None, fraction=0.1, seed=1).tolist()


def test_held_out_groups_stay_whole():
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 30, 600)
    labels = groups % 3
    candidates = np.arange(0, 600, 2)
    held = hold_out(candidates, labels, groups, fraction=0.1, seed=0)
    assert set(held) <= set(candidates)
    assert not set(groups[held]) & set(groups[np.setdiff1d(candidates, held)])
    assert set(labels[held]) == {0, 1, 2} == set(labels[np.setdiff1d(candidates, held)])


def test_nothing_is_held_out_of_classes_of_one():
    assert not len(hold_out(np.arange(3), np.arange(3), None, fraction=0.1, seed=0))


def test_many_folds_become_few_of_about_equal_size_and_none_is_torn():
    """A drum kit on both sides would be recognised by its sound, not by its class."""
    kits = [kit for kit, size in enumerate((40, 30, 20, 20, 10, 10, 5, 1)) for _ in range(size)]
    folds = group_folds([f"kit{kit}" for kit in kits], [str(i) for i in range(len(kits))], 3)
    assert len(set(zip(kits, folds, strict=True))) == 8
    sizes = [folds.count(fold) for fold in ("1", "2", "3")]
    assert sum(sizes) == len(kits)
    assert max(sizes) - min(sizes) <= 10
    with pytest.raises(DataError, match="8 folds cannot become 9"):
        group_folds([str(kit) for kit in kits], [""] * len(kits), 9)

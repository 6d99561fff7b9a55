"""The public data sets as people have them on disk: whole, in part, in the wrong place, of another version."""

import shutil
import tarfile
from collections import Counter

import pytest

from aape.data.clips import load_clip
from aape.data.corpora import CORPORA, protocol, read_task
from aape.data.corpora.audioset import LABELS
from aape.data.corpora.cremad import PUBLISHED, split_actors
from aape.data.labelled import describe
from aape.errors import AapeError, ConfigError, DataError
from corpus_copies import MAKERS, copy_tree, make_folders, note, table


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    return {task: make(folder / task) for task, make in MAKERS.items()}


@pytest.fixture
def copy(roots, tmp_path):
    return lambda task: copy_tree(roots[task], tmp_path / "copy")


def splits(labelled):
    return Counter(clip.fold if labelled.has_folds else clip.split for clip in labelled.clips)


@pytest.mark.parametrize(
    ("task", "num_classes", "parts"),
    [
        ("esc50", 50, {str(fold): 4 for fold in range(1, 6)}),
        ("us8k", 10, {str(fold): 2 for fold in range(1, 11)}),
        ("scv2", 35, {"train": 6, "valid": 3, "test": 3}),
        ("nsynth", 11, {"train": 9, "valid": 3, "test": 3}),
        ("as20k", 527, {"train": 8, "test": 8}),
        ("as2m", 527, {"train": 16, "test": 8}),
    ],
)
def test_a_copy_has_its_protocol_and_does_not_pass_for_the_whole(roots, task, num_classes, parts):
    """A wrong split or class order would make every number of the table wrong."""
    labelled = read_task(task, roots[task])
    assert len(labelled.classes) == num_classes
    assert splits(labelled) == parts
    assert all(present < published for present, published in labelled.counts.values())
    assert any("published" in warning for warning in labelled.warnings)  # both numbers
    assert len(load_clip(labelled.clips[0])) == 6400
    for clip, target in zip(labelled.clips, labelled.targets, strict=True):
        if not labelled.is_multi_label:
            assert labelled.classes[target[0]] == clip.label


def test_audioset_finds_clips_by_any_usual_name_and_counts_the_missing(roots):
    labelled = read_task("as20k", roots["as20k"])
    assert labelled.num_missing == 2
    assert labelled.counts == {"balanced_train_segments.csv": (8, 22_160), "eval_segments.csv": (8, 20_371)}
    assert {len(target) for target in labelled.targets} == {1, 2}
    assert labelled.classes[3] == "Sound, no. 3"


def test_audioset_may_lie_in_shards(copy):
    """Two million small files are kept in tars."""
    root = copy("as20k")
    whole = read_task("as20k", root)
    with tarfile.open(root / "eval.tar", "w") as shard:
        shard.add(root / "eval", "eval")
    shutil.rmtree(root / "eval")
    labelled = read_task("as20k", root)
    assert labelled.targets == whole.targets
    assert (load_clip(labelled.clips[-1]) == load_clip(read_task("as20k", root).clips[-1])).all()
    assert labelled.clips[-1].offset is not None


def test_cremad_is_split_by_actor_near_the_published_counts(roots, copy):
    """An actor on both sides would be recognised instead of the emotion."""
    labelled = read_task("cremad", roots["cremad"])
    by_split = {}
    for clip, actor in zip(labelled.clips, labelled.groups, strict=True):
        by_split.setdefault(clip.split, set()).add(actor)
    assert set.union(*by_split.values()) == {str(actor) for actor in range(1001, 1013)}
    assert sum(map(len, by_split.values())) == 12
    assert any("ours" in warning for warning in labelled.warnings)

    real = split_actors(Counter({str(actor): 82 for actor in range(1001, 1092)}))
    counts = Counter(real.values())
    for split, published in PUBLISHED.items():
        assert abs(82 * counts[split] - published) <= 90  # about an actor

    root = copy("cremad")
    names = sorted(path.name for path in (root / "AudioWAV").iterdir())
    table(
        root / "split.csv", [{"filename": n, "split": ["train", "valid", "test"][i % 3]} for i, n in enumerate(names)]
    )
    listed = read_task("cremad", root)
    assert splits(listed) == {"train": 12, "valid": 12, "test": 12}
    assert not any("ours" in warning for warning in listed.warnings)


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def drop_fold(root):
    lines = (root / "meta/esc50.csv").read_text().splitlines()
    (root / "meta/esc50.csv").write_text("\n".join(line for line in lines if not line.startswith("3-")))


def remove(pattern, keep=0):
    def damage(root):
        for path in sorted(root.glob(pattern))[keep:]:
            path.unlink()

    return damage


def shorten(path, by):
    path.write_text(path.read_text()[:-by])


def repeat_line(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[-1]]) + "\n")


def write_split(root, last):
    names = sorted(path.name for path in (root / "AudioWAV").iterdir())
    rows = [{"filename": name, "split": split} for name, split in zip(names, ["train", last], strict=False)]
    table(root / "split.csv", rows)
    return root / "split.csv"


@pytest.mark.parametrize(
    ("task", "damage", "words"),
    [
        ("esc50", drop_fold, "5 folds, 4 of them are here; missing: 3"),
        ("esc50", remove("audio/*", keep=13), "7 of 20 files of ESC-50 are missing, the first is 'audio/"),
        ("esc50", lambda root: rewrite(root / "meta/esc50.csv", "dog", "wolf"), "copy: 5 of 20 labels.*50 cl.*'wolf'"),
        ("esc50", lambda root: rewrite(root / "meta/esc50.csv", "category", "class"), "no column category.*version"),
        ("us8k", remove("audio/fold7/*"), "2 of 20 files of UrbanSound8K"),
        ("us8k", lambda root: rewrite(root / "metadata/UrbanSound8K.csv", ",10,", ",11,"), "missing: 10; unknown: 11"),
        ("scv2", remove("backward/*"), "2 of 6 listed files"),
        ("scv2", lambda root: note(root / "backwards/1_nohash_0.wav", 0), "1 of 13 labels.*35 classes.*'backwards'"),
        ("scv2", remove("testing_list.txt"), "1 of 2 parts are missing: testing_list.txt"),
        ("nsynth", remove("nsynth-valid/audio/*"), "3 of 15 files"),
        ("nsynth", lambda root: (root / "nsynth-test/examples.json").write_text("[1"), "not the notes of NSynth"),
        ("nsynth", lambda root: (root / "nsynth-test/examples.json").write_text("{}"), "0 of 4096 clips of NSynth"),
        ("cremad", lambda root: note(root / "AudioWAV/readme.wav", 0), "1 of 37 files are not named"),
        ("cremad", lambda root: note(root / "AudioWAV/1001_DFA_JOY_XX.wav", 0), "1 of 37 labels.*'JOY'"),
        ("as20k", remove("eval/*"), "0 of the 9 clips of eval_segments.csv"),
        ("as20k", lambda root: rewrite(root / LABELS, "/m/0003", "/x/3"), "labels are none of"),
        ("as20k", lambda root: rewrite(root / "eval_segments.csv", "0.000,", "zero,"), "segment 1 of 9 is not an id"),
        ("as20k", lambda root: shorten(root / "eval_segments.csv", 30), "segment 9 of 9 is not.*or not all of it"),
        ("as20k", lambda root: rewrite(root / LABELS, "/m/0500", "/m/0499"), "526 different labels in 527"),
        ("esc50", lambda root: repeat_line(root / "meta/esc50.csv"), "1 of 21 clips of ESC-50 are listed twice"),
        ("scv2", lambda root: repeat_line(root / "testing_list.txt"), "1 of 7 lines of .* name a file again"),
        ("nsynth", lambda root: rewrite(root / "nsynth-test/examples.json", "family_str", "family"), "3 of 3 notes"),
        ("nsynth", lambda root: (root / "nsynth-test/examples.json").write_text("[1]"), "1 of 1 notes have no"),
        ("cremad", lambda root: write_split(root, "holdout"), "1 of 2 splits are none of.*: 'holdout'"),
        ("cremad", lambda root: repeat_line(write_split(root, "test")), "1 of 3 rows name a file again"),
        ("as2m", remove("unbalanced_train_segments.csv"), "1 of 4 parts are missing: unbalanced"),
    ],
)  # fmt: skip
def test_damage_is_one_line_with_both_numbers(copy, task, damage, words):
    """A silently smaller data set gives a number that looks like the paper's and is not."""
    root = copy(task)
    damage(root)
    with pytest.raises(DataError, match=words) as caught:
        read_task(task, root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", CORPORA)
def test_the_wrong_folder_is_named(task, roots, tmp_path):
    for root in (tmp_path, tmp_path / "nowhere", roots["esc50" if task != "esc50" else "us8k"]):
        with pytest.raises(DataError, match=r"not the folder of|no such folder"):
            read_task(task, root)


def test_the_right_folder_is_pointed_at_where_it_is_one_step_away(roots, copy):
    """People give the folder that they unpacked into, or one that they looked into."""
    root = copy("esc50")
    for wrong in (root.parent, root / "audio"):
        with pytest.raises(DataError, match=f"2 of 2 parts are missing.*; {root} has them all"):
            read_task("esc50", wrong)
    with pytest.raises(DataError, match=r"esc50.csv: not a folder"):
        read_task("esc50", root / "meta/esc50.csv")


def test_what_is_less_than_published_is_counted(roots, copy):
    """A half-unpacked archive may look whole: no list names what is missing."""
    root = copy("cremad")
    remove("AudioWAV/*", keep=20)(root)
    assert "CREMA-D: 20 clips found (clips), 7,442 published" in read_task("cremad", root).warnings
    write_split(root, "test")
    rewrite(root / "split.csv", "train", "valid")
    with open(root / "split.csv", "a") as file:
        file.write("1003_DFA_ANG_XX.wav,train\n")
    assert "split.csv leaves out 17 of 20 files of AudioWAV" in read_task("cremad", root).warnings
    warnings = read_task("as20k", roots["as20k"]).warnings
    assert "AudioSet: 1 of the 9 clips listed in eval_segments.csv are missing" in warnings
    assert any("eval_segments.csv lists 9 clips, 20,371 published" in warning for warning in warnings)


def test_a_labels_file_of_another_length_is_a_warning_with_both_numbers(copy):
    root = copy("as20k")
    with open(root / "class_labels_indices.csv", "a") as file:
        file.write("527,/m/new,Another\n")
    assert any("528 classes, 527 published" in warning for warning in read_task("as20k", root).warnings)


def test_published_sets_bring_their_own_columns(roots):
    with pytest.raises(ConfigError, match="--split is for --task csv"):
        read_task("esc50", roots["esc50"], label="label", split="split")
    with pytest.raises(ConfigError, match="'esc10' is not built in; choose one of csv, as2m"):
        read_task("esc10", roots["esc50"])


def test_a_folder_of_classes_needs_no_table(tmp_path):
    root = make_folders(tmp_path / "mine")
    labelled = read_task("csv", root)
    assert labelled.classes == ["high", "low"]
    assert splits(labelled) == {"train": 10, "test": 2}
    assert splits(labelled) == splits(read_task("csv", root))
    assert "2 of 12 clips held out" in labelled.warnings[0]
    note(root / "once/1.wav", 3)
    again = read_task("csv", root)
    assert describe(again)[-1].endswith(": once")
    assert next(clip.split for clip in again.clips if clip.label == "once") == "train"
    (root / "nothing").mkdir()
    assert "1 of 4 class folders hold no sound, the first is 'nothing'" in read_task("csv", root).warnings
    note(root / "stray.wav", 3)
    with pytest.raises(DataError, match=r"1 of 14 sound files lie in no folder of a class, the first is 'stray.wav'"):
        read_task("csv", root)


def test_folders_named_train_and_test_are_the_split(tmp_path):
    for split in ("train", "valid", "test"):
        make_folders(tmp_path / split)
    labelled = read_task("csv", tmp_path)
    assert splits(labelled) == {"train": 12, "valid": 12, "test": 12}
    assert labelled.classes == ["high", "low"]
    assert labelled.warnings == ()


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("train", "valid"), "train, valid hold folders, as splits do, but 'test' is missing"),
        (("train", "test", "extra"), "test, train hold folders, as splits do, but 'extra' is none of train, valid"),
        (("Test", "extra"), "Test hold folders, as splits do, but 'train' is missing and 'extra' is none of"),
    ],
)
def test_splits_that_are_not_whole_are_never_taken_for_classes(tmp_path, folders, words):
    """A model of the classes "train" and "valid" scores well, and knows nothing."""
    for folder in folders:
        make_folders(tmp_path / folder)
    with pytest.raises(DataError, match=words):
        read_task("csv", tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    shutil.move(make_folders(tmp_path) / "low", tmp_path / "train")
    assert read_task("csv", tmp_path).classes == ["high", "train"]


def test_labels_may_be_several_in_a_cell(tmp_path):
    rows = [{"file": note(tmp_path / f"{i}.wav", i).name, "label": labels, "split": "train"}
            for i, labels in enumerate(("rain, wind", "rain", "wind, thunder", ""))]  # fmt: skip
    table(tmp_path / "clips.csv", rows)
    labelled = read_task("csv", tmp_path / "clips.csv", split="split", multi_label=True)
    assert labelled.classes == ["rain", "thunder", "wind"]
    assert labelled.targets == [(0, 2), (0,), (1, 2), ()]
    assert labelled.warnings == ("several labels of a clip are split at ','",)
    assert read_task("csv", tmp_path / "clips.csv", split="split", multi_label=";").classes[1] == "rain, wind"


def test_every_task_says_what_it_is_trained_with():
    """`aape finetune --task esc50` without a recipe is the paper's protocol, not a default of another set."""
    assert protocol("esc50", "finetuning")["optim.ema"] == 0.0
    assert protocol("as2m", "finetuning")["balanced_draws"] == 200_000
    assert protocol("as20k", "finetuning")["balanced_draws"] == 0
    assert protocol("nsynth", "probing") == {
        "steps": 50_000, "batch": 512,
        "pool": "cls_mean", "layers": [], "loop_to": 0.0,  # whatever the model recommends
    }  # fmt: skip
    assert protocol("esc50", "probing") == protocol("csv", "probing")
    with pytest.raises(AapeError):
        protocol("esc10", "probing")

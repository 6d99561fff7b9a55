"""Fine-tuning, from a folder of recordings to a classifier and a number that can be trusted."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
import soundfile
import torch

from aape import cli
from aape.commands.finetune import AugmentConfig, FinetuneConfig, FinetuneOptimConfig, finetune, loop_length, resolve
from aape.commands.options import option_table
from aape.downstream import spectrograms
from aape.downstream.finetuning import Training
from aape.errors import ConfigError, DataError
from aape.inference import load_model
from aape.models.saved import read_model
from aape.runs import loop
from corpus_copies import MAKERS, make_folders, note, table
from notes import read_lines


def test_a_run_learns_scores_and_leaves_a_classifier(make_config, tmp_path, capsys):
    """Bass and flute are easy: a run that cannot learn them has mixed up clips, gradient or average."""
    optim = FinetuneOptimConfig(learning_rate=2e-3, ema=0.8)
    result = finetune(make_config(steps=60, batch=8, seeds=2, optim=optim))
    assert result["scores"]["last"]["accuracy"]["mean"] >= 0.8
    assert np.shape(result["scores"]["best"]["accuracy"]["values"]) == (2, 1)
    assert result["scores"]["best_on_validation"] is None
    assert result["pretraining"] == {"steps": 3}
    assert result["batches_per_second"] > 0
    folder = tmp_path / "run"
    written = json.loads((folder / "result.json").read_text())
    assert written["scores"] == result["scores"]
    with open(folder / "confusion.csv", newline="") as file:
        confusion = [row[1:] for row in csv.reader(file)][1:]
    num_test = result["partitions"][0]["num_test"]
    assert np.asarray(confusion, dtype=int).sum() == 2 * num_test
    pooled = np.trace(np.asarray(confusion, dtype=int)) / (2 * num_test)
    assert pooled == pytest.approx(result["scores"]["last"]["accuracy"]["mean"])
    with open(folder / "per_class.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["bass", "flute"]
    assert sum(int(row["clips"]) for row in rows) == num_test  # each clip once, however many seeds
    lines = read_lines(folder / "metrics.jsonl")
    assert [(line["job"], line["step"]) for line in lines] == [
        ("seed0-test", 30), ("seed0-test", 60), ("seed1-test", 30), ("seed1-test", 60),
    ]  # fmt: skip
    assert lines[1]["loss"] < lines[0]["loss"]
    saved = read_model(folder)
    assert saved.labels == ["bass", "flute"]
    assert saved.head is not None
    assert saved.card["scores"][0]["metric"] == "accuracy"
    assert saved.card["scores"][0]["protocol"] == "split, last step, mean over seeds: 2"
    assert saved.card["data"].startswith("csv (notes.csv): trained on ")
    assert "accuracy" in capsys.readouterr().out

    # What is saved is what was scored: the same probabilities, from the file alone.
    with np.load(folder / "jobs" / "seed0-test" / "last.npz") as arrays:
        names, probabilities = arrays["test_file"], arrays["test_probability"]
    from aape.data.audio.decoding import read_audio
    from aape.data.log_mel import LogMel

    log_mel = LogMel(**dataclasses.asdict(saved.front_end))(torch.from_numpy(read_audio(str(names[0])))[None])
    with torch.inference_mode():
        logits = saved.head(saved.encoder(log_mel))
    np.testing.assert_allclose(logits.softmax(-1)[0].numpy(), probabilities[0], atol=1e-4)


def test_small_forward_passes_give_the_same_gradient(make_config, tmp_path, monkeypatch):
    """Users with less memory would get another model; only the rounding of sums may differ."""
    gradients = []

    def note_gradient(parameters, num_ranks):
        gradients.append({number: p.grad.clone() for number, p in enumerate(parameters)})

    monkeypatch.setattr(loop, "sum_over_ranks", note_gradient)
    for at_once in (0, 1):
        optim = FinetuneOptimConfig(precision="float32")
        finetune(make_config(optim=optim, steps=1, clips_at_once=at_once, out=str(tmp_path / f"at{at_once}")))
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-4 * scale + 1e-9, rtol=1e-3)


def several_labels(tmp_path, tested):
    """A table of two labels per clip for training, and the given ones for testing."""
    labels = ["a;b", "a", "b", "a;c"]
    rows = [{"file": f"{n}.wav", "label": label, "split": "train"} for n, label in enumerate(labels)]
    rows += [{"file": f"t{n}.wav", "label": label, "split": "test"} for n, label in enumerate(tested)]
    for number, row in enumerate(rows):
        note(tmp_path / row["file"], 5 * number)
    table(tmp_path / "several.csv", rows)
    return {"data": str(tmp_path / "several.csv"), "multi_label": True}


def test_a_perfect_ranking_ends_in_a_result(make_config, tmp_path, monkeypatch):
    """Hours of training were lost to an infinite d-prime that no JSON can hold."""
    data, predict = several_labels(tmp_path, ["a", "b", "c"]), Training.predict

    def knows(self, indices):
        indices = predict(self, indices)[0]
        return indices, self.labelled.target_matrix(indices).astype(np.float32)

    monkeypatch.setattr(Training, "predict", knows)
    result = finetune(make_config(**data))
    assert result["scores"]["last"]["mAP"]["mean"] == 1
    assert np.isfinite(result["scores"]["last"]["d_prime"]["mean"])


def test_an_undefined_score_ends_neither_the_run_nor_its_resumption(make_config, tmp_path):
    """No class has both positives and negatives: d-prime is NaN, which JSON holds as null."""
    data = {**several_labels(tmp_path, ["a;b;c"]), "seeds": 2}
    first = finetune(make_config(**data))
    assert [row["clips"] for row in first["per_class"]] == [1, 1, 1]
    assert [score["metric"] for score in read_model(tmp_path / "run").card["scores"]] == ["mAP"]
    again = finetune(make_config(**data, resume=True))
    assert np.isnan(again["scores"]["last"]["d_prime"]["mean"])
    assert again["scores"]["last"]["mAP"] == first["scores"]["last"]["mAP"]


@pytest.mark.parametrize("task", MAKERS)
def test_every_public_set_is_fine_tuned_for_two_steps(task, checkpoint, tmp_path):
    """`aape finetune --task X --data FOLDER` works before the long run does."""
    root = MAKERS[task](tmp_path / task)
    options = ["--task", task, "--data", str(root), "--checkpoint", checkpoint, "--out", str(tmp_path / "run")]
    options += ["--steps=2", "--batch=2", "--seeds=1", "--evaluations=1", "--workers=0", "--device=cpu"]
    options += ["--num-frames=64", "--no-selection-runs"]
    assert cli.main(["finetune", *options]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    metrics = {"mAP", "d_prime"} if task in ("as2m", "as20k") else {"accuracy", "balanced_accuracy"}
    assert set(result["scores"]["last"]) == metrics
    assert all(present < published for present, published in result["counts"].values())
    assert any("published" in warning for warning in result["warnings"])
    if task == "as20k":
        assert result["num_missing"] == 2
        assert any("523 of 527 classes have no positive test clip" in warning for warning in result["warnings"])
        assert read_model(tmp_path / "run").multi_label
    if task == "esc50":
        assert len(result["partitions"]) == 5
    if task in ("scv2", "nsynth", "cremad"):
        assert result["scores"]["best_on_validation"] is not None


def test_folds_choose_their_step_by_runs_that_never_train_on_the_chooser(make_config, tmp_path):
    result = finetune(make_config(split=None, fold="pitch", num_folds=3, steps=2))
    assert len(result["partitions"]) == 3
    assert result["scores"]["best_on_validation"] is not None
    jobs = {path.name for path in (tmp_path / "run" / "jobs").iterdir()}
    assert jobs == {f"seed0-{fold}{kind}" for fold in "123" for kind in ("", "-selection")}


def test_a_folder_of_classes_is_all_it_takes(checkpoint, tmp_path, capsys):
    root = make_folders(tmp_path / "mine")
    note(root / "rare" / "1.wav", 5)
    options = ["--steps=2", "--batch=4", "--seeds=1", "--evaluations=1", "--workers=0", "--device=cpu"]
    arguments = ["--data", str(root), "--checkpoint", checkpoint, "--out", str(tmp_path / "run")]
    assert cli.main(["finetune", *arguments, *options]) == 0
    error = capsys.readouterr().err
    assert "1 of 3: rare" in error
    assert "held out for testing" in error


def test_bad_audio_is_named_and_counted_and_too_much_of_it_stops(checkpoint, tmp_path, capsys):
    """NaN in the middle of a fold, a truncated file: a smaller data set must not go unnoticed."""
    root = MAKERS["esc50"](tmp_path / "esc50")
    broken = sorted((root / "audio").iterdir())[7]
    soundfile.write(broken, np.full(6400, np.nan, dtype=np.float32), 16000, subtype="FLOAT")
    options = {"task": "esc50", "data": str(root), "checkpoint": checkpoint, "out": str(tmp_path / "run"), "steps": 1}
    options |= {"batch": 2, "seeds": 1, "evaluations": 1, "workers": 0, "num_frames": 64, "device": "cpu"}
    config = FinetuneConfig(**options, selection_runs=False)
    with pytest.raises(DataError, match=rf"1 of 20 clips cannot be read.*{broken.name}.*NaN"):
        finetune(config)
    result = finetune(dataclasses.replace(config, max_bad_fraction=0.1, out=str(tmp_path / "other")))
    assert (result["num_clips"], result["num_bad"]) == (19, 1)
    assert result["bad"][0]["file"] == f"audio/{broken.name}"
    assert sum(part["num_test"] for part in result["partitions"]) == 19
    assert f"left out: audio/{broken.name}" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_too_large_to_be_checked_or_kept_gives_the_same(checkpoint, tmp_path, monkeypatch, capsys, workers):
    """AudioSet is read while it is trained on: same clips, same numbers, and bad files are still counted."""
    root = make_folders(tmp_path / "mine")
    options = {"data": str(root), "checkpoint": checkpoint, "steps": 3, "batch": 4, "seeds": 1, "evaluations": 1}
    config = FinetuneConfig(**options, out=str(tmp_path / "kept"), workers=0, device="cpu", max_bad_fraction=0.2)
    kept = finetune(config)
    monkeypatch.setattr(spectrograms, "MAX_KEPT_BYTES", 0)
    streamed = finetune(dataclasses.replace(config, out=str(tmp_path / "streamed"), workers=workers))
    assert streamed["scores"] == kept["scores"]

    monkeypatch.setattr(spectrograms, "MAX_CHECKED", 0)
    (root / "low" / "0.wav").write_bytes(b"RIFF")
    config = dataclasses.replace(config, out=str(tmp_path / "bad"), workers=workers)
    result = finetune(config)
    assert [bad["file"] for bad in result["bad"]] == ["low/0.wav"]
    assert np.isfinite(result["scores"]["last"]["accuracy"]["mean"])
    assert capsys.readouterr().err.count("left out: low/0.wav: ") == 1
    sizes = [
        [sum(run["partitions"][0][key] for key in ("num_train", "num_test")), run["num_clips"]]
        for run in (kept, result)
    ]
    assert sizes[1] == [size - 1 for size in sizes[0]]
    again = finetune(dataclasses.replace(config, resume=True))
    assert (again["bad"], again["num_clips"]) == (result["bad"], result["num_clips"])


def test_a_task_brings_its_protocol_and_options_override_it(checkpoint):
    options = {"data": "d", "checkpoint": checkpoint, "out": "o"}
    esc50 = resolve(FinetuneConfig(**options, task="esc50"))
    assert (esc50.steps, esc50.batch, esc50.num_frames) == (8000, 128, 512)
    assert (esc50.optim.layer_decay, esc50.optim.ema, esc50.augment.mixup) == (0.65, 0.0, 0.0)
    scv2 = resolve(FinetuneConfig(**options, task="scv2", optim=FinetuneOptimConfig(learning_rate=1e-4), steps=7))
    assert (scv2.optim.learning_rate, scv2.optim.layer_decay, scv2.steps) == (1e-4, 0.75, 7)
    plain = resolve(FinetuneConfig(**options))
    assert plain.num_frames is None


def test_the_help_fits_a_screen():
    """More options than these, and nobody reads them."""
    assert len(option_table(FinetuneConfig)) <= 31


def test_clips_are_looped_as_the_model_was_trained_unless_a_task_has_a_length(checkpoint):
    """Nobody has to remember the length, which the model knows; the paper's protocols cut and pad."""
    options = {"data": "d", "checkpoint": checkpoint, "out": "o"}
    assert loop_length(FinetuneConfig(**options), 3.0) == 3.0
    assert loop_length(FinetuneConfig(**options, loop_to=0.0), 3.0) == 0.0
    assert loop_length(FinetuneConfig(**options, loop_to=2.0), 3.0) == 2.0
    assert loop_length(resolve(FinetuneConfig(**options, task="esc50")), 3.0) == 0.0
    with pytest.raises(ConfigError, match="loop_to must be 0 to 600, got 601"):
        FinetuneConfig(**options, loop_to=601.0)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        (AugmentConfig, "spec_augment", 1.5),
        (AugmentConfig, "mixup", -0.1),
        (AugmentConfig, "mixup", float("inf")),
        (FinetuneOptimConfig, "ema", 1.0),
        (FinetuneOptimConfig, "learning_rate", 0.0),
    ],
)
def test_options_out_of_range_are_refused_before_hours_of_reading(section, name, value):
    with pytest.raises(ConfigError, match=f"{name} must be .*, got {re.escape(str(value))}"):
        section(**{name: value})


@pytest.mark.parametrize(("loop_to", "pool"), [(0.0, "cls"), (0.7, "frequency_std")])
def test_clips_of_any_length_are_scored_as_aape_classify_scores_them(make_config, tmp_path, loop_to, pool):
    """The score of a model is that of the labels it will give: one pass up to 10.24 s, then windows by their length."""
    lengths = [0.4, 10.1, 10.3, 25]  # 41 and 1,011 frames; then 608 + 423, and 4 x 608 + 69
    signal = np.random.default_rng(0).normal(0, 1, 16000 * 25)
    signal *= np.linspace(0, 0.3, len(signal)) ** 2  # windows that differ
    for number, seconds in enumerate(lengths):
        soundfile.write(tmp_path / f"{number}.wav", signal[: int(16000 * seconds)], 16000)
    rows = [
        {"file": note(tmp_path / f"train{n}.wav", 27 * n).name, "label": f"{n}", "split": "train"} for n in range(2)
    ]
    table(tmp_path / "long.csv", [*rows, *({"file": f"{n}.wav", "label": "1", "split": "test"} for n in range(4))])
    optim = FinetuneOptimConfig(learning_rate=3e-2, ema=0.0, precision="float32")
    finetune(make_config(data=str(tmp_path / "long.csv"), steps=8, batch=2, optim=optim, loop_to=loop_to, pool=pool))
    saved = read_model(tmp_path / "run")
    assert saved.loop_to == loop_to
    assert (saved.head.pool, saved.pool) == (pool, "cls_mean" if pool == "cls" else pool)
    with np.load(tmp_path / "run" / "jobs" / "seed0-test" / "last.npz") as arrays:
        probabilities = dict(zip(arrays["test_file"].tolist(), arrays["test_probability"], strict=True))
    results = load_model(tmp_path / "run", "cpu").classify([tmp_path / name for name in probabilities])
    assert [len(result.windows) for result in results] == [1, 1, 2, 5]
    windows = [window.scores[window.labels.index("1")] for window in results[-1].windows]
    assert np.ptp(windows) > 0.02  # else any weights would do
    for name, result in zip(probabilities, results, strict=True):
        scores = dict(zip(result.labels, result.scores, strict=True))
        np.testing.assert_allclose(probabilities[name], [scores["0"], scores["1"]], atol=1e-4, err_msg=name)

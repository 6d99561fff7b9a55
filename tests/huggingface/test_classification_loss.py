"""The loss of a classifier: that of transformers for each kind of problem, and the same kind when it is used."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForAudioClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from aape.errors import CheckpointError
from aape.huggingface import AaPEConfig, AaPEFeatureExtractor
from aape.huggingface.classification_loss import classification_loss
from aape.inference import load_model
from aape.models.heads import ClassificationHead
from aape.models.saved import read_model
from notes import FRONT_END, save_nano

REGRESSION, ONE, SEVERAL = "regression", "single_label_classification", "multi_label_classification"
CLASSES, NUMBERS = torch.tensor([2, 0, 1, 1]), torch.tensor([0.5, -1.0, 3.0, 0.0])
TARGETS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.2, 0.9, 0.0], [1.0, 1.0, 1.0]])


def config(problem, num_labels):
    return AaPEConfig(problem_type=problem, num_labels=num_labels)


def logits_of(num_labels):
    return torch.randn(4, num_labels, generator=torch.Generator().manual_seed(num_labels))


def theirs(logits, labels, problem):
    return ForSequenceClassificationLoss(labels, logits, config(problem, logits.shape[1]))


@pytest.mark.parametrize(
    ("problem", "num_labels", "labels"),
    [
        (REGRESSION, 1, NUMBERS),
        (REGRESSION, 1, NUMBERS[:, None]),
        (REGRESSION, 3, 3 * TARGETS - 1),
        (None, 1, NUMBERS),
        (None, 1, NUMBERS[:, None]),
        (ONE, 3, CLASSES),
        (ONE, 3, CLASSES[:, None]),
        (ONE, 3, torch.tensor([2, -100, 1, 1])),
        (ONE, 2, CLASSES % 2),
        (None, 3, CLASSES),
        (None, 2, CLASSES % 2),
        (None, 3, CLASSES[:, None]),
        (SEVERAL, 3, TARGETS),
        (SEVERAL, 1, TARGETS[:, :1]),
        (None, 3, TARGETS),
    ],
)
def test_losses_are_those_of_transformers(problem, num_labels, labels):
    """A model that trains with another loss than its configuration says is another model."""
    logits, settings = logits_of(num_labels), config(problem, num_labels)
    torch.testing.assert_close(classification_loss(logits, labels, settings), theirs(logits, labels, problem))
    expected = {1: REGRESSION}.get(num_labels, SEVERAL if labels.is_floating_point() else ONE)
    assert settings.problem_type == (problem or expected)


@pytest.mark.parametrize(
    ("problem", "num_labels", "labels", "same"),
    [
        (REGRESSION, 1, torch.tensor([1, 2, 3, 4]), torch.tensor([1.0, 2.0, 3.0, 4.0])),
        (REGRESSION, 1, NUMBERS.double(), NUMBERS),
        (REGRESSION, 1, NUMBERS.tolist(), NUMBERS),
        (ONE, 3, CLASSES.int(), CLASSES),
        (ONE, 3, CLASSES.to(torch.uint8), CLASSES),
        (None, 3, CLASSES.short(), CLASSES),
        (SEVERAL, 3, (TARGETS > 0.5).long(), (TARGETS > 0.5).float()),
        (SEVERAL, 3, TARGETS > 0.5, (TARGETS > 0.5).float()),
        (None, 3, (TARGETS > 0.5).long(), (TARGETS > 0.5).float()),
        (None, 3, TARGETS.double(), TARGETS),
        (SEVERAL, 1, TARGETS[:, 0], TARGETS[:, :1]),
    ],
)
def test_labels_of_any_dtype(problem, num_labels, labels, same):
    """Labels come from tables and collators as they like; what they mean is clear."""
    logits = logits_of(num_labels).requires_grad_()
    loss = classification_loss(logits, labels, config(problem, num_labels))
    torch.testing.assert_close(loss, classification_loss(logits, same, config(problem, num_labels)))
    loss.backward()
    half = classification_loss(logits.detach().bfloat16(), labels, config(problem, num_labels))
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss.item(), rel=0.02)


@pytest.mark.parametrize(
    ("problem", "num_labels", "labels", "reason"),
    [
        (REGRESSION, 3, NUMBERS, r"labels of a regression must be \(4, 3\), not \(4,\)"),
        (REGRESSION, 1, NUMBERS[None], r"must be \(4, 1\), not \(1, 4\)"),
        (REGRESSION, 1, NUMBERS[:3], "must be"),
        (REGRESSION, 1, NUMBERS / 0, "finite numbers"),
        (ONE, 3, TARGETS, r"classes \(4,\), not \(4, 3\): a target for each class is problem_type='multi_label"),
        (ONE, 3, NUMBERS, "classes, which are integers, not torch.float32"),
        (ONE, 3, NUMBERS > 0, "classes, which are integers, not torch.bool"),
        (ONE, 3, CLASSES + 1, "0 to 2, got 1 to 3"),
        (ONE, 3, CLASSES - 1, "0 to 2, got -1 to 1"),
        (ONE, 3, CLASSES[:2], r"classes \(4,\), not \(2,\)"),
        (ONE, 3, torch.full((4,), -100), "every clip is left out"),
        (SEVERAL, 3, CLASSES, r"must be \(4, 3\), not \(4,\): a class for each clip is problem_type='single_label"),
        (SEVERAL, 3, 2 * TARGETS, "within 0 and 1"),
        (SEVERAL, 3, -100 * TARGETS, "within 0 and 1"),
        (SEVERAL, 3, TARGETS * float("nan"), "finite"),
        (None, 3, NUMBERS, r"labels of a multi_label_classification must be \(4, 3\), not \(4,\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(problem, num_labels, labels, reason):
    """A broadcast gives a loss that falls and a model that learned nothing; on a GPU a wrong class ends the process."""
    settings = config(problem, num_labels)
    with pytest.raises(ValueError, match=reason):
        classification_loss(logits_of(num_labels), labels, settings)
    assert settings.problem_type == problem


def test_one_class_is_no_problem():
    """The cross-entropy of a single class is 0 whatever the model says: such a training would only look like one."""
    settings = config(ONE, 3)
    settings.id2label = {0: "bell"}
    with pytest.raises(ValueError, match="a single class is always right"):
        classification_loss(logits_of(1), torch.zeros(4, dtype=torch.long), settings)


def train(model, folder, labels, waves, **options):
    """Train for three steps as users do, and save."""
    values = AaPEFeatureExtractor(FRONT_END.__dict__)(waves, sampling_rate=16000)["input_values"]
    rows = [{"input_values": x, "labels": label} for x, label in zip(values, labels, strict=True)]
    arguments = TrainingArguments(
        str(folder / "run"), max_steps=3, per_device_train_batch_size=2, report_to=[], logging_steps=1, use_cpu=True,
        save_strategy="no", disable_tqdm=True, learning_rate=1e-3, **options,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    trainer.save_model(folder / "model")
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    ("options", "labels", "problem"),
    [
        ({"num_labels": 1}, [0.5, -20.0], REGRESSION),
        ({"num_labels": 2, "problem_type": REGRESSION}, [[0.5, 9.0], [-20.0, 3.0]], REGRESSION),
        ({"num_labels": 3}, [2, 0], ONE),
        ({"num_labels": 3, "problem_type": ONE}, [2, 0], ONE),
        ({"num_labels": 3}, [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], SEVERAL),
        ({"num_labels": 3, "problem_type": SEVERAL}, [[1, 0, 1], [0, 1, 0]], SEVERAL),
    ],
)
def test_what_the_trainer_learned_is_what_the_model_says(folder, tmp_path, waves, reading, options, labels, problem):
    """A model of one kind that is saved as another names probabilities that it never learned."""
    losses = train(AutoModelForAudioClassification.from_pretrained(folder, **options), tmp_path, labels, waves)
    assert len(losses) == 3
    assert losses[2] < losses[0]
    assert json.loads((tmp_path / "model" / "config.json").read_text())["problem_type"] == problem
    again = AutoModelForAudioClassification.from_pretrained(tmp_path / "model")
    assert again.config.problem_type == problem
    with torch.no_grad():
        logits = again(**AaPEFeatureExtractor(FRONT_END.__dict__)(waves[:1], return_tensors="pt")).logits[0]
    answers = pipeline("audio-classification", model=str(tmp_path / "model"))(waves[0], **reading(problem))
    scores = {REGRESSION: logits, ONE: logits.softmax(-1), SEVERAL: logits.sigmoid()}[problem]
    np.testing.assert_allclose([x["score"] for x in answers], scores.sort(descending=True).values, atol=1e-4)
    ours = load_model(tmp_path / "model", "cpu")
    assert np.isfinite(ours.embed(waves[0], 16000)).all()
    if problem == REGRESSION:
        with pytest.raises(CheckpointError, match="no classifier"):
            ours.classify(waves[0], 16000)
        assert "tells" not in (tmp_path / "model" / "README.md").read_text()
    else:
        assert ours.multi_label == (problem == SEVERAL)
        np.testing.assert_allclose(ours.classify(waves[0], 16000).scores, [x["score"] for x in answers], atol=1e-4)


@pytest.mark.parametrize(("multi_label", "labels"), [(False, CLASSES[:2]), (True, (TARGETS[:2] > 0.5).long())])
def test_a_saved_model_keeps_its_problem(tmp_path, multi_label, labels):
    """Labels of the other kind must not turn a model of one label into one of several, or back."""
    options = {"head": ClassificationHead(64, 3), "labels": ["bell", "drum", "flute"], "multi_label": multi_label}
    model = AutoModelForAudioClassification.from_pretrained(save_nano(tmp_path / "model", **options))
    outputs = model(torch.randn(2, 48, 128), labels=labels)
    loss = torch.nn.functional.binary_cross_entropy_with_logits if multi_label else torch.nn.functional.cross_entropy
    torch.testing.assert_close(outputs.loss, loss(outputs.logits, labels.float() if multi_label else labels))
    with pytest.raises(ValueError, match="problem_type='"):
        model(torch.randn(2, 48, 128), labels=CLASSES[:2] if multi_label else TARGETS[:2])
    model.save_pretrained(tmp_path / "again")
    assert read_model(tmp_path / "again").multi_label is multi_label


@pytest.mark.parametrize("start", ["folder", "classifier"])
def test_an_untrained_regression_is_saved_as_one(request, start, tmp_path, waves, reading):
    """One output read as one class has a probability of 1 for every sound."""
    options = {"num_labels": 1, "ignore_mismatched_sizes": True}
    model = AutoModelForAudioClassification.from_pretrained(request.getfixturevalue(start), **options)
    model.save_pretrained(tmp_path / "model")
    (answer,) = pipeline("audio-classification", model=str(tmp_path / "model"))(waves[0], **reading(REGRESSION))
    assert answer["score"] != 1
    with pytest.raises(CheckpointError, match="no classifier"):
        load_model(tmp_path / "model", "cpu").classify(waves[0], 16000)

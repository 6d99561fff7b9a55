"""`pipeline("audio-classification")`: for each thing that people pass, the right answer or one line that helps."""

import numpy as np
import pytest
import torch
from transformers import pipeline

from aape.data.audio import read_audio
from aape.errors import AudioError
from aape.inference import load_model
from aape.models.heads import ClassificationHead
from aape.models.saved import save_model
from notes import FRONT_END, NOTES, nano

LABELS = ["bell", "drum", "flute"]


@pytest.mark.parametrize("multi_label", [False, True])
def test_scores_are_those_of_classify(tmp_path, multi_label, waves, reading):
    """The three lines that people paste: names and scores must be those of `classify`, in batches too."""
    torch.manual_seed(1)
    options = {"head": ClassificationHead(64, 3), "labels": LABELS, "multi_label": multi_label}
    save_model(tmp_path, nano(), FRONT_END, **options)
    problem = "multi_label_classification" if multi_label else "single_label_classification"
    classifier = pipeline("audio-classification", model=str(tmp_path))
    clips = [waves[0], waves[1, :9000], waves[0, :3000]]
    expected = [load_model(tmp_path, "cpu").classify(clip, 16000) for clip in clips]
    for batch_size in (1, 3):
        for answer, result in zip(
            classifier(clips, batch_size=batch_size, top_k=3, **reading(problem)), expected, strict=True
        ):
            assert [item["label"] for item in answer] == result.labels
            np.testing.assert_allclose([item["score"] for item in answer], result.scores, atol=1e-5)
    (best,) = classifier({"raw": waves[0], "sampling_rate": 16000}, top_k=1)
    assert best["label"] == expected[0].labels[0]


@pytest.fixture
def classify(classifier, monkeypatch):
    """A pipeline on a machine that has neither ffmpeg nor torchaudio."""
    monkeypatch.setattr("transformers.pipelines.audio_classification.is_torchaudio_available", lambda: False)
    monkeypatch.setenv("PATH", "")
    return pipeline("audio-classification", model=str(classifier))


def scores(answers):
    return {answer["label"]: answer["score"] for answer in answers}


def test_samples_at_the_rate_of_the_model(classify, waves):
    """However they come, the same samples have the same scores."""
    wave = waves[0]
    expected = scores(classify(wave))
    for sound in (
        torch.from_numpy(wave),
        wave.astype(np.float64),
        {"raw": wave, "sampling_rate": 16000},
        {"array": wave, "sampling_rate": 16000, "path": "sound.wav"},
    ):
        assert scores(classify(sound)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("make", "error", "reason"),
    [
        (lambda wave: {"array": wave, "sampling_rate": 44100}, ImportError, "pip install torchaudio"),
        (lambda wave: np.stack([wave, wave]), ValueError, "single channel"),
        (lambda wave: np.stack([wave, wave], 1), ValueError, "single channel"),
        (lambda wave: {"array": np.stack([wave, wave]), "sampling_rate": 16000}, ValueError, "single channel"),
        (lambda wave: {"array": wave}, ValueError, '"sampling_rate" key'),
        (lambda wave: str(NOTES[0]), ValueError, "ffmpeg was not found"),
        (lambda wave: NOTES[0].read_bytes(), ValueError, "ffmpeg was not found"),
        (lambda wave: NOTES[0], TypeError, "numpy ndarray"),
        (lambda wave: (32767 * wave).astype(np.int16), AudioError, "int16 values: samples must be floating point"),
        (lambda wave: wave[:0], AudioError, "no samples"),
        (lambda wave: np.append(wave, np.nan), AudioError, "NaN"),
    ],
)
def test_what_a_pipeline_does_not_take_is_said(classify, waves, make, error, reason):
    """transformers reads these before our classes see them: the message says what to install or pass."""
    with pytest.raises(error, match=reason):
        classify(make(waves[0]))


def test_the_way_around_needs_nothing_installed(classify, classifier):
    """A path, another rate, several channels: read as everywhere in this package, and passed on as samples."""
    answer = scores(classify(read_audio(NOTES[0], sample_rate=16000)))
    result = load_model(classifier, "cpu").classify(NOTES[0])
    assert answer == pytest.approx(dict(zip(result.labels, result.scores, strict=True)), abs=1e-4)


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize(
    ("problem", "function"),
    [("single_label_classification", ""), ("multi_label_classification", "sigmoid"), ("regression", "none")],
)
def test_versions_that_read_scores_wrongly_are_warned_of(classifier, monkeypatch, caplog, is_old, problem, function):
    """Labels that were learned one by one would have probabilities that add up to 1, and nothing would show it."""
    monkeypatch.setattr("aape.huggingface.models._PIPELINES_READ_PROBLEM", not is_old)
    pipeline("audio-classification", model=str(classifier), model_kwargs={"problem_type": problem})
    assert (f"function_to_apply={function!r}" in caplog.text) == (is_old and bool(function))

"""The feature extractor of transformers: the front end of the model, and no other."""

import logging
import shutil

import numpy as np
import pytest
import soxr
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoProcessor, DataCollatorWithPadding

import aape
from aape.data.audio import read_audio
from aape.errors import AudioError, CheckpointError
from aape.huggingface import AaPEFeatureExtractor
from aape.models.saved import PRETRAINED
from notes import FRONT_END, NOTES


def test_feature_extractor_takes_its_front_end_from_the_model(folder, tmp_path):
    """Statistics that drift apart from the model's shift every input."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    assert extractor.front_end["mean"] == FRONT_END.mean
    assert (extractor.sampling_rate, extractor.feature_size) == (16000, 128)
    extractor.save_pretrained(tmp_path / "alone")
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "alone").front_end == extractor.front_end
    extractor.front_end["mean"] = 0.0
    extractor.save_pretrained(folder)
    assert AutoFeatureExtractor.from_pretrained(folder).front_end["mean"] == FRONT_END.mean


@torch.no_grad()
def test_short_sounds_are_looped_as_the_model_recommends(tmp_path):
    """A drum hit of 0.1 s padded instead of looped has another vector, and a classifier another answer."""
    extractor = AutoFeatureExtractor.from_pretrained(PRETRAINED / "tiny")
    extractor.save_pretrained(tmp_path)
    assert extractor.loop_to == AutoFeatureExtractor.from_pretrained(tmp_path).loop_to == 3
    clips = [read_audio(NOTES[0])[:length] for length in (1600, 15_999, 47_999, 48_000, 70_001)]
    model = AutoModel.from_pretrained(PRETRAINED / "tiny")
    vectors = model(**extractor(clips, sampling_rate=16000, return_tensors="pt")).pooler_output
    np.testing.assert_allclose(vectors, aape.load_model("tiny", "cpu").embed(clips, 16000), atol=1e-5)
    as_they_are = AutoFeatureExtractor.from_pretrained(PRETRAINED / "tiny", loop_to=0)
    assert as_they_are(clips[0], sampling_rate=16000)["attention_mask"].sum() == 11


def test_half_an_extractor_is_refused(folder, tmp_path):
    """The file of a saved model without the front end beside it would standardise with no statistics."""
    shutil.copy(folder / "preprocessor_config.json", tmp_path / "preprocessor_config.json")
    with pytest.raises(CheckpointError, match=r"no config\.json in it: copy the model's whole folder"):
        AaPEFeatureExtractor.from_pretrained(tmp_path)


def test_a_rate_of_nothing_is_no_missing_rate(waves):
    """A broken header's 0 must not be taken for the model's rate."""
    with pytest.raises(AudioError, match="rate"):
        AaPEFeatureExtractor()({"array": waves[0], "sampling_rate": 0})


def test_a_mask_that_is_left_out_is_refused(waves):
    """Recipes pass `return_attention_mask=True`; without a mask, padding would count as sound."""
    extractor = AaPEFeatureExtractor()
    assert "attention_mask" in extractor(waves, sampling_rate=16000, return_attention_mask=True)
    with pytest.raises(ValueError, match="padding would count as sound"):
        extractor(waves, sampling_rate=16000, return_attention_mask=False)


def test_a_processor_is_found_without_a_question(monkeypatch):
    """Tools ask for a processor; one that waits for an answer about foreign code stops a job in the night."""
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("a question"))
    assert isinstance(AutoProcessor.from_pretrained(PRETRAINED / "tiny"), AaPEFeatureExtractor)


def test_feature_extractor_inputs(waves):
    """Lists, batches and single clips are alike; another rate, and what is broken, is refused."""
    extractor = AaPEFeatureExtractor(front_end={"mean": -6.0, "std": 4.0})
    batch = extractor(waves, return_tensors="np")["input_values"]
    assert batch.shape == (2, 128, 128)
    assert not batch[:, 126:].any()
    np.testing.assert_allclose(extractor(list(waves))["input_values"], batch, atol=1e-6)
    np.testing.assert_allclose(extractor(waves[0].tolist())["input_values"], batch[:1], atol=1e-5)
    padded = extractor([waves[0], waves[1, :9000]])
    assert padded["attention_mask"].sum(1).tolist() == [126, 57]
    np.testing.assert_allclose(padded["input_values"][1, :57], extractor(waves[1, :9000])["input_values"][0, :57])
    assert not padded["input_values"][1, 57:].any()
    with pytest.raises(ValueError, match="resample"):
        extractor(waves, sampling_rate=8000)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda wave: np.full(900, np.nan), "NaN"),
        (lambda wave: [wave, np.append(wave, np.inf)], "clip 1: NaN or infinite"),
        (lambda wave: [wave, wave[:0], wave], "clip 1: of shape .0,.: no samples"),
        (lambda wave: [], "no samples"),
        (lambda wave: [np.stack([wave, wave])] * 2, "a list is made of clips"),
        (lambda wave: np.stack([wave, wave], 1), "average the channels, or transpose it"),
        (lambda wave: [wave, np.stack([wave, wave], 1)], "clip 1.*average the channels"),
        (lambda wave: np.zeros((2, 2, 900), np.float32), "of shape"),
        (lambda wave: (3000 * wave).astype(np.int16), "int16 values: samples must be floating point"),
    ],
)
def test_samples_that_cannot_be_used(waves, make, reason):
    """One broken clip must not become the vector of another sound, or NaN for its whole batch."""
    with pytest.raises(AudioError, match=reason):
        AaPEFeatureExtractor()(make(waves[0]), sampling_rate=16000)


def test_sounds_that_bring_their_rate_are_resampled(waves, caplog):
    """Rows of `datasets` and files say at what rate they are: nobody has to resample, or is warned about a rate."""
    extractor, wave = AaPEFeatureExtractor(), waves[0]
    expected = soxr.resample(wave, 44100, 16000, quality="HQ")
    for sound in (
        {"array": wave, "sampling_rate": 44100},
        [{"raw": wave, "sampling_rate": 44100}],
        (wave, 44100),
        {"array": np.stack([wave, wave]), "sampling_rate": 44100},
    ):
        values = extractor(sound, return_tensors="np")["input_values"]
        np.testing.assert_allclose(values, extractor(expected, sampling_rate=16000)["input_values"], atol=1e-4)
    files = extractor([NOTES[0], {"path": NOTES[1]}])["input_values"]
    np.testing.assert_allclose(files[:1], extractor(read_audio(NOTES[0]), 16000)["input_values"], atol=1e-5)
    assert "sampling_rate was not given" not in caplog.text
    with pytest.raises(AudioError, match="its sample rate is 44100 Hz, and 16000 was expected"):
        extractor([{"array": wave, "sampling_rate": 44100}], sampling_rate=16000)


def test_a_collator_pads_clips_of_any_lengths(waves):
    """Fine-tuning on clips of several lengths needs batches of them; their labels come along."""
    extractor = AaPEFeatureExtractor()
    clips = [waves[0], waves[1, :9000], waves[0, :3000]]
    rows = [{"input_values": extractor(clip, 16000)["input_values"][0], "label": n} for n, clip in enumerate(clips)]
    rows[1] |= {"attention_mask": extractor(clips[1], 16000)["attention_mask"][0]}
    batch = DataCollatorWithPadding(extractor)([rows[1], rows[0] | {"attention_mask": np.ones(128)}])
    assert batch["labels"].tolist() == [1, 0]
    assert batch["attention_mask"].sum(1).tolist() == [57, 128]
    together = extractor(clips, 16000, return_tensors="pt")
    batch = DataCollatorWithPadding(extractor)(rows[::2])
    assert torch.equal(batch["input_values"], together["input_values"][::2])
    columns = {"input_values": [row["input_values"] for row in rows]}
    assert np.array_equal(extractor.pad(columns)["input_values"], together["input_values"])
    for wrong, options in (
        ([], {}),
        ([{"input_values": np.zeros((3, 64))}], {}),
        ([{"input_values": np.zeros(3)}], {}),
        (rows[:1], {"max_length": 9}),
        (rows[:1], {"padding": "max_length"}),
        (rows[:1], {"pad_to_multiple_of": 8}),
    ):
        with pytest.raises(ValueError, match=r"must be \(T, 128\)|padded to the longest"):
            extractor.pad(wrong, **options)


def test_nothing_is_needed_that_transformers_takes_away():
    """Sequence feature extractors are to give way to audio processors (pull request 48115 there)."""
    assert "SequenceFeatureExtractor" not in {base.__name__ for base in AaPEFeatureExtractor.__mro__}


def test_a_missing_rate_is_a_warning(caplog, monkeypatch, waves):
    """Audio at another rate would be embedded as if it were lower or higher, and nothing would show it."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("aape.huggingface.configuration"), "propagate", True)
    AaPEFeatureExtractor()(waves)
    assert "sampling_rate was not given" in caplog.text

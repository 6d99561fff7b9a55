"""Models in half precision, as `dtype=` and `.half()` make them, on inputs of any dtype."""

import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline

from aape.huggingface import AaPEFeatureExtractor
from aape.inference import load_model
from aape.models.saved import PRETRAINED
from notes import NOTES

TINY = str(PRETRAINED / "tiny")
MOST = {torch.bfloat16: 1e-4, torch.float16: 2e-6}  # 1 - cosine; autocast in bfloat16: 4e-5


def batch():
    """Notes of several lengths, so that some are padded."""
    sounds = [{"path": note} for note in NOTES[:3]]
    extractor = AutoFeatureExtractor.from_pretrained(TINY)
    values = extractor(sounds, sampling_rate=16000, return_tensors="pt")
    values["attention_mask"][1, 60:] = 0
    values["attention_mask"][2, 17:] = 0
    return values


def distance(a, b):
    return 1 - torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1).min().item()


@torch.no_grad()
@pytest.mark.parametrize("dtype", MOST)
@pytest.mark.parametrize("is_padded", [False, True])
def test_vectors_in_half_precision(dtype, is_padded):
    """Half the memory must not mean a traceback, or other neighbours in an index."""
    inputs = batch() if is_padded else {"input_values": batch()["input_values"]}
    expected = AutoModel.from_pretrained(TINY)(**inputs)
    for model in (AutoModel.from_pretrained(TINY, dtype=dtype), AutoModel.from_pretrained(TINY).to(dtype)):
        outputs = model(**inputs)
        assert outputs.pooler_output.dtype == outputs.last_hidden_state.dtype == dtype
        assert distance(outputs.pooler_output, expected.pooler_output) < MOST[dtype]
        cast = {**inputs, "input_values": inputs["input_values"].to(dtype)}
        assert distance(model(**cast).pooler_output, expected.pooler_output) < MOST[dtype]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_inputs_of_other_dtypes(classifier, dtype):
    """A collator's float64, or a batch that was cast to half, is the same spectrogram."""
    model, inputs = AutoModelForAudioClassification.from_pretrained(classifier), batch()
    outputs = model(inputs["input_values"].to(dtype), inputs["attention_mask"])
    assert outputs.logits.dtype == torch.float32
    torch.testing.assert_close(outputs.logits, model(**inputs).logits, atol=2e-2, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.uint8, torch.float32, torch.float16])
def test_masks_of_any_dtype(classifier, build_pretraining, dtype):
    """transformers' own masks are integers, PyTorch's booleans, and `batch.to(dtype)` of some make floats."""
    model, inputs = AutoModelForAudioClassification.from_pretrained(classifier), batch()
    expected = model(**inputs).logits
    assert torch.equal(model(inputs["input_values"], inputs["attention_mask"].to(dtype)).logits, expected)
    pretraining = build_pretraining()
    clips = {key: value[:, :128] for key, value in inputs.items()}
    visible, queries = pretraining.draw_views(3)
    losses = [
        pretraining(clips["input_values"], mask, visible=visible, queries=queries).loss
        for mask in (clips["attention_mask"], clips["attention_mask"].to(dtype))
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda mask: mask.flip(1), "padding before its frames"),
        (lambda mask: mask * 0, "a clip without frames"),
        (lambda mask: mask.index_fill(1, torch.tensor([5]), 0), "padding between the frames"),
        (lambda mask: mask[:1, :40].clone().fill_(0), "must be"),
        (lambda mask: mask[1:2], "must be"),
    ],
)
def test_masks_that_do_not_fit_are_refused(classifier, build_pretraining, change, reason):
    """Padding on the left would be encoded, and the end of the sound left out, without a word."""
    inputs = {key: value[:, :128] for key, value in batch().items()}
    inputs["attention_mask"] = change(inputs["attention_mask"])
    for model in (AutoModelForAudioClassification.from_pretrained(classifier), build_pretraining()):
        with pytest.raises(ValueError, match=f"attention_mask.*{reason}"):
            model(**inputs)


@torch.no_grad()
def test_padding_may_hold_anything(classifier):
    """0 times NaN is NaN: padding that a collator left empty must not reach the last patch."""
    model, inputs = AutoModelForAudioClassification.from_pretrained(classifier), batch()
    expected = model(**inputs).logits
    inputs["input_values"][inputs["attention_mask"] == 0] = float("nan")
    assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize("dtype", MOST)
def test_training_and_pipelines_in_half_precision(classifier, waves, dtype):
    """Loss, gradients and scores: what people do with a model in half precision."""
    model = AutoModelForAudioClassification.from_pretrained(classifier, dtype=dtype)
    extractor = AutoFeatureExtractor.from_pretrained(classifier)
    loss = model(**extractor([waves[0], waves[1, :9000]], return_tensors="pt"), labels=torch.tensor([0, 1])).loss
    loss.backward()
    assert model.encoder.cls_token.grad.isfinite().all()
    single = AutoModelForAudioClassification.from_pretrained(classifier)
    expected = single(**extractor([waves[0], waves[1, :9000]], return_tensors="pt"), labels=torch.tensor([0, 1])).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    answer, *_ = pipeline("audio-classification", model=str(classifier), dtype=dtype)(waves[0], top_k=1)
    assert answer["score"] == pytest.approx(load_model(classifier, "cpu").classify(waves[0], 16000).scores[0], abs=1e-2)


@pytest.mark.parametrize("dtype", MOST)
def test_pretraining_in_half_precision(build_pretraining, waves, dtype):
    """The losses are close; an average that is rounded away in every step is refused."""
    model, inputs = build_pretraining(), AaPEFeatureExtractor()([waves[0], waves[1, :9000]], return_tensors="pt")
    visible, queries = model.draw_views(2)
    expected = model(**inputs, visible=visible, queries=queries).loss.item()
    model = model.to(dtype)
    loss = model(**inputs, visible=visible, queries=queries).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-2)
    with pytest.raises(ValueError, match="never moves: train in float32"):
        model.update_teacher(0.998)

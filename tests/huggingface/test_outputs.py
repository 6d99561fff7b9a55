"""What the models return beside vectors and scores: hidden states, and a mask of tokens to go with them."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    Trainer,
    TrainingArguments,
)

from aape.models.saved import PRETRAINED, read_model
from notes import save_nano


@pytest.fixture
def clips(waves):
    return [waves[0], waves[1, :9000], waves[0, :300]]


def test_sizes_have_the_names_of_transformers(classifier, tmp_path):
    """Heads and adapters of other libraries ask for `config.hidden_size`; the file keeps one definition of it."""
    for folder, sizes in ((classifier, (64, 2, 4)), (PRETRAINED / "tiny", (192, 12, 3))):
        config = AutoConfig.from_pretrained(folder)
        config.save_pretrained(tmp_path)
        for each in (config, AutoConfig.from_pretrained(tmp_path)):
            assert (each.hidden_size, each.num_hidden_layers, each.num_attention_heads) == sizes
        assert "hidden_size" not in (tmp_path / "config.json").read_text()


@torch.no_grad()
def test_a_mean_over_valid_tokens_is_that_of_the_clip_alone(classifier, clips):
    """Also for a tool that does not look at the mask, as sentence-transformers' pooling of a model of sound."""
    extractor, model = AutoFeatureExtractor.from_pretrained(classifier), AutoModel.from_pretrained(classifier)
    outputs = model(**extractor(clips, sampling_rate=16000, return_tensors="pt"))
    mask = outputs.attention_mask
    assert mask.shape == outputs.last_hidden_state.shape[:2] == (3, 1 + 8 * 8)
    assert mask.sum(1).tolist() == [1 + 8 * 8, 1 + 8 * 4, 1 + 8 * 1]
    assert mask[:, 0].tolist() == [1, 1, 1]
    means = (outputs.last_hidden_state * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    for row, clip in enumerate(clips):
        alone = model(**extractor(clip, sampling_rate=16000, return_tensors="pt"))
        assert alone.attention_mask.all()
        for mean in (means[row], outputs.last_hidden_state[row].mean(0)):
            torch.testing.assert_close(mean, alone.last_hidden_state[0].mean(0), atol=1e-5, rtol=1e-5)
    assert model(**extractor(clips, sampling_rate=16000, return_tensors="pt"), return_dict=False)[2].equal(mask)


@torch.no_grad()
@pytest.mark.parametrize("auto", [AutoModel, AutoModelForAudioClassification])
def test_hidden_states_are_those_of_the_blocks(classifier, clips, auto):
    """One tensor per block and the embeddings: who counts layers as elsewhere must get the layer that was meant."""
    extractor, model = AutoFeatureExtractor.from_pretrained(classifier), auto.from_pretrained(classifier)
    batch = extractor(clips, sampling_rate=16000, return_tensors="pt")
    outputs = model(**batch, output_hidden_states=True)
    plain = model(**batch)
    assert plain.hidden_states is None
    torch.testing.assert_close(outputs[0], plain[0])
    assert len(outputs.hidden_states) == 1 + 2
    encoder, mask = read_model(classifier).encoder, outputs.attention_mask
    for row, clip in enumerate(clips):
        x = extractor(clip, sampling_rate=16000, return_tensors="pt")["input_values"].mT[:, None]
        states = [encoder._with_cls_token(encoder.stem(x))]
        states.append(encoder.blocks[0](states[-1]))
        states.append(encoder.norm(encoder.blocks[1](states[-1])))
        for given, expected in zip(outputs.hidden_states, states, strict=True):
            torch.testing.assert_close(given[row][mask[row] == 1], expected[0], atol=1e-5, rtol=1e-5)
            mean = expected[0].mean(0).expand(int((mask[row] == 0).sum()), -1)
            torch.testing.assert_close(given[row][mask[row] == 0], mean, atol=1e-5, rtol=1e-5)
    if auto is AutoModel:
        assert torch.equal(outputs.hidden_states[-1], outputs.last_hidden_state)
        torch.testing.assert_close(outputs.pooler_output, plain.pooler_output)


@torch.no_grad()
def test_vectors_of_other_layers_are_the_same_with_hidden_states(tmp_path, waves):
    """Asking for more must not change what is there."""
    model = AutoModel.from_pretrained(save_nano(tmp_path, pool="frequency_std", layers=[1, 2]))
    x = torch.randn(2, 48, 128, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x, output_hidden_states=True).pooler_output, model(x).pooler_output)


@pytest.mark.filterwarnings("ignore:.*deprecated and will be removed in v6:FutureWarning")  # as of 5.23
def test_gradients_of_hidden_states_under_checkpointing(classifier):
    """Learned weights over the layers, as in SUPERB, train the encoder too."""
    gradients = []
    for is_checkpointed in (False, True):
        model = AutoModel.from_pretrained(classifier).train()
        if is_checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        x = torch.randn(2, 48, 128, generator=torch.Generator().manual_seed(0))
        torch.stack(model(x, output_hidden_states=True).hidden_states).square().mean().backward()
        gradients.append(model.encoder.cls_token.grad)
    torch.testing.assert_close(*gradients)


def test_metrics_of_the_trainer_get_the_scores_alone(classifier, tmp_path):
    """`compute_metrics` takes the argmax of what it is given; hidden states beside it would end the evaluation."""
    rows = [{"input_values": x, "labels": row} for row, x in enumerate(torch.randn(2, 48, 128))]
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, disable_tqdm=True)
    for options in ({}, {"output_hidden_states": True}):
        model = AutoModelForAudioClassification.from_pretrained(classifier, **options)
        predictions = Trainer(model, arguments).predict(rows).predictions
        assert isinstance(predictions, np.ndarray)
        assert predictions.shape == (2, 3)

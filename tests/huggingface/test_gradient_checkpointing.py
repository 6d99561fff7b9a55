"""Gradient checkpointing as transformers switches it on: less memory, and the same gradients."""

import pytest
import torch
from transformers import AutoModel, AutoModelForAudioClassification, Trainer, TrainingArguments

from aape.layers.transformer import Block, DropPath

# transformers 5.23 has new names, which older versions lack.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated and will be removed in v6:FutureWarning")


def gradients(model, inputs, use_reentrant=None):
    """Return the gradients of a loss, with checkpointing where it is told how, and how often blocks were computed."""
    calls = []
    model.zero_grad()
    if use_reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        assert model.is_gradient_checkpointing
    hooks = [module.norm1.register_forward_hook(lambda *_: calls.append(1)) for module in model.encoder.blocks]
    torch.manual_seed(7)  # of drop path
    outputs = model(**inputs)
    (outputs["loss"] if "loss" in outputs else outputs["pooler_output"].square().mean()).backward()
    for hook in hooks:
        hook.remove()
    model.gradient_checkpointing_disable()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found, len(calls)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("kind", ["encoder", "classifier", "pretraining"])
@pytest.mark.parametrize("is_padded", [False, True])
def test_gradients_are_equal(classifier, build_pretraining, kind, use_reentrant, is_padded):
    """Memory that is paid for with other gradients, or other dropped branches, is too dear."""
    load = {"encoder": AutoModel.from_pretrained, "classifier": AutoModelForAudioClassification.from_pretrained}
    model = build_pretraining() if kind == "pretraining" else load[kind](classifier)
    model = model.double().train()
    for module in model.modules():
        if isinstance(module, DropPath):
            module.rate = 0.3
    inputs = {"input_values": torch.randn(4, 128, 128, dtype=torch.float64)}
    if is_padded:
        inputs["attention_mask"] = torch.ones(4, 128)
        inputs["attention_mask"][1:3, 50:] = 0
    if kind == "classifier":
        inputs["labels"] = torch.tensor([0, 2, 1, 1])
    if kind == "pretraining":
        inputs["visible"], inputs["queries"] = model.draw_views(4)
    expected, once = gradients(model, inputs)
    result, twice = gradients(model, inputs, use_reentrant)
    assert twice == 2 * once
    assert result.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(result[name], gradient, atol=1e-10, rtol=1e-10)
    assert gradients(model, inputs)[1] == once


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_blocks_learn_behind_a_frozen_stem(use_reentrant):
    """Reentrant checkpoints give no gradient where no input needs one: frozen layers would freeze the next."""
    block, x = Block(8, 2), torch.randn(2, 3, 8)
    block.gradient_checkpointing = True
    block._gradient_checkpointing_func = lambda function, *inputs: torch.utils.checkpoint.checkpoint(
        function, *inputs, use_reentrant=use_reentrant
    )
    block(x).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_the_trainer_checkpoints(classifier, tmp_path, use_reentrant):
    """`TrainingArguments(gradient_checkpointing=True)` trains as without."""
    values = torch.randn(2, 48, 128, generator=torch.Generator().manual_seed(0))
    rows = [{"input_values": x, "labels": row} for row, x in enumerate(values)]
    losses = []
    for options in ({}, {"gradient_checkpointing": True}):
        kwargs = {"gradient_checkpointing_kwargs": {"use_reentrant": use_reentrant}} if options else {}
        arguments = TrainingArguments(
            str(tmp_path), max_steps=3, report_to=[], logging_steps=1, use_cpu=True, save_strategy="no",
            disable_tqdm=True, learning_rate=1e-3, **options, **kwargs,
        )  # fmt: skip
        model = AutoModelForAudioClassification.from_pretrained(classifier)
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)

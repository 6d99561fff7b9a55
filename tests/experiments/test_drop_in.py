"""The stem trains inside Hugging Face's AST, by the code that docs/drop-in.md shows."""

import ast
import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments/drop_in"))
pytest.importorskip("transformers")

import drop_in  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:At least one mel filter"),  # of transformers, where torchaudio is missing
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning"),
]


def without_docstrings(text):
    """Return the definitions of some code."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    definitions = {node.name: node for node in ast.parse(text).body if isinstance(node, kinds)}
    for node in definitions.values():
        for part in ast.walk(node):
            if isinstance(part, kinds) and ast.get_docstring(part):
                del part.body[0]
    return {name: ast.unparse(node) for name, node in definitions.items()}


def test_the_page_shows_the_code_that_was_run():
    """What people paste is what the table was measured with."""
    page = re.search(r"```python\n(.*?)```", (ROOT / "docs/drop-in.md").read_text(encoding="utf-8"), re.DOTALL).group(1)
    script = without_docstrings(Path(drop_in.__file__).read_text(encoding="utf-8"))
    assert without_docstrings(page).items() <= script.items()
    assert len(page.splitlines()) <= 30


@pytest.mark.slow
def test_it_trains_beside_the_unchanged_model():
    """Same tokens as AST without overlap, the loss falls, and every weight of the stem takes part."""
    notes = drop_in.read_notes()
    shapes = {}
    for name in drop_in.MODELS:
        model, losses = drop_in.train(name, notes, steps=15, seed=0)
        assert sum(losses[-3:]) < 0.95 * sum(losses[:3]), name
        patches = model.base_model.embeddings.patch_embeddings
        shapes[name] = patches(notes.inputs[:2]).shape
        assert [key for key, p in patches.named_parameters() if p.requires_grad and not p.grad.any()] == [], name
    assert shapes.pop("AST, stride 10") == (2, 12 * 29, 192)
    assert set(shapes.values()) == {(2, 8 * 19, 192)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ast_goes_on_as_before(dtype):
    """Half precision and gradient checkpointing are options of AST, which a foreign part must not break."""
    model = drop_in.overlapping(9).to(dtype)
    with torch.no_grad():
        model.base_model.embeddings.position_embeddings.normal_()
    before = model.base_model.embeddings.position_embeddings.detach()[:, :2].clone()
    model = drop_in.replace_stem(model).train()
    model.gradient_checkpointing_enable()
    x = torch.randn(2, drop_in.LENGTH, 128, dtype=dtype)
    loss = model(input_values=x, labels=torch.tensor([0, 8])).loss
    loss.backward()
    table = model.base_model.embeddings.position_embeddings
    assert torch.equal(table[:, :2], before)
    assert not table[:, 2:].any()
    stem = model.base_model.embeddings.patch_embeddings.stem
    assert stem.lambda_encoder.head.weight.grad.isfinite().all()
    assert stem.lambda_encoder.head.weight.dtype == dtype

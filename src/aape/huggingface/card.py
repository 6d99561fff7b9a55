"""The model card that goes with a model on the Hugging Face Hub, written from what its `config.json` knows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_USE = """import aape

model = aape.load_model("FOLDER")  # this repository, downloaded
{call}
"""
_EMBED = 'vector = model.embed("sound.wav")'
_CLASSIFY = 'result = model.classify("sound.wav")  # labels, scores, and the same for each window of a long recording'
_HUB_USE = """import aape.huggingface  # registers the classes
from transformers import AutoFeatureExtractor, {auto}

extractor = AutoFeatureExtractor.from_pretrained("REPOSITORY")
model = {auto}.from_pretrained("REPOSITORY")
outputs = model(**extractor(samples, sampling_rate={rate}, return_tensors="pt"))
"""
_AUTO = {
    "AaPEForAudioClassification": "AutoModelForAudioClassification",
    "AaPEForPreTraining": "AutoModelForPreTraining",
}
_UNKNOWN = "Not stated."
_METHOD = [
    "K. Yamamoto and K. Okusa, *AaPE: Aliasing-aware Patch Embedding for Self-Supervised Audio Representation",
    "Learning*, [arXiv 2512.03637](https://arxiv.org/abs/2512.03637); an independent implementation.",
]
_MAX_LABELS = 50  # that are listed


def model_card(config: Any, num_parameters: int) -> str:
    """Write a model card, Markdown with the Hub's metadata in front; what an `AaPEConfig` does not know is not stated.

    It says what the model is, how to use it, data, licence, recipe, and scores with their protocol.
    """
    import yaml

    card: Mapping[str, Any] = config.card
    architecture = (config.architectures or [""])[0]
    is_classifier = architecture == "AaPEForAudioClassification" and config.problem_type != "regression"
    labels = [config.id2label[index] for index in sorted(config.id2label)] if is_classifier else []
    metadata = {
        "library_name": "aape",
        "pipeline_tag": "audio-classification" if is_classifier else "feature-extraction",
        "tags": ["audio", "aape", "aliasing-aware-patch-embedding", "self-supervised"],
        **({"license": card["license"]} if card.get("license") else {}),
    }
    encoder, front_end = config.encoder, config.front_end
    stem = "an aliasing-aware patch embedding (AaPE)" if encoder["stem"] == "aape" else "a standard patch embedding"
    classes = f" that tells {len(labels)} classes apart" if is_classifier else ""
    hub_use = _HUB_USE.format(auto=_AUTO.get(architecture, "AutoModel"), rate=front_end["sample_rate"])
    sections = {
        f"# An audio encoder of {num_parameters / 1e6:.1f} M parameters{classes}": [
            f"A Vision Transformer over log-mel spectrograms with {stem}: {encoder['embed_dim']} wide,"
            f" {encoder['depth']} blocks, {encoder['num_heads']} heads. Input: mono sound at"
            f" {front_end['sample_rate']} Hz, {front_end['n_mels']} mel bins."
        ],
        "## Use": [
            *_code("python", _USE.format(call=_CLASSIFY if is_classifier else _EMBED)),
            *("", "or, with transformers:", ""),
            *_code("python", hub_use),
        ],
    }
    if labels:
        kind = "several of them, or none, at a time" if config.problem_type == "multi_label_classification" else "one"
        more = f", and {len(labels) - _MAX_LABELS} more (config.json)" if len(labels) > _MAX_LABELS else ""
        sections["## Classes"] = [f"A sound has {kind}: {', '.join(map(str, labels[:_MAX_LABELS]))}{more}."]
    sections["## Data"] = [str(card.get("data") or _UNKNOWN)]
    sections["## Licence"] = [str(card.get("license") or _UNKNOWN)]
    recipe = json.dumps(config.training, indent=2, ensure_ascii=False)
    options = ["Every option of the training, and what it was given:", "", *_code("json", recipe)]
    sections["## Recipe"] = options if config.training else [_UNKNOWN]
    sections["## Scores"] = _scores(card.get("scores") or [])
    sections["## Method"] = _METHOD
    header = ["---", yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).rstrip(), "---", ""]
    return "\n".join(header + [line for title, text in sections.items() for line in (title, "", *text, "")])


def _scores(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    if not scores:
        return [_UNKNOWN]
    heads = ("data", "metric", "value", "protocol")
    rows = [[str(row.get(head, "")).replace("|", "\\|") for head in heads] for row in scores]
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def _code(language: str, text: str) -> list[str]:
    return [f"```{language}", *text.rstrip().splitlines(), "```"]

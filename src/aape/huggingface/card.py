"""The model card that goes with a model on the Hugging Face Hub, written from what its `config.json` knows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from aape.models.config_file import CONFIG_NAME, read_card
from aape.models.pooling import pooled_dim
from aape.models.revision import statement
from aape.models.saved import memory_mb

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


def model_card(config: Any, num_parameters: int, *, name: str, revision: str | None) -> str:
    """Write a model card, Markdown with the Hub's metadata in front; what an `AaPEConfig` does not know is not stated.

    It says what the model is, its revision and memory, how to use it, data, licence, recipe, and scores with their
    protocol, which are results of the metadata, too.

    Raises:
        CheckpointError: `config.card` has a key or value that is none, see `aape.models.saved.save_model`.
    """
    card = read_card(config.card, CONFIG_NAME)
    architecture = (config.architectures or [""])[0]
    is_classifier = architecture == "AaPEForAudioClassification" and config.problem_type != "regression"
    labels = [config.id2label[index] for index in sorted(config.id2label)] if is_classifier else []
    classes = f" that tells {len(labels)} classes apart" if is_classifier else ""
    hub_use = _HUB_USE.format(auto=_AUTO.get(architecture, "AutoModel"), rate=config.front_end["sample_rate"])
    sections = {
        f"# An audio encoder of {num_parameters / 1e6:.1f} M parameters{classes}": [
            _description(config, num_parameters),
            *(["", f"{statement(revision)}, of `cat config.json model*.safetensors | sha256sum`."] if revision else []),
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
    public = [f"Public data sets among it: {', '.join(card['datasets']) or 'none'}."] if "datasets" in card else []
    sections["## Data"] = ["\n\n".join(filter(None, [card.get("data"), *public])) or _UNKNOWN]
    sections["## Licence"] = [card.get("license") or _UNKNOWN]
    recipe = json.dumps(config.training, indent=2, ensure_ascii=False)
    whose = "training of the model that this one began as" if [*config.training] == ["pretraining"] else "training"
    options = [f"Every option of the {whose}, and what it was given:", "", *_code("json", recipe)]
    sections["## Recipe"] = options if config.training else [_UNKNOWN]
    sections["## Scores"] = _scores(card.get("scores") or [])
    sections["## Method"] = _METHOD
    metadata = _metadata(card, name, "audio-classification" if is_classifier else "feature-extraction")
    header = ["---", metadata, "---", ""]
    return "\n".join(header + [line for title, text in sections.items() for line in (title, "", *text, "")])


def _description(config: Any, num_parameters: int) -> str:
    """Say what the model is, takes and gives."""
    encoder, front_end = config.encoder, config.front_end
    stem = "an aliasing-aware patch embedding (AaPE)" if encoder["stem"] == "aape" else "a standard patch embedding"
    width = pooled_dim(config.pool, encoder["embed_dim"], encoder["n_mels"] // encoder["patch_size"])
    return (
        f"A Vision Transformer over log-mel spectrograms with {stem}: {encoder['embed_dim']} wide,"
        f" {encoder['depth']} blocks, {encoder['num_heads']} heads. Input: mono sound at"
        f" {front_end['sample_rate']} Hz, {front_end['n_mels']} mel bins. A vector has {width:,} numbers;"
        f" the weights take {memory_mb(num_parameters):.0f} MB of memory in float32."
    )


def _metadata(card: Mapping[str, Any], name: str, pipeline_tag: str) -> str:
    """Write what the Hub reads, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=pipeline_tag,
            dataset_type=_identifier(score["data"]),
            dataset_name=score["data"],
            metric_type=_identifier(score["metric"]),
            metric_name=score["metric"],
            metric_value=score["value"] if isinstance(score["value"], (int, str)) else float(score["value"]),
            metric_args={"protocol": score["protocol"]},
        )
        for score in card.get("scores", [])
    ]
    return ModelCardData(
        library_name="aape",
        pipeline_tag=pipeline_tag,
        tags=["audio", "aape", "aliasing-aware-patch-embedding", "self-supervised"],
        license=card.get("license") or None,
        datasets=list(card.get("datasets", [])) or None,
        model_name=name if results else None,
        eval_results=results or None,
    ).to_yaml()


def _identifier(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-") or text


def _scores(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    if not scores:
        return [_UNKNOWN]
    heads = ("data", "metric", "value", "protocol")
    rows = [[" ".join(str(row[head]).split()).replace("|", "\\|") for head in heads] for row in scores]
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def _code(language: str, text: str) -> list[str]:
    return [f"```{language}", *text.rstrip().splitlines(), "```"]

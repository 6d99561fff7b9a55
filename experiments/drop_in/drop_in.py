"""Does the stem train inside a model of somebody else? Hugging Face's AST on the package's own recordings of notes.

    python experiments/drop_in/drop_in.py        # prints the table of docs/drop-in.md

Four models of random weights, equal but for their patch embedding: AST as published, whose patches overlap; the same
with patches that do not; and with either stem of this package in their place. Each seed draws weights and batches anew.
Input and model are transformers' own.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification, PreTrainedModel

import aape
from aape.data.audio.decoding import read_audio
from aape.data.demo import AUDIO

LENGTH = 304  # frames of 10 ms
SIZES = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 768}


class Patches(nn.Module):
    """What AST calls for its patches, with a stem of aape in it."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, input_values: Tensor) -> Tensor:
        """Turn AST's input (B, T, F) into tokens (B, N, D)."""
        return self.stem(input_values.transpose(1, 2)[:, None])  # of (B, 1, F, T)


def replace_stem(model: PreTrainedModel, stem_class: type[nn.Module] = aape.AaPE) -> PreTrainedModel:
    """Put a stem in the place of AST's patch embedding."""
    config, embeddings = model.config, model.base_model.embeddings
    config.frequency_stride = config.time_stride = config.patch_size  # patches that do not overlap
    size, width = (config.num_mel_bins, config.max_length), config.hidden_size
    stem = stem_class(size, config.patch_size, embed_dim=width, device=model.device, dtype=model.dtype)
    class_tokens = embeddings.position_embeddings.detach()[:, :2]  # of the class and the distillation token
    patches = class_tokens.new_zeros(1, stem.num_patches, width)  # the stem adds positions itself
    embeddings.patch_embeddings = Patches(stem)
    embeddings.position_embeddings = nn.Parameter(torch.cat([class_tokens, patches], 1))
    return model


def overlapping(num_labels: int, stride: int = 10) -> PreTrainedModel:
    """Build AST; by default with the stride that it was published with."""
    strides = {"frequency_stride": stride, "time_stride": stride}
    return ASTForAudioClassification(ASTConfig(**SIZES, **strides, max_length=LENGTH, num_labels=num_labels))


MODELS: dict[str, Callable[[int], PreTrainedModel]] = {
    "AST, stride 10": overlapping,
    "AST, stride 16": lambda num_labels: overlapping(num_labels, 16),
    "with `aape.PatchEmbed`": lambda num_labels: replace_stem(overlapping(num_labels), aape.PatchEmbed),
    "with `aape.AaPE`": lambda num_labels: replace_stem(overlapping(num_labels)),
}


class Notes(NamedTuple):
    """The recordings of the training part."""

    inputs: Tensor  # (n, T, F)
    labels: Tensor  # (n,)


def read_notes() -> Notes:
    """Read the notes of nine families of instruments as AST reads sound."""
    with (AUDIO / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    names = sorted({row["label"] for row in rows})
    sounds = [read_audio(AUDIO / row["file"], sample_rate=16000) for row in rows]
    inputs = ASTFeatureExtractor(max_length=LENGTH)(sounds, sampling_rate=16000, return_tensors="pt").input_values
    return Notes(inputs, torch.tensor([names.index(row["label"]) for row in rows]))


def batches(notes: Notes, size: int, seed: int) -> Iterator[Notes]:
    """Draw batches without end, the same for every model."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for index in torch.randperm(len(notes.labels), generator=generator).split(size):
            yield Notes(notes.inputs[index], notes.labels[index])


def train(name: str, notes: Notes, *, steps: int, seed: int, batch: int = 18) -> tuple[PreTrainedModel, list[float]]:
    """Train a model; returns it, and the loss of each step."""
    torch.manual_seed(seed)
    model = MODELS[name](int(notes.labels.max()) + 1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05)
    losses = []
    for _, part in zip(range(steps), batches(notes, batch, seed), strict=False):
        optimizer.zero_grad()
        loss = model(input_values=part.inputs, labels=part.labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    notes = read_notes()
    print(f"| model | tokens | parameters | of these the stem | loss, steps 1 to 3 | last 3 of {options.steps} |")
    print("|---|---|---|---|---|---|")
    for name in MODELS:
        first, last = [], []
        for seed in range(options.seeds):
            model, losses = train(name, notes, steps=options.steps, seed=seed)
            first.append(sum(losses[:3]) / 3)
            last.append(sum(losses[-3:]) / 3)
        stem = model.base_model.embeddings.patch_embeddings
        with torch.no_grad():
            shape = tuple(stem(notes.inputs[:1]).shape[1:])
        total, of_stem = (sum(p.numel() for p in part.parameters()) for part in (model, stem))
        spans = (f"{sum(part) / len(part):.2f} ({min(part):.2f} to {max(part):.2f})" for part in (first, last))
        print(f"| {name} | {shape[0]} x {shape[1]} | {total:,} | {of_stem:,} |", " | ".join(spans), "|", flush=True)


if __name__ == "__main__":
    main()

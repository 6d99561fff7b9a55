"""The aliasing laboratory's experiments on the networks of trial 1: what their stems' tokens keep once trained.

    python experiments/stems/trained_aliasing.py [--runs runs/stems] [--task words] [--seeds 3]

Prints the rows of experiments/aliasing/README.md for every stem, before training and after; seed i of the experiment
meets the network of seed i. A network that has not ended is left out, and named.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from analyse import table
from safetensors.torch import load_file
from stems import STEMS
from supervised import build_classifier

from aape.analysis.aliasing import (
    MODEL_TOKENS,
    Answers,
    Distances,
    TokenMap,
    decode_rates,
    model_tokens,
    random_tones,
    shift_sounds,
    summarise_decoding,
    summarise_shifts,
)
from aape.models.encoder import AudioEncoder
from aape.runs.checkpoints import TENSORS_NAME, newest_intact

CLIPS, SOUNDS = 24, 12  # as of `aape plot aliasing`
KINDS = ("mean", "token", "spread")


def trained(run: Path, stem: str, seed: int) -> AudioEncoder | None:
    """Return the encoder of a run that has ended."""
    checkpoint = newest_intact(run)[0] if (run / "result.json").exists() else None
    if checkpoint is None:
        return None
    weights = load_file(checkpoint / TENSORS_NAME)
    head = weights["classifier.head.linear.weight"]
    classifier = build_classifier(stem, seed, len(head))
    prefix = "classifier."
    classifier.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return classifier.encoder.eval()


def token_maps(runs: Path, task: str, seed: int, mean: float, std: float) -> list[TokenMap]:
    """Return the networks of a seed, untrained and trained."""
    maps = []
    for stem in STEMS:
        untrained = build_classifier(stem, seed, 2).encoder.eval()
        maps.append(model_tokens(f"{stem}, untrained", untrained, mean, std))
        encoder = trained(runs / "supervised" / task / stem / str(seed), stem, seed)
        if encoder is None:
            print(f"not run: {task}, {stem}, seed {seed}", file=sys.stderr)
        else:
            maps.append(model_tokens(f"{stem}, {task}", encoder, mean, std))
    return maps


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/stems"))
    parser.add_argument("--data", type=Path, default=Path("data/stems"))
    parser.add_argument("--task", default="words")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    statistics = json.loads((options.data / options.task / "stats.json").read_text())
    decoded: list[tuple[object, Answers]] = []
    moved: list[Distances] = []
    for seed in range(options.seeds):
        maps = token_maps(options.runs, options.task, seed, statistics["mean"], statistics["std"])
        decoded.append(decode_rates(CLIPS, seed, maps))
        moved.append(shift_sounds(random_tones(SOUNDS, seed), seed, maps))
    shared = set.intersection(*({name for name, _ in answers} for _, answers in decoded))
    accuracies = {
        (row["tokens"], row["read_out"]): row for row in summarise_decoding(decoded) if row["tokens"] in shared
    }
    medians = {(row["tokens"], row["compared"]): row["median"] for row in summarise_shifts(moved)}
    rows = []
    for stem in STEMS:
        for state in ("untrained", options.task):
            for ending in MODEL_TOKENS:
                name = f"{stem}, {state}{ending}"
                if name not in shared:
                    continue
                cells = []
                for kind in KINDS:
                    row = accuracies.get((name, kind))
                    span = f" ({100 * row['lowest']:.0f}-{100 * row['highest']:.0f})" if row else ""
                    cells.append(f"{100 * row['accuracy']:.0f}{span}" if row else "-")
                for kind in ("mean", "token"):
                    distance = medians.get((name, kind))
                    cells.append("-" if distance is None else f"{100 * distance[8]:.2g}")
                rows.append([name, *cells])
    print(table(["tokens", *KINDS, "AM tones: mean", "AM tones: token"], rows))


if __name__ == "__main__":
    main()

"""Does the alarm sound when a run collapses, and only then?

    python tools/collapse.py --data FOLDER --seeds 10 --steps 500

Forced: momentum 0, no predictor and the same input everywhere, each alone and all together, 200 steps. Healthy: nano
with the momentum that suits so few steps, 0.9998, one run per seed. Prints how each run's variances began and ended.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aape.commands.pretrain import PretrainConfig, Pretraining
from aape.pretraining.config import MaskingConfig, OptimConfig

FORCED: dict[str, Any] = {"optim": OptimConfig(momentum_start=0.0, momentum_end=0.0)}
HEALTHY: dict[str, Any] = {"optim": OptimConfig(momentum_start=0.9998)}


class NoPredictor(nn.Module):
    """Predicts every hidden token as the mean of the visible ones."""

    def forward(self, tokens: Tensor, visible: Tensor, queries: Tensor) -> Tensor:
        """Return (B, Q, D)."""
        return tokens.mean(1, keepdim=True).expand(-1, queries.shape[1], -1)


def force(run: Pretraining, *, predictor: bool = True, constant: bool = True) -> None:
    """Remove the predictor, and show the method nothing but ones."""
    method = run.method
    if predictor:
        method.predictor = NoPredictor()
    if constant:
        forward = method.forward
        method.forward = lambda spectrogram, *rest: forward(torch.ones_like(spectrogram), *rest)


def train(data: str, out: Path, steps: int, seed: int, spoil: Any = None, **options: Any) -> dict[str, Any]:
    """Train nano, and return its alarms and how its variances went."""
    config = PretrainConfig(
        data=data, out=str(out), model="nano", steps=steps, seed=seed, workers=0, crop_seconds=2.0, device="cpu",
        clips=8, log_every=20, save_every=100_000, masking=MaskingConfig(num_views=4), **options,
    )  # fmt: skip
    run = Pretraining(config)
    if spoil is not None:
        spoil(run)
    run.train()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    names = [name for name in lines[0] if "variance" in name]
    ends = {
        name: [round(line[name], 5) for line in (lines[0], min(lines, key=lambda x: x[name]), lines[-1])]
        for name in names
    }
    return {"alarms": run.alarm.raised, "first, least, last": ends}


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    forced = {
        "momentum 0": ({}, FORCED),
        "no predictor": ({"constant": False}, {}),
        "constant input": ({"predictor": False}, {}),
        "all three": ({}, FORCED),
    }
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, (what, more)) in enumerate(forced.items()):
            spoil = None if name == "momentum 0" else lambda run, what=what: force(run, **what)
            print(name, train(options.data, Path(folder) / f"forced-{i}", 200, 0, spoil, **more), flush=True)
        false_alarms = 0
        for seed in range(options.seeds):
            result = train(options.data, Path(folder) / f"healthy-{seed}", options.steps, seed, **HEALTHY)
            false_alarms += bool(result["alarms"])
            print(f"healthy, seed {seed}", result, flush=True)
        print(f"false alarms: {false_alarms} of {options.seeds}")


if __name__ == "__main__":
    main()

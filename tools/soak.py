"""Thousands of steps in one process: does it lose memory, or files?

    python tools/soak.py --data FOLDER --steps 5000

Prints resident memory and open file descriptors on the way, and the slope of memory after step 1,000, in bytes a step.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from typing import Any

import numpy as np

from aape.commands.pretrain import PretrainConfig, Pretraining
from aape.pretraining.config import MaskingConfig


def soak(data: str, steps: int, out: str, **options: Any) -> dict[str, float]:
    """Train nano, and return the slope of its memory after a fifth of the steps, and the range of its open files."""
    config = PretrainConfig(
        data=data, out=out, model="nano", steps=steps, clips=4, workers=0, crop_seconds=1.0, device="cpu",
        log_every=10, save_every=max(1, steps // 10), masking=MaskingConfig(num_views=2), **options,
    )  # fmt: skip
    run = Pretraining(config)
    rows: list[tuple[int, int, int]] = []

    def measure(step: int) -> None:
        """Note (step, resident bytes, open files) as the system has them."""
        with open("/proc/self/statm", encoding="ascii") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        rows.append((step, resident, len(os.listdir("/proc/self/fd"))))
        if step % 500 == 0:
            print(f"step {step}: {resident / 1e6:.1f} MB, {rows[-1][2]} files", flush=True)

    run.loop.every = [(50, measure)]
    run.train()
    late = np.array([row for row in rows if row[0] > steps // 5], dtype=float)
    slope = np.polyfit(late[:, 0], late[:, 1], 1)[0]
    return {
        "steps": steps,
        "bytes_per_step": float(slope),
        "least_files": late[:, 2].min(),
        "most_files": late[:, 2].max(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=5000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(soak(arguments.data, arguments.steps, folder))

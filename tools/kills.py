"""Kill a real pre-training run, again and again, at random moments; resume it; compare it with an unbroken one.

    python tools/kills.py --kills 100 --seed 0

Half of the kills hit inside a save: the moment the folder that a checkpoint is written in is seen. Prints a line per
kill and, at the end, one that says how many runs ended bit-identical in student, teacher, optimiser and log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aape.data.demo import AUDIO
from aape.runs.checkpoints import STAGING_NAME, list_checkpoints, step_of

STEPS = 60


def command(data: Path, out: Path, *more: str) -> list[str]:
    """Return a run of nano that saves every second step and logs every third."""
    return [
        sys.executable, "-m", "aape", "pretrain", "--data", str(data), "--out", str(out), "--model", "nano",
        "--steps", str(STEPS), "--clips", "4", "--save-every", "2", "--log-every", "3", "--crop-seconds", "2",
        "--masking.num-views", "2", "--device", "cpu", "--stats", str(data / "stats.json"), *more,
    ]  # fmt: skip


def prepare(folder: Path) -> Path:
    """Make a corpus of real notes and its statistics."""
    data = folder / "sound"
    data.mkdir()
    for note in sorted(AUDIO.glob("*.opus"))[:12]:
        (data / note.name).symlink_to(note)
    stats = ["stats", "--data", str(data), "--out", str(data / "stats.json")]
    subprocess.run([sys.executable, "-m", "aape", *stats], check=True, capture_output=True)
    return data


def run_and_kill(data: Path, out: Path, workers: int, inside_save: bool, rng: random.Random) -> str | None:
    """Go on with a run and kill it after its first new checkpoint; return when, None if it ended before that."""
    start = max(map(step_of, list_checkpoints(out)), default=0)
    process = subprocess.Popen(
        command(data, out, "--resume", "--workers", str(workers)),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    target = start + 2 * rng.randint(1, 3)
    wait = rng.uniform(0, 0.05) if inside_save else rng.uniform(0, 0.3)
    moment: str | None = None
    checkpoints: list[Path] = []
    while process.poll() is None and moment is None:
        if inside_save:
            with contextlib.suppress(FileNotFoundError):  # the run clears the folder when it starts
                checkpoints = [path for path in (out / STAGING_NAME).glob("checkpoint-*") if step_of(path) > target]
        else:
            checkpoints = [path for path in list_checkpoints(out) if step_of(path) >= target]
        if checkpoints:
            time.sleep(wait if not inside_save else wait * rng.random())
            step = step_of(checkpoints[0 if inside_save else -1])
            moment = f"inside save of step {step}" if inside_save else f"after step {step}"
        else:
            time.sleep(0.0005)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise AssertionError(f"the run ended with {process.returncode}: {errors[-2000:]}")
    return moment if process.returncode else None


def difference(left: Path, right: Path) -> list[str]:
    """Name what differs between two finished runs: weights, optimiser, schedule, log."""
    names = ["state.safetensors", "state.json", "rank-0.safetensors"]
    last = f"checkpoint-{STEPS}"
    differing = [name for name in names if (left / last / name).read_bytes() != (right / last / name).read_bytes()]
    logs = [
        [{**json.loads(line), "clips_per_second": 0} for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (left, right)
    ]
    if logs[0] != logs[1]:
        differing.append("metrics.jsonl")
    if (left / "model/model.safetensors").read_bytes() != (right / "model/model.safetensors").read_bytes():
        differing.append("model/model.safetensors")
    return differing


def kill_many(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill runs until `kills` processes have died; finish and compare every run.

    Returns:
        How many kills there were, how many inside a save, how many runs were compared and how many were identical.
    """
    rng = random.Random(seed)
    data = prepare(folder)
    unbroken = folder / "unbroken"
    subprocess.run(command(data, unbroken, "--workers", "0"), check=True, capture_output=True)
    counts = {"kills": 0, "inside_save": 0, "runs": 0, "identical": 0}
    broken = folder / "broken"
    while counts["kills"] < kills:
        inside_save = counts["inside_save"] * 2 <= counts["kills"]
        workers = 2 * (counts["kills"] // 2 % 2)
        moment = run_and_kill(data, broken, workers, inside_save, rng)
        if moment is not None:
            counts["kills"] += 1
            counts["inside_save"] += inside_save
            print(f"kill {counts['kills']}: {moment}, {workers} workers", flush=True)
        if moment is None or counts["kills"] == kills:
            subprocess.run(command(data, broken, "--resume", "--workers", "2"), check=True, capture_output=True)
            differing = difference(unbroken, broken)
            counts["runs"] += 1
            counts["identical"] += not differing
            print(f"run {counts['runs']}: {differing or 'identical'}", flush=True)
            shutil.rmtree(broken)
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(kill_many(Path(folder), options.kills, options.seed))

"""A disk that is full in the middle of a save, and checkpoints whose bits have flipped: the last good one must load.

    python tools/damage.py --offsets 50 --damages 500 --seed 0

The full disk is real to the process: a library put in front of the C library's `write` (it needs a C compiler) lets so
many bytes through and then answers "No space left on device".
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("full_disk.c")

# Runs in a process that has the library in front of write: trains, then saves again and again on a fuller disk
SAVES = """
import ctypes, json, os, random, sys
from pathlib import Path
from aape.errors import CheckpointError
from aape.runs.checkpoints import newest_intact
from aape.commands.pretrain import PretrainConfig, Pretraining
from aape.pretraining.config import MaskingConfig
data, out, offsets, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
run = Pretraining(PretrainConfig(
    data=data, out=str(out), model="nano", steps=2, clips=4, save_every=2, workers=0, crop_seconds=2.0,
    masking=MaskingConfig(num_views=2), device="cpu", stats=f"{data}/stats.json"))
run.train()
disk = ctypes.CDLL(None)
size = sum(path.stat().st_size for path in (out / "checkpoint-2").iterdir())
rng = random.Random(seed)
good = 0
for offset in sorted(rng.randrange(size) for _ in range(offsets)):
    run.loop.step = 3 + offset
    disk.full_disk(ctypes.c_longlong(offset))
    try:
        run.loop.save()
        message = ""
    except CheckpointError as error:
        message = str(error)
    disk.full_disk(ctypes.c_longlong(-1))
    newest, damaged = newest_intact(out)
    is_good = newest == out / "checkpoint-2" and not damaged and "MB are free" in message
    good += is_good
    if not is_good:
        print(f"offset {offset}: {newest} {damaged} {message!r}", file=sys.stderr)
print(json.dumps({"offsets": offsets, "last_good_one_kept": good, "bytes": size, "message": message}))
"""


def fill_disk(folder: Path, data: Path, offsets: int, seed: int) -> dict[str, object]:
    """Save at a disk that is full after a random number of bytes, `offsets` times."""
    library = folder / "full_disk.so"
    compiler = os.environ.get("CC", "cc").split()
    subprocess.run([*compiler, "-shared", "-fPIC", "-O1", str(SOURCE), "-o", str(library), "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", SAVES, str(data), str(folder / "full"), str(offsets), str(seed)],
        env={**os.environ, "LD_PRELOAD": str(library)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(done.stderr[-3000:])
    return dict(json.loads(done.stdout.splitlines()[-1]), errors=done.stderr.count("offset "))


def damage(run: Path, damages: int, seed: int) -> dict[str, int]:
    """Flip a bit of, or cut, a random file of the newest checkpoint; ask which one a resumed run would take."""
    from aape.runs.checkpoints import list_checkpoints, newest_intact

    rng = random.Random(seed)
    before, newest = list_checkpoints(run)[-2:]
    counts = {"damages": damages, "flips": 0, "cuts": 0, "took_the_one_before": 0, "silent": 0}
    for _ in range(damages):
        path = rng.choice(sorted(path for path in newest.iterdir() if path.stat().st_size))
        content = path.read_bytes()
        if rng.random() < 0.5:
            counts["flips"] += 1
            changed = bytearray(content)
            changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
        else:
            counts["cuts"] += 1
            path.write_bytes(content[: rng.randrange(len(content))])
        loaded, passed_over = newest_intact(run)
        counts["took_the_one_before"] += loaded == before and newest.name in passed_over
        counts["silent"] += loaded == newest
        path.write_bytes(content)
    if newest_intact(run)[0] != newest:
        raise AssertionError("the mended checkpoint is not accepted")
    return counts


def make_run(folder: Path, data: Path) -> Path:
    """Train for three saves."""
    import kills

    run = folder / "run"
    subprocess.run([*kills.command(data, run), "--steps", "6"], check=True, capture_output=True)
    return run


if __name__ == "__main__":
    import kills

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offsets", type=int, default=50)
    parser.add_argument("--damages", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        sound = kills.prepare(folder)
        print(fill_disk(folder, sound, options.offsets, options.seed))
        print(damage(make_run(folder, sound), options.damages, options.seed))
    finally:
        shutil.rmtree(folder)

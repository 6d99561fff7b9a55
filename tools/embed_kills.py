"""Kill `aape embed` again and again, start it again, and compare what it wrote with an unbroken run.

    python tools/embed_kills.py --data CORPUS --files 2000 --kills 10 --model tiny
    python tools/embed_kills.py --data CORPUS --ranks 2

The files are cut from recordings in CORPUS, a tenth to half a second each; every fiftieth is no sound. A kill (SIGKILL)
comes up to 50 ms after another share of the work has been finished. With --ranks, torchrun starts so many processes,
one of which is killed; torchrun ends the others.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile

from aape.data.clips import load_clip
from aape.data.manifest import read_inputs

RATE = 16000
BAD_EVERY = 50


def write_files(folder: Path, data: Path, count: int, seed: int = 0) -> Path:
    """Cut short sounds of many lengths from real recordings, and put files among them that are none."""
    folder.mkdir()
    recordings, draw = read_inputs([data])[0], random.Random(seed)
    for index in range(count):
        path = folder / f"{index:04}.wav"
        wave = load_clip(draw.choice(recordings), sample_rate=RATE)
        length = min(len(wave), draw.randint(RATE // 10, RATE // 2))
        start = draw.randint(0, len(wave) - length)
        soundfile.write(path, wave[start : start + length], RATE)
        if index % BAD_EVERY == 7:
            path.write_bytes(b"RIFF")
    return folder


def command(folder: Path, model: Path | str, out: Path, batch: int) -> list[str]:
    """Return the arguments of `aape`."""
    arguments = ["embed", str(folder), "--model", str(model), "--out", str(out), "--batch", str(batch)]
    return [*arguments, "--device", "cpu"]


def kill_and_compare(
    folder: Path, work: Path, model: Path | str, *, batch: int, kills: int, seed: int = 1, ranks: int = 1
) -> tuple[list[int], bool]:
    """Embed with kills and without; return the chunks finished at each kill, and whether the bytes are the same."""
    broken, whole = work / "broken.npz", work / "whole.npz"
    partial = broken.with_name(f"{broken.name}.partial")
    arguments, draw = command(folder, model, broken, batch), random.Random(seed)
    num_chunks = -(-len(list(folder.iterdir())) // (4 * batch))
    done = []
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"] if ranks > 1 else []
    program = [sys.executable, "-m", *launch, "aape", *arguments]
    for kill in range(kills):
        process = psutil.Popen(program, stderr=subprocess.DEVNULL)
        until = (kill + 1) * num_chunks // (kills + 2)
        while process.poll() is None and (not partial.is_dir() or len(list(partial.glob("*.chunk"))) < until):
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.05))
        (draw.choice(process.children()) if ranks > 1 else process).kill()
        assert process.wait() == (1 if ranks > 1 else -signal.SIGKILL), "it was finished before it could be killed"
        assert not broken.exists()
        done.append(len(list(partial.glob("*.chunk"))))
    subprocess.run(program, check=True, capture_output=True)
    assert not partial.exists()
    program = [sys.executable, "-m", "aape", *command(folder, model, whole, batch)]
    subprocess.run(program, check=True, capture_output=True)
    with np.load(whole, allow_pickle=False) as arrays:
        files = len(list(folder.iterdir()))
        assert len(arrays["embedding"]) == files - len(range(7, files, BAD_EVERY))
    return done, broken.read_bytes() == whole.read_bytes()


def main() -> None:
    """Run it and print what came out; exit 1 if the bytes differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of recordings")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--ranks", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = write_files(work / "in", options.data, options.files)
        done, is_equal = kill_and_compare(
            folder, work, options.model, batch=options.batch, kills=options.kills, ranks=options.ranks
        )
        size = (work / "whole.npz").stat().st_size
    chunks = -(-options.files // (4 * options.batch))
    print(f"{options.files} files, {len(done)} kills, with {done} of {chunks} chunks finished: {size} bytes", end=", ")
    print("the same as without a kill" if is_equal else "OTHERS than without a kill")
    sys.exit(not is_equal)


if __name__ == "__main__":
    main()

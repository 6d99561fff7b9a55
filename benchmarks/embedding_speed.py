"""What embedding many files, and many windows, costs beside its parts; and bfloat16 and torch.compile beside float32.

    python benchmarks/embedding_speed.py FOLDER [--turns 7] [--files 200] [--minutes 60]

FOLDER holds short sound files, of which the first ones are taken. Writes results/embedding_cpu.json. Where there is a
CUDA device, it measures clips a second from decoded sound instead, and writes results/embedding_gpu.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aape.data.clips import Clip, load_clip
from aape.data.manifest import read_inputs
from aape.inference import AudioModel, load_model
from aape.inference.encoding import CPU_BATCH_FRAMES, spectrograms
from aape.inference.pipeline import _batches
from aape.inference.reading import read_clips
from aape.inference.segments import Segment
from aape.models.pooling import POOLS, pool
from inference_speed import DEVICE, RATE, build, noise, write_file
from measuring import TURNS, time_in_turns, write
from stem_speed import BFLOAT16_PEAK, operations

WINDOW, HOP = 2.0, 1.0  # seconds
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def alone(form: Callable[[], Any]) -> Callable[[], Any]:
    """Return a form that runs in one thread."""

    def run() -> Any:
        with one_thread(), torch.inference_mode():
            return form()

    return run


def files_beside_parts(clips: list[Clip], turns: int) -> dict[str, Any]:
    """Time the vectors of files, and decoding, log-mel and forward pass each alone in one thread."""
    model = load_model("tiny", "cpu")
    cut = model._cut()
    segments = [item for item in read_clips(clips, cut, model._loop_samples) if isinstance(item, Segment)]

    groups = _batches(segments, lambda num_frames: CPU_BATCH_FRAMES // num_frames)
    batches = [[segment for _, segment in group] for group in groups if isinstance(group, list)]

    def log_mels() -> list[torch.Tensor]:
        return [spectrograms(batch, model.log_mel, model.device, torch.float32) for batch in batches]

    xs = log_mels()
    forms = {
        "files": lambda: model.embed_clips(clips),
        "decoding": alone(lambda: list(read_clips(clips, cut, model._loop_samples))),
        "log_mel": alone(log_mels),
        "forward": alone(lambda: [pool(model._tokens(x), model.pool, model._num_freq) for x in xs]),
    }
    seconds = time_in_turns(forms, turns)
    bound = (seconds["decoding"] + seconds["log_mel"] + seconds["forward"]) / CORES
    return {"clips": len(clips), "cores": CORES, "seconds": seconds, "files_over_bound": seconds["files"] / bound}


def bfloat16_beside_float32(clips: list[Clip], turns: int) -> dict[str, Any]:
    """Time both precisions at base, and compiled blocks in float32; compare the vectors of every pool."""
    sounds = [np.resize(load_clip(clip), 6 * RATE) for clip in clips[:16]]
    models = {precision: build("base", precision=precision) for precision in ("float32", "bfloat16")}
    models["compiled"] = build("base").compile()
    seconds = time_in_turns(
        {name: lambda model=model: model.embed(sounds, RATE) for name, model in models.items()}, turns
    )
    cosines = {}
    for kind in POOLS:
        pair = (models[name].embed(sounds, RATE, pool=kind) for name in ("float32", "bfloat16"))
        one, other = (vectors.astype(np.float64) for vectors in pair)
        products = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
        cosines[kind] = float(products.min())
    times = {name: seconds["float32"] / seconds[name] for name in ("bfloat16", "compiled")}
    return {"seconds": seconds, "times_as_fast": times, "smallest_cosine": cosines}


def windows_beside_plain(folder: Path, minutes: int, turns: int) -> dict[str, Any]:
    """Time a window of 2 s every second, and every 2 s, beside the segments of a plain vector."""
    model = load_model("tiny", "cpu")
    clip = Clip(write_file(folder / "long.wav", minutes), "long")
    forms = {"plain": {}, "hop 2 s": {"window": WINDOW}, "hop 1 s": {"window": WINDOW, "hop": HOP}}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(turns):
        for name, options in forms.items():
            start = time.perf_counter()
            for _ in model.embed_chunks([[clip]], **options):
                pass
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    over = {name: medians["hop 1 s"] / (WINDOW / HOP * medians[name]) for name in ("plain", "hop 2 s")}
    return {"minutes": minutes, "seconds": medians, "hop_1_over_twice": over}


def from_decoded_sound(turns: int, size: str = "base", num_clips: int = 4096, batch: int = 64) -> dict[str, Any]:
    """Time clips of 6 s that lie in memory, through a model in its device's precision; and the share of its peak."""
    model, compiled = build(size), build(size).compile()
    clip = noise(6)

    def embed(model: AudioModel) -> None:
        sounds = ([clip] for _ in range(num_clips))
        for _ in model._vectors(
            model._stream(sounds, model._cut()), model._cut(), batch_size=batch, is_repeatable=True
        ):
            pass

    forms = {"plain": lambda: embed(model), "compiled": lambda: embed(compiled)}
    seconds = time_in_turns(forms, turns)
    x = torch.zeros(1, 1, model.log_mel.n_mels, 608, device=model.device)
    operations_per_clip = operations(lambda: model._tokens(x))
    rate, name = num_clips / seconds["plain"], torch.cuda.get_device_name() if DEVICE == "cuda" else ""
    peak = next((peak for key, peak in BFLOAT16_PEAK.items() if key in name), None)
    share = peak and rate * operations_per_clip / peak
    return {"clips": num_clips, "batch": batch, "precision": model.precision, "clips_per_second": rate,
            "compiled_times_as_fast": seconds["plain"] / seconds["compiled"],
            "operations_per_clip": operations_per_clip, "share_of_peak": share}  # fmt: skip


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder of short sound files; unused on a GPU")
    parser.add_argument("--turns", type=int, default=TURNS, help="turns per measurement; the median is reported")
    parser.add_argument("--files", type=int, default=200, help="files that are embedded")
    parser.add_argument("--minutes", type=int, default=60, help="length of the recording that is cut into windows")
    parser.add_argument("--rehearse", action="store_true", help="what a GPU measures, at the smallest sizes")
    parser.add_argument("--dry", action="store_true", help="print the results and write nothing")
    options = parser.parse_args()
    results: dict[str, Any] = {"turns": options.turns}
    if DEVICE == "cuda" or options.rehearse:
        results |= from_decoded_sound(options.turns, *(("nano", 4, 2) if options.rehearse else ()))
        print(results)
        if not options.dry:
            write(f"embedding_{'gpu' if DEVICE == 'cuda' else 'cpu'}", results)
        return
    clips = read_inputs(options.folder)[0][: options.files]
    results["files_beside_parts"] = files_beside_parts(clips, options.turns)
    print(results["files_beside_parts"], flush=True)
    results["bfloat16"] = bfloat16_beside_float32(clips, options.turns)
    print(results["bfloat16"], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        results["windows"] = windows_beside_plain(Path(folder), options.minutes, options.turns)
    print(results["windows"], flush=True)
    if not options.dry:
        write("embedding_cpu", results)


if __name__ == "__main__":
    main()

"""What pre-training costs: operations per clip, and where the time of a step goes: decoding, loading, computing.

    python benchmarks/pretraining_speed.py --data CORPUS [--model tiny] [--clips 16] [--views 4] [--turns 7]

Operations come from the configuration alone, counted on tensors without content, for the model measured and for the
paper's (ViT-B, 6 s, 16 views). Times are medians over turns in one process; nothing else should run. Writes
results/pretraining_cpu.json, or results/pretraining_gpu.json where there is a CUDA device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from aape.commands.pretrain import PretrainConfig, Pretraining
from aape.data.clips import clip_seconds, load_clip
from aape.data.manifest import read_manifest
from aape.models.config import FrontEndConfig, PredictorConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.pretraining.config import LossConfig, MaskingConfig
from aape.pretraining.draws import ClipDraws, StepBatches, collate
from aape.pretraining.teacher_student import TeacherStudent
from measuring import TURNS, where_time_goes, write
from stem_speed import BFLOAT16_PEAK, DEVICE, FORMULAS, attention_operations, sblu_operations

PAPER_CLIPS = 600_000 * 32


def backward_operations(grad: Any, u: Any, decay: Any, *rest: Any, **options: Any) -> int:
    """Count SBLU's backward: the poles and their derivatives again, and two poles for u's gradient."""
    return 3 * sblu_operations(u, decay, *rest, **options)


def attention_backward_operations(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Count five products where the forward has two: the weights again, and four gradients."""
    return 5 * attention_operations(query, key, value) // 2


def operations_per_clip(size: str, seconds: float, views: int, batch: int = 2) -> float:
    """Count a step's floating-point operations per clip, forward and backward, from shapes alone."""
    num_time = -(-(1 + round(seconds * 100)) // 16)
    grid, masking = (8, num_time), MaskingConfig(num_views=views)
    num_visible = int((1 - masking.mask_ratio) * 8 * num_time + 1e-9)
    num_queries = round(masking.query_ratio * (8 * num_time - num_visible))
    formulas = {
        **FORMULAS,
        torch.ops.aape.sblu_backward: backward_operations,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_operations,
    }
    encoder = AudioEncoder(encoder_config(size, num_frames=16 * num_time))
    method = TeacherStudent(encoder, grid, PredictorConfig(), LossConfig())
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        spectrogram = torch.empty(batch, 1, 128, 16 * num_time)
        visible = torch.zeros(batch, views, num_visible, dtype=torch.long)
        queries = torch.zeros(batch, views, num_queries, dtype=torch.long)
        method(spectrogram, visible, queries)["loss"].backward()
    return counter.get_total_flops() / batch


def median_of(work: Callable[[], int], turns: int) -> float:
    """Return the median of clips per second over turns of `work`, which returns how many clips it did."""
    rates = []
    for _ in range(turns + 1):
        start = time.perf_counter()
        done = work()
        rates.append(done / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def first_batches(clips: list[Any], num_clips: int, turns: int) -> dict[str, float]:
    """Time the first batch of a run resumed at 1 % and at 90 % of an epoch of 2 million clips, workers included."""
    many = clips * (2_000_000 // len(clips))
    draws = ClipDraws(
        many, num_draws=len(many), seed=0, crop_samples=48000, sample_rate=16000, grid=(8, 19), masking=MaskingConfig()
    )
    times: dict[str, list[float]] = {"0.01": [], "0.9": []}
    for _ in range(turns):
        for share, seconds in times.items():
            draws._order = (-1, torch.empty(0))  # as in a new process
            first = int(float(share) * len(many)) // num_clips
            batches = StepBatches(num_draws=len(many), clips=num_clips, first_step=first)
            start = time.perf_counter()
            next(iter(DataLoader(draws, batch_sampler=batches, num_workers=2, collate_fn=collate)))
            seconds.append(time.perf_counter() - start)
    return {share: statistics.median(seconds) for share, seconds in times.items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a crop")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--batches", type=int, default=6, help="of the loader, in each turn")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--name", default="pretraining", help="of the file of results")
    options = parser.parse_args()
    seconds, clips = options.seconds, read_manifest(options.data)

    results: dict[str, Any] = {
        "model": options.model, "clips": options.clips, "views": options.views, "seconds": seconds,
        "turns": options.turns, "operations_per_clip": operations_per_clip(options.model, seconds, options.views),
        "paper_operations_per_clip": operations_per_clip("base", 6.0, 16),
    }  # fmt: skip
    print({key: f"{value / 1e9:.1f} GF" for key, value in results.items() if "operations" in key}, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        stats = Path(folder, "stats.json")  # as good as measured ones, which take minutes
        stats.write_text(
            json.dumps({"front_end": asdict(FrontEndConfig()), "mean": -6.0, "std": 4.0}), encoding="utf-8"
        )
        config = PretrainConfig(
            data=options.data, out=str(Path(folder, "run")), stats=str(stats),
            model=options.model, steps=1000, clips=options.clips, workers=0,
            crop_seconds=seconds, masking=MaskingConfig(num_views=options.views), log_every=10_000,
            save_every=10_000,
        )  # fmt: skip
        run = Pretraining(config)
        draws, size = run.draws, options.clips * options.batches
        order = draws.epoch_order(0).tolist()

        crops = [
            (clips[i], max(0.0, clip_seconds(clips[i]) - seconds) * share)
            for i, share in zip(order[:size], torch.rand(size).tolist(), strict=True)
        ]

        def decode() -> int:
            for clip, start in crops:
                load_clip(clip, start=start, duration=seconds)
            return size

        def load(workers: int) -> float:
            batches = StepBatches(num_draws=len(draws), clips=options.clips)
            loader = iter(DataLoader(draws, batch_sampler=batches, num_workers=workers, collate_fn=collate))
            next(loader)  # the workers are up

            def some() -> int:
                for _ in range(options.batches):
                    next(loader)
                return size

            return median_of(some, 3 if workers else 2)

        name = f"{options.name}_{'gpu' if DEVICE == 'cuda' else 'cpu'}"
        results |= _steps(run, options.turns)
        write(name, results)
        results["decode_clips_per_second"] = median_of(decode, options.turns)
        results["loader_clips_per_second"] = {str(workers): load(workers) for workers in options.workers}
        results["first_batch_seconds"] = first_batches(clips, options.clips, options.turns)
        print({key: value for key, value in results.items() if "second" in key}, flush=True)
    if DEVICE == "cuda":
        peak = next((peak for name, peak in BFLOAT16_PEAK.items() if name in torch.cuda.get_device_name()), None)
        rate = results["step_clips_per_second"]
        results["share_of_peak"] = peak and rate * results["operations_per_clip"] / peak
        results["hours_for_the_papers_schedule"] = PAPER_CLIPS / rate / 3600 if options.model == "base" else None
    write(name, results)


def _steps(run: Pretraining, turns: int) -> dict[str, Any]:
    """Time the bare step, and the loop's with guards and logs, turn by turn."""
    loop, batch = run.loop, next(next(run.batches()))
    parameters = [parameter for parameter in run.method.parameters() if parameter.requires_grad]
    optimizer: Any = loop.optimizer
    loop.progress = loop.on_log = lambda *_: None

    def bare() -> None:
        with loop.autocast():
            loss = run.forward(0, batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 4.0)
        optimizer.found_inf = None
        optimizer.step()
        optimizer.zero_grad()
        run.method.update_teacher(0.999)

    def guarded() -> None:
        loop.train([[batch]])  # one step

    times: dict[str, list[float]] = {"bare": [], "guarded": []}
    for _ in range(turns + 1):
        for name, form in (("bare", bare), ("guarded", guarded)):
            form()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            form()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    return {
        "bare_step_seconds": medians["bare"],
        "guarded_step_seconds": medians["guarded"],
        "guards_over_bare": medians["guarded"] / medians["bare"],
        "step_clips_per_second": len(batch["clip"]) / medians["guarded"],
        "where": where_time_goes(bare),
    }


if __name__ == "__main__":
    main()

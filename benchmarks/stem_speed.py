"""What the stem costs: whole encoders, a pre-training step and the fold; AaPE beside the standard stem, in one run.

    python benchmarks/stem_speed.py [--turns 7] [--clips 2] [--views 16]

Writes results/stem_cpu.json, or results/stem_gpu.json where there is a CUDA device: there with the paper's model too,
32 and 64 clips of 16 views in bfloat16, where its time goes, and a step of fine-tuning. --compiled measures the paper's
step through torch.compile instead, into stem_compiled_*.json. --rehearse does the GPU's part at the smallest sizes.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from aape.downstream.finetuning import Classifier
from aape.layers.aape import AaPE
from aape.models.config import PredictorConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.ops import mix_norm_decimate, use_reference
from aape.pretraining.config import LossConfig, MaskingConfig
from aape.pretraining.masking import inverse_block_mask
from aape.pretraining.teacher_student import TeacherStudent
from measuring import TURNS, peak_gigabytes, time_in_turns, where_time_goes, write

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEMS = ("patch", "aape")
BFLOAT16_PEAK = {"NVIDIA H100": 989e12, "NVIDIA H200": 989e12}  # dense bfloat16, as NVIDIA states it


def sblu_operations(
    u: Any, decay: Any, frequency: Any, patch_index: Any, patch: int, kernel: int, *_: Any, **__: Any
) -> int:
    """Count SBLU's floating-point operations: two complex poles over P + R frames, and what leaves their windows."""
    return decay[0] * decay[1] * 2 * (8 * (patch + kernel // 2) + 4 * (patch - 1) + 2 * patch)


def attention_operations(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Count the CPU's attention, which the counter leaves out: query by key, and weights by value."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


FORMULAS = {
    torch.ops.aape.sblu: sblu_operations,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_operations,
}


def operations(form: Any) -> int:
    """Count the floating-point operations of a forward pass: matrix products, convolutions, attention and SBLU."""
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        form()
    return counter.get_total_flops()


def encoders(size: str, clips: int, turns: int) -> dict[str, Any]:
    """Time one forward pass over six-second clips with either stem."""
    spectrogram = torch.randn(clips, 1, 128, 608, device=DEVICE)
    forms = {}
    with torch.no_grad():
        for stem in STEMS:
            torch.manual_seed(0)
            encoder = AudioEncoder(encoder_config(size, stem=stem)).to(DEVICE).eval()
            forms[stem] = lambda encoder=encoder: encoder(spectrogram)
        flops = {stem: operations(form) for stem, form in forms.items()}
        return {"size": size, "clips": clips, "operations": flops, "seconds": time_in_turns(forms, turns)}


def steps(size: str, clips: int, views: int, turns: int, *, is_compiled: bool = False) -> dict[str, Any]:
    """Time one pre-training step, teacher, student, predictor, losses and backward, with either stem."""
    spectrogram = torch.randn(clips, 1, 128, 608, device=DEVICE)
    generator = torch.Generator().manual_seed(0)
    sizes = MaskingConfig().block_sizes
    masks = [inverse_block_mask((8, 38), 60, block_sizes=sizes, generator=generator) for _ in range(clips * views)]
    visible = torch.stack(masks).view(clips, views, 60)
    hidden = torch.ones(clips, views, 304).scatter(-1, visible, 0).nonzero()[:, 2].view(clips, views, -1)
    visible, queries = visible.to(DEVICE), hidden[..., :183].to(DEVICE)
    forms, flops = {}, {}
    for stem in STEMS:
        torch.manual_seed(0)
        encoder = AudioEncoder(encoder_config(size, stem=stem))
        method = TeacherStudent(encoder, (8, 38), PredictorConfig(), LossConfig()).to(DEVICE)

        def step(method: TeacherStudent = method) -> None:
            method.zero_grad()
            with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
                loss = method(spectrogram, visible, queries)["loss"]
            loss.backward()

        forms[stem], flops[stem] = step, operations(step)
        if is_compiled:
            method.compile(fullgraph=True, dynamic=False)
    row = {"size": size, "clips": clips, "views": views, "operations": flops, "seconds": time_in_turns(forms, turns)}
    return row | on_gpu(forms, row, clips)


def on_gpu(forms: dict[str, Any], row: dict[str, Any], clips: int) -> dict[str, Any]:
    """Return clips a second, share of peak, memory, and where the time goes."""
    seconds, name = row["seconds"], torch.cuda.get_device_name() if DEVICE == "cuda" else ""
    peak = next((peak for key, peak in BFLOAT16_PEAK.items() if key in name), None)
    return {
        "aape_over_patch": seconds["aape"] / seconds["patch"],
        "clips_per_second": {stem: clips / seconds[stem] for stem in STEMS},
        "share_of_peak": peak and {stem: row["operations"][stem] / seconds[stem] / peak for stem in STEMS},
        "peak_gigabytes": {stem: peak_gigabytes(form) for stem, form in forms.items()},  # with both models in memory
        "where": {stem: where_time_goes(form) for stem, form in forms.items()},
    }


def finetuning(size: str, clips: int, turns: int) -> dict[str, Any]:
    """Time one step of fine-tuning on clips of ten seconds, forward and backward, with either stem."""
    spectrogram = torch.randn(clips, 1, 128, 1008, device=DEVICE)
    target, uniforms = torch.rand(clips, 50, device=DEVICE), torch.rand(clips, 24, device=DEVICE)
    forms, flops = {}, {}
    for stem in STEMS:
        torch.manual_seed(0)
        model = Classifier(AudioEncoder(encoder_config(size, stem=stem)), 50, drop_path=0.1).to(DEVICE)

        def step(model: Classifier = model) -> None:
            model.zero_grad()
            with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
                logits = model(spectrogram, uniforms)
            torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), target).backward()

        forms[stem], flops[stem] = step, operations(step)
    row = {"size": size, "clips": clips, "operations": flops, "seconds": time_in_turns(forms, turns)}
    return row | on_gpu(forms, row, clips)


def fold(clips: int, turns: int) -> dict[str, Any]:
    """Time what stands behind SBLU in the ViT-B stem, folded and by its definition; forward, and with backward."""
    torch.manual_seed(0)
    stem, m = AaPE().to(DEVICE), torch.rand(clips, 304, 16, 16, device=DEVICE, requires_grad=True)
    frequency_patch = torch.arange(8, device=DEVICE).repeat_interleave(38).expand(clips, -1)
    weights = stem.mix.weight, stem.norm.weight, stem.norm.bias, stem.decimate.weight

    def folded() -> Tensor:
        return mix_norm_decimate(m, frequency_patch, *weights, num_freq=8, in_order=True)

    def plain() -> Tensor:
        with use_reference():
            return folded()

    def alone(form: Any) -> Any:
        with torch.no_grad():
            return form()

    forms = {"folded": folded, "plain": plain}
    difference = (alone(folded) - alone(plain)).abs().max().item()
    forward = time_in_turns({name: lambda form=form: alone(form) for name, form in forms.items()}, turns)
    both = time_in_turns({name: lambda form=form: form().sum().backward() for name, form in forms.items()}, turns)
    return {"clips": clips, "largest_difference": difference, "forward": forward, "forward_and_backward": both}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=TURNS, help="turns per measurement; the median is reported")
    parser.add_argument("--clips", type=int, default=2, help="clips of a pre-training step")
    parser.add_argument("--views", type=int, default=16, help="views of each")
    parser.add_argument("--compiled", action="store_true", help="the step of pre-training through torch.compile")
    parser.add_argument("--rehearse", action="store_true", help="what a GPU measures, at the smallest sizes")
    options = parser.parse_args()
    is_rehearsed, turns = options.rehearse, 1 if options.rehearse else options.turns
    results: dict[str, Any] = {"turns": turns}
    device = "gpu" if DEVICE == "cuda" else "cpu"
    large = [("nano", 1, 2)] if is_rehearsed else [("base", 32, 16), ("base", 64, 16)] if DEVICE == "cuda" else []
    if options.compiled:
        results["steps"] = [steps(*which, turns, is_compiled=True) for which in large[:1]]
        write(f"stem_compiled_{device}", results)
        return
    results["steps"] = []
    for which in large:
        results["steps"].append(steps(*which, turns))
        write(f"stem_{device}", results)
    if large:
        results["finetuning"] = [finetuning(large[0][0], 1 if is_rehearsed else 48, turns)]
        write(f"stem_{device}", results)
    small = ("nano", 1, 2) if is_rehearsed else ("tiny", options.clips, options.views)
    results["steps"].insert(0, steps(*small, turns))
    write(f"stem_{device}", results)
    whole = [("nano", 1)] if is_rehearsed else [("tiny", 4), ("base", 1)]
    results["encoders"] = [encoders(*which, turns) for which in whole]
    write(f"stem_{device}", results)
    results["fold"] = [fold(clips, turns) for clips in ((1,) if is_rehearsed else (1, 8))]
    write(f"stem_{device}", results)


if __name__ == "__main__":
    main()

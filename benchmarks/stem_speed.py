"""What the stem costs: whole encoders, a pre-training step and the fold; AaPE beside the standard stem, in one run.

    python benchmarks/stem_speed.py [--turns 7] [--clips 2] [--views 16]

Writes results/stem_cpu.json, or results/stem_gpu.json where there is a CUDA device (there with the paper's model too,
32 clips of 16 views, in bfloat16).
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from aape.layers.aape import AaPE
from aape.models.config import PredictorConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.ops import mix_norm_decimate, use_reference
from aape.pretraining.config import LossConfig, MaskingConfig
from aape.pretraining.masking import inverse_block_mask
from aape.pretraining.teacher_student import TeacherStudent
from measuring import TURNS, time_in_turns, write

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


def steps(size: str, clips: int, views: int, turns: int) -> dict[str, Any]:
    """Time one pre-training step, teacher, student, predictor, losses and backward, with either stem."""
    spectrogram = torch.randn(clips, 1, 128, 608, device=DEVICE)
    generator = torch.Generator().manual_seed(0)
    sizes = MaskingConfig().block_sizes
    masks = [inverse_block_mask((8, 38), 60, block_sizes=sizes, generator=generator) for _ in range(clips * views)]
    visible = torch.stack(masks).view(clips, views, 60)
    hidden = torch.ones(clips, views, 304).scatter(-1, visible, 0).nonzero()[:, 2].view(clips, views, -1)
    visible, queries = visible.to(DEVICE), hidden[..., :183].to(DEVICE)
    forms = {}
    for stem in STEMS:
        torch.manual_seed(0)
        encoder = AudioEncoder(encoder_config(size, stem=stem))
        method = TeacherStudent(encoder, (8, 38), PredictorConfig(), LossConfig()).to(DEVICE)

        def step(method: TeacherStudent = method) -> None:
            method.zero_grad()
            with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
                loss = method(spectrogram, visible, queries)["loss"]
            loss.backward()

        forms[stem] = step
    flops = {stem: operations(form) for stem, form in forms.items()}
    row = {"size": size, "clips": clips, "views": views, "operations": flops, "seconds": time_in_turns(forms, turns)}
    if DEVICE == "cuda":
        peak = next((peak for name, peak in BFLOAT16_PEAK.items() if name in torch.cuda.get_device_name()), None)
        row["clips_per_second"] = {stem: clips / row["seconds"][stem] for stem in STEMS}
        row["share_of_peak"] = peak and {stem: flops[stem] / row["seconds"][stem] / peak for stem in STEMS}
        row["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
    return row


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
    options = parser.parse_args()
    results: dict[str, Any] = {"turns": options.turns, "fold": [fold(clips, options.turns) for clips in (1, 8)]}
    print("fold done", flush=True)
    results["encoders"] = [encoders(*which, options.turns) for which in (("tiny", 4), ("base", 1))]
    print("encoders done", flush=True)
    results["steps"] = [steps("tiny", options.clips, options.views, options.turns)]
    if DEVICE == "cuda":
        results["steps"].append(steps("base", 32, 16, options.turns))
    write(f"stem_{'gpu' if DEVICE == 'cuda' else 'cpu'}", results)


if __name__ == "__main__":
    main()

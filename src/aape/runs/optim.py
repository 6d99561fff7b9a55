"""What pre-training and fine-tuning optimise with: AdamW, schedules as pure functions of the step, averaged weights."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from aape.layers.patch_embed import NO_DECAY as NO_STEM_DECAY

NO_DECAY = (*NO_STEM_DECAY, "cls_token", "mask_token")


def adamw(
    module: nn.Module | Mapping[str, nn.Module],
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    rate_of: Callable[[str], float] = lambda name: 1.0,
) -> torch.optim.AdamW:
    """Build AdamW over what is trained; no decay on 1-D parameters, positions, tokens, raw decay and frequency.

    Args:
        module: one, or several by name.
        learning_rate: peak value; a schedule scales it.
        weight_decay: for everything else.
        betas: of the moments.
        rate_of: factor of the learning rate, by name of the parameter.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = defaultdict(list)
    modules = module if isinstance(module, nn.Module) else nn.ModuleDict(module)
    for name, parameter in modules.named_parameters():
        if parameter.requires_grad:
            is_exempt = parameter.ndim < 2 or any(part in name for part in NO_DECAY)
            groups[is_exempt, rate_of(name)].append(parameter)
    settings = [
        {"params": groups[key], "weight_decay": 0.0 if key[0] else weight_decay, "lr": learning_rate * key[1]}
        for key in sorted(groups)  # decayed ones first
    ]
    return torch.optim.AdamW(settings, lr=learning_rate, betas=betas, fused=True)


def layer_decay(depth: int, factor: float) -> Callable[[str], float]:
    """Return the learning rate's factor by parameter: 1 behind the last block, `factor` less for each layer before.

    The stem, and with it the class token, is layer 0, block i is layer i + 1, and the last norm and the head are layer
    depth + 1 (docs/method.md 8; that the stem counts as layer 0 is ours).
    """

    def rate_of(name: str) -> float:
        parts = name.split(".")
        if "blocks" in parts and "stem" not in parts:
            layer = int(parts[parts.index("blocks") + 1]) + 1
        else:
            layer = 0 if {"stem", "cls_token"} & set(parts) else depth + 1
        return float(factor ** (depth + 1 - layer))

    return rate_of


def warmup_cosine(step: int, *, warmup: int, total: int) -> float:
    """Return the learning rate's factor: linear from 0 to 1 over `warmup` steps, then a cosine to 0 at `total`."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def cosine_between(step: int, *, start: float, end: float, total: int) -> float:
    """Return the value at `step` of a cosine from `start` at 0 to `end` at `total`: the teacher's momentum."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, total))))


@torch.no_grad()
def follow(average: nn.Module, source: nn.Module, decay: float, is_skipped: Tensor) -> None:
    """Set average = decay * average + (1 - decay) * source; `is_skipped`, 1.0 on the device (), leaves it as it is."""
    averaged, sources = list[Tensor](average.parameters()), list[Tensor](source.parameters())
    share = (1 - decay) * (1 - is_skipped.double())
    shares = {dtype: share.to(dtype) for dtype in {parameter.dtype for parameter in averaged}}
    torch._foreach_lerp_(averaged, sources, [shares[parameter.dtype] for parameter in averaged])


class WeightAverage:
    """Follows a module after every step; a decay of 0 follows at once: the average is the module itself."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.source, self.decay = module, decay
        self.module = copy.deepcopy(module).requires_grad_(False).eval() if decay else module

    def update(self, is_skipped: Tensor) -> None:
        """Take the module's present weights in, as `follow` does."""
        if self.decay:
            follow(self.module, self.source, self.decay, is_skipped)

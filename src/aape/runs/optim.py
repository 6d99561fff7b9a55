"""What training optimises with: AdamW and Muon, schedules as pure functions of the step, averaged weights."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

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
    muon: bool = False,
) -> torch.optim.AdamW:
    """Build AdamW over what is trained; no decay on 1-D parameters, positions, tokens, raw decay and frequency.

    Args:
        module: one, or several by name.
        learning_rate: peak value; a schedule scales it.
        weight_decay: for everything else.
        betas: of the moments.
        rate_of: factor of the learning rate, by name of the parameter.
        muon: use Muon for the matrices in blocks.
    """
    groups: dict[tuple[bool, float, int], list[nn.Parameter]] = defaultdict(list)
    modules = module if isinstance(module, nn.Module) else nn.ModuleDict(module)
    for name, parameter in modules.named_parameters():
        if parameter.requires_grad:
            is_exempt = parameter.ndim < 2 or any(part in name for part in NO_DECAY)
            num_maps = (3 if "qkv" in name else 1) if muon and parameter.ndim == 2 and ".blocks." in name else 0
            groups[is_exempt, rate_of(name), num_maps].append(parameter)
    settings = [
        {
            "params": groups[is_exempt, rate, num_maps],
            "weight_decay": 0.0 if is_exempt else weight_decay,
            "lr": learning_rate * rate,
            "num_maps": num_maps,
        }
        for is_exempt, rate, num_maps in sorted(groups)  # decayed ones first
    ]
    return (Muon if muon else torch.optim.AdamW)(settings, lr=learning_rate, betas=betas, fused=True)


class Muon(torch.optim.AdamW):
    """AdamW; where a group's `num_maps` is not 0, Muon: steps along the momentum of a matrix, made nearly orthogonal.

    Jordan et al. 2024, with Nesterov's momentum; steps are scaled to AdamW's root mean square, so that its learning
    rate and decay fit (Liu et al. 2025, arXiv:2502.16982). A matrix of query, key and value is three maps.
    """

    MOMENTUM, RMS = 0.95, 0.2

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step; as fused AdamW, none where `found_inf` is 1.0."""
        every = self.param_groups
        self.param_groups = [group for group in every if not group["num_maps"]]
        try:
            super().step()
        finally:
            self.param_groups = every
        for group in every:
            by_shape = defaultdict(list)
            for parameter in group["params"] if group["num_maps"] else ():
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._step_along_maps(parameters, group)

    def _step_along_maps(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Take the step of matrices of one shape."""
        for parameter in parameters:
            if not self.state[parameter]:  # AdamW looks for a step in all that it loads
                self.state[parameter] |= {"step": torch.zeros(()), "momentum_buffer": torch.zeros_like(parameter)}
        old = torch.stack([self.state[parameter]["momentum_buffer"] for parameter in parameters])
        gradient = torch.stack([parameter.grad for parameter in parameters if parameter.grad is not None])
        is_skipped = getattr(self, "found_inf", None)
        gradient = gradient if is_skipped is None else torch.where(is_skipped > 0, 0, gradient)
        new = old.lerp(gradient, 1 - self.MOMENTUM)
        maps = gradient.lerp(new, self.MOMENTUM).unflatten(1, (group["num_maps"], -1))
        steps = orthogonal(maps) * (self.RMS * max(maps.shape[-2:]) ** 0.5)
        rate = group["lr"] if is_skipped is None else group["lr"] * (1 - is_skipped)
        for parameter, buffer, step in zip(parameters, new, steps.flatten(1, 2), strict=True):
            kept = self.state[parameter]["momentum_buffer"]
            kept.copy_(buffer if is_skipped is None else torch.where(is_skipped > 0, kept, buffer))
            parameter.mul_(1 - rate * group["weight_decay"]).sub_(step * rate)


def orthogonal(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return matrices (..., m, n) with all singular values near 1, by five iterations of Newton and Schulz."""
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonal(matrices.mT, dtype).mT
    x = (matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)
    for a, b, c in [(3.4445, -4.775, 2.0315)] * 5:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.to(matrices.dtype)


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

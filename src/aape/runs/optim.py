"""The optimiser that pre-training and fine-tuning share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import nn

NO_DECAY = ("pos_embed", "cls_token", "mask_token", "lambda_encoder.raw", "lambda_encoder.head")


def adamw(
    module: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    rate_of: Callable[[str], float] = lambda name: 1.0,
) -> torch.optim.AdamW:
    """Build AdamW over what is trained; no decay on 1-D parameters, positions, tokens, raw decay and frequency.

    Args:
        module: parameters that do not require a gradient are left out.
        learning_rate: peak value; a schedule scales it.
        weight_decay: for everything else.
        betas: of the moments.
        rate_of: factor of the learning rate, by name of the parameter.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in module.named_parameters():
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
    depth + 1 (method 8; that the stem counts as layer 0 is ours).

    Args:
        depth: number of blocks.
        factor: the layer decay.
    """

    def rate_of(name: str) -> float:
        parts = name.split(".")
        if "blocks" in parts and "stem" not in parts:
            layer = int(parts[parts.index("blocks") + 1]) + 1
        else:
            layer = 0 if {"stem", "cls_token"} & set(parts) else depth + 1
        return float(factor ** (depth + 1 - layer))

    return rate_of

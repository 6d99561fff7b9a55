"""The optimiser that pre-training and fine-tuning share."""

from __future__ import annotations

import torch
from torch import nn

NO_DECAY = ("pos_embed", "cls_token", "mask_token", "lambda_encoder.raw", "lambda_encoder.head")


def adamw(
    module: nn.Module, *, learning_rate: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """Build AdamW over what is trained; no decay on 1-D parameters, positions, tokens, raw decay and frequency.

    Args:
        module: parameters that do not require a gradient are left out.
        learning_rate: peak value; a schedule scales it.
        weight_decay: for everything else.
        betas: of the moments.
    """
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_exempt = parameter.ndim < 2 or any(part in name for part in NO_DECAY)
            (rest if is_exempt else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)

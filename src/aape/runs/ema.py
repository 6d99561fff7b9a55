"""A moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """Follows a module: average = decay * average + (1 - decay) * weights, after every step.

    Args:
        module: what is trained.
        decay: 0 follows at once, so that the average is the module itself.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.source, self.decay = module, decay
        self.module = copy.deepcopy(module).requires_grad_(False).eval() if decay else module

    @torch.no_grad()
    def update(self) -> None:
        """Take the module's present weights in."""
        if self.decay:
            ours: list[Tensor] = list(self.module.parameters())
            torch._foreach_lerp_(ours, list[Tensor](self.source.parameters()), 1 - self.decay)

"""What was known of weights when they were loaded, and whether it still holds when they are saved."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_INTEGERS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


class Origin:
    """Card and training of weights as they were loaded.

    Args:
        card: as `config.json` has it.
        training: likewise.
        tensors: the weights, by name; none if they are not those that the card came with.
    """

    def __init__(self, card: dict[str, Any], training: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self._card, self._training = copy.deepcopy((card, training))
        self._sums = {name: {dtype: _sum(tensor, dtype) for dtype in _INTEGERS} for name, tensor in tensors.items()}

    def is_unchanged(self, tensors: Mapping[str, Tensor]) -> bool:
        """Say whether these are the weights that were loaded, or those rounded to their dtype."""
        return tensors.keys() == self._sums.keys() and all(
            tensor.dtype in _INTEGERS and self._sums[name][tensor.dtype] == _sum(tensor, tensor.dtype)
            for name, tensor in tensors.items()
        )

    def facts(
        self, tensors: Mapping[str, Tensor], card: dict[str, Any], training: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return which of `card` and `training` hold for these weights; what was set since loading does.

        Of changed weights, the training that was loaded is that of their start, and nothing of the card is known.
        """
        if self.is_unchanged(tensors):
            return card, training
        before = {"pretraining": training} if training and self._sums else {}
        return {} if card == self._card else card, before if training == self._training else training


def _sum(tensor: Tensor, dtype: torch.dtype) -> int:
    """Add up the bits of a tensor in a dtype: exact, on any device."""
    bits = tensor.detach().cpu().to(dtype).contiguous().view(_INTEGERS[dtype])
    return int(bits.sum(dtype=torch.int64))

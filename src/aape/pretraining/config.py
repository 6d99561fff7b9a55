"""What the method leaves open: masks and losses (method 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aape.errors import require_positive


@dataclass(frozen=True)
class MaskingConfig:
    """Inverse block masking (method 7).

    Args:
        num_views: masked views per clip.
        mask_ratio: share of the tokens that are hidden.
        block_sizes: visible blocks, frequency x time patches [ours].
        query_ratio: share of the hidden tokens that are predicted.
    """

    num_views: int = 16
    mask_ratio: float = 0.8
    block_sizes: tuple[tuple[int, int], ...] = ((4, 6), (5, 5), (3, 8))
    query_ratio: float = 0.75

    def __post_init__(self) -> None:
        require_positive(self, "num_views", "mask_ratio", "query_ratio")


@dataclass(frozen=True)
class LossConfig:
    """L = L_mask + L_utt + contrastive_weight * L_con (method 7) + statistics_weight * L_stat [ours].

    Args:
        contrastive_weight: weight of the contrastive loss.
        statistics_weight: weight of telling the clip's log-mel statistics from the class token; the paper has none.
        statistics_components: principal components of the statistics that are told.
        statistics_min_patches: tell them from the first part of the crop, at least so many time patches and another
            number at each step, so that the class token knows short clips too; 0 for the whole crop.
        temperature: temperature of the contrastive loss [ours].
        reduction: mean over elements [ours], or EAT's sum over elements / sqrt(D).
        target: what the teacher gives of each block, its output or its MLP's.
        target_norm: normalise targets per token over D, or EAT's per channel over tokens.
        ignore_padding: leave patches that lie wholly in padding out of queries and targets [ours].
    """

    contrastive_weight: float = 0.1
    statistics_weight: float = 0.0
    statistics_components: int = 64
    statistics_min_patches: int = 0
    temperature: float = 0.1
    reduction: Literal["mean", "eat"] = "mean"
    target: Literal["block", "ffn"] = "block"
    target_norm: Literal["token", "channel"] = "token"
    ignore_padding: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "temperature")

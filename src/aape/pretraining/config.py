"""What the method leaves open: masks, losses and optimiser (docs/method.md 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aape.errors import MAX_RATE, require_at_most, require_positive

MAX_VIEWS = 1024


@dataclass(frozen=True)
class MaskingConfig:
    """Inverse block masking (docs/method.md 7).

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
        require_at_most(self, num_views=MAX_VIEWS)


@dataclass(frozen=True)
class LossConfig:
    """L_mask + L_utt + contrastive_weight L_con, the paper's, + statistics_weight L_stat + label_weight L_label, ours.

    Args:
        contrastive_weight: weight of the contrastive loss.
        statistics_weight: weight of predicting the clip's log-mel statistics from its vector; the paper has none.
        statistics_pool: which vector: the class token, or mean and spread over time of each frequency patch.
        statistics_components: principal components of the statistics.
        label_weight: weight of predicting labels from the same vector, of clips that have some.
        min_prefix: predict the statistics of a random prefix of at least this many time patches; 0: the whole crop.
        temperature: temperature of the contrastive loss [ours].
        reduction: mean over elements [ours], or EAT's sum over elements / sqrt(D).
        target: what the teacher gives of each block, its output or its MLP's.
        target_norm: normalise targets per token over D, or EAT's per channel over tokens.
        ignore_padding: leave patches that lie wholly in padding out of queries and targets [ours].
    """

    contrastive_weight: float = 0.1
    statistics_weight: float = 0.0
    statistics_pool: Literal["cls", "frequency_std"] = "cls"
    statistics_components: int = 64
    label_weight: float = 1.0
    min_prefix: int = 0
    temperature: float = 0.1
    reduction: Literal["mean", "eat"] = "mean"
    target: Literal["block", "ffn"] = "block"
    target_norm: Literal["token", "channel"] = "token"
    ignore_padding: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "temperature")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a cosine to 0 after a linear warm-up, and the teacher's momentum (docs/method.md 7).

    Args:
        learning_rate: peak of the schedule [ours].
        weight_decay: decay of matrices; vectors, positions and tokens have none.
        betas: of AdamW [ours].
        warmup_ratio: share of the steps that is warm-up.
        clip_grad: largest norm of the gradient [ours].
        momentum_start: the teacher's momentum at the first step.
        momentum_end: the teacher's momentum at the last step.
        accumulate: forward passes that one optimiser step is made of.
        precision: arithmetic; auto is bfloat16 where the device has it.
        compile: compile teacher, student and losses with torch.compile.
        muon: Muon in place of AdamW for the matrices in blocks (docs/method.md 7) [ours].
    """

    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_ratio: float = 80 / 600
    clip_grad: float = 4.0
    momentum_start: float = 0.994
    momentum_end: float = 1.0
    accumulate: int = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    muon: bool = False

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "clip_grad", "accumulate")
        require_at_most(self, learning_rate=MAX_RATE, warmup_ratio=1, momentum_start=1)

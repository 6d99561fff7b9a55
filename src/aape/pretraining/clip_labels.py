"""A further target of a clip's vector [ours]: labels that some clips have, such as what a synthesiser played or said.

B clips, E width of a vector, L labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aape.errors import DataError

LEAST_CLIPS = 20  # that have a label, and that do not; others are left out


class ClipLabels(nn.Module):
    """Tells from a vector which labels a clip has. Clips without any say nothing.

    Args:
        labels: of every clip of the corpus.
        centre: mean of the vectors at the start (E,).
        scale: vectors are divided by it; the larger, the less a step of the optimiser moves what is predicted.

    Raises:
        DataError: no label is on some of the labelled clips and not on others.
    """

    centre: Tensor
    has: Tensor
    is_known: Tensor

    def __init__(self, labels: Sequence[Sequence[str]], centre: Tensor, scale: float) -> None:
        super().__init__()
        counts = Counter(label for each in labels for label in set(each))
        is_known = torch.tensor([bool(each) for each in labels])  # those with rare labels only, too
        most = int(is_known.sum()) - LEAST_CLIPS
        self.names = [name for name in sorted(counts) if LEAST_CLIPS <= counts[name] <= most]
        if not self.names:
            raise DataError(
                f"no label is on {LEAST_CLIPS} labelled clips and absent from {LEAST_CLIPS}: choose another"
            )
        columns = {name: column for column, name in enumerate(self.names)}
        has = torch.zeros(len(labels), len(self.names), dtype=torch.bool)
        for row, each in enumerate(labels):
            has[row, [columns[label] for label in each if label in columns]] = True
        self.register_buffer("has", has, persistent=False)
        self.register_buffer("is_known", is_known, persistent=False)
        self.register_buffer("centre", centre.clone())
        self.scale, self.head = scale, nn.Linear(len(centre), len(self.names))
        share = has[is_known].double().mean(0)
        entropy = F.binary_cross_entropy(share, share, reduction="sum")
        self.guessing = float(entropy * is_known.double().mean())  # loss of a clip, by frequency alone
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.copy_(torch.logit(share))

    def forward(self, vectors: Tensor, clips: Sequence[int]) -> Tensor:
        """Return L_label: the cross-entropy of all labels, over what guessing by their frequency leaves.

        Args:
            vectors: of the student (B, E).
            clips: number of each clip in the corpus, B of them.
        """
        with torch.autocast(vectors.device.type, enabled=False):
            rows = torch.tensor(clips).to(self.has.device, non_blocking=True)
            has = self.has[rows]  # (B, L)
            scores = self.head((vectors.to(self.centre.dtype) - self.centre) / self.scale)
            losses = F.binary_cross_entropy_with_logits(scores, has.to(scores.dtype), reduction="none").sum(1)
            return (losses * self.is_known[rows]).mean() / self.guessing

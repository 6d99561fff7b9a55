"""Figure 1: a student sees few patches of a clip, and predicts what a teacher makes of all of them.

B clips, M views of each, N patches, V of them visible in a view and Q of them predicted, D width of the encoder.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from aape.layers.patch_embed import gather_tokens
from aape.models.config import PredictorConfig
from aape.models.encoder import AudioEncoder
from aape.models.predictor import build_predictor
from aape.pretraining.config import LossConfig
from aape.pretraining.losses import contrastive_loss, masked_loss, teacher_targets, utterance_loss
from aape.runs.optim import follow


class TeacherStudent(nn.Module):
    """Student, predictor and projection, trained; teacher, an average of the student over time, not trained.

    Args:
        encoder: the student; the teacher starts as a copy of it.
        grid_size: (Nf, Nt) of the training crops.
        predictor: what the student predicts with.
        loss: targets, losses and their weights.
    """

    def __init__(
        self, encoder: AudioEncoder, grid_size: tuple[int, int], predictor: PredictorConfig, loss: LossConfig
    ) -> None:
        super().__init__()
        self.student = encoder
        self.teacher = copy.deepcopy(encoder).requires_grad_(False)
        dim = encoder.embed_dim
        self.predictor = build_predictor(predictor, dim, grid_size)
        self.projection = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim))
        self.loss_config = loss

    def forward(
        self,
        spectrogram: Tensor,
        visible: Tensor,
        queries: Tensor,
        valid: Tensor | None = None,
        clean: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss and what to watch.

        Args:
            spectrogram: (B, 1, F, T), standardised, T = Nt P.
            visible: sorted indices of the visible patches (B, M, V).
            queries: indices of the patches to predict (B, M, Q).
            valid: patches that do not lie wholly in padding (B, N); None where there is no padding.
            clean: what the teacher sees (B, 1, F, T), where the student's sound is augmented; None for the same [ours].

        Returns:
            Scalars: `loss`, its parts, and the variances of targets and predictions over the tokens of a clip
            and over the clips of the batch. A variance near 0 means collapse.
        """
        pooled, utterance = self.targets(spectrogram if clean is None else clean, valid)  # (B, N, D), (B, D)
        predictions, class_tokens, z = self.predict(spectrogram, visible, queries)  # (B, M, Q, D), (B, M, D), (B, M, D)
        valid_queries = None if valid is None else gather_tokens(valid[..., None], queries)[..., 0]  # (B, M, Q)
        parts = self.losses(predictions, gather_tokens(pooled, queries), class_tokens, utterance, z, valid_queries)
        return parts | self.diagnostics(pooled, utterance, predictions, class_tokens, valid, valid_queries)

    @torch.no_grad()
    def targets(self, spectrogram: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what the teacher makes of all patches: pooled tokens (B, N, D) and the utterance target (B, D)."""
        outputs = self.teacher.forward_targets(spectrogram, self.loss_config.target)  # one (B, N, D) per block
        return teacher_targets(outputs, self.loss_config.target_norm, valid)

    def predict(self, spectrogram: Tensor, visible: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return predicted tokens (B, M, Q, D), class tokens (B, M, D), and projections of the mean token (B, M, D)."""
        latent = self.student.forward_features(spectrogram, visible)  # (B, M, 1 + V, D)
        class_tokens, tokens = latent[:, :, 0], latent[:, :, 1:]
        predictions = self.predictor(tokens.flatten(0, 1), visible.flatten(0, 1), queries.flatten(0, 1))
        return predictions.unflatten(0, visible.shape[:2]), class_tokens, self.projection(tokens.mean(2))

    def losses(
        self,
        predictions: Tensor,  # (B, M, Q, D)
        query_targets: Tensor,  # pooled tokens at the queries (B, M, Q, D)
        class_tokens: Tensor,  # (B, M, D)
        utterance: Tensor,  # (B, D)
        z: Tensor,  # projections (B, M, D)
        valid_queries: Tensor | None = None,  # which queries are no padding (B, M, Q); None for all
    ) -> dict[str, Tensor]:
        """Return L_mask + L_utt + contrastive_weight L_con and its parts; `Pretraining.forward` adds L_stat."""
        scale = self.student.embed_dim**0.5 if self.loss_config.reduction == "eat" else 1.0
        mask = scale * masked_loss(predictions, query_targets, valid_queries)
        utt = scale * utterance_loss(class_tokens, utterance)
        con = contrastive_loss(z.transpose(0, 1), self.loss_config.temperature)
        return {
            "loss": mask + utt + self.loss_config.contrastive_weight * con,
            "loss_mask": mask.detach(),
            "loss_utterance": utt.detach(),
            "loss_contrastive": con.detach(),
        }

    @torch.no_grad()
    def diagnostics(
        self,
        pooled: Tensor,
        utterance: Tensor,
        predictions: Tensor,
        class_tokens: Tensor,
        valid: Tensor | None = None,
        valid_queries: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the variances that vanish in a collapse; shapes as in `losses`, `valid` (B, N) of `pooled`.

        Over the batch it is utterance targets and class tokens, the student's prediction of them.
        """
        return {
            "target_variance_tokens": _variance(pooled, 1, valid),
            "target_variance_batch": _variance(utterance, 0),
            "prediction_variance_tokens": _variance(predictions, 2, valid_queries),
            "prediction_variance_batch": _variance(class_tokens, 0),
        }

    def update_teacher(self, momentum: float, is_skipped: Tensor | None = None) -> None:
        """Set teacher = momentum * teacher + (1 - momentum) * student; as it is where `is_skipped` is 1.0 ()."""
        if is_skipped is None:
            is_skipped = torch.zeros((), device=next(self.teacher.parameters()).device)
        follow(self.teacher, self.student, momentum, is_skipped)


def _variance(x: Tensor, dim: int, valid: Tensor | None = None) -> Tensor:
    """Return the variance of x (..., D) along `dim`, averaged over everything else; over the valid entries only."""
    x = x.float()
    weight = torch.ones_like(x[..., :1]) if valid is None else valid[..., None].to(x.dtype)
    size = weight.sum(dim, keepdim=True).clamp(min=1)
    mean = (weight * x).sum(dim, keepdim=True) / size
    return ((weight * (x - mean).square()).sum(dim, keepdim=True) / size).mean()

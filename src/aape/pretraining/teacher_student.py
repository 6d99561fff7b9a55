"""The method in one forward: a student sees few patches, and predicts what a teacher makes of all of them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from aape.layers.patch_embed import gather_tokens
from aape.models.config import PredictorConfig
from aape.models.encoder import AudioEncoder
from aape.models.predictor import build_predictor
from aape.pretraining.clip_statistics import ClipStatistics
from aape.pretraining.config import LossConfig
from aape.pretraining.losses import contrastive_loss, masked_loss, teacher_targets, utterance_loss


class TeacherStudent(nn.Module):
    """Student, predictor and projection, trained; teacher, an average of the student over time, not trained.

    Args:
        encoder: the student's stem and encoder; the teacher starts as its copy.
        grid_size: (Nf, Nt) of the training crops.
        predictor: how hidden tokens are predicted.
        loss: weights and forms of the losses.
    """

    def __init__(
        self, encoder: AudioEncoder, grid_size: tuple[int, int], predictor: PredictorConfig, loss: LossConfig
    ) -> None:
        super().__init__()
        self.student = encoder
        self.teacher = copy.deepcopy(encoder).requires_grad_(False)
        embed_dim = encoder.embed_dim
        self.predictor = build_predictor(predictor, embed_dim, grid_size)
        self.projection = nn.Sequential(
            nn.Linear(embed_dim, embed_dim // 2), nn.GELU(), nn.Linear(embed_dim // 2, embed_dim)
        )
        self.statistics = (
            ClipStatistics(embed_dim, encoder.config.n_mels, encoder.patch_size, loss.statistics_components)
            if loss.statistics_weight
            else None
        )
        self.loss = loss

    def forward(
        self,
        spectrogram: Tensor,
        visible: Tensor,
        queries: Tensor,
        is_audio: Tensor | None = None,
        stretch: int | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss and what to watch.

        Args:
            spectrogram: (B, 1, F, T), standardised, T = Nt P.
            visible: sorted indices of the visible patches (B, M, V).
            queries: indices of the patches to predict (B, M, Q).
            is_audio: patches that do not lie wholly in padding (B, N); None where there is no padding.
            stretch: tell the statistics from so many time patches, the first ones; None for all Nt.

        Returns:
            Scalars: `loss`, its parts, and the variances of targets and predictions over the tokens of a clip
            and over the clips of the batch. A variance near 0 means collapse.
        """
        batch, num_views = visible.shape[:2]
        with torch.no_grad():
            outputs = self.teacher.forward_targets(spectrogram, self.loss.target)
            pooled, utterance = teacher_targets(outputs, self.loss.target_norm, is_audio)  # (B, N, D), (B, D)

        latent = self.student.forward_features(spectrogram, visible)  # (B, M, 1 + V, D)
        class_tokens, tokens = latent[:, :, 0], latent[:, :, 1:]
        predictions = self.predictor(tokens.flatten(0, 1), visible.flatten(0, 1), queries.flatten(0, 1))
        predictions = predictions.unflatten(0, (batch, num_views))  # (B, M, Q, D)
        z = self.projection(tokens.mean(2))  # (B, M, D)

        counted = None if is_audio is None else gather_tokens(is_audio[..., None], queries)[..., 0]
        scale = self.student.embed_dim**0.5 if self.loss.reduction == "eat" else 1.0
        mask = scale * masked_loss(predictions, gather_tokens(pooled, queries), counted)
        utt = scale * utterance_loss(class_tokens, utterance)
        con = contrastive_loss(z.transpose(0, 1), self.loss.temperature)
        loss, parts = mask + utt + self.loss.contrastive_weight * con, {}
        if self.statistics is not None:
            sound, is_sound = _first_patches(spectrogram, is_audio, stretch, self.student.patch_size)
            whole = self.student.forward_features(sound)  # (B, 1 + N', D): nothing hidden, as the encoder is used
            parts["loss_statistics"] = self.statistics(whole[:, 0], sound, is_sound)
            loss = loss + self.loss.statistics_weight * parts["loss_statistics"]
        return {
            "loss": loss,
            "loss_mask": mask.detach(),
            "loss_utterance": utt.detach(),
            "loss_contrastive": con.detach(),
            **{name: part.detach() for name, part in parts.items()},
            "target_variance_tokens": _variance(pooled, 1, is_audio),
            "target_variance_batch": _variance(utterance, 0),
            "prediction_variance_tokens": _variance(predictions.detach(), 2, counted),
            "prediction_variance_batch": _variance(class_tokens.detach(), 0),
        }

    @torch.no_grad()
    def update_teacher(self, momentum: float, is_skipped: Tensor | None = None) -> None:
        """Move the teacher's weights: teacher = momentum * teacher + (1 - momentum) * student.

        Args:
            momentum: of this step.
            is_skipped: 1.0 on the device () to leave the teacher as it is.
        """
        teacher: list[Tensor] = list(self.teacher.parameters())
        student: list[Tensor] = list(self.student.parameters())
        if is_skipped is None:
            torch._foreach_lerp_(teacher, student, 1 - momentum)
        else:
            weight = (1 - momentum) * (1 - is_skipped.double())
            weights: list[Tensor] = [weight.to(p.dtype) for p in teacher]
            torch._foreach_lerp_(teacher, student, weights)


def _first_patches(
    spectrogram: Tensor, is_audio: Tensor | None, stretch: int | None, patch: int
) -> tuple[Tensor, Tensor | None]:
    """Cut a spectrogram (B, 1, F, T) and its mask (B, N) to the first `stretch` time patches."""
    if stretch is None:
        return spectrogram, is_audio
    if is_audio is not None:
        is_audio = is_audio.unflatten(1, (-1, spectrogram.shape[-1] // patch))[..., :stretch].flatten(1)
    return spectrogram[..., : stretch * patch], is_audio


def _variance(x: Tensor, dim: int, counted: Tensor | None = None) -> Tensor:
    """Return the variance of x (..., D) along `dim`, averaged over everything else; over the counted entries only."""
    x = x.float()
    weight = torch.ones_like(x[..., :1]) if counted is None else counted[..., None].to(x.dtype)
    size = weight.sum(dim, keepdim=True).clamp(min=1)
    mean = (weight * x).sum(dim, keepdim=True) / size
    return ((weight * (x - mean).square()).sum(dim, keepdim=True) / size).mean()

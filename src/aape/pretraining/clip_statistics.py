"""A target that no teacher makes [ours]: statistics of the clip's log-mel, read off a vector of the whole clip.

It cannot collapse and teaches from the first step, where little data or little time leave the teacher's targets poor.
B clips, N = Nf Nt tokens, D width of the encoder, F mel bins, T frames, P patch, K components.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aape.data.log_mel import time_statistics
from aape.errors import DataError
from aape.models.config import Pool
from aape.models.encoder import AudioEncoder
from aape.models.pooling import pool, pooled_dim

# Of mean, standard deviation, maximum and delta standard deviation: over clips each then varies by about as much.
SCALE = (1.0, 2.0, 1.0, 4.0)
LEAST_VARIANCE = 1e-8  # of a component that counts as one, as a share of the largest


class ClipStatistics(nn.Module):
    """The first K principal components of a clip's statistics, each of unit variance over the corpus, as targets.

    Without that, a few components (level, tilt) would be nearly all of the squared error. K is at most D and 4F, else
    ValueError.
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, embed_dim: int, n_mels: int, patch_size: int, num_components: int, vector: Pool = "cls") -> None:
        super().__init__()
        if not 0 < num_components <= min(embed_dim, 4 * n_mels):
            raise ValueError(f"statistics_components must be 1 to {min(embed_dim, 4 * n_mels)}, got {num_components}")
        self.patch_size, self.num_freq, self.vector = patch_size, n_mels // patch_size, vector
        self.head = nn.Linear(pooled_dim(vector, embed_dim, self.num_freq), num_components)
        # The vector's own first coordinates at the start: a random map would take a short run to learn.
        nn.init.eye_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("mean", torch.zeros(4 * n_mels))
        self.register_buffer("basis", torch.zeros(4 * n_mels, num_components))

    def fit(self, statistics: Tensor) -> None:
        """Find the components of what `measure` gives for crops of a corpus (n, 4F); DataError if too few vary."""
        num_components = self.basis.shape[1]
        wide = statistics.double()
        variances, directions = torch.linalg.eigh(torch.cov((wide - wide.mean(0)).T))  # ascending
        num_varying = int((variances > LEAST_VARIANCE * variances[-1].clamp(min=1e-4)).sum())
        if num_varying < num_components:
            raise DataError(
                f"loss.statistics_weight: {len(statistics)} crops differ in {num_varying} components only, it needs "
                f"{num_components}: add sounds, or train with --loss.statistics-weight 0"
            )
        largest = slice(-num_components, None)
        self.mean.copy_(wide.mean(0))
        self.basis.copy_((directions[:, largest] / variances[largest].sqrt()).flip(1))

    def measure(self, spectrogram: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return mean, spread, maximum and spread of the difference over time of every bin, scaled: (B, 4F).

        Arguments as in `forward`.
        """
        frames = None
        if valid is not None:
            num_time = spectrogram.shape[-1] // self.patch_size
            frames = valid[:, :num_time].repeat_interleave(self.patch_size, 1)  # (B, T)
        values = time_statistics(spectrogram[:, 0], frames).unflatten(-1, (4, -1))
        return (values * values.new_tensor(SCALE)[:, None]).flatten(1)

    def forward(
        self, encoder: AudioEncoder, spectrogram: Tensor, valid: Tensor | None = None, prefix: int | None = None
    ) -> Tensor:
        """Return L_stat, the squared error between vectors and statistics, a mean over clips and components.

        Args:
            encoder: the student; it sees every patch, as when it is used.
            spectrogram: (B, 1, F, T), standardised, T = Nt P.
            valid: patches that do not lie wholly in padding (B, N); None where there is no padding.
            prefix: use the first so many time patches only; None for all.
        """
        if prefix is not None:
            if valid is not None:
                valid = valid.unflatten(1, (-1, spectrogram.shape[-1] // self.patch_size))[..., :prefix].flatten(1)
            spectrogram = spectrogram[..., : prefix * self.patch_size]
        vectors = pool(encoder.forward_features(spectrogram), self.vector, self.num_freq)  # (B, E)
        with torch.autocast(spectrogram.device.type, enabled=False):  # in half precision the error would be of no use
            target = (self.measure(spectrogram, valid) - self.mean) @ self.basis  # (B, K)
            return (self.head(vectors.to(self.head.weight.dtype)) - target).square().mean()

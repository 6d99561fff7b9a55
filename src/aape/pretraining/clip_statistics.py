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
MODULATION_SCALE = 0.5
BINS = 4  # neighbouring mel bins whose modulation is measured together
HALF_OCTAVES = 12  # of modulation, up to half the frame rate: from 0.78 to 50 Hz at 100 frames a second
LEAST_ENERGY = 0.03  # added to an energy before its logarithm
NUM_STATISTICS = 4 + HALF_OCTAVES // BINS  # for each bin
RIDGE = 0.1  # penalty of the head at the start, over the vectors' mean square
SPECTRUM = 512  # points at least, so that every half octave has some
LEAST_VARIANCE = 1e-8  # of a component that counts as one, as a share of the largest


def modulation_energies(spectrogram: Tensor, valid: Tensor) -> Tensor:
    """Return the logarithm of the energy in each half octave of modulation, of every `BINS` mel bins.

    A standard patch token folds most of these onto each other (docs/method.md 2). Any length will do: the spectrum of a
    short clip is interpolated.

    Args:
        spectrogram: (B, F, T).
        valid: the frames that are not padding (B, T), the first ones.

    Returns:
        (B, 3F): for F / 4 bands, 12 half octaves each.
    """
    weight = valid.to(spectrogram.dtype)[:, None]  # (B, 1, T)
    size = weight.sum(-1, keepdim=True).clamp(min=1)
    bands = spectrogram.unflatten(1, (-1, BINS)).mean(2)  # (B, F / 4, T)
    centred = bands - (weight * bands).sum(-1, keepdim=True) / size
    time = torch.arange(bands.shape[-1], device=bands.device) + 0.5
    window = weight * torch.sin(torch.pi * time / size).square()  # Hann's, over the frames of the clip
    num_points = max(SPECTRUM, bands.shape[-1])
    energy = torch.fft.rfft(centred * window, num_points).abs().square() / window.square().sum(-1, keepdim=True)
    frequency = torch.fft.rfftfreq(num_points, device=bands.device)  # cycles per frame
    number = HALF_OCTAVES + torch.floor(2 * torch.log2(2 * frequency)).clamp(-HALF_OCTAVES - 1, -1)  # -1: below all
    one_hot = (number[:, None] == torch.arange(HALF_OCTAVES, device=bands.device)).to(energy.dtype)
    return torch.log(energy @ (one_hot / one_hot.sum(0)) + LEAST_ENERGY).flatten(1)


class ClipStatistics(nn.Module):
    """The first K principal components of a clip's statistics, each of unit variance over the corpus, as targets.

    Without that, a few components (level, tilt) would be nearly all of the squared error. K is at most E and 7F, else
    ValueError.
    """

    mean: Tensor
    basis: Tensor
    centre: Tensor

    def __init__(self, embed_dim: int, n_mels: int, patch_size: int, num_components: int, vector: Pool = "cls") -> None:
        super().__init__()
        width = pooled_dim(vector, embed_dim, n_mels // patch_size)
        most = min(width, NUM_STATISTICS * n_mels)
        if not 0 < num_components <= most:
            raise ValueError(f"statistics_components must be 1 to {most}, got {num_components}")
        self.patch_size, self.num_freq, self.vector = patch_size, n_mels // patch_size, vector
        self.head = nn.Linear(width, num_components)
        self.scale = width / embed_dim  # an optimiser's step then moves what is predicted as if there were D inputs
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("mean", torch.zeros(NUM_STATISTICS * n_mels))
        self.register_buffer("basis", torch.zeros(NUM_STATISTICS * n_mels, num_components))

    def fit(self, statistics: Tensor, vectors: Tensor) -> None:
        """Find the components, and let the head begin with the best linear map to them.

        A head that begins at random learns for thousands of steps: vectors of clips have most in common.

        Args:
            statistics: of crops of a corpus (n, 7F), as `measure` gives them.
            vectors: of the same crops by the encoder at the start (n, E).

        Raises:
            DataError: too few statistics vary.
        """
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
        # Ridge regression, as many equations as crops
        target, centred = (wide - wide.mean(0)) @ self.basis.double(), vectors.double() - vectors.double().mean(0)
        kernel = centred @ centred.T
        ridge = RIDGE * kernel.diagonal().mean().clamp(min=1e-12) * torch.eye(len(kernel), dtype=kernel.dtype)
        weight = torch.linalg.solve(kernel + ridge, target).T @ centred  # (K, E)
        with torch.no_grad():
            self.head.weight.copy_(weight * self.scale)
            self.head.bias.zero_()
            self.centre.copy_(vectors.double().mean(0))

    def measure(self, spectrogram: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return mean, spread, maximum, spread of the difference over time, `modulation_energies`; all scaled (B, 7F).

        Arguments as the last two of `forward`.
        """
        frames = torch.ones_like(spectrogram[:, 0, 0], dtype=torch.bool)  # (B, T)
        if valid is not None:
            num_time = spectrogram.shape[-1] // self.patch_size
            frames = valid[:, :num_time].repeat_interleave(self.patch_size, 1)
        values = time_statistics(spectrogram[:, 0], frames).unflatten(-1, (4, -1))
        modulations = MODULATION_SCALE * modulation_energies(spectrogram[:, 0], frames)
        scale = torch.tensor(SCALE, dtype=values.dtype).to(values.device, non_blocking=True)
        return torch.cat([(values * scale[:, None]).flatten(1), modulations], 1)

    @torch.no_grad()
    def example(self, encoder: AudioEncoder, spectrogram: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what `fit` needs of crops, on the CPU: statistics (B, 7F) and vectors (B, E)."""
        return self.measure(spectrogram, valid).cpu(), self.vectors(encoder, spectrogram).cpu()

    def vectors(self, encoder: AudioEncoder, spectrogram: Tensor) -> Tensor:
        """Return what the statistics are read off, (B, E), of (B, 1, F, T)."""
        return pool(encoder.forward_features(spectrogram), self.vector, self.num_freq)

    def predict(self, vectors: Tensor) -> Tensor:
        """Return the components that vectors (B, E) tell of (B, K)."""
        predicted: Tensor = self.head((vectors.to(self.head.weight.dtype) - self.centre) / self.scale)
        return predicted

    def forward(self, vectors: Tensor, spectrogram: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return L_stat, the squared error between vectors and statistics, a mean over clips and components.

        Args:
            vectors: of the student (B, E); it sees every patch, as when it is used.
            spectrogram: (B, 1, F, T), standardised, T = Nt P.
            valid: patches that do not lie wholly in padding (B, N); None where there is no padding.
        """
        with torch.autocast(spectrogram.device.type, enabled=False):  # in half precision the error would be of no use
            target = (self.measure(spectrogram, valid) - self.mean) @ self.basis  # (B, K)
            return (self.predict(vectors) - target).square().mean()


def cut_prefix(
    spectrogram: Tensor, valid: Tensor | None, num_time: int, patch_size: int
) -> tuple[Tensor, Tensor | None]:
    """Return the first so many time patches of a spectrogram (B, 1, F, T) and of its valid patches (B, N)."""
    if valid is not None:
        valid = valid.unflatten(1, (-1, spectrogram.shape[-1] // patch_size))[..., :num_time].flatten(1)
    return spectrogram[..., : num_time * patch_size], valid

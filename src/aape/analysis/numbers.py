"""What the figures show, as arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from aape.errors import DataError
from aape.layers.aape import AaPE
from aape.runs.files import Records

if TYPE_CHECKING:
    from aape.models.encoder import AudioEncoder

FRAMES_PER_SECOND = 100


@dataclass(frozen=True)
class ChosenKernels:
    """The kernels that a stem chose for one clip: frequency patches Nf, time patches Nt, H kernels each."""

    frequencies: NDArray[np.floating]  # of the modulation, in Hz (Nf, Nt, H)
    decays: NDArray[np.floating]  # in nepers per second (Nf, Nt, H)


@torch.inference_mode()
def chosen_kernels(encoder: AudioEncoder, spectrogram: torch.Tensor) -> ChosenKernels:
    """Ask the stem which frequencies and decays it uses for a clip (the paper's Figure 4).

    Args:
        encoder: with an AaPE stem.
        spectrogram: (1, 1, F, T), standardised.

    Raises:
        ValueError: the stem has no kernels.
    """
    stem = encoder.stem
    if not isinstance(stem, AaPE):
        raise ValueError("the standard stem has no kernels to show")
    decay, frequency = stem.kernels(spectrogram)  # (1, N, H)
    shape = (stem.grid_size[0], -1, decay.shape[-1])
    hertz = frequency.view(shape).float().cpu().numpy() * (FRAMES_PER_SECOND / (2 * math.pi))
    return ChosenKernels(hertz, decay.view(shape).float().cpu().numpy() * FRAMES_PER_SECOND)


def mel_position(hertz: float, band: tuple[float, float], n_mels: int) -> float:
    """Return where a frequency lies on an axis of mel bins, bin i from i to i + 1 (HTK mel scale).

    Args:
        hertz: the frequency.
        band: lower edge of the first bin and upper edge of the last, in Hz.
        n_mels: number of bins.
    """
    mel, low, high = (math.log10(1 + value / 700) for value in (hertz, *band))
    return (n_mels + 1) * (mel - low) / (high - low) - 0.5


def mel_hertz(position: float, band: tuple[float, float], n_mels: int) -> float:
    """Return the frequency, in Hz, at a place on an axis of mel bins: the inverse of `mel_position`."""
    low, high = (math.log10(1 + value / 700) for value in band)
    return 700 * (10 ** (low + (position + 0.5) / (n_mels + 1) * (high - low)) - 1)


def nearest_neighbours(vectors: NDArray[np.floating], queries: list[int], count: int) -> list[list[tuple[int, float]]]:
    """Find each query's nearest rows by the cosine of standardised vectors.

    Args:
        vectors: (n, width).
        queries: rows to look from.
        count: neighbours of each, the query itself left out; fewer where there are no more.

    Returns:
        For each query, (row, cosine), nearest first.
    """
    standardised = (vectors - vectors.mean(0)) / (vectors.std(0) + 1e-8)
    unit = standardised / (np.linalg.norm(standardised, axis=1, keepdims=True) + 1e-12)
    found = []
    for query in queries:
        cosines = unit @ unit[query]
        cosines[query] = -np.inf
        nearest = np.argsort(-cosines, kind="stable")[: min(count, len(vectors) - 1)]
        found.append([(int(row), float(cosines[row])) for row in nearest])
    return found


def read_metrics(path: str | Path) -> dict[str, NDArray[np.float64]]:
    """Read a run's metrics.jsonl as one array per field; NaN where a line lacks it.

    Raises:
        DataError: a line is no JSON object, or a value no number.
    """
    lines = Records(path).read()
    arrays = {}
    for name in sorted({name for line in lines for name in line}):
        try:
            arrays[name] = np.array([line.get(name, np.nan) for line in lines], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: {name}: a value is not a number") from error
    return arrays

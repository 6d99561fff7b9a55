"""Figure 4: a sound's spectrogram, with the frequencies and decays that the Lambda Encoder chose for it over time.

Letters: F mel bins, T frames, P patch size, Nf and Nt frequency and time patches, H kernels of a frequency patch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from aape.analysis.figures import make_figure, require_matplotlib
from aape.errors import ConfigError
from aape.inference import AudioModel, load_model
from aape.layers.aape import AaPE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ChosenKernels:
    """A sound, and the kernels that a stem chose for it."""

    spectrogram: NDArray[np.floating]  # standardised (F, T)
    frequencies: NDArray[np.floating]  # of the modulation, in Hz (Nf, Nt, H)
    decays: NDArray[np.floating]  # in nepers per second (Nf, Nt, H)
    frames_per_second: float  # sample rate over hop length
    patch_size: int  # P
    mel_band: tuple[float, float]  # lower edge of the first mel bin, upper edge of the last, in Hz

    @property
    def patch_seconds(self) -> float:
        """From one time patch to the next."""
        return self.patch_size / self.frames_per_second

    @property
    def folded_band(self) -> tuple[float, float]:
        """Nyquist frequencies of the patches and of the frames, in Hz: what lies between folds into the tokens."""
        return 0.5 / self.patch_seconds, self.frames_per_second / 2


def load_with_kernels(key: str, name: str, device: str) -> AudioModel:
    """Load a model whose stem chooses kernels; `key` is the option that names it.

    Raises:
        AapeError: matplotlib, to draw them with, is missing.
        CheckpointError: there is no such model.
        ConfigError: it has the standard stem.
    """
    require_matplotlib()
    model = load_model(name, device)
    if not isinstance(model.encoder.stem, AaPE):
        raise ConfigError(f"{key}: {name} has the standard stem, which has no kernels to show")
    return model


@torch.inference_mode()
def chosen_kernels(model: AudioModel, samples: NDArray[np.floating]) -> ChosenKernels:
    """Ask the AaPE stem of a model which frequencies and decays it uses for a sound.

    Samples are mono (samples,) at the model's rate, at most what is encoded in one pass.
    """
    stem, front_end = model.encoder.stem, model.front_end
    assert isinstance(stem, AaPE)
    spectrogram = model.log_mel(torch.from_numpy(samples)[None].to(model.device))  # (1, 1, F, T)
    decay, frequency = stem.kernels(spectrogram)  # (1, N, H), in units of a frame
    rate = front_end.sample_rate / front_end.hop_length
    decay, frequency = (x.unflatten(1, (stem.grid_size[0], -1))[0].float().cpu() * rate for x in (decay, frequency))
    hertz, band = (frequency / (2 * math.pi)).numpy(), (front_end.f_min, front_end.f_max)
    return ChosenKernels(spectrogram[0, 0].cpu().numpy(), hertz, decay.numpy(), rate, model.encoder.patch_size, band)


def plot_kernels(kernels: ChosenKernels, title: str = "Spectrogram", *, start: float = 0.0) -> Figure:
    """Draw a sound's spectrogram, from `start` seconds, above the shares of kernels in bins of frequency and decay."""
    figure = make_figure(9, 9)
    from matplotlib.ticker import LogLocator

    panels = figure.subplots(3, 1, sharex=True)
    num_bins, num_frames = kernels.spectrogram.shape
    num_freq, num_time, num_kernels = kernels.frequencies.shape
    times = start + kernels.patch_seconds * np.arange(num_time + 1)  # the last patch may reach past the end
    extent = (start, start + num_frames / kernels.frames_per_second, 0, num_bins)
    image = panels[0].imshow(kernels.spectrogram, origin="lower", aspect="auto", extent=extent, cmap="magma")
    figure.colorbar(image, ax=panels[0], label="log-mel (standard deviations)", pad=0.01)
    low, high = kernels.mel_band
    ticks = [hertz for hertz in (100, 250, 500, 1000, 2000, 4000, 8000) if low <= hertz <= high]
    positions = [mel_position(hertz, kernels.mel_band, num_bins) for hertz in ticks]
    panels[0].set_yticks(positions, [f"{hertz:,}" for hertz in ticks])
    panels[0].set(title=title, ylabel="audio frequency (Hz)", ylim=(0, num_bins), facecolor="0.85")
    nyquist, highest = kernels.folded_band
    _draw_shares(panels[1], times, kernels.frequencies, np.linspace(0, highest, 51))
    panels[1].axhline(nyquist, color="tab:red", linewidth=1, label=f"{nyquist:.4g} Hz: what the patches can represent")
    panels[1].legend(loc="upper right", fontsize="small", framealpha=0.9)
    kinds = f"{num_freq} x {num_kernels} kernels of each time patch"
    panels[1].set(title=f"Modulation frequencies that the {kinds} look for", ylabel="modulation frequency (Hz)")
    low, high = kernels.decays.min() * (1 - 1e-6), kernels.decays.max()
    _draw_shares(panels[2], times, kernels.decays, np.geomspace(low, max(high, 10 * low) * (1 + 1e-6), 41))
    panels[2].set(title="Decays of their windows", ylabel="decay (nepers per second)", xlabel="time (s)")
    panels[2].set_xlim(start, max(times[-1], extent[1]))
    panels[2].set(yscale="log", ylim=(0.7 * low, None))
    panels[2].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[2].yaxis.set_major_formatter("{x:g}")
    panels[2].yaxis.set_minor_formatter("")
    return figure


def _draw_shares(axes: Any, times: NDArray[np.floating], values: NDArray[np.floating], bins: NDArray[Any]) -> None:
    """Draw how values (Nf, Nt, H) are distributed over bins in each time patch, as a map of percentages."""
    shares = np.stack([np.histogram(column, bins)[0] / column.size for column in values.swapaxes(0, 1)])  # (Nt, bins)
    from matplotlib.colors import LogNorm

    norm = LogNorm(100 / values[:, 0].size, 100)  # from a single kernel to all of them
    drawn = axes.pcolormesh(times, bins, np.where(shares > 0, 100 * shares, np.nan).T, cmap="viridis_r", norm=norm)
    axes.figure.colorbar(drawn, ax=axes, label="share of the kernels (%)", pad=0.01, format="{x:g}")


def mel_position(hertz: float, band: tuple[float, float], n_mels: int) -> float:
    """Return where a frequency in Hz lies on an axis of mel bins, bin i from i to i + 1 (HTK mel scale).

    `band` is the lower edge of the first bin and the upper edge of the last, in Hz.
    """
    mel, low, high = (math.log10(1 + value / 700) for value in (hertz, *band))
    return (n_mels + 1) * (mel - low) / (high - low) - 0.5


def mel_hertz(position: float, band: tuple[float, float], n_mels: int) -> float:
    """Return the frequency, in Hz, at a position on an axis of mel bins: the inverse of `mel_position`."""
    low, high = (math.log10(1 + value / 700) for value in band)
    return 700 * (10 ** (low + (position + 0.5) / (n_mels + 1) * (high - low)) - 1)

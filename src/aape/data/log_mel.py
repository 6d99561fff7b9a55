"""Log-mel spectrograms (docs/method.md 1), and the mean and standard deviation that standardise them.

B clips, F mel bins, T frames. What is ours and not the paper's is marked in docs/method.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aape.data.clips import Clip, load_clip
from aape.errors import AudioError, DataError

_FLOOR = 1e-5  # of the mel power, under the logarithm
_MAX_BINS = 1 << 16
_MAX_RATE = 768_000  # Hz
_MAX_VALUES = 1 << 24  # of the filter bank
_FRAMES_AT_ONCE = 8192  # bounds the memory of the complex spectrum in long audio


def mel_filter_bank(sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float) -> np.ndarray:
    """Return triangular filters (F, n_fft // 2 + 1) on the HTK mel scale, `f_min` to `f_max` Hz, with peaks of 1."""
    low, high = (2595.0 * math.log10(1.0 + hertz / 700.0) for hertz in (f_min, f_max))
    edges = 700.0 * (10.0 ** (np.linspace(low, high, n_mels + 2) / 2595.0) - 1.0)  # (F + 2,) Hz
    bins = np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)
    slopes = edges[:, None] - bins  # (F + 2, bins)
    rising = -slopes[:-2] / np.diff(edges)[:-1, None]
    falling = slopes[2:] / np.diff(edges)[1:, None]
    bank: np.ndarray = np.maximum(0.0, np.minimum(rising, falling))
    return bank


class LogMel(nn.Module):
    """Standardised log-mel spectrogram of mono audio: natural logarithm of the mel power, floored at 1e-5.

    A periodic Hann window, centred in the transform; centred frames with reflection at both ends (zeros where the
    signal is too short to reflect). T = 1 + samples // hop_length frames. There are no parameters and no buffers: mean
    and std live in the configuration of whatever holds this module.

    Args: lengths in samples, frequencies in Hz; `mean` and `std` are of the log-mel of the training audio.

    Raises:
        ValueError: for values that make no front end.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_fft: int = 1024,
        win_length: int = 400,
        hop_length: int = 160,
        n_mels: int = 128,
        f_min: float = 50.0,
        f_max: float = 8000.0,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        if not (1 <= win_length <= n_fft and n_fft % 2 == 0 and hop_length >= 1 and n_mels >= 1):
            raise ValueError(f"no such frames: {n_fft=}, {win_length=}, {hop_length=}, {n_mels=}")
        if n_fft > _MAX_BINS or n_mels > n_fft or sample_rate > _MAX_RATE:  # a configuration can come from anywhere
            raise ValueError(f"beyond {_MAX_BINS} points or {_MAX_RATE} Hz: {n_fft=}, {n_mels=}, {sample_rate=}")
        if (size := n_mels * (n_fft // 2 + 1)) > _MAX_VALUES:
            raise ValueError(f"{n_fft=} and {n_mels=} make a filter bank of {size} values, the most is {_MAX_VALUES}")
        if not 0 <= f_min < f_max <= sample_rate / 2:
            raise ValueError(f"need 0 <= f_min < f_max <= {sample_rate / 2:g} Hz, not {f_min:g} and {f_max:g}")
        if not (math.isfinite(mean) and 0 < std < math.inf):
            raise ValueError(f"no such statistics: {mean=}, {std=}")
        self.sample_rate, self.n_fft, self.win_length, self.hop_length = sample_rate, n_fft, win_length, hop_length
        self.n_mels, self.f_min, self.f_max = n_mels, f_min, f_max
        self.mean, self.std = float(mean), float(std)
        # Not buffers: those would be cast by .half() and lost by loaders that build a model without memory.
        self._constants: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def extra_repr(self) -> str:
        """Say in `print(model)` what this front end is."""
        return f"sample_rate={self.sample_rate}, n_mels={self.n_mels}, mean={self.mean:.4g}, std={self.std:.4g}"

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the standardised log-mel spectrogram.

        Args:
            waveform: (B, samples), floating point, at least one sample. float64 is computed in float64, everything
                else in float32, inside autocast too.

        Returns:
            (B, 1, F, T), T = 1 + samples // hop_length.

        Raises:
            ValueError: for another shape, integers, or no samples.
        """
        if waveform.ndim != 2 or waveform.shape[1] == 0:
            raise ValueError(f"waveform must be (B, samples) with one sample at least, not {tuple(waveform.shape)}")
        if not waveform.is_floating_point():
            raise ValueError(f"waveform must be floating point in -1..1, not {waveform.dtype}")
        with torch.autocast(waveform.device.type, enabled=False):
            wave = waveform if waveform.dtype == torch.float64 else waveform.float()
            window, bank = self._window_and_bank(wave.device, wave.dtype)
            padded = self._pad(wave)
            num_frames = 1 + wave.shape[1] // self.hop_length
            if num_frames <= _FRAMES_AT_ONCE:
                mel = self._mel(padded, 0, num_frames, window, bank)
            else:
                starts = range(0, num_frames, _FRAMES_AT_ONCE)
                parts = ((first, min(first + _FRAMES_AT_ONCE, num_frames)) for first in starts)
                mel = torch.cat([self._mel(padded, first, last, window, bank) for first, last in parts], dim=1)
            log_mel = mel.clamp(min=_FLOOR).log()
            return ((log_mel - self.mean) / self.std).transpose(1, 2).unsqueeze(1)  # (B, 1, F, T)

    def _pad(self, wave: Tensor) -> Tensor:
        """Extend a wave by half a transform on either side: (B, samples) -> (B, samples + n_fft)."""
        reach = self.n_fft // 2
        mode = "reflect" if wave.shape[1] > reach else "constant"
        return F.pad(wave.unsqueeze(1), (reach, reach), mode=mode).squeeze(1)

    def _mel(self, padded: Tensor, first: int, last: int, window: Tensor, bank: Tensor) -> Tensor:
        """Return the mel power of frames first..last of a padded wave (B, samples + n_fft): (B, last - first, F)."""
        # Only what the window covers is cut out: where it lies in the transform changes phases, not power.
        begin = (self.n_fft - self.win_length) // 2 + first * self.hop_length
        end = begin + (last - first - 1) * self.hop_length + self.win_length
        frames = padded[:, begin:end].unfold(1, self.win_length, self.hop_length)  # (B, T, win_length)
        spectrum = torch.fft.rfft(frames * window, n=self.n_fft)  # (B, T, n_fft // 2 + 1)
        return F.linear(spectrum.real.square() + spectrum.imag.square(), bank)

    def _window_and_bank(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Window (win_length,) and filter bank (F, n_fft // 2 + 1), made once per device and dtype."""
        key = (device, dtype)
        if key not in self._constants:
            window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(self.win_length) / self.win_length)  # periodic Hann
            bank = mel_filter_bank(self.sample_rate, self.n_fft, self.n_mels, self.f_min, self.f_max)
            with torch.inference_mode(False):  # what is made in inference mode could not be used in training
                self._constants[key] = (
                    torch.as_tensor(window, dtype=dtype, device=device),
                    torch.as_tensor(bank, dtype=dtype, device=device),
                )
        return self._constants[key]


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of the log-mel of a corpus, over all mel bins and frames, in nats."""

    mean: float
    std: float
    num_clips: int  # measured, without the bad ones
    num_frames: int
    bad: list[tuple[str, str]]  # name and reason of the clips that could not be read


def measure_statistics(
    clips: Sequence[Clip],
    *,
    progress: Callable[[int, int], None] | None = None,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Statistics:
    """Measure the mean and the standard deviation of the log-mel over whole clips, in one pass in float64.

    Clips that cannot be read are listed in the result; how many are too many is the caller's to say. After every clip
    `progress` is called with (done, total). `options` are those of `LogMel` but mean and std.

    Raises:
        DataError: no clip could be read, or all of the audio is silent.
    """
    front_end = LogMel(**{**options, "mean": 0.0, "std": 1.0})
    total, squares, num_values, num_frames = 0.0, 0.0, 0, 0
    bad: list[tuple[str, str]] = []
    for done, clip in enumerate(clips, start=1):
        try:
            wave = load_clip(clip, sample_rate=front_end.sample_rate)
        except AudioError as error:
            bad.append((clip.name, error.reason))
        else:
            with torch.inference_mode():
                log_mels = front_end(torch.from_numpy(wave)[None].to(device)).cpu()  # mps has no float64
                for part in log_mels.split(_FRAMES_AT_ONCE, dim=-1):
                    values = part.double()
                    total += values.sum().item()
                    squares += values.square().sum().item()
            num_values += log_mels.numel()
            num_frames += log_mels.shape[-1]
        if progress is not None:
            progress(done, len(clips))
    if num_values == 0:
        first = f"; the first: {bad[0][0]}: {bad[0][1]}" if bad else ""
        raise DataError(f"none of {len(clips)} clips could be read{first}")
    mean = total / num_values
    variance = squares / num_values - mean * mean
    if variance < 1e-6:
        raise DataError("the audio is silent throughout: there is no standard deviation to standardise with")
    return Statistics(mean, math.sqrt(variance), len(clips) - len(bad), num_frames, bad)


def time_statistics(spectrogram: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return mean, standard deviation, maximum and standard deviation of the frame-to-frame difference of every bin.

    Args:
        spectrogram: (..., F, T). With a single frame there is no difference, and its standard deviation is 0.
        valid: the frames that are not padding (..., T), the first ones; None for all.

    Returns:
        (..., 4F), all bins of one statistic after the other.
    """
    weight = torch.ones_like(spectrogram[..., 0, :]) if valid is None else valid.to(spectrogram.dtype)
    weight = weight[..., None, :]  # (..., 1, T)

    def moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        size = weight.sum(-1, keepdim=True).clamp(min=1)
        mean = (weight * x).sum(-1, keepdim=True) / size
        return mean[..., 0], ((weight * (x - mean).square()).sum(-1, keepdim=True) / size).sqrt()[..., 0]

    mean, spread = moments(spectrogram, weight)
    _, delta_spread = moments(spectrogram.diff(dim=-1), weight[..., 1:])
    largest = spectrogram.masked_fill(weight == 0, float("-inf")).amax(-1)
    return torch.cat([mean, spread, largest, delta_spread], -1)

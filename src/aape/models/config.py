"""What a saved model is made of: its front end and its encoder."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from aape.errors import ConfigError

Pool: TypeAlias = Literal["cls_mean", "frequency", "frequency_std", "cls", "mean"]  # see `aape.models.pooling.pool`
MAX_LOOP_TO = 600.0  # seconds: looped sound is held in memory


@dataclass(frozen=True)
class FrontEndConfig:
    """The log-mel front end (docs/method.md 1).

    Args:
        sample_rate: samples per second that every recording is resampled to.
        n_fft: length of the Fourier transform, in samples.
        win_length: length of the Hann window, in samples.
        hop_length: step between frames, in samples.
        n_mels: number of mel bands.
        f_min: lower edge of the first band, in Hz [ours].
        f_max: upper edge of the last band, in Hz.
        mean: mean log-mel value of the training audio, in nats.
        std: standard deviation of the log-mel values of the training audio, in nats.
    """

    sample_rate: int = 16000
    n_fft: int = 1024
    win_length: int = 400
    hop_length: int = 160
    n_mels: int = 128
    f_min: float = 50.0
    f_max: float = 8000.0
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class EncoderConfig:
    """The stem and the Vision Transformer behind it (docs/method.md 3 to 6).

    Args:
        embed_dim: width of the tokens; every size of `--model` sets its own.
        depth: number of transformer blocks; every size of `--model` sets its own.
        num_heads: attention heads per block; every size of `--model` sets its own.
        mlp_ratio: width of a block's MLP over `embed_dim`.
        n_mels: mel bands of the spectrogram.
        num_frames: frames of the grid that the position table is made for.
        patch_size: side of a patch, in frames and mel bands.
        stem: the aliasing-aware stem, or the standard patch embedding.
        adaptive: decay and frequency of the filters from the Lambda Encoder, or learned constants.
        phase: bilateral is the paper's filter, analytic a quadrature pair [ours].
        kernel_size: filter taps, odd.
        stride: frames between two filter outputs.
        hidden_dim: H, filter channels per frequency patch.
        sblu_dim: Z, filter outputs per frequency patch.
        mask_context: hide masked patches from the filters as well [ours].
        lambda_dim: width of the Lambda Encoder; nano has 32.
        lambda_depth: blocks of the Lambda Encoder; nano has 1.
        lambda_heads: attention heads of the Lambda Encoder [ours]; nano has 1.
        decay_start: decay of all kernels above its lower bound at the start, in nepers per frame [ours].
        pos_trainable: learn the stem's position table instead of keeping it sine and cosine.
    """

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    n_mels: int = 128
    num_frames: int = 608
    patch_size: int = 16
    stem: Literal["aape", "patch"] = "aape"
    adaptive: bool = True
    phase: Literal["bilateral", "analytic"] = "bilateral"
    kernel_size: int = 63
    stride: int = 1
    hidden_dim: int = 16
    sblu_dim: int = 128
    mask_context: bool = False
    lambda_dim: int = 128
    lambda_depth: int = 3
    lambda_heads: int = 2
    decay_start: float = math.log(2)  # a raw decay of 0
    pos_trainable: bool = False


MODEL_SIZES: dict[str, dict[str, int]] = {
    "nano": {"embed_dim": 64, "depth": 2, "num_heads": 4, "lambda_dim": 32, "lambda_depth": 1, "lambda_heads": 1},
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}


def encoder_config(model: str = "base", **overrides: Any) -> EncoderConfig:
    """Return the encoder of a size of `MODEL_SIZES`, with single fields replaced.

    Raises:
        ConfigError: for an unknown size or field.
    """
    if model not in MODEL_SIZES:
        raise ConfigError(f"unknown model size {model!r}: choose one of {', '.join(MODEL_SIZES)}")
    names = [f.name for f in dataclasses.fields(EncoderConfig)]
    for key in overrides:
        if key not in names:
            raise ConfigError.unknown_key(key, names, "encoder")
    return dataclasses.replace(EncoderConfig(), **{**MODEL_SIZES[model], **overrides})


@dataclass(frozen=True)
class PredictorConfig:
    """What the student predicts with; 0 stands for the value of docs/method.md 7.

    Args:
        kind: cross-attention, or the convolutions of EAT (cnn).
        depth: number of layers; 0 for 3, for cnn 6.
        width: width of the layers; 0 for 2D/3, or 64 where the encoder's width D is at most 64; cnn always has D.
        num_heads: attention heads per layer; 0 for heads of 32 channels, or 64 where D is at most 64; cnn has none.
    """

    kind: Literal["cross_attention", "cnn"] = "cross_attention"
    depth: int = 0
    width: int = 0
    num_heads: int = 0

"""What a clip holds, found by decoding all of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aape.data.audio.decoding import audio_format
from aape.data.clips import Clip, clip_source, stream_clip


@dataclass(frozen=True)
class AudioInfo:
    """What a clip holds.

    Args:
        seconds: its length.
        sample_rate: in Hz.
        channels: how many.
        format: such as "WAV PCM_16".
        peak: the largest absolute sample of the mono mix.
    """

    seconds: float
    sample_rate: int
    channels: int
    format: str
    peak: float


def check_clip(clip: Clip) -> AudioInfo:
    """Decode a whole clip, block by block, and describe it.

    Raises:
        AudioError: it cannot be used.
    """
    sample_rate, channels, kind = audio_format(clip_source(clip), name=clip.name)
    length, peak = 0, 0.0
    for block in stream_clip(clip, sample_rate=sample_rate):
        length, peak = length + len(block), max(peak, float(np.abs(block).max(initial=0.0)))
    return AudioInfo(length / sample_rate, sample_rate, channels, kind, peak)

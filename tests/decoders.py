"""torchcodec's decoders of sound: its own where it can be imported, else one with the methods of its own."""

import io
from dataclasses import dataclass

import numpy as np
import soundfile
import torch

try:
    from torchcodec.decoders import AudioDecoder
except (ImportError, OSError, RuntimeError):  # not installed, or without ffmpeg's or CUDA's libraries

    @dataclass
    class AudioSamples:
        """What a decoder returns."""

        data: torch.Tensor  # (channels, samples)
        pts_seconds: float
        duration_seconds: float
        sample_rate: int

    class AudioDecoder:
        """Decodes a path or bytes."""

        def __init__(self, source):
            self.source = source

        def get_all_samples(self):
            file = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
            return AudioSamples(torch.from_numpy(samples.T.copy()), 0.0, len(samples) / rate, rate)


class DatasetsDecoder(AudioDecoder):
    """What a decoded column of `datasets` holds: `sound["array"]` is mono."""

    def __getitem__(self, key):
        samples = self.get_all_samples()
        return {"array": samples.data.numpy().mean(0), "sampling_rate": samples.sample_rate}[key]


def wav(*channels, rate=16000):
    """Return the bytes of a WAV file of these channels."""
    file = io.BytesIO()
    soundfile.write(file, np.stack(channels, 1), rate, format="WAV", subtype="FLOAT")
    return file.getvalue()

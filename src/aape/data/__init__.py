"""Audio in: sound files, manifests of data sets, and the log-mel front end."""

from aape.data.audio import AUDIO_EXTENSIONS, audio_seconds, read_audio
from aape.data.frontend import LogMel, Statistics, measure_statistics
from aape.data.manifest import Clip, clip_seconds, find_audio, load_clip, read_manifest

__all__ = [
    "AUDIO_EXTENSIONS",
    "Clip",
    "LogMel",
    "Statistics",
    "audio_seconds",
    "clip_seconds",
    "find_audio",
    "load_clip",
    "measure_statistics",
    "read_audio",
    "read_manifest",
]

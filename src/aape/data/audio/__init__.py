"""Sound files to arrays: decoding, and the forensics that trust no header."""

from aape.data.audio.decoding import AUDIO_EXTENSIONS, audio_seconds, read_audio, stream_audio

__all__ = ["AUDIO_EXTENSIONS", "audio_seconds", "read_audio", "stream_audio"]

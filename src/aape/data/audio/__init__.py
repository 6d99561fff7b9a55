"""Sound files to arrays: decoding, and the forensics that trust no header."""

from aape.data.audio.decoding import audio_seconds, read_audio

__all__ = ["audio_seconds", "read_audio"]

"""The recordings that come with the package."""

from pathlib import Path

AUDIO = Path(__file__).parent

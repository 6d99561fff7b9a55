"""Which clips are computed and kept together, see `aape.runs.chunks`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aape.data.clips import Clip
from aape.data.manifest import expanded
from aape.errors import ConfigError
from aape.runs.files import file_state

CHUNK_BATCHES = 4  # forward passes' worth of clips,
CHUNK_BYTES = 1 << 25  # unless they are this large: 3 minutes of a CD, 35 of MP3


def chunked(clips: Sequence[Clip], batch_size: int) -> Iterator[Sequence[Clip]]:
    """Cut a list of clips where many, or large ones, have come together."""
    first, num_bytes = 0, 0
    for index, clip in enumerate(clips, start=1):
        if clip.end is None:  # how much of it a part is, the size of a file does not say
            num_bytes += (file_state(clip.path) or (0,))[0] if clip.size is None else clip.size
        if index - first == CHUNK_BATCHES * batch_size or num_bytes >= CHUNK_BYTES or index == len(clips):
            yield clips[first:index]
            first, num_bytes = index, 0


def chunk_key(clips: Sequence[Clip]) -> list[object]:
    """Return, for each clip of a chunk, what tells it from others, and one state of it from another."""
    return [[c.name, c.path, file_state(c.path), c.offset, c.size, c.start, c.end] for c in clips]


def named_inputs(inputs: Sequence[str], world: int) -> list[str]:
    """Return inputs with the names on standard input in place of `-`.

    Raises:
        ConfigError: there are several processes, of which one would get the names.
        DataError: there are none.
    """
    if world > 1 and "-" in inputs:
        raise ConfigError("-: one of several processes would get the names: write them into a table")
    return expanded(inputs)

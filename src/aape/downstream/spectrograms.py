"""From clips to standardised log-mels, read by worker processes and kept in memory where they fit. F bins, T frames."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aape.data.clips import Clip, load_clip
from aape.data.log_mel import LogMel
from aape.errors import AudioError, DataError
from aape.models.config import FrontEndConfig

MOST_KEPT_BYTES = 1 << 31
MOST_CHECKED = 50_000  # clips that are all read before training; of larger sets the bad ones turn up on the way
_READ_AT_ONCE = 64

Wave = NDArray[np.float32]


class Batches(Protocol):
    """What gives the clips (n,) of a step."""

    def __getitem__(self, step: int) -> NDArray[np.int64]:
        """Return the clips of a step."""
        ...


class _Reader(Dataset[list[tuple[int, Any]]]):
    """Reads a step's clips: (index, samples), or (index, reason) of a clip that cannot be used."""

    def __init__(self, clips: Sequence[Clip], batches: Batches, sample_rate: int) -> None:
        self.clips, self.batches, self.sample_rate = clips, batches, sample_rate

    def __getitem__(self, step: int) -> list[tuple[int, Wave | str]]:
        found: list[tuple[int, Wave | str]] = []
        for index in self.batches[step].tolist():
            try:
                found.append((index, load_clip(self.clips[index], sample_rate=self.sample_rate)))
            except AudioError as error:
                found.append((index, error.reason))
        return found


class Spectrograms:
    """The log-mels of a data set.

    Args:
        clips: the data set.
        front_end: of the encoder.
        device: where log-mels are computed.
        workers: processes that read audio.
        max_bad_fraction: share of unreadable clips above which to stop.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        front_end: FrontEndConfig,
        *,
        device: torch.device,
        workers: int = 0,
        max_bad_fraction: float = 0.01,
    ) -> None:
        self.clips, self.device, self.workers, self.max_bad_fraction = clips, device, workers, max_bad_fraction
        self.log_mel = LogMel(**dataclasses.asdict(front_end))
        self.bad: dict[str, str] = {}
        self._kept: dict[int, Tensor] = {}
        self._is_complete = False

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read every clip once, so that what is bad is known before training; keep the log-mels if they fit.

        Raises:
            DataError: more than `max_bad_fraction` of the clips cannot be read.
        """
        if len(self.clips) > MOST_CHECKED:
            return
        batches = np.array_split(np.arange(len(self.clips)), -(-len(self.clips) // _READ_AT_ONCE))
        num_bytes, done = 0, 0
        for number, found in enumerate(self._read(batches, range(len(batches)))):
            num_bytes += sum(4 * own.numel() for _, own in found)
            if num_bytes <= MOST_KEPT_BYTES:
                self._kept.update((index, own.cpu()) for index, own in found)
            else:
                self._kept.clear()
            done += len(batches[number])
            if progress is not None:
                progress(done, len(self.clips))
        self._is_complete = num_bytes <= MOST_KEPT_BYTES

    def of(self, clips: Sequence[Clip]) -> Spectrograms:
        """Return those of the readable clips, numbered anew; what was bad stays listed."""
        left = copy.copy(self)
        left.clips = clips
        numbers = {clip.name: index for index, clip in enumerate(clips)}
        named = ((self.clips[index].name, own) for index, own in self._kept.items())
        left._kept = {numbers[name]: own for name, own in named if name in numbers}
        return left

    def by_length(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return clips (n,) so that those of one length stand together, where the log-mels are kept."""
        if not self._is_complete:
            return indices
        lengths = [self._kept[index].shape[-1] if index in self._kept else 0 for index in indices.tolist()]
        return indices[np.argsort(lengths, kind="stable")]

    def stream(self, batches: Batches, steps: Iterable[int]) -> Iterator[list[tuple[int, Tensor]]]:
        """Yield, for each step, index and log-mel (F, T) of those of its clips that can be read."""
        if not self._is_complete:
            yield from self._read(batches, steps)
            return
        for step in steps:
            kept = [index for index in batches[step].tolist() if index in self._kept]
            yield [(index, self._kept[index].to(self.device)) for index in kept]

    def _read(self, batches: Batches, steps: Iterable[int]) -> Iterator[list[tuple[int, Tensor]]]:
        reader = _Reader(self.clips, batches, self.log_mel.sample_rate)
        loader: Iterable[list[tuple[int, Wave | str]]] = DataLoader(
            reader, batch_size=None, sampler=list(steps), num_workers=self.workers, collate_fn=_as_they_are
        )
        for found in loader:
            self._note([(self.clips[index].name, own) for index, own in found if isinstance(own, str)])
            yield self._log_mels([(index, own) for index, own in found if not isinstance(own, str)])

    def _log_mels(self, waves: list[tuple[int, Wave]]) -> list[tuple[int, Tensor]]:
        """Compute clips of one length together."""
        by_length: dict[int, list[tuple[int, Wave]]] = {}
        for index, wave in waves:
            by_length.setdefault(len(wave), []).append((index, wave))
        done: dict[int, Tensor] = {}
        for same in by_length.values():
            batch = torch.from_numpy(np.stack([wave for _, wave in same])).to(self.device)
            with torch.no_grad():
                done.update(zip((index for index, _ in same), self.log_mel(batch)[:, 0], strict=True))
        return [(index, done[index]) for index, _ in waves]

    def _note(self, bad: list[tuple[str, str]]) -> None:
        self.bad.update(bad)
        if bad and len(self.bad) > self.max_bad_fraction * len(self.clips):
            name, reason = next(iter(self.bad.items()))
            raise DataError(
                f"{len(self.bad)} of {len(self.clips)} clips cannot be read, more than max_bad_fraction = "
                f"{self.max_bad_fraction:g} allows; the first: {name}: {reason}"
            )


def _as_they_are(found: Any) -> Any:
    return found

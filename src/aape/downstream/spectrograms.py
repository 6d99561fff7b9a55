"""From clips to standardised log-mels, read by worker processes and kept in memory where they fit. F bins, T frames."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aape.data.clips import Clip, load_clip
from aape.data.log_mel import LogMel
from aape.errors import AudioError
from aape.models.config import FrontEndConfig
from aape.runs.guards import BadFiles, worker_start
from aape.runs.signals import held

MAX_KEPT_BYTES = 1 << 31
MAX_CHECKED = 50_000  # clips: larger sets are not read before training, which then meets their bad files
_READ_AT_ONCE = 64

Wave = NDArray[np.float32]


class Batches(Protocol):
    """What gives the clips (n,) of a step."""

    def __getitem__(self, step: int) -> NDArray[np.int64]:
        """Return the clips of a step."""
        ...


@dataclass
class _Reader(Dataset[list[tuple[int, Any]]]):
    """Reads a step's clips: (index, samples), or (index, reason) of a clip that cannot be used."""

    clips: Sequence[Clip]
    batches: Batches
    sample_rate: int
    min_samples: int

    def __getitem__(self, step: int) -> list[tuple[int, Wave | str]]:
        clips: list[tuple[int, Wave | str]] = []
        for index in self.batches[step].tolist():
            try:
                wave = load_clip(self.clips[index], sample_rate=self.sample_rate)
                clips.append((index, np.resize(wave, max(len(wave), self.min_samples))))
            except AudioError as error:
                clips.append((index, error.reason))
        return clips


@dataclass
class Spectrograms:
    """The log-mels of a data set.

    Attributes:
        clips: the data set.
        front_end: of the encoder.
        device: where log-mels are computed.
        workers: processes that read audio.
        loop_to: length in seconds that shorter clips are looped to; 0 for none.
        max_bad_fraction: stop when more than this share of the clips cannot be read.
        frames: of each clip, (n,), 0 if it cannot be read; None where they are too many to be read beforehand.
    """

    clips: Sequence[Clip]
    front_end: FrontEndConfig
    device: torch.device
    workers: int = 0
    loop_to: float = 0.0
    max_bad_fraction: float = 0.01
    frames: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        self.log_mel = LogMel(**dataclasses.asdict(self.front_end))
        self.bad = BadFiles(len(self.clips), self.max_bad_fraction)
        self._kept: dict[int, Tensor] = {}
        self._is_complete = False

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read every clip once, so that what is bad is known before training; keep the log-mels if they fit.

        Raises:
            DataError: more than `max_bad_fraction` of the clips cannot be read.
        """
        if len(self.clips) > MAX_CHECKED:
            return
        batches = np.array_split(np.arange(len(self.clips)), -(-len(self.clips) // _READ_AT_ONCE))
        self.frames = np.zeros(len(self.clips), np.int64)
        num_bytes, done = 0, 0
        for number, clips in enumerate(self._read(batches, range(len(batches)), self.bad.add)):
            for index, mel in clips:
                self.frames[index] = mel.shape[-1]
                num_bytes += 4 * mel.numel()
            if num_bytes <= MAX_KEPT_BYTES:
                self._kept.update((index, mel.cpu()) for index, mel in clips)
            else:
                self._kept.clear()
            done += len(batches[number])
            if progress is not None:
                progress(done, len(self.clips))
        self._is_complete = num_bytes <= MAX_KEPT_BYTES

    def of(self, clips: Sequence[Clip]) -> Spectrograms:
        """Return those of some of the clips, with new indices; bad files stay listed."""
        part = copy.copy(self)
        numbers = {clip.name: number for number, clip in enumerate(self.clips)}
        chosen = [numbers[clip.name] for clip in clips]
        part.clips, part.frames = clips, None if self.frames is None else self.frames[chosen]
        part._kept = {index: self._kept[number] for index, number in enumerate(chosen) if number in self._kept}
        return part

    def by_length(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return clips (n,) so that those of one length stand together, where lengths are known."""
        return indices if self.frames is None else indices[np.argsort(self.frames[indices], kind="stable")]

    def stream(self, batches: Batches, steps: Iterable[int]) -> Iterator[list[tuple[int, Tensor]]]:
        """Yield, for each step, index and log-mel (F, T) of those of its clips that can be read."""
        if not self._is_complete:
            yield from self._read(batches, steps, self.bad.note)
            return
        for step in steps:
            kept = [index for index in batches[step].tolist() if index in self._kept]
            yield [(index, self._kept[index].to(self.device, non_blocking=True)) for index in kept]

    def _read(
        self, batches: Batches, steps: Iterable[int], note: Callable[[list[tuple[str, str]]], None]
    ) -> Iterator[list[tuple[int, Tensor]]]:
        rate = self.log_mel.sample_rate
        reader = _Reader(self.clips, batches, rate, round(self.loop_to * rate))
        loader: Iterable[list[tuple[int, Wave | str]]] = DataLoader(
            reader, batch_size=None, sampler=steps, num_workers=self.workers, collate_fn=list,
            worker_init_fn=worker_start(self.workers),
        )  # fmt: skip
        with held():
            parts = iter(loader)
        for clips in parts:
            note([(self.clips[index].name, reason) for index, reason in clips if isinstance(reason, str)])
            yield self._log_mels([(index, wave) for index, wave in clips if not isinstance(wave, str)])

    def _log_mels(self, waves: list[tuple[int, Wave]]) -> list[tuple[int, Tensor]]:
        """Compute clips of one length together."""
        by_length: dict[int, list[tuple[int, Wave]]] = {}
        for index, wave in waves:
            by_length.setdefault(len(wave), []).append((index, wave))
        done: dict[int, Tensor] = {}
        for same in by_length.values():
            batch = torch.from_numpy(np.stack([wave for _, wave in same])).to(self.device, non_blocking=True)
            with torch.no_grad():
                done.update(zip((index for index, _ in same), self.log_mel(batch)[:, 0], strict=True))
        return [(index, done[index]) for index, _ in waves]

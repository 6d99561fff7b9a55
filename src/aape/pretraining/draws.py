"""What each step trains on: a crop of a clip and its masks, a function of (seed, epoch, clip) and of nothing else.

Draw i of a run is place i mod n of epoch i div n. Whoever computes it, and after which interruption, gets the same.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from aape.data.clips import Clip, clip_seconds, load_clip
from aape.data.log_mel import LogMel
from aape.errors import AudioError, DataError
from aape.pretraining.config import MaskingConfig
from aape.pretraining.masking import draw_views
from aape.pretraining.waveform_augment import change, draw_speed
from aape.runs.guards import worker_start
from aape.runs.signals import held

MAX_REPLACEMENTS = 20  # bad clips in a row before a draw gives up


class ClipDraws(Dataset[dict[str, Any]]):
    """All draws of a run."""

    def __init__(
        self,
        clips: Sequence[Clip],  # all clips of the corpus
        *,
        num_draws: int,  # steps times clips per step
        seed: int,  # seed of order, crops and masks
        crop_samples: int,  # length of a crop
        sample_rate: int,  # Hz
        grid: tuple[int, int],  # (Nf, Nt) of a crop
        masking: MaskingConfig,
        loop_to_crop: bool = False,  # a clip shorter than the crop is looped to its length; else it is padded later
        augment: float = 0.0,  # share of the crops that each change of `waveform_augment` applies to
    ) -> None:
        self.clips, self.num_draws, self.seed = clips, num_draws, seed
        self.crop_samples, self.sample_rate, self.loop_to_crop = crop_samples, sample_rate, loop_to_crop
        self.grid, self.masking, self.augment = grid, masking, augment
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __len__(self) -> int:
        return self.num_draws

    def __getitem__(self, draw: int) -> dict[str, Any]:
        """Return one draw.

        That is waveform (1, samples), or (2, samples), what the teacher hears and what the student, zero behind
        num_samples; visible (M, V); queries (M, Q); the clip's index; and the (name, reason) of bad clips that this one
        replaces. DataError: too many clips in a row cannot be read.
        """
        epoch, position = divmod(draw, len(self.clips))
        order = self.epoch_order(epoch)
        bad: list[tuple[str, str]] = []
        for shift in range(min(MAX_REPLACEMENTS, len(self.clips))):
            index = int(order[(position + shift) % len(self.clips)])
            generator = torch.Generator().manual_seed(_seed(self.seed, epoch, index))
            try:
                waves = self._augmented(epoch, index, generator) if self.augment else [self._crop(index, generator)]
            except AudioError as error:
                bad.append((error.name, error.reason))
                continue
            visible, queries = draw_views(self.grid, self.masking, generator)
            full = np.zeros((len(waves), self.crop_samples), np.float32)
            full[:, : len(waves[0])] = waves
            sound = {"waveform": torch.from_numpy(full), "num_samples": len(waves[0])}
            return {**sound, "visible": visible, "queries": queries, "clip": index, "bad": bad}
        raise DataError(f"{len(bad)} clips in a row cannot be read; the last: {bad[-1][0]}: {bad[-1][1]}")

    def epoch_order(self, epoch: int) -> Tensor:
        """Return the permutation of clip indices of one epoch."""
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(_seed(self.seed, epoch))
            self._order = (epoch, torch.randperm(len(self.clips), generator=generator))
        return self._order[1]

    def _augmented(self, epoch: int, index: int, generator: torch.Generator) -> list[np.ndarray]:
        """Read a crop, perhaps played faster, for the teacher, and change it for the student, perhaps by a mixture."""
        rng = np.random.default_rng(_seed(self.seed, epoch, index, 1))
        wave, other = self._crop(index, generator, draw_speed(self.augment, rng)), None
        is_mixed, partner = rng.random() < self.augment, int(rng.integers(len(self.clips)))
        if is_mixed:
            other = self._crop(partner, generator, draw_speed(self.augment, rng))
        return [wave, change(wave, other, self.sample_rate, self.augment, rng)]

    def _crop(self, index: int, generator: torch.Generator, speed: float = 1.0) -> np.ndarray:
        """Read a crop at a uniformly random place; a shorter clip whole."""
        clip, crop_seconds = self.clips[index], self.crop_samples / self.sample_rate
        seconds = clip.seconds if clip.seconds is not None else clip_seconds(clip)
        # Drawn for every clip, so that the masks do not depend on how a length was found out
        start = torch.rand((), generator=generator, dtype=torch.float64).item()
        start *= max(0.0, seconds - crop_seconds * speed)
        rate = round(self.sample_rate / speed)  # fewer samples, played at the usual rate
        wave = load_clip(clip, sample_rate=rate, start=start, duration=crop_seconds * speed)[: self.crop_samples]
        if self.loop_to_crop and len(wave) < self.crop_samples:
            wave = np.resize(wave, self.crop_samples)
        return wave


class StepBatches(Sampler[list[int]]):
    """One rank's share of the draws: step s takes the draws s * clips to (s + 1) * clips, whatever the number of ranks.

    `clips` are those of a step, over all ranks and its `accumulate` batches. Getting to `first_step` costs nothing.
    """

    def __init__(
        self, *, num_draws: int, clips: int, accumulate: int = 1, rank: int = 0, num_ranks: int = 1, first_step: int = 0
    ) -> None:
        self.num_draws, self.clips, self.accumulate, self.first_step = num_draws, clips, accumulate, first_step
        self.size = clips // (accumulate * num_ranks)
        self.first, self.stride = rank * self.size, num_ranks * self.size

    def __len__(self) -> int:
        """Count the batches of the whole run."""
        return self.num_draws // self.clips * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.first_step * self.accumulate, len(self)):
            first = batch * self.stride + self.first
            yield list(range(first, first + self.size))


def collate(draws: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack draws into a batch: tensors gain a first dimension B, the rest become lists."""
    batch: dict[str, Any] = {name: [draw[name] for draw in draws] for name in draws[0]}
    stacked = {name: torch.stack(batch[name]) for name in ("waveform", "visible", "queries")}
    return {**batch, **stacked, "bad": list(itertools.chain(*batch["bad"]))}


def load_steps(
    draws: ClipDraws, order: StepBatches, *, workers: int = 0, pin_memory: bool = False
) -> Iterator[Iterator[dict[str, Any]]]:
    """Read the batches of this rank's share, as `collate` makes them; finish a step before the next: one loader."""
    loader = DataLoader(
        draws,
        batch_sampler=order,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=worker_start(workers),
        generator=torch.Generator(),  # a resumed run leaves the global one as an unbroken run does
    )
    with held():  # a SIGTERM to the whole group leaves the workers: their batches are still needed to stop
        batches = iter(loader)
    while True:
        yield itertools.islice(batches, order.accumulate)


def draw_prefix(seed: int, step: int, min_prefix: int, num_time: int) -> int:
    """Return a number of time patches, log-uniform; one per step, whatever the number of ranks and batches; 0: all."""
    if not min_prefix:
        return num_time
    generator = torch.Generator().manual_seed(_seed(seed, -1 - step))
    share = torch.rand((), generator=generator, dtype=torch.float64).item()
    return min(num_time, int(min_prefix * ((num_time + 1) / min_prefix) ** share))


def crop_spectrograms(
    waveform: Tensor, num_samples: Sequence[int], log_mel: LogMel, num_frames: int, patch_size: int
) -> tuple[Tensor, Tensor]:
    """Compute the log-mels of crops, cut or zero-padded, after standardisation, to T frames.

    Args:
        waveform: (B, samples), zero behind each clip's `num_samples` (B of them).
        num_samples: see `waveform`.
        log_mel: the front end.
        num_frames: T, a multiple of the patch.
        patch_size: P.

    Returns:
        Spectrograms (B, 1, F, T), and which patches do not lie wholly in padding (B, N).
    """
    lengths = sorted(set(num_samples))
    if len(lengths) == 1:
        frames = log_mel(waveform[:, : lengths[0]])[..., :num_frames]
        spectrogram = torch.nn.functional.pad(frames, (0, num_frames - frames.shape[-1])).to(waveform.dtype)
    else:
        spectrogram = waveform.new_zeros(len(waveform), 1, log_mel.n_mels, num_frames)
        for length in lengths:  # one length at a time: what is reflected at the end is the clip itself
            rows = torch.tensor([i for i, n in enumerate(num_samples) if n == length])
            rows = rows.to(waveform.device, non_blocking=True)
            frames = log_mel(waveform[rows, :length])[..., :num_frames]
            spectrogram[rows, ..., : frames.shape[-1]] = frames.to(spectrogram.dtype)
    valid_frames = 1 + torch.tensor(num_samples) // log_mel.hop_length  # (B,)
    valid = torch.arange(0, num_frames, patch_size) < valid_frames[:, None]  # (B, Nt)
    num_freq = log_mel.n_mels // patch_size
    valid = valid[:, None].expand(-1, num_freq, -1).flatten(1)
    return spectrogram, valid.to(waveform.device, non_blocking=True)


def _seed(*parts: int) -> int:
    """Hash integers into a seed: neighbouring epochs and clips get unrelated streams."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1

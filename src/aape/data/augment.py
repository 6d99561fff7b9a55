"""Mixup, SpecAugment, random crops and drop path, and their random draws (docs/method.md 8). F mel bins, T frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from aape.data.sampling import Draws

Band = tuple[int, int]  # first bin or frame that is hidden, and how many


def mix_up(mel: Tensor, other: Tensor, share: float) -> Tensor:
    """Mix two standardised log-mels (F, T), `share` of the first with the rest of the other; mix targets likewise.

    The first keeps its length: the other is cut, or padded with zeros, the mean of the training audio.
    """
    other = F.pad(other, (0, mel.shape[-1] - other.shape[-1]))  # a negative padding cuts
    return share * mel + (1 - share) * other


def draw_bands(shape: tuple[int, int], *, largest: float, generator: np.random.Generator) -> tuple[Band, Band]:
    """Draw what SpecAugment hides of (F, T), uniformly: a band of bins and one of frames, at most `largest` of all."""
    bands = []
    for size in shape:
        width = int(generator.integers(0, int(largest * size) + 1))
        bands.append((int(generator.integers(0, size - width + 1)), width))
    return bands[0], bands[1]


def hide(spectrogram: Tensor, bands: tuple[Band, Band]) -> Tensor:
    """Return a log-mel (F, T) with its bands set to 0, the mean of the training audio."""
    out = spectrogram.clone()
    for dim, (start, width) in enumerate(bands):
        out.narrow(dim, start, width).zero_()
    return out


@dataclass
class StepDraws:
    """All random choices of a step, by slot in its batch of B clips.

    Attributes:
        clips: index of each clip, (B,).
        partners: slot of the clip that each is mixed with, (B,); the same slot without mixup.
        shares: share of each clip in its mixture, (B,).
        starts: first frame of each crop.
        bands: what SpecAugment hides of each clip.
        uniforms: for drop path, a number in [0, 1) per residual branch of each clip.
    """

    clips: NDArray[np.int64]
    partners: NDArray[np.int64]
    shares: NDArray[np.float64]
    starts: dict[int, int] = field(default_factory=dict)
    bands: dict[int, tuple[Band, Band]] = field(default_factory=dict)
    uniforms: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Draws the random choices of a step from seed and step alone, so that all ranks and a resumed run agree.

    Where the lengths of all clips are known, all slots share a generator. Where they are not, a rank knows the lengths
    of its share only, and what depends on a length comes from a generator of the slot.

    Attributes:
        draws: the clips of each step.
        seed: random seed of all draws.
        bins: number of mel bins, F.
        crop: number of frames that longer clips are cut to.
        is_padded: whether shorter clips are padded to that length.
        patch_size: clips are grouped by their length in patches of this many frames.
        num_branches: number of residual branches that drop path may drop.
        mixup: both parameters of the Beta distribution; 0 for none.
        spec_augment: largest share of bins, and of frames, that is hidden; 0 for none.
        frames: length of each clip of the set in frames; None where unknown.
        rank: the share of each batch that this process trains on.
        num_ranks: number of processes.
    """

    draws: Draws
    seed: int
    bins: int
    crop: int
    is_padded: bool
    patch_size: int
    num_branches: int
    mixup: float = 0.0
    spec_augment: float = 0.0
    frames: NDArray[np.int64] | None = None
    rank: int = 0
    num_ranks: int = 1

    def __getitem__(self, step: int) -> NDArray[np.int64]:
        """Return the clips that this rank reads for a step."""
        draws = self.draw(step)
        return draws.clips[self.read(draws)]

    def share(self, draws: StepDraws) -> range:
        """Return this rank's slots."""
        batch = len(draws.clips)
        return range(batch * self.rank // self.num_ranks, batch * (self.rank + 1) // self.num_ranks)

    def read(self, draws: StepDraws) -> list[int]:
        """Return the slots that this rank has to read: its share and their partners."""
        share = self.share(draws)
        return sorted({*share, *draws.partners[share].tolist()})

    def draw(self, step: int, frames: Mapping[int, int] | None = None) -> StepDraws:
        """Draw a step.

        Args:
            step: number of the step.
            frames: length of the clips by slot, where it is known only now; partners never depend on it.
        """
        clips, is_known = self.draws[step], self.frames is not None
        shared = np.random.default_rng((self.seed, step, 1))
        drop_path_seed = int(shared.integers(1 << 62))
        lengths = frames or {} if self.frames is None else dict(enumerate(self.frames[clips].tolist()))
        generators = dict.fromkeys(lengths, shared)
        if not is_known:
            generators = {slot: np.random.default_rng((self.seed, step, 2, slot)) for slot in lengths}
        draws = StepDraws(clips, np.arange(len(clips)), np.ones(len(clips)))
        for slot, length in lengths.items():
            room = max(0, length - self.crop)
            draws.starts[slot] = int(generators[slot].integers(0, room + 1)) if room else 0
        lengths = {slot: self.crop if self.is_padded else min(self.crop, length) for slot, length in lengths.items()}
        if self.mixup:
            draws.partners = shared.permutation(len(clips))
            draws.shares = shared.beta(self.mixup, self.mixup, len(clips))
        if self.spec_augment:
            for slot, length in lengths.items():
                shape = (self.bins, length)
                draws.bands[slot] = draw_bands(shape, largest=self.spec_augment, generator=generators[slot])
        if is_known:
            draws.uniforms = self._uniforms(lengths, drop_path_seed)
        else:
            for slot, length in lengths.items():
                draws.uniforms |= self._uniforms({slot: length}, int(generators[slot].integers(1 << 62)))
        return draws

    def _uniforms(self, lengths: Mapping[int, int], seed: int) -> dict[int, Tensor]:
        """Draw the numbers of drop path for clips of one length after the other, branch by branch."""
        generator = torch.Generator().manual_seed(seed)
        uniforms: dict[int, Tensor] = {}
        for slots in group_by_length(lengths, self.patch_size):
            numbers = torch.rand(self.num_branches, len(slots), generator=generator)
            uniforms.update(zip(slots, numbers.unbind(1), strict=True))
        return uniforms


def group_by_length(lengths: Mapping[int, int], patch_size: int) -> list[list[int]]:
    """Group slots by the number of patches that their frames make; the shortest first."""
    groups: dict[int, list[int]] = {}
    for slot, length in lengths.items():
        groups.setdefault(-(-length // patch_size), []).append(slot)
    return [groups[count] for count in sorted(groups)]

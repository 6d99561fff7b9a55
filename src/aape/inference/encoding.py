"""An encoder in use: from a stream of sound to a stream of vectors, or of whatever else is made of spectrograms."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json
import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aape.data.audio.arrays import NAME
from aape.data.clips import Clip
from aape.data.log_mel import LogMel
from aape.errors import ConfigError
from aape.inference.pipeline import encode
from aape.inference.reading import read_clips
from aape.inference.recordings import Sound, open_sounds
from aape.inference.segments import Blocks, Cut, End, FloatArray, Segment, cutting, segments
from aape.models.config import MAX_LOOP_TO, FrontEndConfig
from aape.models.encoder import AudioEncoder
from aape.models.heads import ClassificationHead
from aape.models.pooling import check_pooling, merge, pool, pooled_dim
from aape.runs.devices import autocast, require_compiler

if TYPE_CHECKING:
    from typing_extensions import Self

BATCH_SIZE = 16
CPU_BATCH_FRAMES = 1216  # the most in a batch on a CPU, 12 s of sound: more are hardly faster, and end less evenly
PRECISIONS = ("auto", "float32", "bfloat16")

Progress: TypeAlias = Callable[[int, int], None]
ItemT = TypeVar("ItemT")


class Embedded(NamedTuple):
    """A vector of a recording, or of a window of it."""

    row: int  # of the recording
    start: float  # seconds
    end: float
    vector: FloatArray  # (E,)


class FrozenEncoder:
    """An encoder with its front end, and how it is used. Arguments and errors are those of `AudioModel`."""

    def __init__(
        self,
        encoder: AudioEncoder,
        front_end: FrontEndConfig,
        *,
        loop_to: float = 0.0,
        pool: str = "cls_mean",
        layers: Sequence[int] = (),
        precision: str = "auto",
    ) -> None:
        is_number = isinstance(loop_to, numbers.Real)
        if not (is_number and 0 <= loop_to <= MAX_LOOP_TO):  # also true of NaN
            raise ConfigError(f"loop_to must be 0 to {MAX_LOOP_TO:g} seconds, got {loop_to!r}")
        if precision not in PRECISIONS:
            raise ConfigError(f"precision: expected {', '.join(PRECISIONS)}, got {precision!r}")
        self.encoder = encoder.eval()
        self.front_end = front_end
        self.log_mel = LogMel(**dataclasses.asdict(front_end))
        self.loop_to = loop_to
        self.pool, self.layers = check_pooling(pool, layers, len(encoder.blocks))
        self._precision = precision
        self._is_compiled = False
        self._modules = nn.ModuleList([encoder])

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.encoder.cls_token.device

    @property
    def embed_dim(self) -> int:
        """Length of a vector, E."""
        return pooled_dim(self.pool, self.encoder.embed_dim, self._num_freq)

    @property
    def precision(self) -> str:
        """What products are computed in, "float32" or "bfloat16"; `double` overrides it."""
        is_bfloat16 = self.device.type == "cuda" if self._precision == "auto" else self._precision == "bfloat16"
        return "bfloat16" if is_bfloat16 else "float32"

    @property
    def _num_freq(self) -> int:
        return self.log_mel.n_mels // self.encoder.patch_size

    @property
    def _dtype(self) -> type[np.floating]:
        return np.float64 if self.encoder.cls_token.dtype == torch.float64 else np.float32

    def to(self, device: str | torch.device) -> Self:
        """Move to a device, in place."""
        self._modules.to(device)
        return self

    def double(self) -> Self:
        """Compute everything in float64 from now on, the front end and the vectors included."""
        self._modules.double()
        return self

    def compile(self) -> Self:
        """Compile the blocks with torch.compile at their first use, for sounds of any length, in place.

        Raises:
            ConfigError: this computes on a CPU, and there is no compiler.
        """
        require_compiler(self.device)
        for block in self.encoder.blocks:
            block.compile(dynamic=True)
        self._is_compiled = True
        return self

    def embed_sounds(
        self, sounds: Iterable[Sound], *, batch_size: int = BATCH_SIZE, names: Sequence[str] = ()
    ) -> Iterator[FloatArray]:
        """Embed sounds while they come, such as those of a data set that memory does not hold.

        Args:
            sounds: each as in a list for `embed`; samples bring their rate.
            batch_size: the most spectrograms per forward pass; a CPU takes 12 s of sound.
            names: what they are called in errors; none for their numbers, from 0. A file has its own.

        Yields:
            In order, the vector of each, (E,).

        Raises:
            AudioError: a sound cannot be used.
        """
        cut = self._cut()
        options: dict[str, Any] = {"to_rate": self.log_mel.sample_rate, "dtype": self._dtype}
        opened = (
            open_sounds([sound], None, names=[names[number] if names else f"{NAME}, clip {number}"], **options)[0][0]
            for number, sound in enumerate(sounds)
        )
        for item in raising(self._vectors(self._stream(opened, cut), cut, batch_size=batch_size)):
            yield item.vector

    def fingerprint(self, *, with_head: bool = False) -> str:
        """Return a digest of all that a vector depends on besides the sound, and if asked for of the classifier."""
        settings = [self.loop_to, self.pool, self.layers, self.precision, self._is_compiled]
        settings += [module.pool for module in self._modules if with_head and isinstance(module, ClassificationHead)]
        digest = hashlib.sha256(" ".join(map(str, settings)).encode())
        for config in (self.encoder.config, self.front_end):
            digest.update(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
        for name, tensor in sorted((self._modules if with_head else self.encoder).state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _with(self, pool: str, layers: Sequence[int]) -> Self:
        """Return the same model with other vectors."""
        other = copy.copy(self)
        other.pool, other.layers = check_pooling(pool, layers, len(self.encoder.blocks))
        return other

    def _cut(self, window: float | None = None, hop: float | None = None) -> Cut:
        return cutting(self.front_end, self.encoder.patch_size, window, hop)

    def _stream(self, sounds: Iterable[Blocks], cut: Cut) -> Iterator[Segment | End]:
        """Cut recordings one after the other."""
        for row, blocks in enumerate(sounds):
            yield from segments(row, blocks, cut, self._loop_samples)

    def _read(
        self, chunks: Iterable[Sequence[Clip]], cut: Cut, progress: Progress | None, num_workers: int
    ) -> Iterator[Segment | End]:
        """Read and cut clips one after the other."""
        total, last_rows = 0, set[int]()

        def clips() -> Iterator[Clip]:
            nonlocal total
            for chunk in chunks:
                total += len(chunk)
                last_rows.add(total - 1)
                yield from chunk

        for item in read_clips(clips(), cut, self._loop_samples, num_workers=num_workers):
            if not isinstance(item, End):
                yield item
                continue
            yield item._replace(closes=item.row in last_rows)
            last_rows.discard(item.row)
            if progress is not None:
                progress(item.row + 1, total)

    def _tokens(self, x: Tensor) -> Tensor:
        """Encode spectrograms (B, 1, F, T): the mean over `layers` of their tokens (B, 1 + N, D)."""
        tokens = torch.stack(self.encoder.forward_layers(x, self.layers))
        return tokens.to(torch.promote_types(tokens.dtype, torch.float32)).mean(0)  # and pooled in float32

    def _encode(
        self,
        stream: Iterable[Segment | End],
        function: Callable[[Tensor], Tensor],
        *,
        batch_size: int = BATCH_SIZE,
        is_repeatable: bool = False,
    ) -> Iterator[tuple[Segment, FloatArray] | End]:
        """Apply a function of spectrograms (B, 1, F, T) to batches of segments; yields each one's result in order."""
        if not isinstance(batch_size, numbers.Integral) or batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more, got {batch_size!r}")
        device = self.device
        dtype = torch.promote_types(self.encoder.cls_token.dtype, torch.float32)  # also into weights in half precision
        precision = "float32" if dtype == torch.float64 else self.precision

        def compute(batch: list[Segment]) -> FloatArray:
            with torch.inference_mode(), autocast(device, precision):
                return function(spectrograms(batch, self.log_mel, device, dtype)).to(dtype).cpu().numpy()

        def most(num_frames: int) -> int:
            return max(1, min(batch_size, CPU_BATCH_FRAMES // num_frames) if device.type == "cpu" else batch_size)

        return encode(stream, compute, batch_size=most, device=device, is_repeatable=is_repeatable)

    def _vectors(self, stream: Iterable[Segment | End], cut: Cut, **options: Any) -> Iterator[Embedded | End]:
        """Embed recordings, or their windows if these were asked for; of the ends, those with an error are left."""

        def pooled(x: Tensor) -> Tensor:
            return pool(self._tokens(x), self.pool, self._num_freq)

        vector, weight, stop = np.zeros(0), 0, 0.0
        for item in self._encode(stream, pooled, **options):
            if isinstance(item, End):
                if item.error is not None:
                    yield item
                elif not cut.is_asked:
                    yield Embedded(item.row, 0.0, stop, vector.astype(self._dtype))
                weight, stop = 0, 0.0
                continue
            segment, part = item
            if cut.is_asked:
                yield Embedded(segment.row, segment.start, segment.end, part)
                continue
            weight, stop = weight + segment.padded, max(stop, segment.end)
            share = segment.padded / weight
            vector = merge(vector, part.astype(np.float64), share, self.pool) if share < 1 else part.astype(np.float64)

    @property
    def _loop_samples(self) -> int:
        return round(self.loop_to * self.log_mel.sample_rate)


def spectrograms(batch: Sequence[Segment], log_mel: LogMel, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the standardised log-mel of segments of equal length (B, 1, F, T), zero-padded to whole patches."""
    parts = []
    for (_, lead, num_frames), group in itertools.groupby(batch, lambda s: (len(s.samples), s.lead, s.num_frames)):
        samples = torch.from_numpy(np.stack([segment.samples for segment in group]))
        frames = log_mel(samples.to(device, torch.promote_types(dtype, torch.float32)))
        frames = frames[..., lead : lead + num_frames]
        parts.append(F.pad(frames, (0, batch[0].padded - num_frames)).to(dtype))
    return torch.cat(parts)


def raising(items: Iterable[ItemT | End]) -> Iterator[ItemT]:
    """Turn the end of a recording that cannot be read into its error, and leave the other ends out."""
    for item in items:
        if not isinstance(item, End):
            yield item
        elif item.error is not None:
            raise item.error

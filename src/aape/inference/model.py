"""A saved model in use: vectors, frames and labels of arrays, files and data sets.

Only spectrograms of equally many patches share a batch, so nothing is padded and no result depends on its neighbours.
Letters: B clips, F mel bins, Nf and Nt frequency and time patches, D width.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aape.data.clips import Clip, stream_clip
from aape.data.log_mel import LogMel
from aape.data.manifest import read_inputs
from aape.errors import AudioError, CheckpointError, ConfigError
from aape.inference.labels import Classification, Threshold, check_request, summarise
from aape.inference.recordings import Paths, Sound, open_sounds, readable_clips
from aape.inference.segments import Blocks, FloatArray, Key, Segment, batches, cut, loop
from aape.models.config import MAX_LOOP_TO, FrontEndConfig
from aape.models.encoder import AudioEncoder, pool
from aape.models.heads import ClassificationHead
from aape.models.saved import read_model
from aape.runs.devices import resolve_device

BATCH_SIZE = 16
CPU_BATCH_SIZE = 4  # the most on a CPU, where more leave its caches: 16 take 15 % longer for each clip

Progress: TypeAlias = Callable[[int, int], None]
BadClips: TypeAlias = list[tuple[str, str]]  # name and reason


class AudioModel:
    """A frozen encoder with the front end that it was trained with, and a classifier if it has one.

    Args:
        encoder: is put into evaluation mode, as is `head`.
        front_end: log-mel and statistics.
        head: the classifier.
        labels: names of its classes.
        multi_label: a sound may have several of the classes, or none.
        training: how it was trained.
        loop_to: length in seconds that shorter sounds are looped to before they are encoded; 0 takes them as they are.
            Times and frames are always the sound's own.

    Raises:
        ConfigError: `loop_to` outside 0 to 600.
    """

    def __init__(
        self,
        encoder: AudioEncoder,
        front_end: FrontEndConfig,
        *,
        head: ClassificationHead | None = None,
        labels: list[str] | None = None,
        multi_label: bool = False,
        training: dict[str, Any] | None = None,
        loop_to: float = 0.0,
    ) -> None:
        if not 0 <= loop_to <= MAX_LOOP_TO:  # also true of NaN
            raise ConfigError(f"loop_to must be 0 to {MAX_LOOP_TO:g} seconds, got {loop_to}")
        self.encoder = encoder.eval()
        self.front_end = front_end
        self.log_mel = LogMel(**dataclasses.asdict(front_end))
        self.head = None if head is None else head.eval()
        self._modules = nn.ModuleList([encoder] if head is None else [encoder, head])
        self.labels = labels
        if head is not None and labels is None:
            self.labels = [f"LABEL_{index}" for index in range(head.linear.out_features)]  # as transformers does
        self.multi_label = multi_label
        self.training = training or {}
        self.loop_to = loop_to

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.encoder.cls_token.device

    @property
    def embed_dim(self) -> int:
        """Length of a vector, 2D."""
        return 2 * self.encoder.embed_dim

    @property
    def _dtype(self) -> type[np.floating]:
        return np.float64 if self.encoder.cls_token.dtype == torch.float64 else np.float32

    def to(self, device: str | torch.device) -> AudioModel:
        """Move to a device, in place."""
        self._modules.to(device)
        return self

    def double(self) -> AudioModel:
        """Compute everything in float64 from now on, the front end and the vectors included."""
        self._modules.double()
        return self

    def embed(
        self, wav: Sound, sample_rate: float | None = None, *, lengths: Sequence[int] | None = None
    ) -> FloatArray:
        """Embed one sound, or several.

        Args:
            wav: floating point samples (samples,) or (B, samples), mono; one recording; or a list of samples (samples,)
                and recordings. A recording is the path of a sound file, an open binary file or its bytes; a pair of
                samples and rate; a mapping of "array" and "sampling_rate", or "bytes" or "path", as in `datasets`; or a
                decoder of torchcodec.
            sample_rate: of samples that do not bring it, in Hz; a file knows its own.
            lengths: valid samples of each row of (B, samples); the rest is padding, and has no influence.

        Returns:
            Class token and mean patch token, (2D,) or (B, 2D), float32. Sound longer than 10.24 s is embedded in
            windows of 6.08 s, and its vector is their mean, weighted by their length.

        Raises:
            AudioError: a sound cannot be used.
        """
        sounds, is_batch = self._open(wav, sample_rate, lengths)
        vectors = self._vectors(sounds)
        return np.stack(vectors) if is_batch else vectors[0]

    def embed_frames(self, wav: Sound, sample_rate: float | None = None) -> tuple[FloatArray, NDArray[np.float64]]:
        """Embed every time patch of one sound, samples (samples,) or a recording as for `embed`.

        Returns:
            The tokens of each time patch, low frequencies first, (Nt, Nf * D), float32; and the patches' centres (Nt,)
            in ms. Of a looped sound, those of its first pass only: as many as without looping.

        Raises:
            AudioError: the sound cannot be used, or is a batch.
        """
        sounds, is_batch = self._open(wav, sample_rate)
        if is_batch:
            what = "a list" if isinstance(wav, (list, tuple)) else f"of shape {np.shape(wav)}"
            raise AudioError("array", f"{what}: embed_frames takes one clip at a time")
        parts: dict[int, Tensor] = {}
        for (_, index), segment, tokens in self._encode(sounds):
            grid = tokens[1:].unflatten(0, (self.log_mel.n_mels // self.encoder.patch_size, -1))  # (Nf, Nt, D)
            parts[index] = grid.transpose(0, 1).flatten(1)[: segment.num_patches].cpu()
        frames = torch.cat([parts[index] for index in sorted(parts)]).numpy()
        patch_ms = 1000 * self.encoder.patch_size * self.log_mel.hop_length / self.log_mel.sample_rate
        centres: NDArray[np.float64] = (np.arange(len(frames), dtype=np.float64) + 0.5) * patch_ms
        return frames, centres

    def embed_clips(
        self, clips: Sequence[Clip], *, batch_size: int = BATCH_SIZE, progress: Progress | None = None
    ) -> tuple[FloatArray, BadClips]:
        """Embed a data set, at most `batch_size` spectrograms per forward pass; a CPU takes 4.

        After every clip `progress` is called with (done, total).

        Returns:
            One vector per readable clip, in order, (n, 2D) float32; and name and reason of the others.
        """
        bad: dict[int, str] = {}
        vectors = self._vectors(self._read(clips, progress), batch_size, bad)
        stacked = np.stack(vectors) if vectors else np.empty((0, self.embed_dim), self._dtype)
        return stacked, [(clips[row].name, reason) for row, reason in bad.items()]

    def embed_files(self, inputs: Paths, *, batch_size: int = BATCH_SIZE) -> tuple[FloatArray, list[str], BadClips]:
        """Embed sound files, folders of them, tables and tar shards, as `aape embed` does; `batch_size` as above.

        Returns:
            One vector per readable clip, (n, 2D) float32; their names (n); and name and reason of the others.

        Raises:
            DataError: a table that cannot be used.
        """
        clips, unlisted = read_inputs(inputs)
        vectors, bad = self.embed_clips(clips, batch_size=batch_size)
        return vectors, [clip.name for clip in readable_clips(clips, bad)], unlisted + bad

    def classify(
        self,
        wav: Sound,
        sample_rate: float | None = None,
        *,
        lengths: Sequence[int] | None = None,
        top: int = 5,
        threshold: Threshold = None,
    ) -> Classification | list[Classification]:
        """Label one sound, or several, given as to `embed`.

        At most `top` labels are returned, and none with a score below `threshold`, one for all or by label (others 0).

        Returns:
            Labels and scores, of the whole and of its windows; a list of such for a batch. Scores are softmax
            probabilities that sum to 1 over the classes, or in a multi-label model a probability for each class.

        Raises:
            AudioError: a sound cannot be used.
            CheckpointError: the model has no classifier.
            ConfigError: a threshold outside 0 to 1 or of an unknown label, or no labels asked for.
        """
        sounds, is_batch = self._open(wav, sample_rate, lengths)
        results = self._classifications(sounds, top, threshold)
        return results if is_batch else results[0]

    def classify_clips(
        self,
        clips: Sequence[Clip],
        *,
        top: int = 5,
        threshold: Threshold = None,
        batch_size: int = BATCH_SIZE,
        progress: Progress | None = None,
    ) -> tuple[list[Classification], BadClips]:
        """Label each clip of a data set, as `classify` does for one; the rest as for `embed_clips`.

        Returns:
            A result per readable clip, in order; and name and reason of the others.
        """
        bad: dict[int, str] = {}
        results = self._classifications(self._read(clips, progress), top, threshold, batch_size, bad)
        return results, [(clips[row].name, reason) for row, reason in bad.items()]

    def fingerprint(self) -> str:
        """Return a digest of all that a vector depends on besides the sound: weights, encoder, front end, looping."""
        digest = hashlib.sha256(f"loop_to {self.loop_to}".encode() if self.loop_to else b"")
        for config in (self.encoder.config, self.front_end):
            digest.update(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
        for name, tensor in sorted(self.encoder.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def require_head(self) -> ClassificationHead:
        """Return the classifier.

        Raises:
            CheckpointError: there is none, so that nothing can be named.
        """
        if self.head is None:
            raise CheckpointError(
                "this model has no classifier, so it names nothing: fine-tune it on labelled sound with "
                "`aape finetune` and use the folder that leaves, or take its vectors with `aape embed`"
            )
        return self.head

    def _open(
        self, wav: Sound, sample_rate: float | None, lengths: Sequence[int] | None = None
    ) -> tuple[list[Blocks], bool]:
        rate = self.log_mel.sample_rate
        return open_sounds(wav, sample_rate, to_rate=rate, dtype=self._dtype, lengths=lengths)

    def _read(self, clips: Sequence[Clip], progress: Progress | None) -> Iterator[Blocks]:
        """Open clips one by one; the next is asked for when one has been read."""
        for done, clip in enumerate(clips, start=1):
            yield stream_clip(clip, sample_rate=self.log_mel.sample_rate)
            if progress is not None:
                progress(done, len(clips))

    def _segments(self, sounds: Iterable[Blocks], bad: dict[int, str] | None = None) -> Iterator[tuple[Key, Segment]]:
        """Cut recordings; `bad` gets row and reason of those that turn out to be unreadable, else they are errors."""
        dtype = self.encoder.cls_token.dtype

        def prepare(samples: Tensor) -> Tensor:
            return samples.to(self.device, torch.promote_types(dtype, torch.float32))

        for row, blocks in enumerate(sounds):
            try:
                blocks, length = loop(blocks, round(self.loop_to * self.log_mel.sample_rate))
                segments = cut(blocks, self.log_mel, self.encoder.patch_size, prepare, length)
                for index, segment in enumerate(segments):
                    yield (row, index), segment._replace(spectrogram=segment.spectrogram.to(dtype))
            except AudioError as error:
                if bad is None:
                    raise
                bad[row] = error.reason

    def _encode(
        self, sounds: Iterable[Blocks], batch_size: int = BATCH_SIZE, bad: dict[int, str] | None = None
    ) -> Iterator[tuple[Key, Segment, Tensor]]:
        """Encode recordings as `_segments` cuts them; yields key, segment and tokens (1 + N, D) as batches fill up."""
        most = min(batch_size, CPU_BATCH_SIZE) if self.device.type == "cpu" else batch_size
        for batch in batches(self._segments(sounds, bad), most):
            with torch.inference_mode():
                encoded = self.encoder(torch.stack([segment.spectrogram for _, segment in batch])[:, None])
            for (key, segment), tokens in zip(batch, encoded, strict=True):
                yield key, segment, tokens

    def _vectors(
        self, sounds: Iterable[Blocks], batch_size: int = BATCH_SIZE, bad: dict[int, str] | None = None
    ) -> list[FloatArray]:
        """Embed the readable recordings: for each the mean over its segments (2D,), weighted by their patches."""
        sums: dict[int, NDArray[np.float64]] = {}
        counts: Counter[int] = Counter()
        for (row, _), segment, tokens in self._encode(sounds, batch_size, bad):
            count = segment.spectrogram.shape[-1]
            vector = count * pool(tokens[None])[0].double().cpu().numpy()
            sums[row] = sums[row] + vector if row in sums else vector
            counts[row] += count
        rows = sorted(sums.keys() - (bad or {}).keys())
        return [(sums[row] / counts[row]).astype(self._dtype) for row in rows]

    def _classifications(
        self,
        sounds: Iterable[Blocks],
        top: int,
        threshold: Threshold,
        batch_size: int = BATCH_SIZE,
        bad: dict[int, str] | None = None,
    ) -> list[Classification]:
        """Classify the readable recordings."""
        head, labels = self.require_head(), self.labels or []
        check_request(top, threshold, labels)
        scored: dict[int, dict[int, tuple[int, float, float, FloatArray]]] = {}
        for (row, index), segment, tokens in self._encode(sounds, batch_size, bad):
            with torch.inference_mode():
                logits = head(tokens[None])[0].double()
                scores = logits.sigmoid() if self.multi_label else logits.softmax(-1)
            count = segment.spectrogram.shape[-1]
            scored.setdefault(row, {})[index] = (count, segment.start, segment.end, scores.cpu().numpy())
        rows = sorted(scored.keys() - (bad or {}).keys())
        segments = [[scored[row][index] for index in sorted(scored[row])] for row in rows]
        return [summarise(parts, labels, top, threshold) for parts in segments]


def load_model(
    name_or_path: str | os.PathLike[str], device: str = "auto", *, loop_to: float | None = None
) -> AudioModel:
    """Load a model for use.

    Args:
        name_or_path: a shipped model's name, a saved folder, or a run's folder.
        device: "auto", "cpu", "cuda" or "mps".
        loop_to: length in seconds that shorter sounds are looped to; 0 takes them as they are. None: what the model was
            trained with and recommends, 3 for `tiny`.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        ConfigError: there is no such device, or `loop_to` is outside 0 to 600.
    """
    target = resolve_device(device)
    saved = read_model(name_or_path)
    return AudioModel(
        saved.encoder,
        saved.front_end,
        head=saved.head,
        labels=saved.labels,
        multi_label=saved.multi_label,
        training=saved.training,
        loop_to=saved.loop_to if loop_to is None else loop_to,
    ).to(target)


def random_model(model: AudioModel, seed: int) -> AudioModel:
    """Return the same architecture and front end untrained: the yardstick of what training gave."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = AudioEncoder(model.encoder.config)
    return AudioModel(encoder.to(model.device, model.encoder.cls_token.dtype), model.front_end, loop_to=model.loop_to)

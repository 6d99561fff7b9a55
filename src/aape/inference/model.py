"""A saved model in use: vectors, frames and labels of arrays, files and data sets.

Only spectrograms of equally many patches share a batch, so nothing is padded and no result depends on its neighbours.
Letters: B clips, F mel bins, Nf and Nt frequency and time patches, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aape.data.clips import Clip
from aape.data.manifest import read_inputs
from aape.errors import AudioError, CheckpointError
from aape.inference.encoding import BATCH_SIZE, Embedded, FrozenEncoder, Progress, raising
from aape.inference.labels import Classification, Summary, Threshold, check_request
from aape.inference.recordings import Paths, Sound, is_sequence, open_sounds, readable_clips
from aape.inference.segments import Blocks, End, FloatArray, Segment
from aape.models.config import FrontEndConfig
from aape.models.encoder import AudioEncoder
from aape.models.heads import ClassificationHead

BadClips: TypeAlias = list[tuple[str, str]]  # name and reason


class AudioModel(FrozenEncoder):
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
        pool: what a vector is, see `aape.models.pooling.pool`.
        layers: blocks, counted from 1, whose outputs are averaged before; none for the last.
        precision: "float32", "bfloat16", or "auto", bfloat16 on a GPU.

    Raises:
        ConfigError: `loop_to` outside 0 to 600, no such pool or blocks, or no such precision.
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
        pool: str = "cls_mean",
        layers: Sequence[int] = (),
        precision: str = "auto",
    ) -> None:
        super().__init__(encoder, front_end, loop_to=loop_to, pool=pool, layers=layers, precision=precision)
        self.head = None if head is None else head.eval()
        if head is not None:
            self._modules.append(head)
        self.labels = labels
        if head is not None and labels is None:
            self.labels = [f"LABEL_{index}" for index in range(head.linear.out_features)]  # as transformers does
        self.multi_label = multi_label
        self.training = training or {}

    def embed(
        self,
        wav: Sound,
        sample_rate: float | None = None,
        *,
        lengths: Sequence[int] | None = None,
        channels_first: bool = False,
        pool: str | None = None,
        layers: Sequence[int] | None = None,
    ) -> FloatArray:
        """Embed one sound, or several.

        Args:
            wav: floating point samples (samples,) or (B, samples), mono; one recording; or a list of samples (samples,)
                and recordings. A recording is the path of a sound file, an open binary file or its bytes; a pair of
                samples and rate; a mapping of "array" and "sampling_rate", or "bytes" or "path", as in `datasets`; or a
                decoder of torchcodec.
            sample_rate: of samples that do not bring it, in Hz; a file knows its own.
            lengths: valid samples of each row of (B, samples); the rest is padding, and has no influence.
            channels_first: an array is (channels, samples), one recording whose channels are averaged. One that brings
                its rate is so anyway, where it has up to 8 channels.
            pool: what the vector is instead of `self.pool`.
            layers: blocks that it is of instead of `self.layers`; none for the last.

        Returns:
            The pooled tokens, (E,) or (B, E), float32. Sound longer than 10.24 s is encoded in segments of 6.08 s, and
            the tokens of all are pooled; of class tokens, the mean is taken, weighted by length.

        Raises:
            AudioError: a sound cannot be used.
            ConfigError: no such pool, or no such blocks.
        """
        if pool is not None or layers is not None:
            kind, layers = self.pool if pool is None else pool, self.layers if layers is None else layers
            other = self._with(kind, layers)
            return other.embed(wav, sample_rate, lengths=lengths, channels_first=channels_first)
        cut = self._cut()
        sounds, is_batch = self._open(wav, sample_rate, lengths, channels_first)
        vectors = [item.vector for item in raising(self._vectors(self._stream(sounds, cut), cut))]
        return np.stack(vectors) if is_batch else vectors[0]

    def embed_windows(
        self,
        wav: Sound,
        sample_rate: float | None = None,
        *,
        window: float = 2.0,
        hop: float = 0.5,
        channels_first: bool = False,
    ) -> tuple[FloatArray, NDArray[np.float64]]:
        """Embed windows of one sound, samples (samples,) or a recording as for `embed`.

        A window is encoded by itself, from the log-mel of the whole recording. The last is shorter; one shorter than a
        patch (160 ms) is left out.

        Args:
            wav: the sound.
            sample_rate: of samples that do not bring it, in Hz.
            window: length in seconds, 0.16 to 10.24, a multiple of a frame (10 ms).
            hop: from the start of one window to that of the next, likewise, at most the window.
            channels_first: as for `embed`.

        Returns:
            Vectors (W, E), float32; start and end of each in seconds (W, 2).

        Raises:
            AudioError: the sound cannot be used, or is a batch.
            ConfigError: no such windows.
        """
        cut = self._cut(window, hop)
        rows = list(raising(self._vectors(self._stream(self._open_one(wav, sample_rate, channels_first), cut), cut)))
        times = np.array([(row.start, row.end) for row in rows])
        return np.stack([row.vector for row in rows]), times

    def embed_frames(
        self, wav: Sound, sample_rate: float | None = None, *, bounds: bool = False, channels_first: bool = False
    ) -> tuple[FloatArray, ...]:
        """Embed every time patch of one sound, samples (samples,) or a recording as for `embed`.

        Args:
            wav: the sound.
            sample_rate: of samples that do not bring it, in Hz.
            bounds: also return start and end of each patch.
            channels_first: as for `embed`.

        Returns:
            The tokens of `self.layers` of each time patch, low frequencies first, (Nt, Nf * D), float32; the patches'
            centres (Nt,) in ms; and their bounds (Nt, 2) in ms, the last end being that of the sound. A short sound of
            whole patches has one more, of its last frame alone, whose bounds are equal. Of a looped sound, those of its
            first pass only: as many as without looping.

        Raises:
            AudioError: the sound cannot be used, or is a batch.
        """

        def grid(x: Tensor) -> Tensor:
            tokens = self._tokens(x)[:, 1:].unflatten(1, (self._num_freq, -1))  # (B, Nf, Nt, D)
            return tokens.transpose(1, 2).flatten(2)

        stream = self._stream(self._open_one(wav, sample_rate, channels_first), self._cut())
        parts, stop = [], 0.0
        for segment, part in raising(self._encode(stream, grid)):
            parts.append(part[: segment.num_patches])
            stop = max(stop, 1000 * segment.end)
        frames = np.concatenate(parts)
        patch_ms = 1000 * self.encoder.patch_size * self.log_mel.hop_length / self.log_mel.sample_rate
        starts = patch_ms * np.arange(len(frames), dtype=np.float64)
        centres = starts + patch_ms / 2
        if not bounds:
            return frames, centres
        return frames, centres, np.stack([starts, np.minimum(starts + patch_ms, stop)], axis=1)

    def embed_clips(
        self,
        clips: Sequence[Clip],
        *,
        batch_size: int = BATCH_SIZE,
        num_workers: int = 0,
        progress: Progress | None = None,
    ) -> tuple[FloatArray, BadClips]:
        """Embed a data set, at most `batch_size` spectrograms per forward pass; a CPU takes 12 s of sound.

        The clips are read by this process, or by `num_workers` others, ahead of the model; the result is the same.
        After every clip `progress` is called with (done, total).

        Returns:
            One vector per readable clip, in order, (n, E) float32; and name and reason of the others.
        """
        vectors, bad = [np.empty((0, self.embed_dim), self._dtype)], []
        for item in self.embed_chunks([clips], batch_size=batch_size, num_workers=num_workers, progress=progress):
            if isinstance(item, End):
                bad.append((clips[item.row].name, str(item.error and item.error.reason)))
            else:
                vectors.append(item.vector[None])
        return np.concatenate(vectors), bad

    def embed_chunks(
        self,
        chunks: Iterable[Sequence[Clip]],
        *,
        window: float | None = None,
        hop: float | None = None,
        batch_size: int = BATCH_SIZE,
        num_workers: int = 0,
        progress: Progress | None = None,
    ) -> Iterator[Embedded | End]:
        """Embed clips while they are read; the bytes of a chunk's vectors depend on nothing outside it.

        Args:
            chunks: of clips; the rows of what is returned are counted through all of them.
            window: length of windows in seconds, for a vector of each; None: one for each clip.
            hop: from window to window, in seconds; None: the window's length.
            batch_size: as for `embed_clips`.
            num_workers: likewise.
            progress: likewise; the total is that of the chunks begun.

        Yields:
            In order, each vector; and for a clip that cannot be read its end, with the error. Windows before may have
            been there.
        """
        cut = self._cut(window, hop)
        stream = self._read(chunks, cut, progress, num_workers)
        yield from self._vectors(stream, cut, batch_size=batch_size, is_repeatable=True)

    def embed_files(
        self, inputs: Paths, *, batch_size: int = BATCH_SIZE, num_workers: int = 0
    ) -> tuple[FloatArray, list[str], BadClips]:
        """Embed sound files, folders of them, tables and tar shards, as `aape embed` does; options as above.

        Returns:
            One vector per readable clip, (n, E) float32; their names (n); and name and reason of the others.

        Raises:
            DataError: a table that cannot be used.
        """
        clips, unlisted = read_inputs(inputs)
        vectors, bad = self.embed_clips(clips, batch_size=batch_size, num_workers=num_workers)
        return vectors, [clip.name for clip in readable_clips(clips, bad)], unlisted + bad

    def classify(
        self,
        wav: Sound,
        sample_rate: float | None = None,
        *,
        lengths: Sequence[int] | None = None,
        channels_first: bool = False,
        top: int = 5,
        threshold: Threshold = None,
        window: float | None = None,
        hop: float | None = None,
    ) -> Classification | list[Classification]:
        """Label one sound, or several, given as to `embed`.

        At most `top` labels are returned, and none with a score below `threshold`, one for all or by label (others 0).
        `window` and `hop` in seconds are as for `embed_windows`; by default a sound of up to 10.24 s is one window, and
        longer ones have windows of 6.08 s.

        Returns:
            Labels and scores, of the whole and of its windows; a list of such for a batch. Scores are softmax
            probabilities that sum to 1 over the classes, or in a multi-label model a probability for each class.

        Raises:
            AudioError: a sound cannot be used.
            CheckpointError: the model has no classifier.
            ConfigError: a threshold outside 0 to 1 or of an unknown label, no labels asked for, or no such windows.
        """
        cut = self._cut(window, hop)
        sounds, is_batch = self._open(wav, sample_rate, lengths, channels_first)
        results = list(raising(self._classifications(self._stream(sounds, cut), top, threshold)))
        return results if is_batch else results[0]

    def classify_clips(
        self,
        clips: Sequence[Clip],
        *,
        top: int = 5,
        threshold: Threshold = None,
        window: float | None = None,
        hop: float | None = None,
        batch_size: int = BATCH_SIZE,
        num_workers: int = 0,
        progress: Progress | None = None,
    ) -> tuple[list[Classification], BadClips]:
        """Label each clip of a data set, as `classify` does for one; the rest as for `embed_clips`.

        Returns:
            A result per readable clip, in order; and name and reason of the others.
        """
        options: dict[str, Any] = {"top": top, "threshold": threshold, "window": window, "hop": hop}
        options |= {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
        results: list[Classification] = []
        bad: BadClips = []
        for item in self.classify_chunks([clips], **options):
            if isinstance(item, End):
                bad.append((clips[item.row].name, str(item.error and item.error.reason)))
            else:
                results.append(item)
        return results, bad

    def classify_chunks(
        self,
        chunks: Iterable[Sequence[Clip]],
        *,
        top: int = 5,
        threshold: Threshold = None,
        window: float | None = None,
        hop: float | None = None,
        batch_size: int = BATCH_SIZE,
        num_workers: int = 0,
        progress: Progress | None = None,
    ) -> Iterator[Classification | End]:
        """Label clips while they are read, as `classify` does for one; the rest as for `embed_chunks`.

        Returns:
            In order, a result for each clip, or the end of one that cannot be read, with the error.
        """
        stream = self._read(chunks, self._cut(window, hop), progress, num_workers)
        return self._classifications(stream, top, threshold, batch_size=batch_size, is_repeatable=True)

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
        self, wav: Sound, sample_rate: float | None, lengths: Sequence[int] | None, channels_first: bool
    ) -> tuple[list[Blocks], bool]:
        to_rate, dtype = self.log_mel.sample_rate, self._dtype
        return open_sounds(
            wav, sample_rate, to_rate=to_rate, dtype=dtype, lengths=lengths, channels_first=channels_first
        )

    def _open_one(self, wav: Sound, sample_rate: float | None, channels_first: bool) -> list[Blocks]:
        sounds, is_batch = self._open(wav, sample_rate, None, channels_first)
        if is_batch:
            what = "a list" if is_sequence(wav) else f"of shape {np.shape(wav)}"
            hint = "" if is_sequence(wav) else "; channels_first=True if its rows are channels"
            raise AudioError("array", f"{what}: one clip at a time, where there are times{hint}")
        return sounds

    def _classifications(
        self, stream: Iterable[Segment | End], top: int, threshold: Threshold, **options: Any
    ) -> Iterator[Classification | End]:
        """Classify recordings; of the ends, those with an error are left."""
        head, labels = self.require_head(), self.labels or []
        check_request(top, threshold, labels)

        def probabilities(x: Tensor) -> Tensor:
            logits = head(self.encoder(x)).double()
            return logits.sigmoid() if self.multi_label else logits.softmax(-1)

        summary = Summary(labels, top, threshold)
        for item in self._encode(stream, probabilities, **options):
            if not isinstance(item, End):
                segment, scores = item
                summary.add(segment.padded, segment.start, segment.end, scores)
                continue
            summary.end = item.stop
            yield summary.result() if item.error is None else item
            summary = Summary(labels, top, threshold)

"""From sound to vectors: load a saved model, embed arrays and files of any length.

A clip's vector never depends on its neighbours: only spectrograms of equally many patches share a batch, so nothing is
ever padded for company. Letters: B clips, F mel bins, T frames, Nf and Nt frequency and time patches, D width.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aape.config import EmbedConfig, FrontEndConfig
from aape.data.arrays import read_array
from aape.data.audio import read_audio
from aape.data.frontend import LogMel
from aape.data.manifest import Clip, find_audio, load_clip
from aape.errors import AudioError, ConfigError, DataError
from aape.models.encoder import AudioEncoder, pool
from aape.models.saved import read_model
from aape.training.devices import resolve_device
from aape.training.results import write_atomically

MAX_FRAMES = 1024  # what is encoded in one pass
WINDOW_FRAMES = 608  # what longer audio is cut into
BATCH_SIZE = 16
_MOST_WAITING_FRAMES = 1 << 16  # of spectrograms that wait for company, whatever the mixture of lengths: 32 MB

FloatArray: TypeAlias = NDArray[np.floating]
Sound: TypeAlias = Any  # an array of samples, or a path


class AudioModel:
    """A frozen encoder with the front end that it was trained with.

    Args:
        encoder: is put into evaluation mode.
        front_end: log-mel and statistics.
        labels: classes that it was trained on, if any.
        training: how it was trained.
    """

    def __init__(
        self,
        encoder: AudioEncoder,
        front_end: FrontEndConfig,
        *,
        labels: list[str] | None = None,
        training: dict[str, Any] | None = None,
    ) -> None:
        self.encoder = encoder.eval()
        self.front_end = front_end
        self.log_mel = LogMel(**dataclasses.asdict(front_end))
        self.labels = labels
        self.training = training or {}

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
        self.encoder.to(device)
        return self

    def double(self) -> AudioModel:
        """Compute everything in float64 from now on, the front end and the vectors included."""
        self.encoder.double()
        return self

    def embed(self, wav: Sound, sample_rate: float | None = None) -> FloatArray:
        """Embed one sound, or several of equal length.

        Args:
            wav: floating point samples (samples,) or (B, samples), mono; or the path of a sound file.
            sample_rate: of the samples, in Hz; a file knows its own.

        Returns:
            Class token and mean patch token, (2D,) or (B, 2D), float32.

        Raises:
            AudioError: the sound cannot be used.
        """
        waves, is_batch = self._waves(wav, sample_rate)
        pieces = ((row, *piece) for row, wave in enumerate(waves) for piece in self._pieces(wave))
        vectors = self._pooled(pieces, BATCH_SIZE)
        return vectors if is_batch else vectors[0]

    def embed_frames(self, wav: Sound, sample_rate: float | None = None) -> tuple[FloatArray, NDArray[np.float64]]:
        """Embed every time patch of one sound.

        Args:
            wav: floating point samples (samples,), mono; or the path of a sound file.
            sample_rate: of the samples, in Hz; a file knows its own.

        Returns:
            The tokens of each time patch, low frequencies first, (Nt, Nf * D), float32; and the patches' centres (Nt,)
            in ms.

        Raises:
            AudioError: the sound cannot be used, or is a batch.
        """
        waves, is_batch = self._waves(wav, sample_rate)
        if is_batch:
            raise AudioError("array", f"of shape {np.shape(wav)}: embed_frames takes one clip at a time")
        parts: dict[int, Tensor] = {}
        pieces = ((index, *piece) for index, piece in enumerate(self._pieces(waves[0])))
        for index, _, tokens in self._encode(pieces, BATCH_SIZE):
            grid = tokens[1:].unflatten(0, (self.log_mel.n_mels // self.encoder.patch_size, -1))  # (Nf, Nt, D)
            parts[index] = grid.transpose(0, 1).flatten(1).cpu()
        frames = torch.cat([parts[index] for index in sorted(parts)]).numpy()
        patch_ms = 1000 * self.encoder.patch_size * self.log_mel.hop_length / self.log_mel.sample_rate
        centres: NDArray[np.float64] = (np.arange(len(frames), dtype=np.float64) + 0.5) * patch_ms
        return frames, centres

    def embed_clips(
        self,
        clips: Sequence[Clip],
        *,
        batch_size: int = BATCH_SIZE,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[FloatArray, list[tuple[str, str]]]:
        """Embed a data set.

        Args:
            clips: what to read.
            batch_size: spectrograms per forward pass, at most.
            progress: called with (done, total) after every clip.

        Returns:
            One vector per readable clip, in order, (n, 2D) float32; and name and reason of the others.
        """
        bad: list[tuple[str, str]] = []

        def pieces() -> Iterator[tuple[int, float, Tensor]]:
            row = 0
            for done, clip in enumerate(clips, start=1):
                try:
                    wave = load_clip(clip, sample_rate=self.log_mel.sample_rate)
                except AudioError as error:
                    bad.append((clip.name, error.reason))
                else:
                    for piece in self._pieces(wave):
                        yield row, *piece
                    row += 1
                if progress is not None:
                    progress(done, len(clips))

        return self._pooled(pieces(), batch_size), bad

    def fingerprint(self) -> str:
        """Return a digest of all that a vector depends on besides the sound: weights, encoder and front end."""
        digest = hashlib.sha256()
        for config in (self.encoder.config, self.front_end):
            digest.update(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
        for name, tensor in sorted(self.encoder.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _waves(self, wav: Sound, sample_rate: float | None) -> tuple[FloatArray, bool]:
        """Read an array or a file: (B, samples) at the front end's rate, and whether it is a batch to the caller."""
        rate = self.log_mel.sample_rate
        if isinstance(wav, (str, os.PathLike)):
            return read_audio(wav, sample_rate=rate)[None], False
        waves = read_array(wav, sample_rate, to_rate=rate, dtype=self._dtype)
        return waves, np.ndim(wav) == 2

    def _pieces(self, wave: FloatArray) -> Iterator[tuple[float, Tensor]]:
        """Cut a wave (samples,) into what is encoded in one pass, one piece at a time, whatever its length.

        Yields:
            The piece's share of the wave's tokens, and its standardised log-mel (F, T), zero-padded to whole patches.
        """
        samples, patch = torch.from_numpy(wave), self.encoder.patch_size
        num_frames = 1 + len(samples) // self.log_mel.hop_length
        step = num_frames if num_frames <= MAX_FRAMES else WINDOW_FRAMES
        starts = range(0, num_frames, step)
        num_patches = [-(-min(step, num_frames - start) // patch) for start in starts]
        for start, count in zip(starts, num_patches, strict=True):
            spectrogram = self._spectrogram(samples, start, min(start + step, num_frames))
            padding = count * patch - spectrogram.shape[-1]
            yield count / sum(num_patches), torch.nn.functional.pad(spectrogram, (0, padding))

    def _spectrogram(self, samples: Tensor, first: int, last: int) -> Tensor:
        """Compute the frames first..last of the log-mel of a whole wave, from the samples that they see: (F, T)."""
        hop, reach = self.log_mel.hop_length, self.log_mel.n_fft // 2
        lead = min(first, reach // hop + 1)  # frames whose reflection at the cut is not the wave's
        part = samples[(first - lead) * hop : (last - 1) * hop + reach + 1]
        dtype = self.encoder.cls_token.dtype
        part = part.to(self.device, torch.promote_types(dtype, torch.float32))
        with torch.inference_mode():
            return self.log_mel(part[None])[0, 0, :, lead : lead + last - first].to(dtype)

    def _encode(
        self, pieces: Iterable[tuple[int, float, Tensor]], batch_size: int
    ) -> Iterator[tuple[int, float, Tensor]]:
        """Encode (key, share, spectrogram (F, T)); yields (key, share, tokens (1 + N, D)), as batches fill up."""
        for batch in _batches(pieces, batch_size):
            with torch.inference_mode():
                tokens = self.encoder(torch.stack([spectrogram for _, _, spectrogram in batch])[:, None])
            for (key, share, _), own in zip(batch, tokens, strict=True):
                yield key, share, own

    def _pooled(self, pieces: Iterable[tuple[int, float, Tensor]], batch_size: int) -> FloatArray:
        """Embed (row, share, spectrogram (F, T)); a row is the mean of its pieces, weighted by their shares."""
        dtype = self._dtype
        rows: dict[int, FloatArray] = {}
        for row, share, tokens in self._encode(pieces, batch_size):
            vector = (share * pool(tokens[None])[0]).cpu().numpy().astype(dtype)
            rows[row] = rows[row] + vector if row in rows else vector
        vectors = [rows[row] for row in range(len(rows))]
        return np.stack(vectors) if vectors else np.empty((0, self.embed_dim), dtype)


def load_model(name_or_path: str | os.PathLike[str], device: str = "auto") -> AudioModel:
    """Load a model for use.

    Args:
        name_or_path: a shipped model's name, a saved folder, or a run's folder.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        ConfigError: there is no such device.
    """
    place = resolve_device(device)
    saved = read_model(name_or_path)
    return AudioModel(saved.encoder, saved.front_end, labels=saved.labels, training=saved.training).to(place)


def random_model(model: AudioModel, seed: int) -> AudioModel:
    """Return the same architecture and front end untrained: the yardstick of what training gave."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = AudioEncoder(model.encoder.config)
    return AudioModel(encoder.to(model.device, model.encoder.cls_token.dtype), model.front_end)


def embed_command(config: EmbedConfig) -> None:
    """Embed sound files into an NPZ file: `embedding` (n, 2D) float32 and `file` (n,), rows in input order.

    What cannot be read is listed on standard error with the reason, and the rest is done.

    Raises:
        ConfigError: no input, or the output is a folder.
        CheckpointError: the model cannot be loaded.
        DataError: nothing could be read.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    out = Path(config.out)
    if out.is_dir():
        raise ConfigError(f"{out} is a folder: name the NPZ file to write, such as {out / 'vectors.npz'}")
    if not config.inputs:
        raise ConfigError("nothing to embed: name sound files, or folders of them")
    model = load_model(config.model, config.device)
    out.parent.mkdir(parents=True, exist_ok=True)
    clips = [Clip(path=file, name=file) for file in find_audio(config.inputs)]
    columns = (TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("embedding", total=len(clips))
        vectors, bad = model.embed_clips(
            clips, batch_size=config.batch, progress=lambda done, _: bar.update(task, completed=done)
        )
    for name, reason in bad:
        print(f"left out: {name}: {reason}", file=sys.stderr)
    unreadable = {name for name, _ in bad}
    files = [clip.name for clip in clips if clip.name not in unreadable]
    if not files:
        raise DataError(f"none of {len(clips)} inputs could be embedded; the first: {bad[0][0]}: {bad[0][1]}")
    write_atomically(out, _npz(embedding=vectors, file=np.asarray(files, dtype=np.str_)))
    print(f"{len(files)} vectors of {vectors.shape[1]} numbers -> {out}" + (f", {len(bad)} left out" if bad else ""))


def _npz(**arrays: NDArray[Any]) -> bytes:
    """Pack arrays as `numpy.savez` does; equal arrays give equal bytes."""
    # Not `savez` itself, which has a parameter called `file` and would refuse an array of that name.
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return content.getvalue()


def _batches(pieces: Iterable[tuple[int, float, Tensor]], batch_size: int) -> Iterator[list[tuple[int, float, Tensor]]]:
    """Group (key, share, spectrogram (F, T)) by T, in full batches as far as memory allows."""
    waiting: dict[int, list[tuple[int, float, Tensor]]] = {}
    num_frames = 0
    for piece in pieces:
        length = piece[2].shape[-1]
        waiting.setdefault(length, []).append(piece)
        num_frames += length
        if num_frames > _MOST_WAITING_FRAMES:
            length = max(waiting, key=lambda key: key * len(waiting[key]))
        elif len(waiting[length]) < batch_size:
            continue
        batch = waiting.pop(length)
        num_frames -= length * len(batch)
        yield batch
    yield from waiting.values()

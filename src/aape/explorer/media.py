"""What a page shows and plays of one sound: its log-mel, what the stem chose, and the sound as Opus or by its path.

Pictures are grey PNGs of few levels, low frequencies in the first row, so that a page of thousands stays small.
"""

from __future__ import annotations

import base64
import io
import math
import os
import struct
import urllib.parse
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aape.analysis.kernels import chosen_kernels, mel_position
from aape.data.clips import Clip, stream_clip
from aape.errors import AudioError
from aape.inference.model import AudioModel
from aape.inference.segments import MAX_FRAMES
from aape.layers.aape import AaPE

OPUS_RATE, OPUS_LEVEL = 48000, 0.85  # Hz; libsndfile's compression, about 45 kbit/s
_LEAST_BYTES = 1500  # per second of Opus: what is surely too long is not encoded
_THREADS = 2  # that encode, which takes longer than drawing
_MAX_COLUMNS = 1200  # of a picture
_LEVELS = 32  # of grey
_RANGE = 70 / 10 * math.log(10)  # of a log-mel below its loudest bin, 70 dB in nats
FREQUENCY_BINS = 25  # of modulation frequencies, from 0 to half the frame rate
DECAY_BINS, DECAYS = 21, (5.0, 640.0)  # of decays, in nepers per second: a third of an octave each


def grey_png(image: NDArray[np.floating]) -> str:
    """Return an image (rows, columns) of 0 to 1 as PNG in base64, in `_LEVELS` levels of grey."""
    levels = np.round(np.clip(image, 0, 1) * (_LEVELS - 1)) * (255 / (_LEVELS - 1))
    rows = np.pad(np.round(levels).astype(np.uint8), ((0, 0), (1, 0)))  # each row begins with its filter, none

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 0, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + content + chunk(b"IEND", b"")).decode()


def mel_ticks(model: AudioModel) -> list[tuple[str, float]]:
    """Return labels in Hz for the axis of a log-mel, each with its height, 0 (low) to 1."""
    front_end = model.front_end
    band, n_mels = (front_end.f_min, front_end.f_max), front_end.n_mels
    shown = [hertz for hertz in (250, 1000, 4000) if band[0] <= hertz <= band[1]]
    return [(f"{hertz:,} Hz", mel_position(hertz, band, n_mels) / n_mels) for hertz in shown]


class Painter:
    """Draws sounds as a model sees them."""

    def __init__(self, model: AudioModel) -> None:
        self.model, self.rate = model, model.front_end.sample_rate
        self.frame_rate = self.rate / model.front_end.hop_length
        self.has_kernels = isinstance(model.encoder.stem, AaPE)

    def pictures(self, clip: Clip) -> dict[str, Any]:
        """Return the log-mel of a sound of any length, and the shares of frequencies and decays in each time patch.

        A column is 20 ms of log-mel and a patch of the others, in long sounds the mean over more.

        Raises:
            AudioError: it cannot be read.
        """
        mels, frequencies, decays = [], [], []
        frames, patches = 2, 1  # in a column
        for samples in self._pieces(clip):
            mel, shares = self._piece(samples)
            mels.append(_pooled(mel, frames))
            if shares is not None:
                frequencies.append(_pooled(shares[0], patches))
                decays.append(_pooled(shares[1], patches))
            if sum(part.shape[1] for part in mels) > _MAX_COLUMNS and frames < MAX_FRAMES:
                frames, patches = 2 * frames, max(1, 2 * frames // self.model.encoder.patch_size)
                mels = [_pooled(np.concatenate(mels, 1), 2)]
                if shares is not None and patches > 1:
                    frequencies, decays = ([_pooled(np.concatenate(x, 1), 2)] for x in (frequencies, decays))
        image = np.concatenate(mels, axis=1)
        reach = _RANGE / self.model.front_end.std
        shown = {"mel": grey_png((image - image.max()) / reach + 1), "span": image.shape[1] * frames / self.frame_rate}
        if frequencies:
            width = patches * self.model.encoder.patch_size / self.frame_rate
            both = [np.concatenate(x, axis=1) for x in (frequencies, decays)]
            shown |= {"frequencies": grey_png(both[0]), "decays": grey_png(both[1])}
            shown["patches"] = both[0].shape[1] * width
        return shown

    def _pieces(self, clip: Clip) -> Iterator[NDArray[np.float32]]:
        """Yield a sound in pieces of `MAX_FRAMES` frames, the last shorter."""
        size = MAX_FRAMES * self.model.front_end.hop_length
        held: NDArray[np.float32] = np.zeros(0, np.float32)
        for block in stream_clip(clip, sample_rate=self.rate):
            held = np.concatenate([held, block])
            while len(held) > size:
                yield held[: size - 1]  # frames are centred: there is one more than hops
                held = held[size:]
        yield held[: size - 1]

    @torch.inference_mode()
    def _piece(self, samples: NDArray[np.float32]) -> tuple[NDArray[Any], tuple[NDArray[Any], NDArray[Any]] | None]:
        """Return log-mel (F, T), and shares of frequencies and decays (bins, Nt) if the stem chooses any."""
        if not self.has_kernels:
            wave = torch.from_numpy(samples)[None].to(self.model.device)
            return self.model.log_mel(wave)[0, 0].cpu().numpy(), None
        kernels = chosen_kernels(self.model, samples)
        highest = kernels.folded_band[1]
        frequencies = np.clip(kernels.frequencies, 0, highest)
        decays = np.clip(kernels.decays, DECAYS[0] * (1 + 1e-6), DECAYS[1] * (1 - 1e-6))
        shares = (
            _shares(frequencies, np.linspace(0, highest, FREQUENCY_BINS + 1)),
            _shares(decays, np.geomspace(*DECAYS, DECAY_BINS + 1)),
        )
        return kernels.spectrogram, shares


def _shares(values: NDArray[np.floating], edges: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return how values (Nf, Nt, H) of each time patch are distributed over bins: square roots of shares (bins, Nt)."""
    columns = [np.histogram(column, edges)[0] / column.size for column in values.swapaxes(0, 1)]
    return np.sqrt(np.stack(columns, axis=1))


def _pooled(image: NDArray[Any], columns: int) -> NDArray[Any]:
    """Return the means over so many columns; the last may be over fewer."""
    starts = np.arange(0, image.shape[1], columns)
    counts = np.diff([*starts, image.shape[1]])
    return np.add.reduceat(image, starts, axis=1) / counts


class Recorder:
    """Puts sounds into the page as Opus while there is room, and beyond that names their files.

    Args:
        page: the page, that paths are relative to.
        limit: bytes that the embedded sounds may take.
    """

    def __init__(self, page: Path, limit: float) -> None:
        self.folder, self.room = os.path.realpath(page.parent), limit
        self.num_embedded = self.num_linked = 0

    def sounds(self, clips: Iterable[Clip], seconds: Iterable[float]) -> Iterator[dict[str, Any]]:
        """Yield each sound itself, or the address of its file, or why there is neither; `_THREADS` encode ahead."""
        with ThreadPoolExecutor(_THREADS) as pool:
            waiting: deque[tuple[Clip, Future[str | None]]] = deque()
            for clip, length in zip(clips, seconds, strict=True):
                waiting.append((clip, pool.submit(self._opus, clip, length)))
                if len(waiting) > _THREADS:
                    yield self._chosen(*waiting.popleft())
            while waiting:
                yield self._chosen(*waiting.popleft())

    def _chosen(self, clip: Clip, encoded: Future[str | None]) -> dict[str, Any]:
        """Take an encoded sound if there is still room, else its address."""
        try:
            content = encoded.result()
        except AudioError as error:
            return {"silent": error.reason}
        if content is not None and len(content) <= self.room:
            self.room -= len(content)
            self.num_embedded += 1
            return {"opus": content}
        if clip.offset is not None:
            return {"silent": "it lies in a tar shard, and the page embeds no more sounds: raise --embed-limit"}
        self.num_linked += 1
        part = {} if clip.end is None else {"from": clip.start, "to": clip.end}
        return {"href": self._address(os.path.realpath(clip.path)), **part}

    def _address(self, path: str) -> str:
        """Return a file's address from the page, or the whole one where no path leads there: from another drive."""
        try:
            relative = os.path.relpath(path, self.folder)
        except ValueError:
            return Path(path).as_uri()
        return urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/")))

    def _opus(self, clip: Clip, seconds: float) -> str | None:
        """Encode a sound, base64; None if it does not fit into what room there is now."""
        import soundfile

        most = self.room * 3 / 4  # base64 takes four bytes for three
        if seconds * _LEAST_BYTES > most:
            return None
        out = io.BytesIO()
        options = {"format": "OGG", "subtype": "OPUS", "compression_level": OPUS_LEVEL}
        try:
            with soundfile.SoundFile(out, "w", OPUS_RATE, 1, **options) as file:
                for block in stream_clip(clip, sample_rate=OPUS_RATE):
                    for first in range(0, len(block), OPUS_RATE):
                        file.write(block[first : first + OPUS_RATE])
                    if out.tell() > most:
                        return None
        except soundfile.SoundFileError as error:
            raise AudioError(clip.name, f"could not be encoded as Opus: {error}") from error
        return base64.b64encode(out.getvalue()).decode()

"""The encoder as a class that Ray Data and Spark call on batches of files (docs/clusters.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from aape.data.audio.decoding import stream_audio
from aape.errors import AudioError, ConfigError
from aape.inference.encoding import Embedded
from aape.inference.loading import load_model
from aape.inference.recordings import open_sounds
from aape.inference.segments import End, FloatArray

CONTENT = ("bytes", "content", "audio")  # the column of files, as Ray, Spark and `datasets` name it


class Embedder:
    """Embeds batches of files; each worker of a cluster makes one.

    >>> files = ray.data.read_binary_files("recordings", include_paths=True)
    >>> vectors = files.map_batches(Embedder, concurrency=2, fn_constructor_kwargs={"model": "tiny"})
    >>> vectors = dataset.map(Embedder("tiny"), batched=True, remove_columns="audio")  # of Hugging Face

    Args:
        model: as for `load_model`.
        window: length of windows in seconds, for a row of each; None: one row for each file.
        hop: from window to window, in seconds; None: the window's length.
        options: further ones of `load_model`.

    Raises:
        ConfigError: no such windows; and as `load_model`.
    """

    def __init__(self, model: str = "tiny", *, window: float | None = None, hop: float | None = None, **options: Any):
        self.model = load_model(model, **options)
        self._cut = self.model._cut(window, hop)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Embed a batch.

        Args:
            batch: columns of equal length, a mapping of arrays or lists, or a data frame: the files' contents in
                `bytes` or `content`, or in `audio` whatever `AudioModel.embed` takes in a list and brings its rate;
                their names in `path` if there are any; and whatever else.

        Returns:
            The other columns; `embedding` (n, E) float32; `error`, text, empty for a file that could be read; and with
            `window` also `start` and `end` in seconds. A file that cannot be read has one row, of NaN.

        Raises:
            ConfigError: no column of contents, or columns of other lengths.
        """
        if not hasattr(batch, "keys"):
            raise ConfigError(f"a batch is a mapping of columns or a data frame, got {type(batch).__name__}")
        content = next((name for name in CONTENT if name in batch), None)
        if content is None:
            raise ConfigError(f"no column {', '.join(CONTENT)} in a batch of {', '.join(map(str, batch))}")
        files = list(batch[content])
        for name in batch:
            if len(batch[name]) != len(files):
                raise ConfigError(f"column {name} has {len(batch[name])} rows, and {content} has {len(files)}")
        names = list(batch["path"]) if "path" in batch else [f"file {index}" for index in range(len(files))]
        open_one = self._sound if content == "audio" else self._file
        stream = self.model._stream(map(open_one, files, names), self._cut)
        rows: list[Embedded] = []
        errors: dict[int, str] = {}
        for item in self.model._vectors(stream, self._cut, is_repeatable=True):
            if isinstance(item, End):
                assert item.error is not None
                errors[item.row] = item.error.reason
                rows = [row for row in rows if row.row != item.row]
                item = Embedded(item.row, np.nan, np.nan, np.full(self.model.embed_dim, np.nan))
            rows.append(item)
        index = [row.row for row in rows]
        columns = {name: _rows(batch[name], index) for name in batch if name != content}
        vectors = np.array([row.vector for row in rows], self.model._dtype).reshape(-1, self.model.embed_dim)
        columns |= {"embedding": vectors, "error": np.array([errors.get(row, "") for row in index], np.str_)}
        if self._cut.is_asked:
            columns |= {"start": np.array([row.start for row in rows]), "end": np.array([row.end for row in rows])}
        return columns

    def _sound(self, sound: Any, name: str) -> Iterator[FloatArray]:
        """Read whatever holds a sound in blocks."""
        rate, dtype = self.model.log_mel.sample_rate, self.model._dtype
        yield from open_sounds([sound], None, to_rate=rate, dtype=dtype, names=[name])[0][0]

    def _file(self, content: Any, name: str) -> Iterator[FloatArray]:
        """Read a file in blocks."""
        if not isinstance(content, (bytes, bytearray, memoryview)):
            raise AudioError(name, f"{type(content).__name__}: not the bytes of a file")
        yield from stream_audio(bytes(content), sample_rate=self.model.log_mel.sample_rate, name=name)


def _rows(column: Any, index: list[int]) -> Any:
    """Return rows of a column; a list stays one, as its values may be of any kind."""
    return [column[row] for row in index] if isinstance(column, list) else np.asarray(column)[index]

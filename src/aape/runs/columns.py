"""Tables of results as files, .npz, .csv or .parquet, written block by block: whole or not at all."""

from __future__ import annotations

import csv
import io
import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aape.errors import writing
from aape.runs.files import add_array, replacing

Blocks: TypeAlias = Callable[[], Iterable[NDArray[Any]]]

ENDINGS = (".npz", ".csv", ".parquet")
BLOCK_BYTES = 1 << 24  # about what a writer is given at a time
_CSV_BYTES = 12  # of a number as text, about


def write_table(out: Path, dtype: np.dtype, count: int, blocks: Blocks, *, folder: Path | None = None) -> None:
    """Write a table; equal rows give equal bytes.

    NPZ has an array for each column. CSV has a column for each, and one for each number of a column of vectors; a
    number's text is the shortest that is read back as the same. In Parquet a column of vectors is a fixed-size list.

    Args:
        out: the file; its ending is one of `ENDINGS`, see `require_ending`.
        dtype: of a row: names and types of the columns, of a column of vectors with their length.
        count: of the rows.
        blocks: gives the rows, structured arrays (n,) of `dtype`; called once or, for NPZ, for each column.
        folder: where the file grows, on the same disk; by default beside `out`.

    Raises:
        AapeError: it could not be written.
    """
    write = {".npz": _npz, ".csv": _csv, ".parquet": _parquet}[out.suffix.lower()]
    numbers = sum(int(np.prod(dtype[name].shape)) for name in dtype.names or ())
    needed = count * (_CSV_BYTES * numbers if write is _csv else dtype.itemsize)
    with replacing(out, needed, folder) as file, writing(out, needed):
        write(file, dtype, count, blocks)


def _npz(file: IO[bytes], dtype: np.dtype, count: int, blocks: Blocks) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name in dtype.names or ():
            kind = dtype[name]
            column = (block[name] for block in blocks())
            add_array(archive, name, kind.base, (count, *kind.shape), column)


def _csv(file: IO[bytes], dtype: np.dtype, count: int, blocks: Blocks) -> None:
    names = dtype.names or ()
    header = (range(dtype[name].shape[0]) if dtype[name].shape else [name] for name in names)
    file.write(_lines([header]))
    for block in blocks():
        file.write(_lines(zip(*(_cells(block[name]) for name in names), strict=True)))


def _cells(values: NDArray[Any]) -> Iterator[list[Any]]:
    """Return the cells of each row of a column."""
    return ([*map(str, vector)] for vector in values) if values.ndim > 1 else ([cell] for cell in values.tolist())


def _lines(rows: Iterable[Iterable[Iterable[Any]]]) -> bytes:
    """Lay out rows, each of the cells of each column."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(itertools.chain(*cells) for cells in rows)
    return text.getvalue().encode(errors="backslashreplace")  # a name may be no Unicode


def _parquet(file: IO[bytes], dtype: np.dtype, count: int, blocks: Blocks) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    def column(values: NDArray[Any]) -> Any:
        if values.ndim > 1:
            return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        if values.dtype.kind == "U":
            return pa.array([name.encode(errors="backslashreplace").decode() for name in values.tolist()], pa.string())
        return pa.array(values)

    def table(rows: NDArray[Any]) -> Any:
        return pa.table({name: column(rows[name]) for name in dtype.names or ()})

    texts = [name for name in dtype.names or () if dtype[name].kind == "U"]
    with parquet.ParquetWriter(file, table(np.empty(0, dtype)).schema, use_dictionary=texts) as writer:
        for rows in _gathered(blocks()):
            writer.write_table(table(rows))


def _gathered(blocks: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Join small blocks: each becomes a row group, of which a reader wants few."""
    held: list[NDArray[Any]] = []
    size = 0
    for block in blocks:
        held.append(block)
        size += block.nbytes
        if size >= BLOCK_BYTES:
            yield np.concatenate(held)
            held, size = [], 0
    if held:
        yield np.concatenate(held)

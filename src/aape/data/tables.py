"""Tables of clips as people's programs write them: any usual delimiter and encoding, names of columns in any case."""

from __future__ import annotations

import codecs
import csv
import itertools
import math
import os
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aape.errors import DataError

TABLE_EXTENSIONS = (".csv", ".tsv", ".tab", ".txt")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_ENCODINGS = (  # by the first bytes of a file
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FOREIGN = ((b"PK\x03\x04", "an Excel workbook"), (b"\xd0\xcf\x11\xe0", "an Excel workbook"), (b"PAR1", "Parquet"))
_named: set[str] = set()  # warnings of unused columns that were given
_KEYS = ({"file"}, {"filename"}, {"shard", "name"})  # columns that say which sound a row is about


class Table:
    """A table that is read row by row, with its header.

    Attributes:
        header: names of the columns.
        delimiter: what stands between cells.
    """

    def __init__(self, path: str | os.PathLike[str], lines: Iterator[str]) -> None:
        self.path, self._used = path, set[int]()
        numbered = ((number, line) for number, line in enumerate(lines) if line.strip("\ufeff \t\r\n"))
        before, first = next(numbered, (0, ""))
        stated = re.fullmatch(r'\ufeff?"?sep=(.)"?[\s,;]*', first.rstrip("\r\n"), re.IGNORECASE)  # Excel's
        if stated:
            before, first = next(numbered, (0, ""))
        first = first.lstrip("\ufeff")
        self.delimiter = stated[1] if stated else _sniff(first)
        text = itertools.chain([first], lines)
        self._rows = _split_at_tabs(text) if self.delimiter == "\t" else self._split(text)
        self._lines_before = before
        _, header = next(self._rows, (0, []))
        self.header = [name.strip() for name in header]
        if not any(self.header):
            raise DataError(f"{path}: empty")

    def _split(self, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        """Yield number and cells of every row of a CSV."""
        reader = csv.reader(lines, delimiter=self.delimiter, skipinitialspace=True, strict=True)
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{self.path}, line {self._lines_before + reader.line_num}: not a CSV ({error})") from error

    def has(self, name: str) -> bool:
        """Tell whether there is a column, as `find`, without using it."""
        return any(_plain(column) == _plain(name) for column in self.header)

    def find(self, name: str) -> int | None:
        """Return the number of a column, in any case and with or without `_`, `-` and spaces; None if it is not there.

        Raises:
            DataError: several columns are called so.
        """
        same = [index for index, column in enumerate(self.header) if column == name]
        same = same or [index for index, column in enumerate(self.header) if _plain(column) == _plain(name)]
        if len(same) > 1:
            raise DataError(f"{self.path}: {len(same)} columns are called {name!r}: rename all but one")
        self._used.update(same)
        return same[0] if same else None

    def require(self, name: str, what: str = "") -> int:
        """Return the number of a column, as `find`; DataError if it is not there."""
        index = self.find(name)
        if index is None:
            raise DataError(f"{self.path}: no {what}column {name!r}; {self.describe()}")
        return index

    def describe(self) -> str:
        """Say which columns there are, and how they were told apart."""
        split = DELIMITERS.get(self.delimiter, repr(self.delimiter))
        return f"it has {', '.join(self.header)}" + (f" (split at {split})" if self.delimiter != "," else "")

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield line number and cells of every row that is not blank; spaces around a cell are still there.

        Raises:
            DataError: not as many fields as the header has.
        """
        width = len(self.header)
        least = max(index for index, name in enumerate(self.header, start=1) if name)
        for line, row in self._rows:
            if not any(map(str.strip, row)):
                continue
            line += self._lines_before
            if len(row) < least or any(map(str.strip, row[width:])):
                split = DELIMITERS.get(self.delimiter, repr(self.delimiter))
                advice = f": put cells with {split} into double quotes" if len(row) > width else ""
                counts = f"{len(row)}, not {width}"
                raise DataError(f"{self.path}, line {line}: not as many fields as the header has ({counts}){advice}")
            yield line, [*row[:width], *[""] * (width - len(row))]

    def number(self, text: str) -> float | None:
        """Return a finite number; a table that is not split at commas may write them for decimal points."""
        try:
            number = float(text if self.delimiter == "," else text.replace(",", "."))
        except ValueError:
            return None
        return number if math.isfinite(number) and "_" not in text else None

    def warn_unused(self) -> None:
        """Name, in one warning, the columns that nobody has asked for."""
        unused = [name for index, name in enumerate(self.header) if name and index not in self._used]
        text = f"{self.path}: columns that are not used: {', '.join(unused)}"
        if unused and text not in _named:  # Python's filter forgets whenever somebody catches warnings
            _named.add(text)
            warnings.warn(text, stacklevel=2)


@contextmanager
def open_table(path: str | os.PathLike[str]) -> Iterator[Table]:
    """Open a table, in UTF-8 or with a byte order mark in UTF-16 or UTF-32, and read its header.

    Raises:
        DataError: it cannot be read, is no such text, empty or no table; also while its rows are read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4)
        for magic, kind in _FOREIGN:
            if head.startswith(magic):
                raise DataError(f"{path}: {kind}, not a CSV: save it as CSV in UTF-8")
        with open(path, encoding=text_encoding(head), newline="") as text:
            yield Table(path, iter(text))
    except UnicodeError as error:
        at = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(
            f"{path}: not {text_encoding(head).removesuffix('-sig').upper()} text{at}: save it as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def text_encoding(head: bytes) -> str:
    """Return the encoding of a text by its first four bytes; UTF-8 unless they say otherwise."""
    for mark, name in _ENCODINGS:
        if head.startswith(mark):
            return name
    return {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get(
        (head[:1] == b"\0", head[1:2] == b"\0"), "utf-8"
    )


def _split_at_tabs(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of every row: quotes are text, unless they are around a whole cell."""
    for number, line in enumerate(lines, start=1):
        cells = line.rstrip("\r\n").split("\t")
        yield number, [re.sub(r'^ *"((?:[^"]|"")*)" *$', lambda m: m[1].replace('""', '"'), cell) for cell in cells]


def _sniff(header: str) -> str:
    """Return the delimiter that makes a header name the sound files, else the one that gives most columns."""
    columns = {delimiter: _split(header, delimiter) for delimiter in DELIMITERS}
    for delimiter, names in columns.items():
        if any(keys <= set(map(_plain, names)) for keys in _KEYS):
            return delimiter
    return max(columns, key=lambda delimiter: len(columns[delimiter]))


def _split(header: str, delimiter: str) -> Sequence[str]:
    return next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])


def _plain(name: str) -> str:
    """Return a column's name as it is compared."""
    return re.sub(r"[\s_-]", "", unicodedata.normalize("NFKC", name).casefold())

"""Cells that hold several labels: told apart in one way for the whole table, which is reported."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Sequence

from aape.errors import DataError

SEPARATORS = (";", "|", ",")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_STRING = r"""[bu]?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_ITEM = rf"(?:np\.\w+\()?(?:({_STRING})|(-?\d+(?:\.\d+)?))\)?"
_LIST = re.compile(rf"[\[({{]\s*(?:{_ITEM}(?:\s*,\s*|\s+|(?=[\])}}])))*[\])}}]", re.DOTALL)
_CALL = re.compile(r"(?:array|frozenset|set)\((.*?)(?:,\s*dtype=\S+)?\)", re.DOTALL)


class LabelCells:
    """The labels in the cells of a column; an empty cell is a clip without any label.

    Cells are lists as JSON, Python, pandas or NumPy write them, or labels with one separator between them. Where the
    separator is not given, it is the only one of `; | ,` in the column. If there are two of them, one that is always
    followed by a space belongs to labels, as in `Dog;Male speech, man speaking`; if both are, the comma does.

    Args:
        data: the table, for errors.
        cells: of its column of labels.
        separator: what stands between labels; None finds it out.

    Attributes:
        labels: of each cell.
        note: how they were told apart, in a sentence.

    Raises:
        DataError: two separators are possible, or what was found out gives labels that look like pieces of labels.
    """

    def __init__(self, data: str | os.PathLike[str], cells: Sequence[str], separator: str | None = None) -> None:
        self.data = data
        cells = ["" if cell.lower() == "nan" else cell for cell in cells]  # pandas' name of an empty cell
        cells = [match[1] if (match := _CALL.fullmatch(cell)) else cell for cell in cells]
        filled = [cell for cell in cells if cell]
        if separator is None and filled and all(map(_LIST.fullmatch, filled)):
            split = [self._listed(cell) for cell in cells]
            self.note = "several labels of a clip are written as lists"
            if len(split[0]) > 1 and len(set(map(len, split))) == 1 and {"0", "1"} >= set(itertools.chain(*split)):
                raise DataError(f"{data}: a 0 or 1 for each class: write the names of the labels of each clip")
        else:
            if separator is None and (wrong := next((cell for cell in filled if cell[0] == "["), None)):
                raise DataError(f"{data}: {wrong!r} is not a list of labels, as JSON or pandas write one")
            chosen = self._detect(filled) if separator is None else separator
            split = [cell.split(chosen) if chosen else [cell] for cell in cells]
            self.note = f"several labels of a clip are split at {chosen!r}" if chosen else "no clip has several labels"
        labels = [[unicodedata.normalize("NFC", label.strip()) for label in parts] for parts in split]
        self.labels = [[label for label in parts if label] for parts in labels]
        if separator is None and self.note.endswith("'") and (piece := _find_piece(self.labels, filled, chosen)):
            raise self._ask(f"split at {chosen!r}, {piece!r} looks like a piece of a label, or like several")

    def _listed(self, cell: str) -> list[str]:
        """Read a list of strings or numbers, as JSON, Python and NumPy write one."""
        try:
            values = json.loads(cell)
            items = values if isinstance(values, list) and all(type(v) in (str, int) for v in values) else None
        except ValueError:
            items = None
        if items is None:
            try:
                matches = re.finditer(_ITEM, cell[1:-1])
                items = [ast.literal_eval(match[1]) if match[1] else match[2] for match in matches]
            except (SyntaxError, ValueError):
                raise DataError(f"{self.data}: {cell!r} is not a list of labels, as JSON or pandas write one") from None
        return [item.decode(errors="backslashreplace") if isinstance(item, bytes) else str(item) for item in items]

    def _detect(self, cells: Sequence[str]) -> str:
        present = [mark for mark in SEPARATORS if any(mark in cell for cell in cells)]
        if len(present) < 2:
            return present[0] if present else ""
        loose = {mark for mark in present if _spaced(cells, mark) == _count(cells, mark)}
        rest = [mark for mark in present if mark not in loose] or [mark for mark in present if mark != ","]
        if len(rest) == 1 and (rest[0] in loose or not _spaced(cells, rest[0])):
            return rest[0]
        raise self._ask(f"labels hold {' and '.join(map(repr, present))}")

    def _ask(self, reason: str) -> DataError:
        advice = 'say what stands between labels, as in --multi-label=";", or write them as lists'
        return DataError(f"{self.data}: {reason}: {advice}")


def _count(cells: Sequence[str], mark: str) -> int:
    return sum(cell.count(mark) for cell in cells)


def _spaced(cells: Sequence[str], mark: str) -> int:
    """Count how often a space follows a mark."""
    return sum(len(re.findall(f"{re.escape(mark)}\\s", cell)) for cell in cells)


def _find_piece(labels: Sequence[Sequence[str]], cells: Sequence[str], separator: str) -> str | None:
    """Return a label that looks like a piece of one, or None.

    Such has half a pair of brackets or quotes, or is quoted; or follows a comma with a space where other commas have
    none; or begins in lower case, and is only ever found behind a comma, a space and the same label, which begins in
    upper case. Or it is the whole: `rain, wind` where there are also `rain` and `wind`.
    """
    names = {label for parts in labels for label in parts}
    for label in names:
        if label[0] in "'\"" and label[0] == label[-1]:
            return label
        for mark in SEPARATORS:
            if mark in label and {part.strip() for part in label.split(mark)} <= names:
                return label
    before: dict[str, set[str]] = {}
    for parts in labels:
        for previous, label in zip(("", *parts), parts, strict=False):
            before.setdefault(label, set()).add(previous)
            if any(label.count(left) != label.count(right) for left, right in _CLOSING.items()) or label.count('"') % 2:
                return label
    if 0 < _spaced(cells, separator) < _count(cells, separator):
        matches = (re.search(f"{re.escape(separator)}\\s+([^{re.escape(separator)}]+)", cell) for cell in cells)
        return next(match[1].strip() for match in matches if match)
    for label, neighbours in before.items() if separator == "," and _spaced(cells, ",") else ():
        if len(neighbours) == 1 and label[0].islower() and next(iter(neighbours))[:1].isupper():
            return label
    return None

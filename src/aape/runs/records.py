"""Files of one JSON object a line, each with the step it belongs to, that a resumed run cuts back to its checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from aape.errors import DataError
from aape.runs.folder import plain, write_atomically


class Records:
    """One such file.

    Args:
        path: `*.jsonl`; it need not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, step: int, **values: Any) -> None:
        """Write one line; NaN and infinities, which JSON does not have, become null."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(plain({"step": step, **values}), allow_nan=False) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Return all whole lines; the last may have been cut by a kill.

        Raises:
            DataError: a line is no JSON object.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except (RecursionError, ValueError):
                record = None
            if not isinstance(record, dict):
                raise DataError(f"{self.path}, line {number}: not a JSON object")
            records.append(record)
        return records

    def cut_after(self, step: int) -> list[dict[str, Any]]:
        """Drop what was written after `step`, and return the rest."""
        kept = [record for record in self.read() if record["step"] <= step]
        if self.path.exists():
            lines = [json.dumps(record) + "\n" for record in kept]
            write_atomically(self.path, "".join(lines).encode())
        return kept

"""The revision of a saved model: a digest of what it computes with, which its card may state."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from aape.errors import CheckpointError
from aape.models.config_file import CONFIG_NAME
from aape.runs.files import write_atomically

WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"
_STATEMENT = re.compile(rb"^Revision: `[0-9a-f]{40}`", re.MULTILINE)


def statement(revision: str) -> str:
    """Return how a line of a card begins that states a revision."""
    return f"Revision: `{revision}`"


def digest(folder: Path) -> str:
    """Return 40 hex digits of the SHA-256 of `config.json` and `model.safetensors`, or its parts, one after the other.

    Raises:
        CheckpointError: there are none, or one cannot be read.
    """
    sha256 = hashlib.sha256()
    whole = folder / WEIGHTS_NAME
    weights = [] if whole.is_file() else sorted(folder.glob("model*.safetensors"))  # as transformers splits them
    for path in (folder / CONFIG_NAME, *(weights or [whole])):
        try:
            if not path.is_file():
                raise CheckpointError(f"{folder}: not a saved model, there is no {path.name} in it")
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    sha256.update(block)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    return sha256.hexdigest()[:40]


def state_revision(folder: Path) -> None:
    """Bring the revision up to date that the card of a folder states; one that states none is left alone.

    Raises:
        CheckpointError: as `digest`.
    """
    path = folder / CARD_NAME
    card = path.read_bytes() if path.is_file() else b""
    if _STATEMENT.search(card):
        write_atomically(path, _STATEMENT.sub(statement(digest(folder)).encode(), card))

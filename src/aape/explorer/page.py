"""The page as one file: markup, style, script and data put together; no address in it leads anywhere else.

All data is JSON in script elements of a type that no browser runs, and the only script that may run is the package's
own, by its digest. The page starts before the sounds behind it are read: each is an element of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from importlib import resources
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from aape.runs.files import plain

SCRIPTS = ("data.js", "map.js", "input.js", "player.js", "lists.js", "main.js")
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def script_json(value: Any) -> str:
    """Return a value as JSON that no parser of HTML takes for anything else: ASCII, without <, > and &."""
    return json.dumps(plain(value), separators=(",", ":"), allow_nan=False).translate(_ESCAPES)


def packed(array: NDArray[Any], kind: str) -> str:
    """Return the numbers of an array, little-endian of a numpy type such as "<f4", in base64."""
    return base64.b64encode(np.ascontiguousarray(array, kind).tobytes()).decode()


def write_page(file: IO[bytes], data: dict[str, Any], media: Iterable[dict[str, Any]], totals: dict[str, Any]) -> None:
    """Write the page.

    Args:
        file: is written from beginning to end.
        data: of all sounds.
        media: of each sound, taken one after the other.
        totals: is read when all media are written.
    """
    script = "(() => {\n'use strict';\n" + "\n".join(map(_read, SCRIPTS)) + "})();\n"
    style = _read("page.css")
    parts = {
        "policy": "; ".join(
            (
                "default-src 'none'",
                f"script-src '{_digest(script)}'",
                f"style-src '{_digest(style)}'",
                "img-src data: blob:",
                "media-src data: blob: file: 'self'",
                "base-uri 'none'",
                "form-action 'none'",
            )
        ),
        "style": style,
        "data": script_json(data),
        "script": script,
    }
    before, _, after = _read("page.html").partition("{{media}}")
    for name, text in parts.items():
        left, _, before = before.partition(f"{{{{{name}}}}}")
        file.write(f"{left}{text}".encode())
    file.write(before.encode())
    for number, item in enumerate(media):
        file.write(f'<script type="application/json" id="sound-{number}">{script_json(item)}</script>\n'.encode())
    file.write(f'<script type="application/json" id="totals">{script_json(totals)}</script>'.encode())
    file.write(after.encode())


def _read(name: str) -> str:
    return resources.files("aape.explorer").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

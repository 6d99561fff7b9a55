"""The page as one file: markup, style, script and data put together; no address in it leads anywhere else.

All data is JSON in script elements of a type that no browser runs, and the only script that may run is the package's
own, by its digest. The page starts before the sounds behind it are read: each is an element of its own.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from importlib import resources
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from aape.pages.page import render_page, script_json

SCRIPTS = ("data.js", "map.js", "input.js", "player.js", "lists.js", "main.js")


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
    script = "\n".join(map(_read, SCRIPTS))
    sources = {"img-src": "data: blob:", "media-src": "data: blob: file: 'self'"}
    page = render_page("Sounds", _read("page.html"), data, style=_read("page.css"),
                       script=f"(() => {{\n{script}}})();\n", sources=sources)  # fmt: skip
    before, end, after = page.rpartition(b"</body>")
    file.write(before)
    for number, item in enumerate(media):
        file.write(f'<script type="application/json" id="sound-{number}">{script_json(item)}</script>\n'.encode())
    file.write(f'<script type="application/json" id="totals">{script_json(totals)}</script>'.encode())
    file.write(end + after)


def _read(name: str) -> str:
    return resources.files("aape.explorer").joinpath(name).read_text(encoding="utf-8")

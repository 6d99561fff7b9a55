"""One self-contained page: what it shows is data, escaped once, here, and put on the page as text by a script."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aape.runs.files import plain

FOLDER = Path(__file__).parent
_ESCAPES = str.maketrans({"&": "\\u0026", "<": "\\u003c", ">": "\\u003e"})


def render_page(
    title: str, body: str, data: Any, *, style: str, script: str, sources: Mapping[str, str] | None = None
) -> bytes:
    """Make a page that loads nothing and runs no script but its own, by a content security policy.

    Args:
        title: any text.
        body: HTML that is part of the program; whatever comes from files belongs in `data`.
        data: what the script finds as `data`: dicts, lists, strings, numbers; what is not finite becomes null.
        style: CSS, after that of all pages (`page.css`).
        script: JavaScript, after that of all pages (`page.js`); texts go through `make`, never through innerHTML.
        sources: what the page may load beside `data:` images, as directives of the policy: `{"media-src": "data:"}`.
    """
    style, script = _read("page.css") + style, _read("page.js") + script
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy(script, style, sources)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{style}</style>
</head>
<body>
{body}
<noscript><p>This page is drawn by a script of its own: allow JavaScript to see it.</p></noscript>
<script type="application/json" id="data">{script_json(data)}</script>
<script>{script}</script>
</body>
</html>
"""
    return page.encode(errors="backslashreplace")


def policy(script: str, style: str, sources: Mapping[str, str] | None = None) -> str:
    """Return the content security policy under which this script and this style alone are used, and nothing loads."""
    directives = {"default-src": "'none'", "script-src": _digest(script), "style-src": _digest(style),
                  "img-src": "data:", "base-uri": "'none'", "form-action": "'none'", **(sources or {})}  # fmt: skip
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def script_json(value: Any) -> str:
    """Return JSON for a script element: ASCII alone, and nothing in it can end the element or begin a comment."""
    return json.dumps(plain(value), allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

"""A page of `aape explore`, read as a browser reads it."""

import base64
import json
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import soundfile

# Names that would break out of markup, attributes, scripts or lines, or turn text around.
HOSTILE = (
    "</script><script>document.title='injected'</script>.wav".replace("/", "\u2215"),
    "<img src=x onerror=alert(1)>.wav",
    "<!--<script>.wav",
    'it\'s a "quote" & an &amp;.wav',
    "\u202egnp.exe\u202c right to left \u05e9\u05dc\u05d5\u05dd.wav",
    "new\nline\ttab\u2028separator.wav",
    "${document.title='injected'}`{{data}}{{media}}.wav",
    "hash#t=1,2?query=%2e%2e%00.wav",
    b"invalid \xff\xfe utf-8.wav",
    "n" * 251 + ".wav",
)


class _Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.elements, self.is_open = [], False

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))
        self.is_open = True

    def handle_data(self, data):
        if self.is_open:
            self.elements[-1][2].append(data)

    def handle_endtag(self, tag):
        self.is_open = False


def read_page(path):
    """Return the page's data, the media of its sounds, and what is in it."""
    text = path.read_text(encoding="utf-8")
    parser = _Elements()
    parser.feed(text)
    parser.close()
    scripts = [(attrs, "".join(parts)) for tag, attrs, parts in parser.elements if tag == "script"]
    blocks = {attrs["id"]: json.loads(body) for attrs, body in scripts if attrs.get("type") == "application/json"}
    return SimpleNamespace(
        text=text,
        tags=[tag for tag, _, _ in parser.elements],
        elements=parser.elements,
        code=[body for attrs, body in scripts if attrs.get("type") != "application/json"],
        data=blocks["data"],
        totals=blocks["totals"],
        media=[blocks[f"sound-{number}"] for number in range(len(blocks["data"]["names"]))],
    )


def unpacked(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def hostile_folder(folder):
    """Fill a new folder with short sounds of hostile names, in folders of such names."""
    deep = folder / "a folder <b>&\"'"
    deep.mkdir(parents=True)
    for number, name in enumerate(HOSTILE):
        where = bytes(folder if number % 2 else deep)
        path = where + b"/" + (name if isinstance(name, bytes) else name.encode())
        tone = 0.3 * np.sin(2 * np.pi * 200 * (number + 1) * np.arange(6000) / 16000)
        with open(path, "wb") as file:
            soundfile.write(file, tone, 16000, format="WAV")
    return folder

"""The frame of all pages: nothing that a file is called, or holds, becomes part of it."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from aape.pages.page import policy, render_page, script_json

HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<!--<script>",
    "]]>&lt;\u2028\u2029\u202egpj.wav",
    "\udcff",
)


class Elements(HTMLParser):
    """Collect start tags, and the texts of scripts."""

    def __init__(self):
        super().__init__()
        self.tags, self.scripts, self.is_script = [], [], False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.is_script = tag == "script"
        if self.is_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.is_script = False

    def handle_data(self, data):
        if self.is_script:
            self.scripts[-1] += data


def elements(page):
    parser = Elements()
    parser.feed(page.decode())
    parser.close()
    return parser


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_adds_no_element_and_comes_back_as_it_was(text):
    """A folder from a stranger must not run anything in the browser of who looks at it."""
    plain = elements(render_page("title", "<main></main>", {"name": "name"}, style="", script="0;"))
    hostile = elements(render_page(text, "<main></main>", {text: [text]}, style="", script="0;"))
    assert hostile.tags == plain.tags
    assert json.loads(hostile.scripts[0]) == {text: [text]}
    assert hostile.scripts[1] == plain.scripts[1]
    assert not set("<>&") & set(script_json(text))
    assert script_json(text).isascii()


def test_the_policy_lets_its_own_script_run_and_nothing_else():
    """A digest that does not fit is an empty page; a policy that is too wide is none."""
    page = render_page("title", "", {}, style="p { color: red }", script="0;", sources={"media-src": "data:"}).decode()
    content = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    directives = dict(part.split(" ", 1) for part in content.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["media-src"] == "data:"
    for name, tag in (("script-src", "script"), ("style-src", "style")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert directives[name] == f"'sha256-{digest}'"
    assert "unsafe" not in policy("", "")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)  # a name space is no address


def test_what_is_not_finite_is_null():
    """JSON has no NaN, and a browser would show nothing at all."""
    assert script_json({"a": [float("nan"), float("inf"), 1.5]}) == '{"a":[null,null,1.5]}'

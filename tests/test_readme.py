"""The README's code runs as it stands; tests/test_docs.py has its commands, links and paths."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(monkeypatch):
    """A newcomer pastes it first."""
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict[str, object] = {}
    exec(code, scope)
    assert scope["vector"].shape == (3072,)
    assert scope["stem"].num_patches == 304

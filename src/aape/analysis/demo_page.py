"""The page of `aape demo`: sounds to hear, the table of the probe, the curves of the short run, what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aape.analysis.run_page import Run, describe_runs
from aape.pages.page import render_page

FOLDER = Path(__file__).parent
HEAD = ("vectors", "accuracy", "± over seeds", "95 % interval")
COMMANDS = """{aape} explore SOUNDS --out sounds.html    # a map like the one above
{aape} embed SOUNDS --model tiny --out vectors.npz
{aape} pretrain --data SOUNDS --out runs/mine --config tiny/continue --init tiny
{aape} plot run runs/mine --out run.html    # curves like those above
{aape} probe --data labels.csv --fold fold --checkpoint runs/mine --out runs/probe"""


def make_demo_page(
    run: Run, rows: Mapping[str, Mapping[str, Any]], *, summary: str, protocol: str, verdict: Sequence[str], aape: str
) -> bytes:
    """Make the page, which shows `sounds.html` beside it.

    Args:
        run: the short run of pre-training.
        rows: of the result of a probe, by what the table shall call them.
        summary: what this is a demonstration of.
        protocol: how the rows were scored.
        verdict: what they say.
        aape: how the command is called here.
    """
    data = {
        **describe_runs([run]),
        "title": "A short pre-training from scratch, to show the way",
        "heading": "h2",
        "summary": summary,
        "protocol": protocol,
        "scores": [HEAD, *([name, *_cells(row)] for name, row in rows.items())],
        "verdict": verdict,
        "commands": COMMANDS.format(aape=aape),
    }
    style, script = ("".join(_read(f"{name}_page.{kind}") for name in ("run", "demo")) for kind in ("css", "js"))
    sources = {"frame-src": "file: 'self'"}
    return render_page("aape demo", _read("demo_page.html"), data, style=style, script=script, sources=sources)


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Return mean, deviation and interval of the last accuracy, in per cent."""
    last = row["scores"]["last"]["accuracy"]
    low, high = (f"{100 * bound:.1f}" for bound in last["interval"])
    deviation = "" if last["std_seeds"] is None else f"{100 * last['std_seeds']:.1f}"
    return [f"{100 * last['mean']:.1f}", deviation, f"{low} to {high}"]


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")

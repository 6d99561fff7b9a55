"""The page of pre-training runs: curves, alarms, skipped steps, bad files, probes on the way, options that differ."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aape.analysis.curves import PANELS, read_metrics
from aape.downstream.scores import METRICS
from aape.downstream.tables import read_result, read_settings
from aape.errors import DataError, one_line
from aape.pages.page import render_page
from aape.runs.files import Records
from aape.runs.guards import CollapseAlarm

FOLDER = Path(__file__).parent
STATISTICS = ("Loss of the clip's statistics", "loss", ("loss_statistics",))
MOMENTUM = ("Momentum of the teacher", "momentum", ("momentum",))
LOGARITHMIC = ("loss", "norm", "variance")  # units
MAX_POINTS = 1000  # of a curve; a screen has fewer columns
DRAWN = 1e100  # larger numbers, and the inverse of smaller ones, which no run has, would overflow on the axes
MAX_ROWS = 100  # of a table, for each run
MAX_NAMES = 3  # clips of a skipped step
APART = {"out", "resume"}  # options that always differ, or say nothing

Array = NDArray[np.float64]
Chart = tuple[str, str, tuple[str, ...]]  # title, unit, fields: the first drawn solid, the second dashed


@dataclass(frozen=True)
class Run:
    """What a run folder holds about its training; only metrics.jsonl has to be there."""

    name: str
    metrics: Mapping[str, Array]  # as of `read_metrics`
    settings: Mapping[str, Any] | None  # by dotted key
    result: Mapping[str, Any] | None  # of a finished run
    skipped: Mapping[int, list[str]]  # the clips of each step that was left out
    bad: Sequence[Mapping[str, Any]]  # file, reason
    probes: Mapping[str, tuple[list[int], list[float]]]  # steps and scores, by metric


def read_run(folder: str) -> Run:
    """Read a run, finished or running.

    Raises:
        DataError: no metrics of a pre-training, or a damaged file; names it.
    """
    path = Path(folder)
    skipped: dict[int, list[str]] = {}
    for record in _records(path / "skipped_steps.jsonl", step=int, clips=list):  # one for each process
        skipped.setdefault(record["step"], []).extend(map(str, record["clips"]))
    return Run(
        name=one_line(folder),
        metrics=read_metrics(path / "metrics.jsonl"),
        settings=read_settings(path) if (path / "config.yaml").exists() else None,
        result=read_result(path),
        skipped=skipped,
        bad=_records(path / "bad_files.jsonl", file=str, reason=str),
        probes=_read_probes(path / "probes.jsonl"),
    )


def make_run_page(runs: Sequence[Run]) -> bytes:
    """Make the page of runs over each other, to be written as it is."""
    data = describe_runs(runs)
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("run_page.css", "run_page.js"))
    return render_page(data["title"], '<main id="main"></main>', data, style=style, script=script)


def describe_runs(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what `run_page.js` puts into the element `main` of a page."""
    title = f"Pre-training: {runs[0].name}" if len(runs) == 1 else f"Pre-training: {len(runs)} runs"
    charts = [chart for panel in (*PANELS[:3], STATISTICS, *PANELS[3:], MOMENTUM) if (chart := _chart(panel, runs))]
    return {
        "title": title,
        "heading": "h1",
        "runs": [{"name": run.name, "state": _state(run), **_troubles(run)} for run in runs],
        "charts": charts + _probe_charts(runs),
        "options": _differing_options(runs),
    }


def _records(path: Path, **kinds: type) -> list[dict[str, Any]]:
    """Read records, of which each has fields of these kinds."""
    records = Records(path).read()
    for number, record in enumerate(records, start=1):
        for name, kind in kinds.items():
            if not isinstance(record.get(name), kind):
                raise DataError(f"{path}, line {number}: {name} is missing or damaged")
    return records


def _read_probes(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Read the scores of probes on the way, after the last step of each probe."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for number, record in enumerate(_records(path, step=int, scores=dict), start=1):
        try:
            for metric, score in record["scores"]["last"].items():
                mean = math.nan if score["mean"] is None else float(score["mean"])
                steps, values = curves.setdefault(metric, ([], []))
                steps.append(record["step"])
                values.append(METRICS.get(metric, ("", 1))[1] * mean)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise DataError(f"{path}, line {number}: scores is missing or damaged") from error
    return curves


def _state(run: Run) -> str:
    """Say how far a run has come."""
    last, total = run.metrics["step"].max(), (run.settings or {}).get("steps")
    of = f" of {total:,}" if isinstance(total, int) else ""
    state = f"not finished: up to step {last:,.0f}{of}" if run.result is None else f"finished, {last:,.0f} steps"
    num_logs = len(run.metrics["step"])
    drawn = f"; of {num_logs:,} logs, the lowest and the highest of each stretch are drawn"
    return state + (drawn if num_logs > MAX_POINTS else "")


def _troubles(run: Run) -> dict[str, Any]:
    """Return the alarms of a run, and its skipped steps and bad files for tables."""
    num_clips = (run.result or {}).get("num_clips")
    of = f" of {num_clips:,}" if isinstance(num_clips, int) else ""
    alarms = _collapse_alarms(run.metrics)
    if run.skipped:
        steps = f"{len(run.skipped):,} step{'s were' if len(run.skipped) > 1 else ' was'}"
        alarms.append(f"{steps} left out because loss or gradient was not finite, the last at {max(run.skipped):,}")
    if run.bad:
        alarms.append(f"{len(run.bad):,}{of} clip{'s' if of or len(run.bad) > 1 else ''} could not be read")
    skipped = [[step, ", ".join(map(one_line, clips[:MAX_NAMES])) + _more(clips, MAX_NAMES)]
               for step, clips in list(run.skipped.items())[:MAX_ROWS]]  # fmt: skip
    bad = [[one_line(record["file"]), one_line(record["reason"])] for record in run.bad[:MAX_ROWS]]
    return {
        "alarms": alarms,
        "skipped": {"rows": skipped, "more": max(0, len(run.skipped) - MAX_ROWS)},
        "bad": {"rows": bad, "more": max(0, len(run.bad) - MAX_ROWS)},
    }


def _more(items: Sequence[Any], shown: int) -> str:
    return f" and {len(items) - shown:,} more" if len(items) > shown else ""


def _collapse_alarms(metrics: Mapping[str, Array]) -> list[str]:
    """Return in a line what `aape pretrain` would have said of these logs in one go, and whether that passed."""
    over_clips = metrics.get("target_variance_batch", np.zeros(1))
    alarm = CollapseAlarm(clips_per_batch=2 if over_clips[0] else 1)  # of one clip, the variance is 0
    falls: list[str] = []
    for row, step in enumerate(metrics["step"]):
        falls += alarm.check(round(step), {name: values[row] for name, values in metrics.items()}, is_main=False)
    ends = [f"{fall} ({metrics[name][-1]:.2g} at the end)" for fall, name in zip(falls, alarm.raised, strict=True)]
    return [f"{'; '.join(ends)}, {alarm.ADVICE}"] if ends else []


def _chart(panel: Chart, runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return a panel's curves and words; None where no run has any of it."""
    title, unit, fields = panel
    curves = [
        _curve(index, field, dashed, run.metrics["step"], run.metrics[field])
        for index, run in enumerate(runs)
        for dashed, field in enumerate(fields)
        if field in run.metrics
    ]
    return _described(title, unit, curves, runs) if curves else None


def _probe_charts(runs: Sequence[Run]) -> list[dict[str, Any]]:
    charts = []
    for metric in dict.fromkeys(metric for run in runs for metric in run.probes):
        curves = [_curve(index, metric, 0, *map(np.asarray, run.probes[metric]))
                  for index, run in enumerate(runs) if metric in run.probes]  # fmt: skip
        unit = "%" if METRICS.get(metric, ("", 1))[1] == 100 else metric
        charts.append(_described(f"Probe on the way: {metric.replace('_', ' ')}", unit, curves, runs))
    return charts


def _curve(run: int, name: str, dashed: int, steps: Array, values: Array) -> dict[str, Any]:
    kept = _thinned(values)
    drawn = np.where(np.abs(values) < 1 / DRAWN, 0.0, np.where(np.abs(values) < DRAWN, values, np.nan))
    numbers = [float(f"{value:.5g}") for value in drawn[kept]]
    return {"run": run, "name": name, "dashed": bool(dashed), "steps": [int(step) for step in steps[kept]],
            "values": numbers}  # fmt: skip


def _thinned(values: Array) -> NDArray[np.intp]:
    """Return which points are drawn: all, or the first, the last, and of each stretch the lowest and the highest."""
    if len(values) <= MAX_POINTS:
        return np.arange(len(values))
    kept = [0, len(values) - 1]
    for stretch in np.array_split(np.arange(len(values)), MAX_POINTS // 2):
        of = values[stretch]
        kept += [stretch[np.argmin(np.where(np.isfinite(of), of, np.inf))],
                 stretch[np.argmax(np.where(np.isfinite(of), of, -np.inf))]]  # fmt: skip
    return np.unique(kept)


def _described(title: str, unit: str, curves: list[dict[str, Any]], runs: Sequence[Run]) -> dict[str, Any]:
    """Return a chart for the page, with the last values in words for who does not see it."""
    lasts = [f"{runs[curve['run']].name}, {curve['name'].replace('_', ' ')}: {curve['values'][-1]:.4g} at step "
             f"{curve['steps'][-1]:,}" for curve in curves]  # fmt: skip
    return {"title": title, "unit": unit, "log": unit in LOGARITHMIC, "curves": curves,
            "description": f"Against steps. Last values: {'; '.join(lasts)}."}  # fmt: skip


def _differing_options(runs: Sequence[Run]) -> list[list[str]]:
    """Return the options in which runs differ, a row each: its key, and the value of every run."""
    settings = [run.settings or {} for run in runs]
    keys = dict.fromkeys(key for each in settings for key in each if key.partition(".")[0] not in APART)
    rows = [[key, *(_shown(each[key]) if key in each else "unknown" for each in settings)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def _shown(value: Any) -> str:
    return one_line(value if isinstance(value, str) else json.dumps(value, default=str))

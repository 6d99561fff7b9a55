"""Write benchmarks/README.md from the results in benchmarks/results.

python benchmarks/table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = {"forward": "forward", "forward_and_backward": "forward and backward"}


def main() -> None:
    """Collect what is there; what is not is "not run"."""
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (HERE / "results").glob("*.json")}
    lines = [(HERE / "INTRODUCTION.md").read_text(encoding="utf-8").rstrip()]
    sections = (
        ("operator", "The operator", operator),
        ("stem", "The stem", stem),
        ("pretraining", "Pre-training", pretraining),
        ("inference", "Inference", inference),
    )
    for device in ("cpu", "gpu"):
        for name, title, section in sections:
            lines += ["", f"## {title} on a {device.upper()}", ""]
            result = results.get(f"{name}_{device}")
            lines += ["Not run."] if result is None else [where(result), *section(result)]
    (HERE / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def where(result: dict[str, Any]) -> str:
    """Name the machine."""
    at = result["where"]
    machine = at["gpu"] or f"{at['cpu']}, {at['threads']} threads"
    return (
        f"{machine}; torch {at['torch']}, Python {at['python']}, {at['date']}, commit {at['commit']}; "
        f"medians of {result['turns']} turns."
    )


def operator(result: dict[str, Any]) -> list[str]:
    """Lay out the operator's times, errors and memory."""
    lines = []
    for key, title in NAMES.items():
        columns = [(row["kernel_size"], row["clips"]) for row in result["timings"]]
        heads = [f"K {kernel}, {clips}" for kernel, clips in columns]
        lines += ["", f"Milliseconds, {title} (K, clips of 6 s; in brackets, times faster than naive):", ""]
        lines += [row_of("form", heads), row_of("---", ["---:"] * len(heads))]
        for name in result["relative_rms_error"]:
            lines.append(row_of(name, [time_cell(row[key], name) for row in result["timings"]]))
    memory = result.get("peak_megabytes", {})
    lines += [
        "",
        "Worst relative RMS error (values and gradients, both phases, float32 against float64) and peak memory:",
        "",
    ]
    lines += [row_of("form", ["error", "MB forward", "MB with backward"]), "|---|---:|---:|---:|"]
    for name, error in result["relative_rms_error"].items():
        peaks = [f"{memory[name][key]:.2f}" if name in memory else "not run" for key in NAMES]
        lines.append(row_of(name, [f"{error:.1e}", *peaks]))
    lines += ["", "The sparse form, 60 visible patches of 304 in every view, milliseconds:", ""]
    heads = list(result["views"][0]["seconds"])
    lines += [row_of("clips x views", ["floor", *heads]), row_of("---", ["---:"] * (len(heads) + 1))]
    for row in result["views"]:
        floor = f"{1e3 * row['floor_seconds']:.3f}" if "floor_seconds" in row else "not run"
        times = [f"{1e3 * row['seconds'][head]:.2f}" for head in heads]
        lines.append(row_of(f"{row['clips']} x {row['views']}, {row['dtype']}", [floor, *times]))
    return lines


def stem(result: dict[str, Any]) -> list[str]:
    """Lay out what the stem costs."""
    lines = ["", "Milliseconds with either stem, and AaPE's over the standard stem's:", ""]
    heads = ["standard", "AaPE", "ratio of times", "ratio of operations"]
    lines += [row_of("what", heads), row_of("---", ["---:"] * len(heads))]
    titled = [(f"{row['size']}, forward, {row['clips']} clips", row) for row in result["encoders"]]
    titled += [(f"{row['size']}, step, {row['clips']} x {row['views']} views", row) for row in result["steps"]]
    for title, row in titled:
        seconds, counted = row["seconds"], row["operations"]
        times = [f"{1e3 * seconds[name]:.1f}" for name in ("patch", "aape")]
        ratios = [f"{values['aape'] / values['patch']:.3f}" for values in (seconds, counted)]
        lines.append(row_of(title, [*times, *ratios]))
    for row in result["steps"]:
        if "clips_per_second" in row:
            share = (row["share_of_peak"] or {}).get("aape")
            shown = "share of peak unknown" if share is None else f"{100 * share:.0f} % of peak"
            rate, memory = row["clips_per_second"]["aape"], row["peak_gigabytes"]
            lines += ["", f"{row['size']}, AaPE: {rate:.0f} clips a second, {shown}, {memory:.1f} GB."]
    lines += ["", "The fold (C, GroupNorm, depthwise convolution as one map), ViT-B stem, milliseconds:", ""]
    lines += [row_of("clips", ["folded", "plain", "folded + backward", "plain + backward", "largest difference"])]
    lines += [row_of("---", ["---:"] * 5)]
    for row in result["fold"]:
        times = [f"{1e3 * row[key][name]:.1f}" for key in NAMES for name in ("folded", "plain")]
        lines.append(row_of(str(row["clips"]), [*times, f"{row['largest_difference']:.1e}"]))
    return lines


def pretraining(result: dict[str, Any]) -> list[str]:
    """Lay out what pre-training costs."""
    decode, loader = result["decode_clips_per_second"], result["loader_clips_per_second"]
    first, step = result["first_batch_seconds"], result["step_clips_per_second"]
    lines = [
        "",
        f"`{result['model']}`, {result['clips']} clips of {result['seconds']:g} s a step, {result['views']} views: "
        f"{result['operations_per_clip'] / 1e9:.1f} GF per clip, counted; the paper's model and schedule: "
        f"{result['paper_operations_per_clip'] / 1e9:.0f} GF (the paper's own count: 734).",
        "",
        row_of("what", ["clips per second", "ratio"]),
        row_of("---", ["---:"] * 2),
        row_of("bare decode loop", [f"{decode:.0f}", ""]),
    ]
    for workers, rate in loader.items():
        over = [f"{rate / decode:.2f} of the bare loop"]
        if workers == "2" and "1" in loader:
            over.append(f"{rate / loader['1']:.2f} of one worker")
        lines.append(row_of(f"loader, {workers} workers", [f"{rate:.0f}", "; ".join(over)]))
    lines += [
        row_of(
            "step, guards and measurements included",
            [f"{step:.1f}", f"{result['guards_over_bare']:.3f} of a bare step's time"],
        ),
        "",
        f"First batch of a resumed run over 2 million clips: at 1 % of an epoch {first['0.01']:.2f} s, at 90 % "
        f"{first['0.9']:.2f} s, ratio {first['0.9'] / first['0.01']:.2f}.",
    ]
    if result.get("share_of_peak"):
        lines.append(f"Share of peak: {100 * result['share_of_peak']:.0f} %.")
    if result.get("hours_for_the_papers_schedule"):
        lines.append(f"Hours for the paper's 19.2 million clips: {result['hours_for_the_papers_schedule']:.1f}.")
    return lines


def inference(result: dict[str, Any]) -> list[str]:
    """Lay out what using the encoder costs."""
    ast, files = result["beside_ast"], result["long_beside_short"]
    memory, starting = result["memory"], result["starting"]
    tokens = f"{ast['tokens']['aape']} tokens against {ast['tokens']['ast']}"
    lines = ["", f"A clip of {ast['clip_seconds']} s through AaPE ViT-B and through AST, {tokens}, milliseconds:", ""]
    lines += [row_of("from", ["AaPE", "AST", "times as fast"]), row_of("---", ["---:"] * 3)]
    for kind, ratio in ast["times_as_fast"].items():
        times = [f"{1e3 * ast['seconds'][f'{name}, {kind}']:.1f}" for name in ("aape", "ast")]
        lines.append(row_of(kind, [*times, f"{ratio:.2f}"]))
    minutes, rates = files["minutes"], files["windows_per_second"]
    rates_of = ", ".join(f"{rates[name]:.2f} in a file of {minutes[name]} min" for name in ("short", "long"))
    lines += ["", f"Windows of 6.08 s a second (ViT-B): {rates_of}; ratio {files['long_over_short']:.3f}."]
    lines += [
        "",
        f"Peak resident memory (`tiny`): {memory['minute_megabytes']:.0f} MB after a minute of sound, "
        f"{memory['more_megabytes']:.0f} MB more after {memory['hours']} hours.",
        "",
        "Fresh processes, seconds (in brackets, over `import torch`):",
        "",
    ]
    for name, seconds in starting["seconds"].items():
        over = starting["over_import_torch"].get(name)
        lines.append(f"- `{name}`: {seconds:.2f}" + (f" ({over:.2f})" if over is not None else ""))
    return lines


def time_cell(times: dict[str, float], name: str) -> str:
    """Return milliseconds, and how many times faster than naive where both ran."""
    if name not in times:
        return "not run"
    ratio = f" ({times['naive'] / times[name]:.0f})" if "naive" in times and name != "naive" else ""
    return f"{1e3 * times[name]:.2f}{ratio}"


def row_of(first: str, cells: list[str]) -> str:
    """Return one line of a table."""
    return f"| {first} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

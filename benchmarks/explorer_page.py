"""What a page of `aape explore` costs: to write, in seconds and memory, and to open and move in a browser.

    python benchmarks/explorer_page.py [--sounds 2000 20000] [--model tiny] [--data TABLE]

The sounds are parts of 1 s of the package's recordings, all different, or those of TABLE. Prints a line of JSON for
each page. The browser is Debian's chromium and chromium-driver with selenium; without them it is left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import chromium
from aape.data.demo import AUDIO

STEP = 0.008  # seconds from a part of a recording to the next
# Move the map by the mouse for 3 s, and return the milliseconds from each frame to the next.
PAN = """
const done = arguments[0], map = document.getElementById('map'), times = [];
const box = map.getBoundingClientRect(), start = performance.now();
const send = (kind, x) => map.dispatchEvent(new PointerEvent(kind, { pointerId: 1, pointerType: 'mouse', button: 0,
    clientX: box.left + box.width / 2 + x, clientY: box.top + box.height / 2, bubbles: true }));
map.setPointerCapture = () => {};
send('pointerdown', 0);
function step(now) {
  times.push(now);
  send('pointermove', 100 * Math.sin((now - start) / 300));
  if (now - start < 3000) requestAnimationFrame(step);
  else { send('pointerup', 0); done(times.slice(1).map((time, i) => time - times[i])); }
}
requestAnimationFrame(step);
"""


def write_table(path: Path, count: int) -> None:
    """List so many parts of the package's recordings."""
    notes = sorted(AUDIO.glob("*.opus"))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "start", "end", "kind"])
        for number in range(count):
            note, start = notes[number % len(notes)], STEP * (number // len(notes))
            writer.writerow([note, f"{start:.3f}", f"{start + 1:.3f}", note.name.partition("-")[0]])


def write_page(table: Path, page: Path, model: str) -> dict[str, Any]:
    """Write a page in a process of its own."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "aape", "explore", str(table), "--model", model, "--out", str(page)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    unit = 1 if sys.platform == "darwin" else 1024
    seconds = round(time.perf_counter() - start, 1)
    return {"seconds": seconds, "peak_mb": round(usage.ru_maxrss * unit / 1e6), "page_mb": page.stat().st_size / 1e6}


def open_page(page: Path) -> dict[str, Any]:
    """Open it, and move the map."""
    driver = chromium.start()
    driver.set_script_timeout(60)
    chromium.show(driver, page)
    times = "const n = performance.getEntriesByType('navigation')[0]; "
    ready = driver.execute_script("return performance.getEntriesByName('ready')[0].startTime")
    loaded = driver.execute_script(f"{times} return n.domContentLoadedEventEnd")
    frames = sorted(driver.execute_async_script(PAN))
    driver.quit()
    median, slow = frames[len(frames) // 2], frames[int(0.95 * len(frames))]
    return {
        "ready_ms": round(ready),
        "loaded_ms": round(loaded),
        "frame_ms": round(median, 1),
        "frame_ms_95": round(slow, 1),
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sounds", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for count in options.sounds if options.data is None else [0]:
            table, page = options.data or Path(folder, "sounds.csv"), Path(folder, "sounds.html")
            if options.data is None:
                write_table(table, count)
            numbers = {"sounds": count or str(table), "model": options.model, **write_page(table, page, options.model)}
            numbers |= open_page(page) if chromium.is_there() else {}
            print(json.dumps(numbers), flush=True)


if __name__ == "__main__":
    main()

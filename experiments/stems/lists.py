"""Lists of rendered clips for the pre-training and its probes, in the folder of the sets; paths are relative to it.

python experiments/stems/lists.py [--data data/stems]
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

from aape.runs.files import write_atomically

TASKS = ("words", "notes", "rates")
COLUMNS = ("shard", "name", "offset", "size", "seconds")
PROBED = {"train": 4000, "validation": 1000, "test": 3000}  # the first clips of each split


def read_clips(data: Path, task: str) -> list[dict[str, str]]:
    """Return the rows of a task's index, shards relative to `data`."""
    with (data / task / "clips.csv").open(encoding="utf-8", newline="") as file:
        return [{**row, "shard": f"{task}/{row['shard']}"} for row in csv.DictReader(file)]


def write_rows(path: Path, columns: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    """Write some columns of rows."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def write_lists(data: Path) -> None:
    """Write pretraining.csv, all training clips, and for each task probe-TASK.csv, with labels and split."""
    clips = {task: read_clips(data, task) for task in TASKS}
    train = [row for rows in clips.values() for row in rows if row["split"] == "train"]
    write_rows(data / "pretraining.csv", COLUMNS, train)
    for task, rows in clips.items():
        parts = {split: [row for row in rows if row["split"] == split] for split in PROBED}
        probed = [row for split, count in PROBED.items() for row in parts[split][:count]]
        write_rows(data / f"probe-{task}.csv", (*COLUMNS, "label", "split"), probed)


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/stems"))
    write_lists(parser.parse_args().data)


if __name__ == "__main__":
    main()

"""Render three labelled sets of clips of 1.28 s with real engines: words, notes and rates of modulation.

    python experiments/stems/render.py --out data/stems

eSpeak NG says the 35 words of Speech Commands; FluidSynth plays notes of eleven families of instruments, with the
soundfonts FluidR3_GM and TimGM6mb; the third set is noise, modulated at 3 to 48 Hz in three ways, in front of clips of
the first two. Test clips are of voices and programs that no other split has. Each folder OUT/TASK has

    clips.csv     every clip with its label, split and what was drawn: for `aape probe` and `aape pretrain`
    SPLIT.tar     the clips of train, validation or test, 16 kHz, FLAC
    SPLIT.npy     their log-mel spectrograms, float16 (clips, 128, 129), not standardised
    stats.json    mean and standard deviation of those of train

and OUT/engines.json says what they were made with, in the format of checksums.json. Clips are those of the project to
the last bit, which is checked, if the engines are; fewer clips are the first ones of more. A split that is complete is
not rendered again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import engines
import numpy as np
import sounds
import torch
from engines import Block, Source

from aape.data.log_mel import LogMel
from aape.data.packing import COLUMNS, add_member
from aape.errors import AapeError, one_line, writing
from aape.runs.files import replacing, write_atomically, write_json
from aape.runs.lock import locked
from aape.runs.progress import progress_bar
from aape.runs.signals import Stopped, ended_by_signals, follow_parent, held

CHECKSUMS = Path(__file__).with_name("checksums.json")
CLIPS = {"train": 20000, "validation": 2000, "test": 5000}
BLOCK = 200  # clips
NUM_CHECKED = 10  # clips, rendered before the others
SHAPE = (128, 129)  # mel bands, frames
INDEX_COLUMNS = [name for name in COLUMNS if name != "fold"]


class Rendering:
    """Sets in a folder, and how they compare with those of the project.

    Args:
        options: those of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.out: Path = options.out
        self.tasks: list[str] = [task for task in sounds.TASKS if task in options.tasks]
        self.clips: dict[str, int] = {split: getattr(options, split) for split in sounds.SPLITS}
        self.processes: int = options.processes
        self.other_engines: bool = options.other_engines
        self.fonts: dict[str, Path] = {}
        self.font_options = dict(zip(sounds.FONTS, (options.soundfont, options.second_soundfont), strict=True))
        self.expected = read_json(CHECKSUMS)
        self.made = read_json(self.out / "engines.json")

    def run(self) -> None:
        """Render what is not there."""
        todo = [(task, split) for task in self.tasks for split in sounds.SPLITS if not self.is_complete(task, split)]
        for task in dict.fromkeys(task for task, _ in todo):
            self.check_engine(task)
        for task, split in todo:
            self.render(task, split)

    def is_complete(self, task: str, split: str) -> bool:
        """Whether a split is there; AapeError if it is, with another number of clips."""
        clips = self.made.get(task, {}).get(split, {}).get("clips")
        names = (f"{split}.tar", f"{split}.npy", "clips.csv", "stats.json")
        if clips is None or not all((self.out / task / name).exists() for name in names):
            return False
        if clips != self.clips[split]:
            folder = self.out / task
            raise AapeError(f"{folder} has {clips} clips of {split}, not {self.clips[split]}: choose another --out")
        return True

    def compare(self, what: str, value: str, expected: str | None) -> None:
        """Compare with checksums.json, where it has a value; a difference is an error, or is noted."""
        if expected in (None, value):
            return
        message = f"{what} is {value}, and not {expected} as in {CHECKSUMS.name}"
        if not self.other_engines:
            raise AapeError(f"{message}: clips would not be those of the project; --other-engines renders all the same")
        self.made["differences"] = sorted({*self.made.get("differences", []), message})

    def check_engine(self, task: str) -> None:
        """Compare the engine that a task needs."""
        if task not in engines.ENGINE_OF:
            return
        engine = engines.ENGINE_OF[task]
        self.made[engine] = engines.version(engine)
        self.compare(engine, self.made[engine], self.expected.get(engine))
        if engine == "fluidsynth":
            self.fonts = {name: engines.find_font(name, path) for name, path in self.font_options.items()}
            for name, path in self.fonts.items():
                self.made.setdefault("soundfonts", {})[name] = checksum = engines.sha256_of(path)
                self.compare(f"sha256 of {path}", checksum, self.expected.get("soundfonts", {}).get(name))

    def render(self, task: str, split: str) -> None:
        """Render a split, which appears when it is whole."""
        count, folder = self.clips[split], self.out / task
        folder.mkdir(parents=True, exist_ok=True)
        expected = self.expected.get(task, {}).get(split, {})
        backgrounds = self.read_backgrounds(split) if task == "rates" else {}
        first = engines.render_block(task, split, range(NUM_CHECKED), self.fonts, first_of(backgrounds, NUM_CHECKED))
        first_sha256 = hashlib.sha256(first.samples.tobytes()).hexdigest()
        name = f"sha256 of the {{}} of {task}, {split}"
        self.compare(name.format(f"first {NUM_CHECKED} clips"), first_sha256, expected.get("first_sha256"))
        with ExitStack() as stack:
            tar, npy = (stack.enter_context(replacing(folder / f"{split}.{kind}")) for kind in ("tar", "npy"))
            writer = Writer(split, count, tar, npy)
            show = stack.enter_context(progress_bar(f"{task} {split}", count))
            for block in self.blocks(task, split, backgrounds):
                with writing(folder):
                    writer.add(block)
                show(len(writer.rows), count)
            with writing(folder):
                writer.close()
            if count == expected.get("clips"):
                self.compare(name.format("clips"), writer.digest.hexdigest(), expected.get("sha256"))
        write_index(folder / "clips.csv", split, writer.rows)
        if split == "train":
            write_json(folder / "stats.json", writer.statistics())
        digests = {"first_sha256": first_sha256, "sha256": writer.digest.hexdigest()}
        self.made.setdefault(task, {})[split] = {"clips": count, **digests}
        write_json(self.out / "engines.json", self.made)

    def read_backgrounds(self, split: str) -> dict[str, list[Source]]:
        """List the clips that mixtures are made with."""
        backgrounds = {}
        for task in engines.ENGINE_OF:
            if not self.is_complete(task, split):
                raise AapeError(f"rates needs words and notes of as many clips: {self.out} has no {task} for {split}")
            folder = self.out / task
            backgrounds[task] = [
                Source(str(folder / row["shard"]), int(row["offset"]), int(row["size"]), row["source"])
                for row in read_index(folder / "clips.csv")
                if row["split"] == split
            ]
        return backgrounds

    def blocks(self, task: str, split: str, backgrounds: dict[str, list[Source]]) -> Iterator[Block]:
        """Render blocks in order."""
        count = self.clips[split]
        jobs = []
        for start in range(0, count, BLOCK):
            indices = range(start, min(start + BLOCK, count))
            behind = {name: sources[start : indices.stop] for name, sources in backgrounds.items()}
            jobs.append((task, split, indices, self.fonts, behind))
        if self.processes == 1:
            yield from itertools.starmap(engines.render_block, jobs)
            return
        context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
        with ProcessPoolExecutor(self.processes, context, follow_parent) as pool:
            with held():
                waiting = [pool.submit(engines.render_block, *job) for job in jobs]
            try:
                while waiting:
                    yield waiting.pop(0).result()
            except BrokenProcessPool as error:
                raise AapeError("a process was killed, perhaps for want of memory: try --processes 1") from error
            finally:
                pool.shutdown(cancel_futures=True)


class Writer:
    """The files of a split, block by block.

    Args:
        split: its name.
        count: clips that it will have.
        tar: where the shard goes.
        npy: where the spectrograms go.
    """

    def __init__(self, split: str, count: int, tar: IO[bytes], npy: IO[bytes]) -> None:
        self.split, self.npy = split, npy
        self.shard = tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - see close
        header = {"descr": "<f2", "fortran_order": False, "shape": (count, *SHAPE)}
        np.lib.format.write_array_header_1_0(npy, header)
        self.rows: list[dict[str, str]] = []
        self.digest = hashlib.sha256()
        self.log_mel = LogMel()
        self.sums = np.zeros(3)  # of values, their squares, and their number

    def add(self, block: Block) -> None:
        """Write clips."""
        self.digest.update(block.samples.tobytes())
        with torch.inference_mode():
            spectra = self.log_mel(torch.from_numpy(block.samples / np.float32(32768)))[:, 0].numpy().astype("<f2")
        self.npy.write(spectra.tobytes())
        values = spectra.astype(np.float64)
        self.sums += [values.sum(), np.square(values).sum(), values.size]
        for content, drawn in zip(block.contents, block.rows, strict=True):
            name = f"{self.split}-{len(self.rows):05d}.flac"
            offset = add_member(self.shard, name, content)
            seconds = f"{sounds.CLIP_SAMPLES / sounds.SAMPLE_RATE:.3f}"
            values = (
                f"{self.split}.tar",
                name,
                str(offset),
                str(len(content)),
                seconds,
                drawn["label"],
                self.split,
            )
            self.rows.append(dict(zip(INDEX_COLUMNS, values, strict=True)) | drawn)

    def close(self) -> None:
        """End the shard."""
        self.shard.close()

    def statistics(self) -> dict[str, float]:
        """Return mean and standard deviation of the spectrograms."""
        total, squares, number = self.sums
        return {"mean": total / number, "std": float(np.sqrt(squares / number - (total / number) ** 2))}


def read_json(path: Path) -> dict[str, Any]:
    """Read what a folder was made with; nothing where there is no file."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        raise AapeError(f"{path} is damaged ({error}): remove it, and all is rendered again") from error


def first_of(backgrounds: dict[str, list[Source]], count: int) -> dict[str, list[Source]]:
    """Keep the first clips of each task."""
    return {name: sources[:count] for name, sources in backgrounds.items()}


def read_index(path: Path) -> list[dict[str, str]]:
    """Read the table of a task."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_index(path: Path, split: str, rows: list[dict[str, str]]) -> None:
    """Put the rows of a split into the table of its task."""
    others = [row for row in read_index(path) if row["split"] != split] if path.exists() else []
    ordered = sorted(others + rows, key=lambda row: sounds.SPLITS.index(row["split"]))
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(ordered)
    write_atomically(path, content.getvalue().encode())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/stems"), metavar="FOLDER", help="default: data/stems")
    parser.add_argument("--tasks", nargs="+", choices=sounds.TASKS, default=sounds.TASKS, help="default: all")
    for split, count in CLIPS.items():
        parser.add_argument(f"--{split}", type=int, default=count, metavar="CLIPS", help=f"default: {count}")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="default: 2")
    for number, name in zip(("", "second-"), sounds.FONTS, strict=True):
        parser.add_argument(f"--{number}soundfont", type=Path, metavar="FILE", help=f"{name}.sf2")
    parser.add_argument("--other-engines", action="store_true", help="render with engines of other versions too")
    options = parser.parse_args(arguments)
    for split in CLIPS:
        if getattr(options, split) < NUM_CHECKED:
            parser.error(f"--{split} must be {NUM_CHECKED} or more")
    if not 1 <= options.processes <= (os.cpu_count() or 1) * 4:
        parser.error("--processes must be 1 or more, and in proportion to the machine's cores")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Render; returns the exit status."""
    options = parse(arguments)
    torch.set_num_threads(1)
    try:
        with ended_by_signals(), locked(options.out):
            Rendering(options).run()
    except (AapeError, OSError) as error:
        print(f"render.py: error: {one_line(str(error))}", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(f"render.py: stopped by {stop.name}: the same command goes on with the split it was at", file=sys.stderr)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())

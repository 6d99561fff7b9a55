"""Render sound without labels for `aape pretrain`: music, speech, textures and short sounds, as much as wanted.

    python experiments/small_data/render.py --out data/rendered
    aape pretrain --data data/rendered/clips.csv ...

FluidSynth plays phrases with FluidR3_GM or another soundfont, eSpeak NG says sentences in all its languages, and noise,
tones and clicks are drawn. No program, recording and voice that a test of this repository uses is in it. OUT has

    clips.csv       every clip: shard, name, offset, size, seconds, source, and labels: what is played and said
    KIND-NNN.tar    the clips, 500 in a shard, mono at 16 kHz, FLAC; KIND-NNN.csv is the shard's part of clips.csv
    engines.json    what they were made with

A clip is a function of the seed, its kind and its number: fewer clips are the first ones of more. The same command goes
on after a stop: a shard that is there is not rendered again.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

sys.path.append(str(Path(__file__).resolve().parents[1] / "stems"))

import engines
import phrases
import sounds
import speech
import textures
from lists import COLUMNS, write_rows

from aape.data.packing import add_member, encode
from aape.errors import AapeError, one_line, writing
from aape.runs.files import replacing, sweep, write_json
from aape.runs.lock import locked
from aape.runs.progress import progress_bar
from aape.runs.signals import Stopped, ended_by_signals

CLIPS = {"phrases": 8000, "speech": 8000, "textures": 4000, "hits": 8000, "words": 12000}
SHARD, BLOCK = 500, 50  # clips
PEAK = (-30, -1)  # dB of full scale
NOISY_SHARE = 0.5
FONT = sounds.FONTS[0]
INDEX_COLUMNS = (*COLUMNS, "source", "labels")
Render = Callable[[list[Generator]], list[textures.Sound]]


def generator(seed: int, kind: str, index: int) -> Generator:
    """Return the random numbers of one clip."""
    return np.random.default_rng([seed, list(CLIPS).index(kind), index])


def render_block(seed: int, kind: str, indices: range, render: Render) -> Iterator[tuple[bytes, float, str, str]]:
    """Render clips in a row: each as FLAC, its seconds, its source and its labels."""
    rngs = [generator(seed, kind, index) for index in indices]
    for rng, (wave, source, labels) in zip(rngs, render(rngs), strict=True):
        level, is_noisy, snr, exponent = rng.uniform(*PEAK), rng.random(), rng.uniform(5, 40), rng.uniform(0, 2)
        noisy = sounds.add_noise(rng, wave, snr, exponent) if is_noisy < NOISY_SHARE else wave
        clip = sounds.quantised(noisy, level)
        content, seconds = encode(clip / 32768, sounds.SAMPLE_RATE, "flac"), len(clip) / sounds.SAMPLE_RATE
        yield content, seconds, source, ";".join(sorted(labels))


class Folder:
    """A folder of shards of one seed, made with one set of engines.

    Args:
        options: those of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.out: Path = options.out
        self.seed: int = options.seed
        self.clips: dict[str, int] = {kind: getattr(options, kind) for kind in CLIPS}
        self.renders: dict[str, Render] = {"textures": textures.render}
        self.made: dict[str, Any] = {"seed": self.seed}
        if self.clips["phrases"] or self.clips["hits"]:
            font = engines.find_font(FONT, options.soundfont)
            self.made |= {"fluidsynth": engines.version("fluidsynth"), font.stem: engines.sha256_of(font)}
            self.renders["phrases"] = lambda rngs: phrases.render(rngs, font)
            self.renders["hits"] = lambda rngs: phrases.render_hits(rngs, font)
        if self.clips["speech"] or self.clips["words"]:
            self.made["espeak-ng"] = engines.version("espeak-ng")
            languages = speech.languages()
            self.renders["speech"] = lambda rngs: speech.render(rngs, languages)
            self.renders["words"] = lambda rngs: speech.render_words(rngs, languages)

    def render(self) -> None:
        """Render what is not there, and list it."""
        self.record()
        sweep(self.out)
        rows: list[dict[str, str]] = []
        with progress_bar("clips", sum(self.clips.values())) as show:
            for kind, count in self.clips.items():
                for number, start in enumerate(range(0, count, SHARD)):
                    indices = range(start, min(start + SHARD, count))
                    rows += self.shard(kind, f"{kind}-{number:03d}", indices)
                    show(len(rows), sum(self.clips.values()))
        write_rows(self.out / "clips.csv", INDEX_COLUMNS, rows)

    def record(self) -> None:
        """Write engines.json; AapeError if the folder has clips of another seed or other engines."""
        path = self.out / "engines.json"
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
        except (ValueError, TypeError) as error:
            raise AapeError(f"{path} is damaged ({error}): choose another --out") from error
        for name, value in self.made.items():
            if before.get(name, value) != value:
                raise AapeError(f"{self.out} has clips of {name} {before[name]}, not {value}: choose another --out")
        write_json(path, before | self.made)

    def shard(self, kind: str, name: str, indices: range) -> list[dict[str, str]]:
        """Return the rows of a shard's clips, which are rendered if they are not there."""
        tar, table = self.out / f"{name}.tar", self.out / f"{name}.csv"
        if tar.exists() and table.exists():
            with table.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            if len(rows) >= len(indices):
                return rows[: len(indices)]
        rows = []
        with replacing(tar) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as shard:
            for start in range(indices.start, indices.stop, BLOCK):
                block = range(start, min(start + BLOCK, indices.stop))
                for content, seconds, *names in render_block(self.seed, kind, block, self.renders[kind]):
                    member = f"{kind}-{indices.start + len(rows):06d}.flac"
                    with writing(tar):
                        offset = add_member(shard, member, content)
                    values = (tar.name, member, str(offset), str(len(content)), f"{seconds:.3f}", *names)
                    rows.append(dict(zip(INDEX_COLUMNS, values, strict=True)))
            tar.unlink(missing_ok=True)  # one of fewer clips, which would not fit the new table
            write_rows(table, INDEX_COLUMNS, rows)  # before the shard: where that is, this is too
        return rows


def note_versions(made: dict[str, Any]) -> None:
    """Say where engines are not those of the stems experiment, with which this was tried."""
    expected = json.loads((Path(engines.__file__).with_name("checksums.json")).read_text(encoding="utf-8"))
    expected |= expected["soundfonts"]
    for name in sorted(made.keys() & expected.keys()):
        if made[name] != expected[name]:
            print(f"render.py: note: {name} is {made[name]}, tried with {expected[name]}", file=sys.stderr)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/rendered"), help="default: data/rendered")
    for kind, count in CLIPS.items():
        parser.add_argument(f"--{kind}", type=int, default=count, metavar="CLIPS", help=f"default: {count}")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--soundfont", type=Path, metavar="FILE", help=f"default: {FONT}.sf2")
    options = parser.parse_args(arguments)
    for name in (*CLIPS, "seed"):
        if getattr(options, name) < 0:
            parser.error(f"--{name} must be 0 or more")
    if not any(getattr(options, kind) for kind in CLIPS):
        parser.error(f"one of {', '.join(f'--{kind}' for kind in CLIPS)} must be 1 or more")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Render; returns the exit status."""
    options = parse(arguments)
    try:
        folder = Folder(options)
        note_versions(folder.made)
        with ended_by_signals(), locked(options.out):
            folder.render()
    except (AapeError, OSError) as error:
        print(f"render.py: error: {one_line(str(error))}", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(f"render.py: stopped by {stop.name}: the same command goes on with the shard it was at", file=sys.stderr)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""List several corpora in one table for `aape pretrain`, so that a sound counts by its length.

    python experiments/small_data/mixture.py data/unlabelled/clips.csv data/rendered/clips.csv --out data/mixture.csv

An epoch draws one crop of every row. A sound of 6 s or more becomes several rows, equal parts of 3 to 6 s. The corpora
are tar shards or their tables; `aape data pack` makes them of a folder.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from aape.data.clips import Clip, clip_seconds
from aape.data.manifest import read_manifest
from aape.downstream.scores import write_csv
from aape.errors import AapeError, DataError, one_line

SHORTEST = 3.0  # seconds of a part
COLUMNS = ("shard", "name", "offset", "size", "start", "end", "labels")


def labelled(corpus: Path) -> list[Clip]:
    """List the clips of a corpus, with labels where its table has a column `labels` or `label`."""
    for column in ("labels", "label"):
        with contextlib.suppress(DataError):
            return read_manifest(corpus, label=column, needs_labels=False)
    return read_manifest(corpus)


def rows(corpora: Sequence[Path], folder: Path) -> Iterator[tuple[object, ...]]:
    """Yield the rows of all corpora, for a table in `folder`."""
    for corpus in corpora:
        for clip in labelled(corpus):
            if clip.offset is None or clip.end is not None:
                raise DataError(f"{corpus}: {clip.name!r} is no whole member of a shard: `aape data pack` makes them")
            shard, member = os.path.relpath(clip.path, folder), clip.name.partition(f"{Path(clip.path).name}/")[2]
            seconds = clip_seconds(clip)
            count = int(seconds / SHORTEST)
            ends = [f"{seconds * index / count:.2f}" for index in range(count + 1)] if count > 1 else ["", ""]
            for start, end in itertools.pairwise(ends):
                yield shard, member, clip.offset, clip.size, start, end, clip.label or ""


def main() -> None:
    """Write the table, or one line that says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+", type=Path, help="tar shards, or tables of them")
    parser.add_argument("--out", type=Path, required=True, help="the table (.csv)")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # of columns that are not used
    try:
        table = list(rows(options.corpora, options.out.parent))
        write_csv(options.out, [COLUMNS, *table])
    except (AapeError, OSError) as error:
        sys.exit(f"mixture.py: error: {one_line(str(error))}")
    print(f"{len(table)} rows -> {options.out}")


if __name__ == "__main__":
    main()

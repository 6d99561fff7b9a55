"""What the published data sets' readers share: tables, counts and complaints that give both numbers."""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aape.data.clips import Clip
from aape.data.labelled import LabelledSet, label_clips
from aape.errors import DataError

# What the paper probes, whatever a model recommends: class token and mean patch token of the last block, of clips as
# they are.
PAPER_VECTOR: dict[str, Any] = {"pool": "cls_mean", "layers": [], "loop_to": 0.0}


@dataclass(frozen=True)
class Corpus:
    """A published data set.

    Attributes:
        title: its name.
        read: reads its folder.
        finetuning: what it sets of `aape finetune`, by option (docs/method.md 8); empty for the defaults of csv.
        probing: likewise of `aape probe` (docs/method.md 9).
    """

    title: str
    read: Callable[[Path], LabelledSet]
    finetuning: Mapping[str, Any] = field(default_factory=dict)
    probing: Mapping[str, Any] = field(default_factory=dict)


def require(root: Path, title: str, *names: str) -> None:
    """Check that a folder is the one that holds the data set.

    Raises:
        DataError: says what is not in it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    missing = [name for name in names if not (root / name).exists()]
    if missing:
        nearby = [*root.resolve().parents[:2], *(child for child in sorted(root.iterdir()) if child.is_dir())]
        right = next((folder for folder in nearby if all((folder / name).exists() for name in names)), None)
        raise DataError(
            f"{root}: not the folder of {title}, or not all of it: {len(missing)} of {len(names)} parts are missing: "
            f"{', '.join(missing)}" + (f"; {right} has them all" if right else "")
        )


def read_table(path: Path, *columns: str) -> list[dict[str, str]]:
    """Read a CSV with a header.

    Raises:
        DataError: it cannot be read, lacks a column, or a row has another number of fields.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            absent = [column for column in columns if column not in (reader.fieldnames or [])]
            if absent:
                raise DataError(f"{path}: no column {', '.join(absent)}: a file of another version?")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise DataError(f"{path}, line {line}: not as many fields as the header has")
    return rows


def read_lines(path: Path) -> list[str]:
    """Read the lines of a list of files that are not blank.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def assemble(
    title: str,
    root: Path,
    clips: Sequence[Clip],
    *,
    classes: Sequence[str],
    published: Mapping[str, int],
    folds: Iterable[str] = (),
    groups: list[str] | None = None,
    warnings: Sequence[str] = (),
) -> LabelledSet:
    """Check clips with one label each against what was published, and number their labels.

    Args:
        title: the data set's name.
        root: its folder; clips are named relative to it.
        clips: what its lists name, with label and split or fold.
        classes: their names.
        published: number of clips by split, or in all under "clips".
        folds: its folds; all must be there, and no other.
        groups: of clips that belong together (a speaker, an instrument).
        warnings: what the reader has noticed already.

    Raises:
        DataError: a file, a fold or a split is missing, a clip is listed twice, a label is unknown.
    """
    has_folds = _check_listed(title, root, clips, set(folds))
    try:
        labelled = label_clips(clips, classes=classes)
    except DataError as error:
        raise DataError(f"{root}: {error}") from error
    by_split = Counter(str(clip.split) for clip in clips)
    counts = {name: (len(clips) if name == "clips" else by_split[name], number) for name, number in published.items()}
    for name, (number, expected) in counts.items():
        if not number:
            raise DataError(f"{root}: 0 of {expected} clips of {title} ({name}) are here")
    used = {target for targets in labelled.targets for target in targets}
    absent = [name for number, name in enumerate(classes) if number not in used]
    notes = list(warnings)
    if absent:
        names = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        notes.append(f"{title}: {len(classes) - len(absent)} of {len(classes)} classes are here, without {names}")
    notes += count_warnings(title, counts)
    return dataclasses.replace(labelled, groups=groups, has_folds=has_folds, counts=counts, warnings=tuple(notes))


def _check_listed(title: str, root: Path, clips: Sequence[Clip], folds: set[str]) -> bool:
    """Refuse clips that are listed twice or missing, and folds that are missing or unknown; tells if there are any."""
    twice = [name for name, count in Counter(clip.name for clip in clips).items() if count > 1]
    if twice:
        raise DataError(
            f"{root}: {len(twice)} of {len(clips)} clips of {title} are listed twice, the first is {twice[0]!r}"
        )
    there = {str(clip.fold) for clip in clips} if folds else set()
    if there != folds:
        raise DataError(
            f"{root}: {title} has {len(folds)} folds, {len(there & folds)} of them are here"
            + "".join(f"; missing: {fold}" for fold in sorted(folds - there, key=int))
            + "".join(f"; unknown: {fold}" for fold in sorted(there - folds))
        )
    missing = [clip.name for clip in clips if not Path(clip.path).is_file()]
    if missing:
        raise DataError(
            f"{root}: {len(missing)} of {len(clips)} files of {title} are missing, the first is {missing[0]!r}: "
            "unpack the archive again"
        )
    return bool(folds)


def count_warnings(title: str, counts: Mapping[str, tuple[int, int]]) -> list[str]:
    """Say where the number of clips found differs from the published one."""
    return [
        f"{title}: {number:,} clips found ({name}), {published:,} published"
        for name, (number, published) in counts.items()
        if number != published
    ]

"""NSynth: 306,043 notes of 11 instrument families, with the official split by instrument (Engel et al., 2017)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aape.data.clips import Clip
from aape.data.corpora.layout import PAPER_VECTOR, Corpus, assemble, require
from aape.data.labelled import LabelledSet
from aape.errors import DataError

CLASSES = ["bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal"]
PUBLISHED = {"train": 289_205, "valid": 12_678, "test": 4_096}


def read(root: Path) -> LabelledSet:
    """Read the three unpacked archives: `nsynth-train`, `-valid`, `-test`, each `examples.json` and `audio/`."""
    require(root, "NSynth", *(f"nsynth-{split}/{part}" for split in PUBLISHED for part in ("examples.json", "audio")))
    clips, groups = [], []
    for split in PUBLISHED:
        path = root / f"nsynth-{split}/examples.json"
        try:
            notes = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not the notes of NSynth, or not all of them ({error})") from error
        fields = ("instrument_family_str", "instrument_str")
        listed: dict[str, Any] = notes if isinstance(notes, dict) else {"": None}
        bad = [key for key, note in listed.items() if not (isinstance(note, dict) and note.keys() >= set(fields))]
        if bad:
            number = f"{len(bad)} of {len(listed)} notes have no {' and '.join(fields)}"
            raise DataError(f"{path}: {number}: a file of another version?")
        for key, note in listed.items():
            name = f"nsynth-{split}/audio/{key}.wav"
            label = str(note["instrument_family_str"])
            clips.append(Clip(str(root / name), name, label=label, split=split))
            groups.append(str(note["instrument_str"]))
    return assemble("NSynth", root, clips, classes=CLASSES, published=PUBLISHED, groups=groups)


NSYNTH = Corpus("NSynth", read, probing={"steps": 50_000, "batch": 512, **PAPER_VECTOR})

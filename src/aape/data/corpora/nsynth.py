"""NSynth: 306,043 notes of 11 instrument families, with the official split by instrument (Engel et al., 2017)."""

from __future__ import annotations

import json
from pathlib import Path

from aape.data.corpora.layout import Corpus, assemble, require
from aape.data.labelled import LabelledSet
from aape.data.manifest import Clip
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
            for key, note in notes.items():
                name = f"nsynth-{split}/audio/{key}.wav"
                label = str(note["instrument_family_str"])
                clips.append(Clip(str(root / name), name, label=label, split=split))
                groups.append(str(note["instrument_str"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: not the notes of NSynth ({error!r})") from error
    return assemble("NSynth", root, clips, classes=CLASSES, published=PUBLISHED, groups=groups)


NSYNTH = Corpus("NSynth", read, probing={"steps": 50_000, "batch": 512})

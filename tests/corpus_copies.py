"""Small copies of the published data sets' layouts, made of the demo's recordings."""

import csv
import itertools
import json
import shutil
from pathlib import Path

import soundfile

from aape.data.audio.decoding import read_audio
from aape.data.corpora import cremad, esc50, nsynth, speech_commands, urbansound
from notes import NOTES


def note(path: Path, number: int, seconds: float = 0.4) -> Path:
    """Write a part of a real note as WAV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, read_audio(NOTES[number % len(NOTES)])[: int(16000 * seconds)], 16000)
    return path


def table(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def make_esc50(root: Path, classes=4) -> Path:
    rows = []
    for number, (fold, target) in enumerate(itertools.product(range(1, 6), range(classes))):
        name = f"{fold}-{number}-A-{target}.wav"
        note(root / "audio" / name, 7 * target + fold)
        row = {"filename": name, "fold": fold, "target": target, "category": esc50.CLASSES[target]}
        rows.append({**row, "esc10": True, "src_file": number, "take": "A"})
    table(root / "meta/esc50.csv", rows)
    return root


def make_us8k(root: Path) -> Path:
    rows = []
    for fold, target in itertools.product(range(1, 11), range(2)):
        name = f"{fold}-{target}-0-0.wav"
        note(root / f"audio/fold{fold}" / name, 9 * target + fold)
        row = {"slice_file_name": name, "fsID": fold, "start": 0, "end": 1, "salience": 1, "fold": fold}
        rows.append({**row, "classID": target, "class": urbansound.CLASSES[target]})
    table(root / "metadata/UrbanSound8K.csv", rows)
    return root


def make_scv2(root: Path) -> Path:
    lists = {"validation_list.txt": [], "testing_list.txt": []}
    for target, take in itertools.product(range(3), range(4)):
        name = f"{speech_commands.CLASSES[target]}/{take:08x}_nohash_0.wav"
        note(root / name, 9 * target + take)
        if take < 2:
            lists[["validation_list.txt", "testing_list.txt"][take]].append(name)
    note(root / "_background_noise_/white_noise.wav", 0)
    for file, names in lists.items():
        (root / file).write_text("\n".join(names) + "\n")
    return root


def make_nsynth(root: Path) -> Path:
    for split, size in (("train", 3), ("valid", 1), ("test", 1)):
        notes = {}
        for target, take in itertools.product(range(3), range(size)):
            family = nsynth.CLASSES[target]
            key = f"{family}_acoustic_{split}-{take:03d}-060-100"
            note(root / f"nsynth-{split}/audio/{key}.wav", 9 * target + take)
            notes[key] = {"instrument_family_str": family, "instrument_str": f"{family}_{split}", "pitch": 60}
        (root / f"nsynth-{split}/examples.json").write_text(json.dumps(notes))
    return root


def make_cremad(root: Path) -> Path:
    for actor, emotion in itertools.product(range(1001, 1013), cremad.CLASSES[:3]):
        note(root / f"AudioWAV/{actor}_DFA_{emotion}_XX.wav", actor % 9 + 9 * cremad.CLASSES.index(emotion))
    return root


def make_audioset(root: Path) -> Path:
    """527 classes, four of them with clips; one clip of each list is missing, and each form of a name is used."""
    rows = [{"index": i, "mid": f"/m/{i:04d}", "display_name": f"Sound, no. {i}"} for i in range(527)]
    table(root / "class_labels_indices.csv", rows)
    forms = ("{}", "Y{}", "{}_0_10", "{}_0.000_10.000", "{}_0_10000")
    number = 0
    lists = ("balanced_train_segments.csv", "unbalanced_train_segments.csv", "eval_segments.csv")
    for file in lists:
        lines = ["# Segments csv created", "# num_ytids=9", "# YTID, start_seconds, end_seconds, positive_labels"]
        for take in range(9):
            name = f"-{number:05d}_-ab"
            labels = f"/m/{number % 4:04d}" + (f",/m/{(number + 1) % 4:04d}" if take % 2 else "")
            lines.append(f'{name}, 0.000, 10.000, "{labels}"')
            if take:
                note(root / file.partition("_")[0] / f"{forms[take % len(forms)].format(name)}.wav", 9 * (number % 4))
            number += 1
        (root / file).write_text("\n".join(lines) + "\n")
    return root


def make_folders(root: Path) -> Path:
    for label, take in itertools.product(("low", "high"), range(6)):
        note(root / label / f"{take}.wav", 20 * (label == "high") + take)
    return root


MAKERS = {
    "as2m": make_audioset,
    "as20k": make_audioset,
    "esc50": make_esc50,
    "us8k": make_us8k,
    "scv2": make_scv2,
    "nsynth": make_nsynth,
    "cremad": make_cremad,
}


def copy_tree(source: Path, target: Path) -> Path:
    """Give a test a copy that it may damage."""
    shutil.copytree(source, target)
    return target

"""ESC-50: 2,000 five-second recordings of 50 environmental sounds in 5 official folds (Piczak, 2015)."""

from __future__ import annotations

from pathlib import Path

from aape.data.clips import Clip
from aape.data.corpora.layout import Corpus, assemble, read_table, require
from aape.data.labelled import LabelledSet

NAMES = """
dog rooster pig cow frog cat hen insects sheep crow rain sea_waves crackling_fire crickets chirping_birds water_drops
wind pouring_water toilet_flush thunderstorm crying_baby sneezing clapping breathing coughing footsteps laughing
brushing_teeth snoring drinking_sipping door_wood_knock mouse_click keyboard_typing door_wood_creaks can_opening
washing_machine vacuum_cleaner clock_alarm clock_tick glass_breaking helicopter chainsaw siren car_horn engine train
church_bells airplane fireworks hand_saw
"""
CLASSES = NAMES.split()


def read(root: Path) -> LabelledSet:
    """Read `ESC-50-master`: `meta/esc50.csv` and `audio/`."""
    require(root, "ESC-50", "meta/esc50.csv", "audio")
    rows = read_table(root / "meta/esc50.csv", "filename", "fold", "category", "src_file")
    clips = [
        Clip(str(root / "audio" / row["filename"]), f"audio/{row['filename']}", label=row["category"], fold=row["fold"])
        for row in rows
    ]
    groups = [row["src_file"] for row in rows]
    return assemble("ESC-50", root, clips, classes=CLASSES, published={"clips": 2000}, folds="12345", groups=groups)


ESC50 = Corpus("ESC-50", read, finetuning={
    "steps": 8000, "batch": 128, "optim.learning_rate": 5e-5, "optim.layer_decay": 0.65, "optim.ema": 0.0,
    "augment.mixup": 0.0, "augment.spec_augment": 0.0, "balanced_draws": 0, "num_frames": 512,
})  # fmt: skip

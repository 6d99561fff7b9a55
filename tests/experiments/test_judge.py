"""The judge of encoders: its vectors are the package's, and it reads what it says."""

import csv
import sys
from pathlib import Path

import numpy as np

from aape.data.clips import load_clip
from aape.data.manifest import read_manifest
from aape.inference import load_model
from aape.models.pooling import POOLS
from notes import AUDIO

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments/small_data"))


def test_vectors_are_those_of_the_package(tmp_path):
    """Clips that go through the encoder together would else score another vector than users get."""
    import judge
    import soundfile

    model = load_model("tiny", device="cpu", precision="float32")
    for number, seconds in enumerate((0.5, 4.0, 3.0, 0.5, 5.0)):
        noise = np.random.default_rng(number).normal(size=round(16000 * seconds)) * 0.1
        soundfile.write(tmp_path / f"{number}.wav", noise, 16000)
    clips = read_manifest(tmp_path)
    stored, bad = judge.embed(model, clips)
    assert not bad
    for kind in POOLS:
        vectors = judge.vectors_of(stored[:, None], kind, 0, model.encoder.embed_dim)
        for clip, vector in zip(clips, vectors, strict=True):
            np.testing.assert_allclose(vector, model.embed(load_clip(clip), 16000, pool=kind), atol=1e-4)


def test_a_rendered_set_is_cut_to_its_first_clips(tmp_path, monkeypatch):
    """Validation clips share voices with training: they are neither trained on nor tested."""
    import judge

    monkeypatch.setattr(judge, "MOST", 4)
    notes = sorted(AUDIO.glob("*.opus"))[:24]
    (tmp_path / "words").mkdir()
    with (tmp_path / "words" / "clips.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "split", "source"])
        for number, note in enumerate(notes):
            split = ("train", "validation", "test")[number % 3]
            table.writerow([note, "ab"[number // 3 % 2], split, f"voice {number % 5}"])
    judged = judge.read("words", tmp_path, tmp_path)
    names = [Path(clip.path).name for clip in judged.labelled.clips]
    assert names == [note.name for number, note in enumerate(notes[:12]) if number % 3 != 1]
    (part,) = judged.parts
    assert (len(part.train), len(part.test), len(judged.units)) == (4, 4, 4)


def test_what_is_kept_for_the_end_is_not_judged():
    """A decision that went by them would leave no set to report on."""
    import judge

    assert not set(judge.JUDGED) & set(judge.KEPT)
    assert {*judge.JUDGED, *judge.KEPT} == {*judge.SETS, *judge.RENDERED}

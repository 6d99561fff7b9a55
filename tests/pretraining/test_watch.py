"""What a watcher sees while a run trains: probes, TensorBoard."""

import csv
import json

import pytest

from aape.cli import main
from aape.data.demo import AUDIO


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Real notes, their statistics, and a list with families and splits."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "sound").mkdir()
    notes = sorted(AUDIO.glob("*.opus"))
    families = {note.name.split("-")[0] for note in notes}
    chosen = [note for family in sorted(families)[:3] for note in notes if note.name.startswith(family)]
    with open(folder / "notes.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "label", "split"))
        for i, note in enumerate(chosen):
            (folder / "sound" / note.name).symlink_to(note)
            table.writerow((f"sound/{note.name}", note.name.split("-")[0], "test" if i % 3 == 0 else "train"))
    assert main(["stats", "--data", str(folder / "sound"), "--out", str(folder / "stats.json")]) == 0
    return folder


def run(corpus, out, *more):
    return main(["pretrain", "--data", str(corpus / "sound"), "--stats", str(corpus / "stats.json"), "--out", str(out),
                 "--model", "nano", "--steps", "4", "--clips", "4", "--workers", "0", "--log-every", "1",
                 "--crop-seconds", "1", "--masking.num-views", "2", "--device", "cpu", *more])  # fmt: skip


def test_a_probe_on_the_way_scores_and_changes_nothing(corpus, tmp_path):
    """Looking at a run must not make it another run."""
    recipe = tmp_path / "notes.yaml"
    recipe.write_text(f"data: {corpus / 'notes.csv'}\nsplit: split\nsteps: 20\n")
    assert run(corpus, tmp_path / "plain") == 0
    assert run(corpus, tmp_path / "watched", "--watch", str(recipe), "--watch-every", "2") == 0
    lines = [json.loads(line) for line in (tmp_path / "watched/probes.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert 0 <= lines[-1]["scores"]["last"]["accuracy"]["mean"] <= 1
    plain, watched = (tmp_path / name / "model/model.safetensors" for name in ("plain", "watched"))
    assert plain.read_bytes() == watched.read_bytes()


def test_a_probe_that_cannot_be_is_refused_before_the_run(corpus, tmp_path, capsys):
    """Not after the first thousand steps."""
    assert run(corpus, tmp_path / "run", "--watch-every", "2") == 2
    assert "watch_every" in capsys.readouterr().err
    recipe = tmp_path / "notes.yaml"
    recipe.write_text(f"data: {corpus / 'nothing.csv'}\nsplit: split\n")
    assert run(corpus, tmp_path / "run", "--watch", str(recipe), "--watch-every", "2") == 2
    assert "nothing.csv" in capsys.readouterr().err


def test_tensorboard_gets_the_log(corpus, tmp_path):
    """Those who watch there see the same numbers."""
    pytest.importorskip("tensorboard")
    assert run(corpus, tmp_path / "run", "--tensorboard") == 0
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))

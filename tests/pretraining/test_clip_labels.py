"""Labels as a further target of a clip's vector."""

import csv
import math
import re
import shutil

import pytest
import torch

from aape.cli import main
from aape.commands.pretrain import PretrainConfig, Pretraining
from aape.errors import DataError
from aape.inference import load_model
from aape.pretraining.clip_labels import ClipLabels
from aape.pretraining.config import LossConfig, MaskingConfig
from notes import link_notes, read_lines

CORPUS = [["a"]] * 30 + [["a", "b"]] * 20 + [["c", "b"]] * 25 + [[]] * 25 + [["a", "rare"]] * 5


def test_the_loss_is_the_cross_entropy_over_that_of_guessing():
    """A clip without labels is no clip that lacks them all, and what nearly none or nearly all have teaches nothing."""
    torch.manual_seed(0)
    labels = ClipLabels(CORPUS, torch.randn(6), 2.0)
    assert labels.names == ["a", "b", "c"]
    share = {"a": 55 / 80, "b": 45 / 80, "c": 25 / 80}
    entropy = -sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in share.values()) * 80 / 105
    everything = list(range(len(CORPUS)))
    assert labels(torch.randn(105, 6), everything).item() == pytest.approx(1, rel=1e-5)  # at the start it guesses
    torch.nn.init.normal_(labels.head.weight)
    clips, vectors = [0, 60, 90, 104], torch.randn(4, 6)
    expected = 0.0
    for clip, vector in zip(clips, vectors, strict=True):
        scores = labels.head.weight.double() @ ((vector - labels.centre) / 2).double() + labels.head.bias.double()
        for name, score in zip(labels.names, scores.tolist(), strict=True):
            p = 1 / (1 + math.exp(-score))
            expected -= math.log(p if name in CORPUS[clip] else 1 - p) * bool(CORPUS[clip]) / 4 / entropy
    assert labels(vectors, clips).item() == pytest.approx(expected, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert labels(vectors, clips).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(DataError, match="no label is on 20 labelled clips and absent from 20"):
        ClipLabels([["a"]] * 50 + [[]] * 50, torch.zeros(6), 1.0)


def test_clips_with_rare_labels_only_lack_the_others():
    """Left out, they would leave a label that all have, with a bias of infinity."""
    labels = ClipLabels([["a"]] * 40 + [[f"rare {i}"] for i in range(20)], torch.zeros(6), 1.0)
    assert labels.names == ["a"]
    assert labels(torch.randn(60, 6), range(60)).item() == pytest.approx(1, rel=1e-5)


@pytest.fixture
def table(tmp_path):
    """List 60 notes; five of six have labels."""
    folder = link_notes(tmp_path / "sound", 60)
    with (tmp_path / "notes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "heard"])
        for number, name in enumerate(sorted(path.name for path in folder.iterdir())):
            labels = ["wind" if name[:5] in ("brass", "flute") else "string"]
            labels += ["low"] * (int(re.search("pitch(...)", name)[1]) < 60)
            writer.writerow([f"sound/{name}", ";".join(labels) if number % 6 else ""])
    return tmp_path / "notes.csv"


def test_a_run_adds_them_by_their_weight_and_learns_them(table, tmp_path, capsys):
    """Labels that are read and not learned would be hours for nothing."""
    config = {"data": str(table), "model": "nano", "clips": 4, "workers": 0, "crop_seconds": 1.0, "device": "cpu",
              "label": "heard", "masking": MaskingConfig(num_views=1)}  # fmt: skip
    loss = LossConfig(statistics_weight=1.0, statistics_components=8, label_weight=0.5)
    run = Pretraining(PretrainConfig(**config, out=str(tmp_path / "run"), steps=2, loss=loss))
    result = run.forward(0, next(next(run.batches())))
    parts = {name: result.measured[f"loss_{name}"] for name in ("mask", "utterance", "statistics", "labels")}
    total = parts["mask"] + parts["utterance"] + parts["statistics"] + 0.5 * parts["labels"]
    assert result.loss.item() == pytest.approx(total.item(), rel=1e-5)
    result.loss.backward()
    assert run.clip_labels.head.weight.grad.abs().sum() > 0
    options = ["--data", str(table), "--model", "nano", "--steps", "40", "--clips", "8", "--crop-seconds", "1"]
    options += ["--workers", "0", "--log-every", "10", "--masking.num-views", "1", "--optim.learning-rate", "3e-3"]
    options += ["--device", "cpu", "--label", "heard", "--out"]
    assert main(["pretrain", *options, str(tmp_path / "none")]) == 2
    assert "label needs loss.statistics_weight above 0" in capsys.readouterr().err
    options[-1:] = ["--loss.statistics-weight", "1", "--loss.statistics-components", "4", "--out"]
    assert main(["pretrain", *options, str(tmp_path / "learnt")]) == 0
    losses = [line["loss_labels"] for line in read_lines(tmp_path / "learnt" / "metrics.jsonl")]
    assert losses[-1] < 0.9 * losses[0]


def test_a_run_with_all_that_is_ours_resumes_to_the_same_bits(table, tmp_path):
    """Heads, centres and the momentum of Muon are in the checkpoint."""
    options = ["--data", str(table), "--model", "nano", "--steps", "6", "--clips", "4", "--crop-seconds", "1"]
    options += [
        "--save-every",
        "3",
        "--log-every",
        "3",
        "--masking.num-views",
        "2",
        "--device",
        "cpu",
        "--workers",
        "0",
    ]
    options += ["--label", "heard", "--augment", "0.5", "--optim.muon", "--loss.statistics-weight", "1"]
    options += ["--loss.statistics-components", "4", "--loss.statistics-pool", "frequency_std", "--out"]
    assert main(["pretrain", *options, str(tmp_path / "whole")]) == 0
    assert load_model(tmp_path / "whole").pool == "frequency_std"  # users are given the vector that was trained
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoint-6")
    shutil.rmtree(tmp_path / "cut/model")
    (tmp_path / "cut/result.json").unlink()
    assert main(["pretrain", *options, str(tmp_path / "cut"), "--resume"]) == 0
    for name in ("checkpoint-6/state.safetensors", "model/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name

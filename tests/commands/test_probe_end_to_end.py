"""The command line on real recordings and a real encoder: what a reader of the README types."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from aape import cli
from aape.data.demo import AUDIO
from aape.models.config import FrontEndConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.models.saved import save_model


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    torch.manual_seed(0)
    save_model(folder / "nano", AudioEncoder(encoder_config("nano")), FrontEndConfig(mean=-6.0, std=4.0))
    with open(AUDIO / "metadata.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] in ("bass", "flute")]
    with open(folder / "notes.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "file": str(AUDIO / row["file"])} for row in rows)
    options = {"data": folder / "notes.csv", "checkpoint": folder / "nano", "out": folder / "run", "device": "cpu"}
    options |= {"split": "split", "steps": 100, "validate-every": 20, "batch": 16, "seeds": 2}
    return folder, [f"--{name}={value}" for name, value in options.items()]


def test_the_command_line_probes_real_notes_beside_both_yardsticks(arguments, capsys):
    folder, options = arguments
    assert cli.main(["probe", *options]) == 0
    result = json.loads((folder / "run" / "result.json").read_text())
    assert result["rows"]["encoder"]["num_features"] == 2 * 64  # class token and mean patch token
    assert result["rows"]["log-mel statistics"]["num_features"] == 4 * 128
    # Bass and flute are easy: whatever cannot tell them apart has lost its clips' order.
    assert result["rows"]["log-mel statistics"]["scores"]["last"]["accuracy"]["mean"] > 0.6
    for row in result["rows"].values():
        assert row["scores"]["best"]["accuracy"]["mean"] >= row["scores"]["last"]["accuracy"]["mean"]
    values = result["rows"]["untrained encoder"]["scores"]["last"]["accuracy"]["values"]
    assert len(values) == 2  # one random initialisation per seed
    captured = capsys.readouterr()
    assert "untrained" in captured.out
    assert "…" not in captured.out  # no number is cut short, at 80 columns either

    assert cli.main(["probe", *options]) == 0
    again = json.loads((folder / "run" / "result.json").read_text())
    assert again["rows"] == result["rows"]


def test_a_missing_label_column_is_one_line_and_exit_status_2(arguments, capsys):
    _, options = arguments
    assert cli.main(["probe", *options, "--label=genre"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("aape: error: ")
    assert error.count("\n") == 1
    assert "genre" in error


def test_two_processes_embed_what_one_does(arguments, tmp_path):
    """Large sets are embedded on several devices: same vectors in the same order, same bad files, one writer."""
    folder, options = arguments
    with open(folder / "notes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    rows.insert(5, {**rows[5], "file": str(tmp_path / "broken.wav")})
    with open(tmp_path / "notes.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    results = []
    for ranks in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if ranks > 1 else []
        out = tmp_path / f"run-{ranks}"
        changes = [f"--data={tmp_path / 'notes.csv'}", f"--out={out}", "--max-bad-fraction=0.1", "--seeds=1"]
        done = subprocess.run(
            [sys.executable, *launch, "-m", "aape", "probe", *options, *changes],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count(f"-> {out}") == 1
        assert done.stderr.count("left out: ") == 1
        results.append(json.loads((out / "result.json").read_text()))
        with np.load(out / "features" / "encoder.npz") as arrays:
            results[-1]["features"] = arrays["features"]
    one, two = results
    np.testing.assert_allclose(one["features"], two["features"], atol=1e-5)
    assert one["bad"] == two["bad"]
    assert one["num_bad"] == 1
    for row, own in one["rows"].items():
        last = own["scores"]["last"]["accuracy"]["mean"]
        assert two["rows"][row]["scores"]["last"]["accuracy"]["mean"] == pytest.approx(last, abs=1e-6), row

"""The ablations' recipes build what they say, and their table is computed as it says."""

import dataclasses
import json
import math
import shlex
import sys
from pathlib import Path

import pytest

from aape import cli
from aape.commands.pretrain import PretrainConfig, _build_method, _front_end_and_encoder
from aape.commands.probe import ProbeConfig

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments/small_data/ablations"))


def test_every_line_of_the_queue_is_a_run(monkeypatch):
    """A misspelt option would end an hour of runs, or repeat the baseline under another name."""
    monkeypatch.chdir(ROOT)
    import ablations

    built, outs, lines = {}, set(), ablations.lines(Path("runs"))
    for line in lines:
        verb, *arguments = shlex.split(line)
        config = cli.parse({"pretrain": PretrainConfig, "probe": ProbeConfig}[verb], arguments)
        outs.add(config.out)
        if verb == "pretrain":
            plain = (config.encoder, config.masking, config.predictor, config.loss, config.optim)
            built.setdefault(repr(plain), set()).add(Path(config.out).name.rpartition("-")[0])
            shape = _front_end_and_encoder(dataclasses.replace(config, stats=None))[1]
            _build_method(config, shape)
    assert len(outs) == len(lines)
    assert all(len(names) == 1 for names in built.values()), built


def test_the_table_gives_paired_differences(tmp_path):
    """An interval that is too narrow would make chance a finding."""
    import ablations

    for variant, scores in (("aape", (0.5, 0.52, 0.54)), ("patch", (0.45, 0.49, 0.47))):
        for seed, score in enumerate(scores):
            for name in ablations.SETS:
                folder = tmp_path / f"{variant}-{seed}-{name}"
                folder.mkdir()
                last = {"last": {"accuracy": {"mean": score}}}
                (folder / "result.json").write_text(json.dumps({"rows": {"encoder": {"scores": last}}}))
    (row,) = [row for row in ablations.collect(tmp_path) if row["variant"] == "patch"]
    cell = row["sets"]["drums"]
    assert cell["mean"] == pytest.approx(0.47)
    # -0.05, -0.03, -0.07: mean -0.05, standard error 0.02 / sqrt(3), Student's t of two degrees of freedom
    assert cell["difference"] == pytest.approx(-0.05)
    assert cell["interval"] == pytest.approx(
        [-0.05 - 4.3027 * 0.02 / math.sqrt(3), -0.05 + 4.3027 * 0.02 / math.sqrt(3)]
    )
    (missing,) = [row for row in ablations.collect(tmp_path) if row["variant"] == "cnn"]
    assert "not run" in ablations.line(missing)

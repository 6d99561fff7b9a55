"""Fine-tuning that is stopped, killed or damaged on the way: resumed, it ends as one that never was."""

import csv
import dataclasses

import pytest

from aape import cli
from aape.commands.finetune import FinetuneOptimConfig, finetune
from aape.downstream import jobs
from aape.downstream.finetuning import Training
from aape.errors import CheckpointError, ConfigError
from corpus_copies import note, table
from notes import run_ranks


@pytest.mark.parametrize("optim", [{}, {"ema": 0.0}])
def test_a_killed_run_ends_as_one_that_never_was(make_config, tmp_path, monkeypatch, optim):
    """Days of AudioSet would be lost to an interruption, or end in other numbers."""
    options = {"optim": FinetuneOptimConfig(**optim), "save_every": 2, "steps": 6, "evaluations": 3, "seeds": 2}
    whole = finetune(make_config(**options, out=str(tmp_path / "whole")))

    forward, calls = Training._forward, []

    def dies(self, step, batch):
        if 0 in batch[0]:  # a step's notes of several lengths are several passes
            calls.append(step)
            if len(calls) in (4, 11):
                raise KeyboardInterrupt
        return forward(self, step, batch)

    monkeypatch.setattr(Training, "_forward", dies)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            finetune(make_config(**options, resume=resume))
    result = finetune(make_config(**options, resume=True))
    assert calls == [0, 1, 2, 3, 2, 3, 4, 5, 0, 1, 2, 2, 3, 4, 5]
    assert result["scores"] == whole["scores"]
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "run")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not list(tmp_path.rglob("checkpoint-*"))

    with pytest.raises(ConfigError, match="already holds a run, begun or done: --resume it"):
        finetune(make_config(**options))
    with pytest.raises(ConfigError, match="whose steps is 6, not 7"):
        finetune(make_config(**{**options, "steps": 7}, resume=True))


@pytest.mark.parametrize("column", ["label", "split", "file"])
def test_a_run_is_not_resumed_with_other_data(column, make_config, tmp_path):
    """Labels that were corrected in between would train some seeds and not others."""
    first = finetune(make_config())
    moved = tmp_path / "elsewhere" / "notes.csv"
    moved.parent.mkdir()
    (tmp_path / "notes.csv").rename(moved)
    resumed = dataclasses.replace(make_config(), data=str(moved), resume=True)
    assert finetune(resumed)["scores"] == first["scores"]
    with open(moved, newline="") as file:
        rows = list(csv.DictReader(file))
    others = {"label": "flute", "split": "train", "file": str(note(tmp_path / "other.wav", 0))}
    change = next(row for row in rows if row["label"] == "bass" and row["split"] != "train")
    change[column] = others[column]
    table(moved, rows)
    with pytest.raises(ConfigError, match=r"cannot resume .*run: the readable clips of .*notes.csv, their labels"):
        finetune(resumed)


def cut_short(content):
    return content[: len(content) // 2]


def emptied(content):
    return b""


def with_a_flipped_bit(content):
    middle = 2 * len(content) // 3
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [cut_short, emptied, with_a_flipped_bit])
def test_a_damaged_run_file_is_named_and_never_resumed_from(damage, make_config, tmp_path, monkeypatch, capsys):
    """After a full disk or a bad sector, a run would go on from wrong weights."""
    options = {"save_every": 1, "steps": 4, "evaluations": 1, "seeds": 2}
    whole = finetune(make_config(**options, out=str(tmp_path / "whole")))
    forward = Training._forward

    def dies(self, step, batch):
        if self.job.seed == 1 and step == 3:
            raise KeyboardInterrupt
        return forward(self, step, batch)

    monkeypatch.setattr(Training, "_forward", dies)
    with pytest.raises(KeyboardInterrupt):
        finetune(make_config(**options))
    monkeypatch.undo()
    path = tmp_path / "run" / "jobs" / "seed0-test" / "last.npz"
    content = path.read_bytes()
    path.write_bytes(damage(content))
    with pytest.raises(CheckpointError, match=r"is damaged .*: delete it"):
        finetune(make_config(**options, resume=True))
    path.write_bytes(content)
    newest = tmp_path / "run" / "jobs" / "seed1-test" / "checkpoint-3" / "state.safetensors"
    newest.write_bytes(damage(newest.read_bytes()))
    capsys.readouterr()
    assert finetune(make_config(**options, resume=True))["scores"] == whole["scores"]
    captured = capsys.readouterr()
    assert "checkpoint-3 is passed over: state.safetensors is damaged" in captured.err
    assert "seed1-test/checkpoint-2" in captured.out


def test_a_checkpoint_of_the_version_before_is_refused_by_name(make_config, tmp_path):
    """It is a pickle, and a pickle from a stranger can run any program."""
    job = tmp_path / "run" / "jobs" / "seed0-test"
    job.mkdir(parents=True)
    (job / "checkpoint.pt").write_bytes(b"\x80\x04N.")
    with pytest.raises(CheckpointError, match=r"seed0-test: written by another version of aape \(checkpoint.pt\)"):
        finetune(make_config(resume=True))


def test_sigterm_saves_and_says_how_to_go_on(make_config, tmp_path):
    """Queues end jobs with SIGTERM: hours of training would be lost, or end in another model."""
    config = make_config()
    arguments = ["--data", config.data, "--checkpoint", config.checkpoint, "--split=split"]
    arguments += ["--steps=30", "--batch=4", "--seeds=1", "--evaluations=1", "--workers=1", "--device=cpu"]
    program = """
import os, signal, sys
from aape import cli
from aape.downstream import finetuning
forward = finetuning.Training._forward
def stops(self, step, batch):
    if step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return forward(self, step, batch)
if "--resume" not in sys.argv:
    finetuning.Training._forward = stops
sys.exit(cli.main(["finetune", *sys.argv[1:]]))
"""
    stopped = run_ranks(1, "-c", program, *arguments, "--out", config.out)
    assert stopped.returncode == 143, stopped.stderr
    assert "SIGTERM: " in stopped.stderr
    assert "go on with --resume" in stopped.stderr
    resumed = run_ranks(1, "-c", program, *arguments, "--out", config.out, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert cli.main(["finetune", *arguments, "--out", str(tmp_path / "whole")]) == 0
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "run")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_result_outlives_a_card_that_cannot_be_written(make_config, tmp_path, monkeypatch):
    """Hours of training must not be lost to a model card."""
    monkeypatch.setattr(jobs.Run, "write_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finetune(make_config())
    assert (tmp_path / "run" / "result.json").exists()

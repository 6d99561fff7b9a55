"""The stems that are compared differ in what their names say alone, and the verdicts follow from the runs."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments/stems"))

import analyse  # noqa: E402
import pairs  # noqa: E402
import plan  # noqa: E402
import run_queue  # noqa: E402
import stems  # noqa: E402
import supervised  # noqa: E402

import aape  # noqa: E402
from aape.data.audio.decoding import read_audio  # noqa: E402
from aape.data.demo import AUDIO  # noqa: E402
from aape.data.log_mel import LogMel  # noqa: E402
from aape.errors import AapeError  # noqa: E402
from aape.models.config import encoder_config  # noqa: E402

CONFIG = encoder_config("nano", **stems.ENCODERS["small"], num_frames=stems.NUM_FRAMES, stem="patch")


def build(name):
    torch.manual_seed(0)
    return stems.STEMS[name](CONFIG)


def test_the_varied_stem_is_aape_until_it_is_varied():
    x = torch.randn(2, 1, 128, 112)
    torch.manual_seed(0)
    varied = stems.build_aape(CONFIG, stems.VariedAaPE)
    assert torch.equal(varied(x), build("bilateral")(x))
    assert type(build("bilateral")) is aape.AaPE


def test_stems_of_a_seed_share_all_weights_but_their_additions():
    """Else a paired difference would compare two draws of the network, too."""
    first = supervised.build_classifier("standard", 3, 35)
    for name in stems.STEMS:
        other = dict(supervised.build_classifier(name, 3, 35).named_parameters())
        for key, parameter in first.named_parameters():
            assert torch.equal(parameter, other[key]), (name, key)


@pytest.mark.parametrize(("name", "context"), [("standard", 0), ("standard-norm", 0), ("gelu", 0), ("gelu-wide", 93)])
def test_a_token_sees_so_many_frames_on_either_side(name, context):
    """The control for context sees what AaPE sees, and the others no more than their patch."""
    x = torch.randn(1, 1, 128, 29 * 16, requires_grad=True)
    build(name)(x).unflatten(1, (8, 29))[:, :, 14].square().sum().backward()
    assert seen(x) == (14 * 16 - context, 15 * 16 - 1 + context)


@pytest.mark.parametrize(("kind", "context"), [(stems.VariedAaPE, 93), (stems.FilterStem, 93), (stems.AllPassAaPE, 31)])
def test_a_magnitude_sees_so_many_frames_on_either_side(kind, context):
    """So does the control for the nonlinearity; GroupNorm behind it is of the whole clip in all of them."""
    stem = stems.build_aape(CONFIG, kind).double()
    x = torch.randn(1, 1, 128, 29 * 16, dtype=torch.float64, requires_grad=True)
    u = stem.subbands(stem.band(x[:, 0]))
    m = stem.magnitude(u, torch.zeros(1, 8 * 29, CONFIG.embed_dim).double(), *stem.locate(u, None))
    m.unflatten(1, (8, 29))[:, :, 14].square().sum().backward()
    assert seen(x) == (14 * 16 - context, 15 * 16 - 1 + context)


def seen(x):
    frames = x.grad[0, 0].abs().amax(0).nonzero().flatten()
    return frames.min().item(), frames.max().item()


def test_learned_filters_are_what_a_loop_computes():
    stem = build("filters").double()
    u = torch.randn(2, 8, 48, 16, dtype=torch.float64)
    index, f = stem.locate(u, None)
    m = stem.magnitude(u, None, index, f)  # (B, N, P, H)
    taps = stem.taps.weight[:, 0].unflatten(0, (8, 16))
    padded = F.pad(u, (0, 0, 31, 31))
    for clip, row, patch, frame, channel in [(0, 0, 0, 0, 0), (1, 7, 2, 15, 15), (0, 3, 1, 7, 9)]:
        n = 16 * patch + frame
        expected = sum(taps[row, channel, k] * padded[clip, row, n + k, channel] for k in range(63))
        torch.testing.assert_close(m[clip, 3 * row + patch, frame, channel], F.gelu(expected))


@pytest.mark.parametrize("name", list(stems.STEMS))
def test_every_weight_of_a_stem_is_trained(name):
    classifier = supervised.build_classifier(name, 0, 35)
    x, classes = torch.randn(4, 1, 128, 112), torch.arange(4)
    F.cross_entropy(classifier(x), classes).backward()
    assert [key for key, p in classifier.named_parameters() if p.requires_grad and not p.grad.any()] == []


def test_long_windows_start_long_and_average():
    x = torch.randn(1, 1, 128, 112)
    short, long = (build(name).kernels(x)[0] for name in ("analytic", "analytic-long"))
    floor = -2 * np.log(0.01) / 62
    assert (long - floor).max() < 0.03 < 0.5 < (short - floor).min()
    assert torch.equal(
        build("analytic-long").decimate.weight, torch.full_like(build("analytic").decimate.weight, 1 / 16)
    )


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Recordings of the package in the layout that render.py leaves."""
    folder = tmp_path_factory.mktemp("data") / "notes"
    folder.mkdir()
    with (AUDIO / "metadata.csv").open(encoding="utf-8", newline="") as file:
        notes = list(csv.DictReader(file))
    log_mel, rows = LogMel(), []
    for split in ("train", "validation", "test"):
        chosen = notes[::2] if split == "train" else notes[1::2]
        waves = torch.stack(
            [torch.from_numpy(read_audio(AUDIO / n["file"], sample_rate=16000)[:20480]) for n in chosen]
        )
        np.save(folder / f"{split}.npy", log_mel(waves)[:, 0].numpy().astype(np.float16))
        rows += [{"label": n["label"], "split": split, "source": n["file"].split("-")[1]} for n in chosen]
    with (folder / "clips.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "stats.json").write_text(json.dumps({"mean": -6.0, "std": 3.0}))
    (folder.parent / "engines.json").write_text(json.dumps({"notes": {"train": {"sha256": "0"}}}))
    return folder.parent


def command(rendered, out, steps):
    script = ROOT / "experiments/stems/supervised.py"
    options = (
        f"--task notes --stem analytic-long --seed 1 --learning-rate 1e-3 --steps {steps} --batch 4 --save-every 10"
    )
    return [sys.executable, script, *options.split(), "--data", rendered, "--out", out]


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_with_the_same_bits(rendered, tmp_path):
    """A queue that is halted and started again for days gives the table of one that was not."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    subprocess.run(command(rendered, tmp_path / "whole", 40), env=environment, check=True, capture_output=True)
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(command(rendered, tmp_path / "parts", 40), env=environment)
        while not list((tmp_path / "parts").glob("checkpoint-*")) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        process.wait()
    subprocess.run(command(rendered, tmp_path / "parts", 40), env=environment, check=True)
    whole, parts = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "parts"))
    assert whole == {**parts, "environment": whole["environment"]}
    assert whole["scores"].keys() == {"4", "10", "20", "40"}
    assert len(whole["shifts"]["accuracy"]) == len(whole["shifts"]["distance"]) == 17
    assert abs(whole["shifts"]["distance"][0]) < 1e-9 < min(whole["shifts"]["distance"][1:])


def test_what_is_missing_or_other_is_one_line(rendered, tmp_path, capsys):
    """Sounds that are not rendered, and a run that was begun with others."""
    line = "--task notes --stem standard --seed 1 --learning-rate 1e-3 --steps 20 --batch 2"
    options = line.split()
    with pytest.raises(SystemExit, match="2"):
        supervised.main([*options, "--data", str(tmp_path), "--out", str(tmp_path / "run")])
    assert capsys.readouterr().err.count("\n") == 1
    data = tmp_path / "other"
    shutil.copytree(rendered, data)
    out = tmp_path / "begun"
    out.mkdir()
    (out / "data.sha256").write_text("of other clips")
    with pytest.raises(SystemExit, match="2"):
        supervised.main([*options, "--data", str(data), "--out", str(out)])
    assert "those it began with" in capsys.readouterr().err


def test_choosing_a_learning_rate_goes_on_at_an_edge_and_stops_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "RUNS", tmp_path)
    scores = {5e-4: 0.5, 1e-3: 0.6, 2e-3: 0.7}

    def finish(rate, score):
        out = plan.selection("words", "gelu", rate).out
        out.mkdir(parents=True)
        result = {"scores": {str(plan.SELECTION_STEPS): {"validation": score}}} if score else {"scores": {}}
        (out / "result.json").write_text(json.dumps(result))

    assert plan.rates_to_try("words", "gelu") == ([5e-4, 1e-3, 2e-3], None)
    for rate in scores:
        finish(rate, scores[rate])
    assert plan.rates_to_try("words", "gelu") == ([4e-3], None)
    finish(4e-3, 0)  # it diverged
    assert plan.rates_to_try("words", "gelu") == ([], 2e-3)


def test_intervals_are_those_of_the_textbook():
    low, high = pairs.over_seeds(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert (low, high) == pytest.approx((3 - 2.7764451 * 2.5**0.5 / 5**0.5, 3 + 2.7764451 * 2.5**0.5 / 5**0.5))
    differences, counts = np.array([5.0, -1, 2, 3, 8, -2]), np.array([10.0, 20, 10, 40, 10, 10])
    generator = np.random.default_rng(1)
    means = []
    for _ in range(4000):
        drawn = generator.integers(6, size=6)
        means.append(differences[drawn].sum() / counts[drawn].sum())
    interval = pairs.middle(pairs.source_draws(differences, counts))
    assert interval == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)


@pytest.mark.parametrize(
    ("seeds", "sources", "verdict"),
    [((0.02, 0.05), (0.01, 0.06), "supported"), ((0.02, 0.05), (-0.01, 0.06), "undecided"),
     ((-0.05, -0.02), (-0.06, -0.01), "refuted"), ((-0.005, 0.006), (-0.004, 0.007), "no difference")],
)  # fmt: skip
def test_a_verdict_needs_both_intervals(seeds, sources, verdict):
    assert pairs.Difference(0.0, seeds, sources).verdict() == verdict


@pytest.mark.slow
def test_the_queue_runs_each_job_once_and_names_what_fails(rendered, tmp_path, monkeypatch, capsys):
    """It works through the selection, goes on to what it allows, and a second start finds nothing to do."""
    shutil.copytree(rendered, tmp_path / "data/stems")
    (tmp_path / "data/stems/words").mkdir()
    (tmp_path / "data/stems/words/test.npy").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(plan, "TASKS", ("notes", "words"))  # of which there is nothing else
    monkeypatch.setattr(plan, "STEMS", {"standard": stems.STEMS["standard"]})
    monkeypatch.setattr(plan, "FIRST_RATES", (1e-3,))
    monkeypatch.setattr(plan, "EDGES", (1e-3, 1e-3))
    monkeypatch.setattr(plan, "SEEDS", range(1))
    monkeypatch.setattr(plan, "STEPS", 20)
    monkeypatch.setattr(plan, "SELECTION_STEPS", 20)
    with pytest.raises(AapeError, match=r"1 runs failed: runs/stems/select/words/standard/0\.001"):
        run_queue.run(["select", "supervised"], 2)
    printed = capsys.readouterr().out
    assert printed.count("supervised.py") == 3
    assert "words" in Path("runs/stems/select/words/standard/0.001.log").read_text()
    result = json.loads(Path("runs/stems/supervised/notes/standard/0/result.json").read_text())
    assert set(result["scores"]["20"]) == {"test"}
    monkeypatch.setattr(plan, "TASKS", ("notes",))
    run_queue.run(["select", "supervised"], 2)
    assert capsys.readouterr().out == ""


def made_up(gain):
    """Results of one task in which AaPE is ahead of the standard stem by a known number of clips."""
    stems_of_task = {}
    for stem, more in (("standard", 0), ("bilateral", gain)):
        seeds = {}
        for seed in range(3):
            right = [20 + seed + more, 30 + more]
            accuracy = sum(right) / 100
            seeds[str(seed)] = {
                "accuracy": [accuracy / 5, accuracy / 2, accuracy / 2, accuracy], "steps": [2, 5, 10, 20],
                "correct_by_source": right, "loss": [3.0, 1.0], "grad_norm": [2.0, 1.0], "spike": 2.0,
                "shift_accuracy": [accuracy] * 16 + [accuracy - 0.1], "shift_distance": [0.0] + [0.02] * 16,
            }  # fmt: skip
        stems_of_task[stem] = {"learning_rate": 1e-3, "seeds": seeds}
    words = {"sources": ["f1", "m1"], "clips": [50, 50], "stems": stems_of_task}
    encoders = {
        "aape": {task: {"0": 0.5, "1": 0.52} for task in plan.TASKS},
        "standard": {task: {"0": 0.4, "1": 0.44} for task in plan.TASKS},
    }
    return {"tasks": {"words": words}, "longer": {}, "pretraining": encoders}


def test_tables_say_what_the_runs_gave(tmp_path):
    text = analyse.report(made_up(5))
    line = next(line for line in text.splitlines() if line.startswith("| AaPE over the standard stem |"))
    assert "+10.0 (+10.0 to +10.0) [+10.0 to +10.0] supported" in line
    assert "not run" in next(line for line in text.splitlines() if line.startswith("| adaptive kernels |"))
    assert "| The kernels should adapt | 100 % |  | not run |" in text
    assert "| standard | 0.001 | 3 | 10.2 ± 0.2 | 25.5 ± 0.5 | 25.5 ± 0.5 | 51.0 ± 1.0 |" in text
    line = next(line for line in text.splitlines() if line.startswith("| standard stem |"))
    assert line.endswith("42.0 (40.0, 44.0) | not run | not run | -9.0 (-21.7 to +3.7) | undecided |")
    assert "| CNN predictor | not run | not run | not run | not run | not run |  |  |" in text
    analyse.draw(made_up(5), tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"accuracy.png", "shifts.png"}


def test_a_stem_that_is_behind_refutes():
    line = next(
        line for line in analyse.report(made_up(-2)).splitlines() if line.startswith("| AaPE over the standard stem |")
    )
    assert "-4.0 (-4.0 to -4.0) [-4.0 to -4.0] refuted" in line


@pytest.mark.parametrize(
    ("by_task", "of_tasks", "of_mean"),
    [((5, 5, 0), "supported", "supported"), ((5, 5, -2), "undecided", "undecided"),
     ((5, 0, 0), "undecided", "supported"), ((-5, -5, 0), "refuted", "refuted"),
     ((0, 0, 0), "undecided", "no difference")],
)  # fmt: skip
def test_a_claim_has_the_verdict_of_the_plan(by_task, of_tasks, of_mean):
    """Two tasks against none, or the mean of the tasks where none says the opposite; of several pairs the weakest."""
    tasks = [analyse.Task(str(i), made_up(gain)["tasks"]["words"]) for i, gain in enumerate(by_task)]
    pair = ("bilateral", "standard")
    assert analyse.verdict_of(tasks, analyse.Claim("", (pair,))) == of_tasks
    assert analyse.verdict_of(tasks, analyse.Claim("", (pair,), by_mean=True)) == of_mean


def test_a_claim_on_several_pairs_is_as_weak_as_the_weakest():
    tasks = [analyse.Task(str(i), made_up(5)["tasks"]["words"]) for i in range(3)]
    pairs_of = (("bilateral", "standard"), ("standard", "bilateral"), ("bilateral", "fixed"))
    verdicts = [analyse.verdict_of(tasks, analyse.Claim("", pairs_of[:n])) for n in (1, 2, 3)]
    assert verdicts == ["supported", "refuted", "not run"]

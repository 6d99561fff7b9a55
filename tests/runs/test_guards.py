"""What a long run must survive: NaN anywhere, broken files, a collapse nobody watches."""

import itertools
import json

import pytest
import torch

from aape.commands.pretrain import PretrainConfig, Pretraining
from aape.errors import DataError, TrainingError
from aape.pretraining.config import MaskingConfig, OptimConfig
from notes import link_notes, measure, read_lines


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Forty notes, and their statistics beside them."""
    folder = link_notes(tmp_path_factory.mktemp("corpus") / "sound", 40)
    measure(folder)
    return folder


def make(corpus, out, *, steps=8, seed=0, **options):
    options = {"log_every": 1, "save_every": 1000, "masking": MaskingConfig(num_views=2), "clips": 4, **options}
    config = PretrainConfig(
        data=str(corpus), out=str(out), model="nano", steps=steps, seed=seed, workers=0, crop_seconds=1.0,
        device="cpu", stats=str(corpus.parent / "stats.json"), **options,
    )  # fmt: skip
    return Pretraining(config)


def weights(run):
    return {name: value.clone() for name, value in run.method.state_dict().items()}


def poison(run, where, steps):
    """Put NaN into the input, the loss or the gradient of some steps; returns the weights before and after each."""
    method, seen = run.method, []
    forward = method.forward

    def poisoned(spectrogram, *arguments):
        is_hit = run.loop.step in steps
        seen.append(weights(run))
        if is_hit and where == "input":
            spectrogram = spectrogram * float("nan")
        outputs = forward(spectrogram, *arguments)
        if is_hit and where == "loss":
            outputs["loss"] = outputs["loss"] + float("inf")
        if is_hit and where == "gradient":
            outputs["loss"].register_hook(lambda grad: grad * float("nan"))
        return outputs

    method.forward = poisoned
    return seen


@pytest.mark.parametrize("where", ["input", "loss", "gradient"])
def test_a_step_with_nan_changes_no_weight_and_the_run_goes_on(corpus, tmp_path, where):
    """One bad clip must not cost the weights of a week: neither student nor teacher sees the step."""
    run = make(corpus, tmp_path / "run")
    seen = poison(run, where, {3, 4})
    run.train()
    changed = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in itertools.pairwise(seen)]
    assert changed == [step not in (0, 3, 4) for step in range(7)]  # the learning rate of step 0 is 0
    assert all(torch.isfinite(value).all() for value in weights(run).values())
    skipped = read_lines(tmp_path / "run/skipped_steps.jsonl")
    assert [record["step"] for record in skipped] == [4, 5]
    assert all(len(record["clips"]) == 4 and record["clips"][0].endswith(".opus") for record in skipped)
    lines = (tmp_path / "run/metrics.jsonl").read_text()
    assert "NaN" not in lines
    assert json.loads(lines.splitlines()[-1])["loss"] > 0


def test_batches_of_one_clip_raise_no_alarm(corpus, tmp_path):
    """One clip has no variance over clips: that is no collapse."""
    run = make(corpus, tmp_path / "run", steps=3, clips=2, optim=OptimConfig(accumulate=2))
    assert run.train()
    assert run.alarm.raised == {}


def test_five_in_a_row_stop_the_run_with_the_weights_of_before(corpus, tmp_path):
    """What does not mend itself ends, and says what to try."""
    run = make(corpus, tmp_path / "run", steps=20)
    seen = poison(run, "input", set(range(6, 20)))
    with pytest.raises(TrainingError, match="learning-rate"):
        run.train()
    assert all(torch.equal(seen[6][name], value) for name, value in weights(run).items())


def test_broken_files_are_each_listed_once(corpus, tmp_path):
    """5 % of broken files and the limit raised: the run ends, and names each of them."""
    folder = link_notes(tmp_path / "sound", 40)
    broken = [f"broken-{i}.wav" for i in range(2)]
    for name in broken:
        (folder / name).write_bytes(b"RIFF\x00\x00")
    (tmp_path / "stats.json").write_bytes((corpus.parent / "stats.json").read_bytes())
    run = make(folder, tmp_path / "run", steps=24, max_bad_fraction=0.06, log_every=5)  # over two epochs
    run.train()
    listed = read_lines(tmp_path / "run/bad_files.jsonl")
    assert sorted(record["file"] for record in listed) == broken
    assert all(record["reason"] for record in listed)
    with pytest.raises(DataError, match="max_bad_fraction"):
        make(folder, tmp_path / "strict", steps=24).train()

"""The loop that both trainings share: what meets in one step, what a resumed run repeats, what several ranks add up."""

import itertools
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from aape.errors import CheckpointError, DataError, TrainingError
from aape.runs.checkpoints import find_checkpoint, list_checkpoints
from aape.runs.devices import start_ranks
from aape.runs.files import Records
from aape.runs.guards import BadFiles
from aape.runs.loop import Loop, StepPart
from aape.runs.optim import adamw, warmup_cosine
from notes import read_lines, run_ranks

NUM_STEPS = 8


def batches_of(step, rank=0, num_ranks=1):
    """Clips of two lengths, nine a step, divided among ranks; the last rank of several has none in step 3."""
    values = torch.randn(9, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    if num_ranks > 1 and step == 3:
        parts = [values[:5], values[5:]] if rank == 0 else []
    else:
        share = values.tensor_split(num_ranks)[rank]
        parts = [part for part in (share[:2], share[2:]) if len(part)]
    return [(part, len(part) / 9) for part in parts]


def make(out, *, hit=None, **options):
    """A loop over a small regression with noise from the global generator."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(options.pop("dropout", 0.5)), nn.Linear(8, 1)).double()

    def forward(step, batch):
        values, weight = batch
        loss = (model(values) - values.sum(1, keepdim=True)).square().mean()
        if hit is not None:
            loss = hit(step, loss)
        return StepPart(loss, weight, [f"{step}.wav"] * len(values), {"loss": loss.detach()})

    options = {"log_every": 3, "save_every": 2, **options}
    return Loop(
        start_ranks("cpu"), out, forward, adamw(model, learning_rate=0.05, weight_decay=0.01, betas=(0.9, 0.95)),
        {"model": model}, num_steps=NUM_STEPS,
        rate=lambda step: warmup_cosine(step, warmup=2, total=NUM_STEPS), **options,
    )  # fmt: skip


def run(loop):
    accelerator = loop.accelerator
    return loop.train(
        batches_of(step, accelerator.process_index, accelerator.num_processes) for step in itertools.count(loop.step)
    )


def results(out):
    lines = read_lines(out / "metrics.jsonl")
    last = out / f"checkpoint-{NUM_STEPS}"
    files = {path.name: path.read_bytes() for path in last.iterdir()}
    return [{**line, "clips_per_second": 0} for line in lines], files


@pytest.mark.parametrize("log_every", [1, 2, 1000])
@pytest.mark.parametrize("save_every", [1, 2, 1000])
@pytest.mark.parametrize("every", [1, 2, 1000])
def test_stops_at_once_whatever_else_the_step_does_and_resumes_to_the_same_bits(tmp_path, log_every, save_every, every):
    """A log, a checkpoint or a probe on the step of a SIGTERM must not swallow it."""
    options = {"log_every": log_every, "save_every": save_every}
    seen = {"whole": [], "stopped": []}
    whole = make(tmp_path / "whole", every=[(every, seen["whole"].append)], **options)
    whole.resume(None)
    assert run(whole)

    def kill(step, loss):
        if step == 3 and not stopped.stop.is_set:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    stopped = make(tmp_path / "stopped", hit=kill, every=[(every, seen["stopped"].append)], **options)
    stopped.resume(None)
    assert not run(stopped)
    assert stopped.step in (4, 5)
    assert list_checkpoints(tmp_path / "stopped")[-1].name == f"checkpoint-{stopped.step}"
    again = make(tmp_path / "stopped", every=[(every, seen["stopped"].append)], **options)
    again.resume(find_checkpoint(tmp_path / "stopped"))
    assert run(again)
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")
    assert seen["stopped"] == seen["whole"]


def test_a_stop_is_obeyed_once_by_the_loops_that_share_it(tmp_path):
    """A SIGTERM between two trainings of one run ends the second after its first step."""
    first = make(tmp_path / "a")
    first.resume(None)
    assert run(first)
    first.stop.is_set = True
    second = make(tmp_path / "b", stop=first.stop)
    second.resume(None)
    assert not run(second)
    assert second.step in (1, 2)
    with pytest.raises(SystemExit) as end:
        second.stop.exit()
    assert end.value.code == 143


def test_bad_steps_are_left_out_listed_and_end_the_run_after_five(tmp_path):
    """A NaN that reaches the weights or the optimiser's moments ends the model."""
    weights = []
    loop = make(
        tmp_path, hit=lambda step, loss: loss * float("nan") if step in (2, 3) else loss, log_every=1,
        after_step=lambda step, skipped: weights.append((loop.modules["model"][0].weight.clone(), float(skipped))),
    )  # fmt: skip
    loop.resume(None)
    assert run(loop)
    assert [skipped for _, skipped in weights] == [0, 0, 1, 1, 0, 0, 0, 0]
    assert torch.equal(weights[1][0], weights[3][0])
    assert [record["step"] for record in loop.skipped.read()] == [3, 4]
    assert loop.skipped.read()[0]["clips"] == ["2.wav"] * 9
    assert all("NaN" not in line for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    loop = make(tmp_path / "worse", hit=lambda step, loss: loss * float("inf") if step > 1 else loss)
    loop.resume(None)
    with pytest.raises(TrainingError, match="5 steps in a row, up to step 7"):
        run(loop)


def test_bad_files_are_listed_once_and_limited(tmp_path):
    """A file counted twice, or forgotten by a restart, would stop a good run or hide a bad corpus."""
    loop = make(tmp_path, bad_files=BadFiles(10, 0.2, Records(tmp_path / "bad_files.jsonl")))
    loop.resume(None)
    loop.bad_files.note([("a.wav", "broken"), ("b.wav", "silent")])
    loop.bad_files.gather(1, loop.accelerator)
    loop.bad_files.note([("a.wav", "broken")])
    loop.bad_files.gather(2, loop.accelerator)
    assert [(line["step"], line["file"]) for line in loop.bad_files.records.read()] == [(1, "a.wav"), (1, "b.wav")]
    again = BadFiles(10, 0.2, loop.bad_files.records)
    again.restore(1)
    assert list(again.reasons) == ["a.wav", "b.wav"]
    again.note([("c.wav", "short")])
    with pytest.raises(DataError, match=r"3 of 10 clips cannot be read.*max_bad_fraction = 0.2"):
        again.gather(3, loop.accelerator)


def test_checkpoints_of_the_version_before_are_refused_by_name(tmp_path):
    """They hold pickles, and a pickle from a stranger can run any program."""
    loop = make(tmp_path)
    for name in ("optimizer.pt", "trainer_state.json"):
        folder = tmp_path / f"{name}-run" / "checkpoint-4"
        folder.mkdir(parents=True)
        (folder / name).write_bytes(b"\x80\x04N.")
        with pytest.raises(CheckpointError, match=rf"another version of aape \({name}\)"):
            loop.resume(folder)
    loop.resume(None)
    assert run(loop)
    loop.modules = {"model": nn.Linear(4, 3)}
    with pytest.raises(CheckpointError, match="of another model"):
        loop.resume(list_checkpoints(tmp_path)[-1])


PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import test_loop
from aape.runs.devices import close_ranks
loop = test_loop.make(Path(sys.argv[1]), dropout=0.0, log_every=1, save_every=8, clip_grad=1.0)
loop.resume(None)
test_loop.run(loop)
close_ranks(loop.accelerator)
"""


def test_ranks_with_different_numbers_of_passes_train_what_one_process_does(tmp_path):
    """More processes would train another model, above all when one of them has no clip in a step."""
    lines = []
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        program = tmp_path / "program.py"
        program.write_text(PROGRAM)
        done = run_ranks(ranks, program, out, Path(__file__).parent, Path(__file__).parents[1])
        assert (out / "metrics.jsonl").exists(), done.stderr[-3000:]
        lines.append(read_lines(out / "metrics.jsonl"))
    assert [line["step"] for line in lines[0]] == list(range(1, NUM_STEPS + 1))
    for alone, together in zip(*lines, strict=True):
        assert [together[k] for k in ("loss", "grad_norm")] == pytest.approx(
            [alone[k] for k in ("loss", "grad_norm")], abs=1e-10
        )

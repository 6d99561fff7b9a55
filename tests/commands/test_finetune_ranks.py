"""Two processes fine-tune what one does: same clips, crops, pairs, masks and drop path; same weights and scores."""

import json

import numpy as np
import pytest

from corpus_copies import table
from notes import bass_and_flute, read_lines, run_ranks, save_nano

# The verb in float64, so that nothing but the order of sums can differ; the trained weights are kept beside the run.
PROGRAM = """
import sys
import numpy as np
from aape import cli
from aape.data.log_mel import LogMel
from aape.downstream import jobs, spectrograms
forward, classifier, save_model = LogMel.forward, jobs.Classifier, jobs.Run._save_model
LogMel.forward = lambda self, wave: forward(self, wave.double())

class InFloat64(classifier):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.double()

def save(self, model, job):
    np.savez(self.out / "weights.npz", **{name: value.numpy() for name, value in model.state_dict().items()})
    save_model(self, model, job)

jobs.Classifier, jobs.Run._save_model = InFloat64, save
if sys.argv[1] == "unchecked":
    spectrograms.MAX_CHECKED = 0
sys.exit(cli.main(["finetune", *sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Notes of two classes, cut to several lengths; two of them broken."""
    folder = tmp_path_factory.mktemp("ranks")
    save_nano(folder / "nano")
    rows = bass_and_flute()
    for number, row in enumerate(rows):
        row |= {"start": "0", "end": f"{0.3 + 0.1 * (number % 3):.1f}"}
    for name, number in (("broken.wav", 1), ("empty.wav", 8)):
        (folder / name).write_bytes(b"RIFF")
        rows.insert(number, {**rows[number], "file": str(folder / name), "start": "", "end": ""})
    table(folder / "notes.csv", rows)
    options = {"data": folder / "notes.csv", "checkpoint": folder / "nano", "device": "cpu", "split": "split"}
    options |= {"steps": 8, "batch": 7, "seeds": 2, "evaluations": 2, "save-every": 3, "workers": 0, "crop-frames": 36}
    options |= {"max-bad-fraction": 0.2, "optim.precision": "float32", "optim.learning-rate": 1e-3, "optim.ema": 0.5}
    return [f"--{name}={value}" for name, value in options.items()]


def finetune(tmp_path, arguments, ranks, kind, out, *changes, program=PROGRAM):
    """Run the verb in so many processes."""
    path = tmp_path / "program.py"
    path.write_text(program)
    return run_ranks(ranks, path, kind, *arguments, f"--out={out}", *changes)


def result_of(out):
    with np.load(out / "weights.npz") as arrays:
        weights = dict(arrays)
    return json.loads((out / "result.json").read_text()), weights


@pytest.mark.parametrize("kind", ["checked", "unchecked"])
def test_two_processes_train_and_score_what_one_does(arguments, tmp_path, kind):
    """On two devices a user would get another model, above all with unreadable clips."""
    results = []
    for ranks in (1, 2):
        done = finetune(tmp_path, arguments, ranks, kind, tmp_path / str(ranks))
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("-> ") == 1
        assert done.stderr.count("left out: ") == 2
        results.append(result_of(tmp_path / str(ranks)))
    (one, weights), (two, together) = results
    assert weights.keys() == together.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(together[name], value, rtol=0, atol=1e-10, err_msg=name)
    assert one["bad"] == two["bad"]
    assert (one["num_bad"], one["num_clips"]) == (two["num_bad"], two["num_clips"])
    for score in ("best", "last"):
        for metric, values in one["scores"][score].items():
            np.testing.assert_allclose(two["scores"][score][metric]["values"], values["values"], atol=1e-6)
    losses = [[line["loss"] for line in read_lines(tmp_path / ranks / "metrics.jsonl")] for ranks in "12"]
    assert losses[1] == pytest.approx(losses[0], abs=1e-9)


def test_two_processes_go_on_where_a_signal_to_one_of_them_stopped_both(arguments, tmp_path):
    """SIGTERM to a single rank stops both after a save; resumed, they end with the same bytes."""
    whole = finetune(tmp_path, arguments, 2, "checked", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr[-3000:]
    stopping = PROGRAM.replace(
        "sys.exit(",
        """import os, signal
from aape.downstream import finetuning
step_forward = finetuning.Training._forward
def stops(self, step, batch):
    if step == 4 and self.job.seed == 1 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return step_forward(self, step, batch)
finetuning.Training._forward = stops
sys.exit(""",
    )
    out = tmp_path / "run"
    stopped = finetune(tmp_path, arguments, 2, "checked", out, program=stopping)
    assert stopped.returncode != 0
    assert "go on with --resume" in stopped.stderr
    assert not (out / "result.json").exists()
    again = finetune(tmp_path, arguments, 2, "checked", out, "--resume")
    assert again.returncode == 0, again.stderr[-3000:]
    files = [folder / "model" / "model.safetensors" for folder in (out, tmp_path / "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    results = [json.loads((folder / "result.json").read_text())["scores"] for folder in (out, tmp_path / "whole")]
    assert results[0] == results[1]

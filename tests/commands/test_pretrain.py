"""`aape pretrain` for real: from a folder, a table and a tar; killed and resumed; on what it must refuse."""

import json
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import aape
from aape import cli
from aape.data.demo import AUDIO

NOTES = sorted(AUDIO.glob("*.opus"))[:12]
FIELDS = {
    "step", "loss", "loss_mask", "loss_utterance", "loss_contrastive", "target_variance_tokens",
    "target_variance_batch", "prediction_variance_tokens", "prediction_variance_batch", "grad_norm",
    "learning_rate", "momentum", "clips_per_second",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Real notes in a folder, as links."""
    (tmp_path / "sound").mkdir()
    for note in NOTES:
        (tmp_path / "sound" / note.name).symlink_to(note)
    return tmp_path / "sound"


def options(data, out, *more):
    return [
        "pretrain", "--data", str(data), "--out", str(out), "--model", "nano", "--steps", "6", "--clips", "4",
        "--workers", "0", "--save-every", "2", "--log-every", "2", "--crop-seconds", "2", "--masking.num-views", "2",
        "--device", "cpu", *more,
    ]  # fmt: skip


def metrics(out):
    lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "clips_per_second"} for line in lines]


def test_folder_to_encoder(folder, tmp_path):
    """Sound in, a model that embeds out, and everything logged that a watcher needs."""
    out = tmp_path / "run"
    assert cli.main(options(folder, out)) == 0
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert set(last) >= FIELDS
    model = aape.load_model(out)
    assert model.embed(NOTES[0]).shape == (128,)
    stats = json.loads((out / "stats.json").read_text())
    assert model.front_end.mean == pytest.approx(stats["mean"])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_tar_shards_read_in_place_by_any_number_of_workers(folder, tmp_path, workers):
    """Members of a tar train the same model as the files, and workers change nothing."""
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for note in NOTES:
            tar.add(note, note.name)
    stats = tmp_path / "stats.json"
    assert cli.main(["stats", "--data", str(folder), "--out", str(stats)]) == 0
    more = ("--stats", str(stats), "--predictor.kind", "cnn", "--loss.target-norm", "channel")
    assert cli.main(options(folder, tmp_path / "a", *more)) == 0
    assert cli.main(options(tmp_path / "shard.tar", tmp_path / "b", *more, "--workers", workers)) == 0
    first, second = (load_file(tmp_path / run / "model/model.safetensors") for run in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--encoder.kernel_size", "62"], "odd"),
        (["--encoder.kernel_sise", "63"], "kernel-size"),
        (["--clips", "0"], "clips"),
        (["--init", "nowhere"], "nowhere"),
        (["--init", "tiny"], "embed_dim"),
        (["--device", "cuda"], "cuda"),
    ],
)
def test_what_it_refuses_gets_one_line(folder, tmp_path, capsys, more, message):
    """No traceback, and the key or the file is named."""
    if "cuda" in more and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert cli.main(options(folder, tmp_path / "run", *more)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_a_run_is_never_overwritten_or_continued_as_another(folder, tmp_path, capsys):
    """A week of training is not lost to a repeated command."""
    out = tmp_path / "run"
    assert cli.main(options(folder, out)) == 0
    assert cli.main(options(folder, out)) == 2
    assert "--resume" in capsys.readouterr().err
    assert cli.main(options(folder, out, "--resume", "--seed", "5")) == 2
    assert "seed" in capsys.readouterr().err


def test_bad_files_are_replaced_listed_and_counted(folder, tmp_path, capsys):
    """One broken file does not end a job; a broken corpus does."""
    stats = tmp_path / "stats.json"
    assert cli.main(["stats", "--data", str(folder), "--out", str(stats)]) == 0
    (folder / "broken.wav").write_bytes(b"not a sound")
    tolerant = ("--stats", str(stats), "--max-bad-fraction", "0.2")
    assert cli.main(options(folder, tmp_path / "a", *tolerant)) == 0
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert [item["name"] for item in result["bad"]] == ["broken.wav"]
    assert cli.main(options(folder, tmp_path / "b", "--stats", str(stats))) == 2
    assert "broken.wav" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert cli.main(options(tmp_path / "empty", tmp_path / "c")) == 2


def test_accumulation_changes_nothing_but_memory(folder, tmp_path):
    """Half the memory, the same run: reductions are means (negatives of L_con, left out here, stay within a part)."""
    logged = []
    for parts in ("1", "2"):
        more = ("--optim.accumulate", parts, "--loss.contrastive-weight", "0", "--optim.precision", "float32")
        assert cli.main(options(folder, tmp_path / parts, *more)) == 0
        logged.append([(line["loss"], line["grad_norm"]) for line in metrics(tmp_path / parts)])
    assert [x for line in logged[0] for x in line] == pytest.approx([x for line in logged[1] for x in line], rel=1e-4)

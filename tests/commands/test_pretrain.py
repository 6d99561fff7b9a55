"""`aape pretrain` for real: from a folder or a tar, at any patch size, watched on the way; and what it must refuse."""

import csv
import json
import tarfile

import pytest
import torch
from safetensors.torch import load_file

import aape
from aape import cli
from aape.commands.pretrain import PretrainConfig, Pretraining
from aape.errors import ConfigError
from aape.pretraining.config import LossConfig, MaskingConfig
from notes import NOTES, link_notes, measure, read_lines

FIELDS = {
    "step", "loss", "loss_mask", "loss_utterance", "loss_contrastive", "target_variance_tokens",
    "target_variance_batch", "prediction_variance_tokens", "prediction_variance_batch", "grad_norm",
    "learning_rate", "momentum", "clips_per_second",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return link_notes(tmp_path / "sound", 12)


def options(data, out, *more):
    return [
        "pretrain", "--data", str(data), "--out", str(out), "--model", "nano", "--steps", "6", "--clips", "4",
        "--workers", "0", "--save-every", "2", "--log-every", "2", "--crop-seconds", "2", "--masking.num-views", "2",
        "--device", "cpu", *more,
    ]  # fmt: skip


def test_folder_to_encoder(folder, tmp_path):
    """Sound in, a model that embeds out, and everything logged that a watcher needs."""
    out = tmp_path / "run"
    assert cli.main(options(folder, out)) == 0
    assert set(read_lines(out / "metrics.jsonl")[-1]) >= FIELDS
    model = aape.load_model(out)
    assert model.embed(NOTES[0]).shape == (128,)
    stats = json.loads((out / "stats.json").read_text())
    assert model.front_end.mean == pytest.approx(stats["mean"])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_tar_shards_read_in_place_by_any_number_of_workers(folder, tmp_path, workers):
    """Members of a tar train the same model as the files, and workers change nothing."""
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for note in NOTES[:12]:
            tar.add(note, note.name)
    more = ("--stats", str(measure(folder)), "--predictor.kind", "cnn", "--loss.target-norm", "channel")
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


def test_a_run_does_not_continue_on_other_sounds_or_other_statistics(folder, tmp_path, capsys):
    """Half a run on one corpus and half on another is neither, and nothing in the model would say so."""
    run, stats, fewer = tmp_path / "run", measure(folder), link_notes(tmp_path / "fewer", 5)
    assert cli.main(options(folder, run)) == 0
    assert cli.main(options(fewer, run, "--resume")) == 2
    assert f"the clips of {fewer} are not those it began with" in capsys.readouterr().err
    assert cli.main(options(folder, run, "--resume", "--stats", str(stats))) == 0  # the same values
    stats.write_text(json.dumps(json.loads(stats.read_text()) | {"mean": 0.5}))
    assert cli.main(options(folder, run, "--resume", "--stats", str(stats))) == 2
    assert "it was begun with other statistics than" in capsys.readouterr().err
    assert cli.main(options(folder, run, "--resume")) == 0


def test_a_start_that_failed_leaves_no_statistics_to_the_next(folder, tmp_path):
    """The next start may have other sounds, and would be standardised with those of the first."""
    run, fewer = tmp_path / "run", link_notes(tmp_path / "fewer", 5)
    assert cli.main(options(fewer, run, "--init", "tiny")) == 2
    (run / "stats.json").parent.mkdir(exist_ok=True)
    measure(fewer).replace(run / "stats.json")
    assert cli.main(options(folder, run, "--resume")) == 0
    assert json.loads((run / "stats.json").read_text())["num_clips"] == len(list(folder.iterdir()))


def test_bad_files_are_replaced_listed_and_counted(folder, tmp_path, capsys):
    """One broken file does not end a job; a broken corpus does."""
    stats = measure(folder)
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
        logged.append([(line["loss"], line["grad_norm"]) for line in read_lines(tmp_path / parts / "metrics.jsonl")])
    assert [x for line in logged[0] for x in line] == pytest.approx([x for line in logged[1] for x in line], rel=1e-4)


def test_crops_that_no_model_could_loop_to_are_refused_at_the_start():
    """Found out when the model is saved, it would cost the whole run."""
    with pytest.raises(ConfigError, match="crop_seconds must be 600 at most"):
        PretrainConfig(data="sounds", out="run", loop_to_crop=True, crop_seconds=601)


@pytest.mark.parametrize("predictor", ["cross_attention", "cnn"])
@pytest.mark.parametrize("stem", ["aape", "patch"])
@pytest.mark.parametrize(
    ("sizes", "grid"),
    [({"patch_size": 8}, (16, 26)), ({"patch_size": 32}, (4, 7)), ({"n_mels": 64}, (4, 13)), ({}, (8, 13))],
    ids=["patch 8", "patch 32", "64 mel bands", "the paper's"],
)  # fmt: skip
def test_two_steps_and_a_model_that_embeds(folder, tmp_path, sizes, grid, stem, predictor):
    """A run that saw only a quarter of the patches would look like any other run."""
    out = tmp_path / "run"
    more = [word for name, value in sizes.items() for word in (f"--encoder.{name}", str(value))]
    more += ["--encoder.stem", stem, "--predictor.kind", predictor, "--steps", "2"]
    assert cli.main(options(folder, out, *more)) == 0
    model = aape.load_model(out, device="cpu")
    num_bands = sizes.get("n_mels", 128)
    assert json.loads((out / "stats.json").read_text())["front_end"]["n_mels"] == num_bands
    assert model.front_end.n_mels == model.encoder.config.n_mels == num_bands
    assert model.encoder.stem.grid_size == grid
    note = next(iter(folder.iterdir()))
    assert model.embed(note).shape == (128,)
    frames, _ = model.embed_frames(note)
    assert frames.shape[1] == grid[0] * 64


@pytest.mark.parametrize(("patch_size", "num_tokens"), [(8, 16 * 26), (32, 4 * 7)])
def test_masks_cover_all_patches(folder, tmp_path, patch_size, num_tokens):
    """Over a few draws each patch is visible, and each is predicted; statistics see all frames."""
    run = Pretraining(
        PretrainConfig(
            data=str(folder), out=str(tmp_path / "run"), model="nano", steps=8, clips=4, workers=0, crop_seconds=2,
            encoder={"patch_size": patch_size}, masking=MaskingConfig(num_views=4), device="cpu",
            loss=LossConfig(statistics_weight=1.0, statistics_components=4, min_prefix=2),
        )
    )  # fmt: skip
    draws = [run.draws[i] for i in range(32)]
    for name in ("visible", "queries"):
        assert torch.cat([draw[name].flatten() for draw in draws]).unique().tolist() == list(range(num_tokens))
    batch = next(next(run.batches()))
    spectrogram, valid = run.spectrograms(batch["waveform"][:, 0], batch["num_samples"])
    assert spectrogram.shape == (4, 1, 128, run.encoder_config.num_frames)
    assert valid.shape == (4, num_tokens)
    assert torch.isfinite(run.forward(0, batch).loss)


def test_statistics_of_other_bands_are_refused_in_one_line(folder, tmp_path, capsys):
    """Statistics of 128 bands would standardise 64 bands wrongly."""
    stats = measure(folder)
    assert cli.main(options(folder, tmp_path / "run", "--stats", str(stats), "--encoder.n-mels", "64")) == 2
    assert "is of 128 mel bands, the encoder has 64" in capsys.readouterr().err
    assert cli.main(options(folder, tmp_path / "other", "--encoder.patch-size", "24")) == 2
    assert "encoder, predictor or loss: patches must be square and divide the spectrogram" in capsys.readouterr().err
    assert not (tmp_path / "other" / "stats.json").exists()  # said before anything is measured


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Notes of three families, their statistics, and a table of families and splits."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "sound").mkdir()
    families = sorted({note.name.split("-")[0] for note in NOTES})[:3]
    chosen = [note for family in families for note in NOTES if note.name.startswith(family)]
    with open(folder / "notes.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "label", "split"))
        for i, note in enumerate(chosen):
            (folder / "sound" / note.name).symlink_to(note)
            table.writerow((f"sound/{note.name}", note.name.split("-")[0], "test" if i % 3 == 0 else "train"))
    measure(folder / "sound")
    return folder


def watch(corpus, out, *more):
    more = ("--steps", "4", "--log-every", "1", "--crop-seconds", "1", *more)
    return cli.main(options(corpus / "sound", out, "--stats", str(corpus / "stats.json"), *more))


def test_a_probe_on_the_way_scores_and_changes_nothing(corpus, tmp_path):
    """Looking at a run must not make it another run."""
    recipe = tmp_path / "notes.yaml"
    recipe.write_text(f"data: {corpus / 'notes.csv'}\nsplit: split\nsteps: 20\n")
    assert watch(corpus, tmp_path / "plain") == 0
    with pytest.warns(UserWarning, match="51 of 51 labelled clips are also pre-trained on"):
        assert watch(corpus, tmp_path / "watched", "--watch", str(recipe), "--watch-every", "2") == 0
    lines = read_lines(tmp_path / "watched/probes.jsonl")
    assert [line["step"] for line in lines] == [2, 4]
    assert 0 <= lines[-1]["scores"]["last"]["accuracy"]["mean"] <= 1
    plain, watched = (tmp_path / name / "model/model.safetensors" for name in ("plain", "watched"))
    assert plain.read_bytes() == watched.read_bytes()


def test_a_probe_that_cannot_be_is_refused_before_the_run(corpus, tmp_path, capsys):
    """A mistake in its recipe would end the run after the first thousand steps."""
    assert watch(corpus, tmp_path / "run", "--watch-every", "2") == 2
    assert "watch_every" in capsys.readouterr().err
    recipe = tmp_path / "notes.yaml"
    recipe.write_text(f"data: {corpus / 'nothing.csv'}\nsplit: split\n")
    assert watch(corpus, tmp_path / "run", "--watch", str(recipe), "--watch-every", "2") == 2
    assert "nothing.csv" in capsys.readouterr().err


def test_tensorboard_gets_the_log(corpus, tmp_path):
    """People who watch their runs there would see nothing."""
    pytest.importorskip("tensorboard")
    assert watch(corpus, tmp_path / "run", "--tensorboard") == 0
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # torch's own, of its compiler
def test_a_compiled_run_compiles_once(folder, tmp_path):
    """A recompilation in every step would cost minutes each, and nobody would know why."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    more = ("--steps", "5", "--crop-seconds", "1", "--optim.compile")
    assert cli.main(options(folder, tmp_path / "run", *more)) == 0
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_a_run_that_learns_nothing_is_no_run_that_is_done(corpus, tmp_path, capsys):
    """All its steps were left out, as their loss was not finite: the model is the random one of before."""
    arguments = options(corpus / "sound", tmp_path / "run", "--stats", str(corpus / "stats.json"))
    assert cli.main([*arguments, "--steps", "2", "--loss.contrastive-weight", "1e300"]) == 2
    assert "loss or gradient was not finite 2 steps in a row" in capsys.readouterr().err
    assert not (tmp_path / "run/model").exists()

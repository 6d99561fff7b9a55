"""Patch size and mel bands are the encoder's to say: masks, grid, predictor, statistics and the saved model follow."""

import json

import pytest
import torch

import aape
from aape.cli import main
from aape.commands.pretrain import PretrainConfig, Pretraining
from aape.data.demo import AUDIO
from aape.pretraining.config import LossConfig, MaskingConfig


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    for note in sorted(AUDIO.glob("*.opus"))[:8]:
        (folder / note.name).symlink_to(note)
    return folder


@pytest.mark.parametrize("predictor", ["cross_attention", "cnn"])
@pytest.mark.parametrize("stem", ["aape", "patch"])
@pytest.mark.parametrize(
    ("sizes", "grid"),
    [({"patch_size": 8}, (16, 26)), ({"patch_size": 32}, (4, 7)), ({"n_mels": 64}, (4, 13)), ({}, (8, 13))],
    ids=["patch 8", "patch 32", "64 mel bands", "the paper's"],
)  # fmt: skip
def test_two_steps_and_a_model_that_embeds(corpus, tmp_path, sizes, grid, stem, predictor):
    """A run on the lowest quarter of the patches looks like any other run."""
    out = tmp_path / "run"
    options = [word for name, value in sizes.items() for word in (f"--encoder.{name}", str(value))]
    options += ["--encoder.stem", stem, "--predictor.kind", predictor, "--data", str(corpus), "--out", str(out)]
    options += ["--model", "nano", "--steps", "2", "--clips", "4", "--workers", "0", "--crop-seconds", "2"]
    assert main(["pretrain", *options, "--masking.num-views", "2", "--device", "cpu"]) == 0
    model = aape.load_model(out, device="cpu")
    num_bands = sizes.get("n_mels", 128)
    assert json.loads((out / "stats.json").read_text())["front_end"]["n_mels"] == num_bands
    assert model.front_end.n_mels == model.encoder.config.n_mels == num_bands
    assert model.encoder.stem.grid_size == grid
    note = next(iter(corpus.iterdir()))
    assert model.embed(note).shape == (128,)
    frames, _ = model.embed_frames(note)
    assert frames.shape[1] == grid[0] * 64


@pytest.mark.parametrize(("patch_size", "num_tokens"), [(8, 16 * 26), (32, 4 * 7)])
def test_masks_cover_all_patches(corpus, tmp_path, patch_size, num_tokens):
    """Over a few draws each patch is visible, and each is predicted; statistics see all frames."""
    run = Pretraining(
        PretrainConfig(
            data=str(corpus), out=str(tmp_path / "run"), model="nano", steps=8, clips=4, workers=0, crop_seconds=2,
            encoder={"patch_size": patch_size}, masking=MaskingConfig(num_views=4), device="cpu",
            loss=LossConfig(statistics_weight=1.0, statistics_components=4, min_prefix=2),
        )
    )  # fmt: skip
    draws = [run.draws[i] for i in range(32)]
    for name in ("visible", "queries"):
        assert torch.cat([draw[name].flatten() for draw in draws]).unique().tolist() == list(range(num_tokens))
    batch = next(next(run.batches()))
    spectrogram, valid = run.spectrograms(batch["waveform"], batch["num_samples"])
    assert spectrogram.shape == (4, 1, 128, run.encoder_config.num_frames)
    assert valid.shape == (4, num_tokens)
    assert torch.isfinite(run.forward(0, batch).loss)


def test_statistics_of_other_bands_are_refused_in_one_line(corpus, tmp_path, capsys):
    """Those of 128 bands would standardise 64 wrongly."""
    assert main(["stats", "--data", str(corpus), "--out", str(tmp_path / "stats.json")]) == 0
    options = ["--data", str(corpus), "--out", str(tmp_path / "run"), "--stats", str(tmp_path / "stats.json")]
    capsys.readouterr()
    assert main(["pretrain", *options, "--model", "nano", "--encoder.n-mels", "64", "--device", "cpu"]) == 2
    assert "is of 128 mel bands, the encoder has 64" in capsys.readouterr().err
    options = ["--data", str(corpus), "--out", str(tmp_path / "other"), "--model", "nano", "--device", "cpu"]
    assert main(["pretrain", *options, "--encoder.patch-size", "24"]) == 2
    assert "encoder, predictor or loss: patches must be square and divide the spectrogram" in capsys.readouterr().err
    assert not (tmp_path / "other" / "stats.json").exists()  # said before anything is measured

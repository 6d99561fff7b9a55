"""The statistics of the log-mel as a target: what they are, without padding, and that a run learns them."""

import itertools
import math

import pytest
import torch

from aape.cli import main
from aape.commands.pretrain import PretrainConfig, Pretraining, pretrain
from aape.data.log_mel import time_statistics
from aape.errors import DataError
from aape.models.config import encoder_config
from aape.models.encoder import AudioEncoder
from aape.models.pooling import pool
from aape.pretraining.clip_statistics import (
    MODULATION_SCALE,
    RIDGE,
    SCALE,
    ClipStatistics,
    cut_prefix,
    modulation_energies,
)
from aape.pretraining.config import LossConfig, MaskingConfig, OptimConfig
from notes import link_notes, read_lines

BINS, FRAMES = 128, 48


def by_loops(spectrogram):
    """Mean, spread, maximum and spread of the difference of each bin (F, T), as sums."""
    columns = [[], [], [], []]
    for bin_ in spectrogram.tolist():
        delta = [b - a for a, b in itertools.pairwise(bin_)]
        for column, values in ((0, bin_), (3, delta)):
            mean = sum(values) / len(values)
            spread = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
            if column == 0:
                columns[0].append(mean)
            columns[1 if column == 0 else 3].append(spread)
        columns[2].append(max(bin_))
    return torch.tensor([value for column in columns for value in column], dtype=torch.float64)


def test_statistics_of_the_clip_s_own_frames():
    """Padding behind a short clip must not teach silence."""
    x = torch.randn(3, BINS, FRAMES, dtype=torch.float64)
    valid = torch.arange(FRAMES).expand(3, -1) < torch.tensor([[48], [32], [16]])
    result = time_statistics(x, valid)
    for row, length in enumerate((48, 32, 16)):
        assert torch.allclose(result[row], by_loops(x[row, :, :length]), atol=1e-12)


def test_modulation_energies_are_those_of_a_fourier_sum():
    """A slip here would teach the vector other rates than the sound has."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 90, generator=generator, dtype=torch.float64)
    valid = torch.arange(90).expand(2, -1) < torch.tensor([[90], [40]])
    result = modulation_energies(x, valid).unflatten(1, (2, 12))
    for row, length in enumerate((90, 40)):
        for band in range(2):
            wave = x[row, 4 * band : 4 * band + 4, :length].mean(0).tolist()
            mean = sum(wave) / length
            window = [math.sin(math.pi * (t + 0.5) / length) ** 2 for t in range(length)]
            energies = [[] for _ in range(12)]
            for k in range(1, 257):  # of 512 points
                angle = [2 * math.pi * k * t / 512 for t in range(length)]
                real = sum((v - mean) * w * math.cos(a) for v, w, a in zip(wave, window, angle, strict=True))
                imaginary = sum((v - mean) * w * math.sin(a) for v, w, a in zip(wave, window, angle, strict=True))
                for number in range(12):
                    low, high = 0.5 * 2 ** ((number - 12) / 2), 0.5 * 2 ** ((number - 11) / 2)
                    if low <= k / 512 < high or (number == 11 and k == 256):
                        energies[number].append((real**2 + imaginary**2) / sum(w * w for w in window))
            expected = [math.log(sum(each) / len(each) + 0.03) for each in energies]
            assert result[row, band].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_modulation_is_in_the_half_octave_of_its_rate():
    """What a standard patch token folds onto slower changes has to stay apart."""
    time = torch.arange(300) / 100
    for number, hertz in enumerate((9.5, 13.5, 19.0, 27.0, 38.0)):
        x = torch.cos(2 * torch.pi * hertz * time).expand(1, 4, -1)
        energies = modulation_energies(x, torch.ones(1, 300, dtype=torch.bool))
        assert energies.argmax().item() == 7 + number


def test_components_are_uncorrelated_and_the_loss_is_their_squared_error():
    """Otherwise the class token would learn level and tilt only."""
    torch.manual_seed(0)
    x = torch.randn(200, 1, BINS, FRAMES).cumsum(2)
    tokens = torch.randn(200, 64)
    statistics = ClipStatistics(64, BINS, 16, 10)
    measured = statistics.measure(x)
    expected = by_loops(x[0, 0]) * torch.tensor(SCALE).repeat_interleave(BINS)
    assert torch.allclose(measured[0, : 4 * BINS].double(), expected, rtol=1e-4)
    modulations = modulation_energies(x[:1, 0], torch.ones(1, FRAMES, dtype=torch.bool))
    assert torch.allclose(measured[:1, 4 * BINS :], MODULATION_SCALE * modulations, rtol=1e-4)
    statistics.fit(measured, tokens)
    targets = (measured - statistics.mean) @ statistics.basis
    assert torch.allclose(torch.cov(targets.T), torch.eye(10), atol=1e-3)
    error = (statistics.predict(tokens) - targets).square().mean()
    assert statistics(tokens, x).item() == pytest.approx(error.item(), rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert statistics(tokens, x).item() == pytest.approx(error.item(), rel=1e-5)
    with pytest.raises(DataError, match="10 crops differ in 9 components only, it needs 10"):
        statistics.fit(measured[:10], tokens[:10])


def test_the_head_begins_with_the_best_linear_map():
    """From a random one, thousands of steps would go by before the encoder is taught anything."""
    torch.manual_seed(0)
    x, vectors = torch.randn(300, 1, BINS, FRAMES).cumsum(2), 5 + 0.1 * torch.randn(300, 64)
    statistics = ClipStatistics(64, BINS, 16, 3)
    statistics.fit(statistics.measure(x), vectors)
    targets = (statistics.measure(x) - statistics.mean) @ statistics.basis
    centred = (vectors - vectors.mean(0)).double()
    gram = centred.T @ centred
    penalty = RIDGE * gram.trace() / 300 * torch.eye(64, dtype=torch.float64)
    weight = torch.linalg.solve(gram + penalty, centred.T @ targets.double())
    assert torch.allclose(statistics.predict(vectors).double(), centred @ weight, atol=1e-4)


def test_they_are_read_off_the_vector_that_users_take():
    """A loss on another vector would leave the one in use untrained."""
    torch.manual_seed(0)
    x = torch.randn(3, 1, BINS, FRAMES)
    encoder = AudioEncoder(encoder_config("nano", num_frames=FRAMES))
    statistics = ClipStatistics(64, BINS, 16, 2, "frequency_std")
    statistics.fit(*statistics.example(encoder, torch.randn(50, 1, BINS, FRAMES), None))
    torch.nn.init.normal_(statistics.head.weight)
    targets = (statistics.measure(x) - statistics.mean) @ statistics.basis
    vectors = pool(encoder(x), "frequency_std", 8)
    assert statistics(statistics.vectors(encoder, x), x).item() == pytest.approx(
        (statistics.predict(vectors) - targets).square().mean().item()
    )


@pytest.fixture
def sound(tmp_path):
    return link_notes(tmp_path / "sound")


def test_the_loss_adds_them_by_their_weight_and_reaches_the_stem(sound, tmp_path):
    """A weight that does nothing would pass unnoticed for hours."""
    run = Pretraining(
        PretrainConfig(
            data=str(sound), out=str(tmp_path / "run"), model="nano", steps=2, clips=4, workers=0, crop_seconds=1.0,
            device="cpu", loss=LossConfig(statistics_weight=0.5, statistics_components=8, min_prefix=2),
            masking=MaskingConfig(num_views=2),
        )
    )  # fmt: skip
    result = run.forward(0, next(next(run.batches())))
    measured = result.measured
    parts = measured["loss_mask"] + measured["loss_utterance"] + 0.1 * measured["loss_contrastive"]
    assert result.loss.item() == pytest.approx((parts + 0.5 * measured["loss_statistics"]).item(), rel=1e-5)
    encoder = run.method.student
    x = torch.randn(4, 1, BINS, FRAMES)
    run.clip_statistics(run.clip_statistics.vectors(encoder, x), x).backward()
    assert encoder.stem.proj.weight.grad.abs().sum() > 0


def test_a_prefix_is_as_a_clip_of_that_length():
    """A class token trained on whole crops only would mislead a probe of shorter clips."""
    torch.manual_seed(0)
    x = torch.randn(4, 1, BINS, FRAMES)
    valid = torch.ones(4, 8, 3, dtype=torch.bool)
    valid[0, :, 1:] = False  # neither counts its padding
    encoder = AudioEncoder(encoder_config("nano", num_frames=FRAMES))
    statistics = ClipStatistics(64, BINS, 16, 8)
    statistics.fit(*statistics.example(encoder, torch.randn(50, 1, BINS, FRAMES), None))

    def loss(x, valid):
        return statistics(statistics.vectors(encoder, x), x, valid).item()

    alone = loss(x[..., :32], valid[..., :2].flatten(1))
    assert loss(*cut_prefix(x, valid.flatten(1), 2, 16)) == pytest.approx(alone, rel=1e-6)
    assert alone != loss(x, valid.flatten(1))


def test_a_run_measures_them_once_and_learns_them(sound, tmp_path, capsys):
    """A run whose loss does not fall would teach the class token nothing."""
    few = link_notes(tmp_path / "few", 24)
    options = ["--model", "nano", "--steps", "40", "--clips", "8", "--crop-seconds", "1"]
    options += ["--workers", "0", "--log-every", "10", "--masking.num-views", "1", "--optim.learning-rate", "5e-3"]
    options += ["--loss.statistics-weight", "1", "--device", "cpu", "--seed", "0"]
    one = link_notes(tmp_path / "one", 1)  # in its whole every time
    assert main(["pretrain", *options, "--data", str(one), "--crop-seconds", "6", "--out", str(tmp_path / "many")]) == 2
    assert "it needs 64: add sounds, or train with --loss.statistics-weight 0" in capsys.readouterr().err
    options += ["--data", str(sound), "--loss.min-prefix"]
    assert main(["pretrain", *options, "8", "--out", str(tmp_path / "long")]) == 2
    assert "loss.min_prefix must be 0 to 7" in capsys.readouterr().err
    pretrain(
        PretrainConfig(
            data=str(few), out=str(tmp_path / "run"), model="nano", steps=40, clips=8, crop_seconds=1, workers=0,
            log_every=10, masking=MaskingConfig(num_views=1), optim=OptimConfig(learning_rate=5e-3), device="cpu",
            loss=LossConfig(statistics_weight=1, statistics_components=4, min_prefix=2),
        )
    )  # fmt: skip
    losses = [line["loss_statistics"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert losses[-1] < 0.7 * losses[0]

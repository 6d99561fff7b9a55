"""The statistics of the log-mel as a target: what they are, without padding, and that a run learns them."""

import itertools
import json

import pytest
import torch

from aape.cli import main
from aape.data.demo import AUDIO
from aape.data.log_mel import time_statistics
from aape.errors import DataError
from aape.models.config import PredictorConfig, encoder_config
from aape.models.encoder import AudioEncoder
from aape.pretraining.clip_statistics import SCALE, ClipStatistics
from aape.pretraining.config import LossConfig
from aape.pretraining.draws import draw_stretch
from aape.pretraining.masking import draw_views
from aape.pretraining.teacher_student import TeacherStudent

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
    counted = torch.arange(FRAMES).expand(3, -1) < torch.tensor([[48], [32], [16]])
    found = time_statistics(x, counted)
    for row, length in enumerate((48, 32, 16)):
        assert torch.allclose(found[row], by_loops(x[row, :, :length]), atol=1e-12)


def test_components_are_uncorrelated_and_the_loss_is_their_squared_error():
    """Else level and tilt would be all that the class token learns."""
    torch.manual_seed(0)
    x = torch.randn(200, 1, BINS, FRAMES).cumsum(2)
    statistics = ClipStatistics(64, BINS, 16, 10)
    measured = statistics.measure(x)
    wanted = by_loops(x[0, 0]) * torch.tensor(SCALE).repeat_interleave(BINS)
    assert torch.allclose(measured[0].double(), wanted, rtol=1e-4)
    statistics.fit(measured)
    targets = (measured - statistics.mean) @ statistics.basis
    assert torch.allclose(torch.cov(targets.T), torch.eye(10), atol=1e-3)
    tokens = torch.randn(200, 64)
    assert statistics(tokens, x).item() == pytest.approx((tokens[:, :10] - targets).square().mean().item(), rel=1e-5)
    with pytest.raises(DataError, match="10 clips cannot have"):
        statistics.fit(measured[:10])


def test_the_loss_adds_them_by_their_weight_and_reaches_the_stem():
    """A weight that does nothing would pass unnoticed for hours."""
    torch.manual_seed(0)
    x = torch.randn(4, 1, BINS, FRAMES)
    views = [draw_views((8, 3), 2, 5, 8, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    visible, queries = (torch.stack(part) for part in zip(*views, strict=True))
    encoder = AudioEncoder(encoder_config("nano", num_frames=FRAMES))
    options = LossConfig(statistics_weight=0.5, statistics_components=8)
    method = TeacherStudent(encoder, (8, 3), PredictorConfig(), options)
    method.statistics.fit(method.statistics.measure(torch.randn(50, 1, BINS, FRAMES)))
    outputs = method(x, visible, queries)
    parts = outputs["loss_mask"] + outputs["loss_utterance"] + 0.1 * outputs["loss_contrastive"]
    assert outputs["loss"].item() == pytest.approx((parts + 0.5 * outputs["loss_statistics"]).item(), rel=1e-5)
    method.zero_grad()
    method.statistics(encoder.forward_features(x)[:, 0], x).backward()
    assert encoder.stem.proj.weight.grad.abs().sum() > 0


def test_they_are_told_from_the_first_patches_as_from_a_clip_of_that_length():
    """A class token that has only met whole crops misleads a probe on shorter clips."""
    torch.manual_seed(0)
    x = torch.randn(4, 1, BINS, FRAMES)
    is_audio = torch.ones(4, 8, 3, dtype=torch.bool)
    is_audio[0, :, 1:] = False  # its padding is told by neither
    views = [draw_views((8, 3), 2, 5, 8, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    visible, queries = (torch.stack(part) for part in zip(*views, strict=True))
    encoder = AudioEncoder(encoder_config("nano", num_frames=FRAMES))
    method = TeacherStudent(
        encoder, (8, 3), PredictorConfig(), LossConfig(statistics_weight=1, statistics_components=8)
    )
    method.statistics.fit(method.statistics.measure(torch.randn(50, 1, BINS, FRAMES)))
    told = method(x, visible, queries, is_audio.flatten(1), stretch=2)["loss_statistics"]
    short = x[..., :32]
    alone = method.statistics(encoder.forward_features(short)[:, 0], short, is_audio[..., :2].flatten(1))
    assert told.item() == pytest.approx(alone.item(), rel=1e-6)
    assert told.item() != method(x, visible, queries, is_audio.flatten(1))["loss_statistics"].item()


def test_every_length_is_met_and_short_ones_more_often():
    """The log-uniform draw of a run's steps, the same for each of its processes."""
    drawn = [draw_stretch(0, step, 2, 19) for step in range(3000)]
    assert set(drawn) == set(range(2, 20))
    assert drawn.count(2) > 2 * drawn.count(5) > 2 * drawn.count(15)
    assert (
        drawn
        == [draw_stretch(0, step, 2, 19) for step in range(3000)]
        != [draw_stretch(1, step, 2, 19) for step in range(3000)]
    )
    assert {draw_stretch(0, step, 3, 3) for step in range(9)} == {3}


def test_a_run_measures_them_once_and_learns_them(tmp_path, capsys):
    """The command line's way, from a folder of notes."""
    folder = tmp_path / "sound"
    folder.mkdir()
    for note in sorted(AUDIO.glob("*.opus"))[:24]:
        (folder / note.name).symlink_to(note)
    options = ["--data", str(folder), "--model", "nano", "--steps", "40", "--clips", "8", "--crop-seconds", "1"]
    options += ["--workers", "0", "--log-every", "10", "--masking.num-views", "1", "--optim.learning-rate", "5e-3"]
    options += ["--loss.statistics-weight", "1", "--device", "cpu", "--seed", "0"]
    assert main(["pretrain", *options, "--out", str(tmp_path / "many")]) == 2
    assert "24 clips cannot have loss.statistics_components = 64" in capsys.readouterr().err
    options += ["--loss.statistics-components", "4", "--loss.statistics-min-patches"]
    assert main(["pretrain", *options, "8", "--out", str(tmp_path / "long")]) == 2
    assert "loss.statistics_min_patches must be 0 to 7" in capsys.readouterr().err
    options += ["2"]
    assert main(["pretrain", *options, "--out", str(tmp_path / "run")]) == 0
    losses = [
        json.loads(line)["loss_statistics"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < 0.7 * losses[0]

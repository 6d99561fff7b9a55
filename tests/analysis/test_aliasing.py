"""The aliasing experiment: its sounds, decoders and distances measure the stems and nothing else."""

import math

import numpy as np
import pytest
import torch

from aape.analysis import aliasing
from aape.analysis.kernels import mel_hertz, mel_position
from aape.data.log_mel import LogMel
from aape.models.config import encoder_config
from aape.models.encoder import build_stem


def test_the_rates_are_one_to_whoever_looks_every_160_ms():
    """Rates that the stride itself tells apart would make any stem look free of aliasing."""
    tokens = 0.16 * np.arange(50)
    seen = np.cos(2 * np.pi * aliasing.APPARENT_HERTZ * tokens)
    for rate in aliasing.RATES:
        assert np.allclose(np.cos(2 * np.pi * rate * tokens), seen, atol=1e-9)
        assert 3.125 < rate < 50
    everything = np.arange(1, 200) / 4
    same = [rate for rate in everything if np.allclose(np.cos(2 * np.pi * rate * tokens), seen, atol=1e-9)]
    assert [aliasing.APPARENT_HERTZ, *aliasing.RATES] == same


def test_sounds_swing_at_their_rate_in_every_frequency_patch():
    """A bank whose envelopes do not hold the rate measures nothing."""
    rates = torch.tensor(aliasing.RATES)
    generator = torch.Generator().manual_seed(0)
    log_mel = LogMel()(aliasing.modulated_tones(rates, aliasing.SAMPLES, generator))
    assert log_mel.shape == (15, 1, 128, aliasing.NUM_FRAMES)
    power = log_mel[:, 0].exp().unflatten(1, (8, 16)).sum(2)  # (C, Nf, T)
    spectrum = torch.fft.rfft(power - power.mean(-1, keepdim=True), n=2000).abs()
    measured = spectrum[..., 60:].argmax(-1) / 20 + 3  # from 3 Hz
    assert (measured - rates[:, None]).abs().max() < 0.5


def test_pitches_lie_where_the_axis_says():
    """Tones at the edges of patches would be measured by two of them."""
    for hertz in (60.0, 440.0, 7000.0):
        assert math.isclose(mel_hertz(mel_position(hertz, (50, 8000), 128), (50, 8000), 128), hertz)


def test_ridge_is_least_squares_with_the_penalty_that_predicts_best():
    """Every accuracy of the experiment rests on this fit."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 8)) + 3
    y = x[:, :2] @ rng.normal(size=(2, 3)) + rng.normal(size=(30, 3)) + 5
    penalties = (0.1, 10.0, 1000.0)

    def fit(rows, penalty):
        mean = x[rows].mean(0)
        padded = np.concatenate([x[rows] - mean, math.sqrt(penalty) * np.eye(8)])
        weight = np.linalg.lstsq(padded, np.concatenate([y[rows] - y[rows].mean(0), np.zeros((8, 3))]), rcond=None)[0]
        return weight, y[rows].mean(0) - mean @ weight

    weight, bias, penalty = aliasing.ridge(torch.from_numpy(x), torch.from_numpy(y), penalties)
    expected = fit(np.arange(30), penalty)
    assert np.allclose(weight, expected[0])
    assert np.allclose(bias, expected[1])
    # Left out by hand, with the centring of all rows' fit to within 1/n: the order of the penalties is the same.
    errors = []
    for candidate in penalties:
        fits = [fit(np.delete(np.arange(30), row), candidate) for row in range(30)]
        errors.append(np.mean([(x[row] @ w + b - y[row]) ** 2 for row, (w, b) in enumerate(fits)]))
    assert penalty == penalties[int(np.argmin(errors))]


def test_decoders_read_what_is_there_and_nothing_else():
    """A decoder that fails on a perfect feature, or finds rates in noise, makes every row of the table worthless."""
    labels, unseen = torch.arange(15).repeat(20), torch.arange(15).repeat(10)
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randn(len(y), 2, 40, generator=generator) for y in (labels, unseen))
    for features, y in ((train, labels), (test, unseen)):
        features[:, 1, :15] = 0.01 * features[:, 1, :15] + torch.nn.functional.one_hot(y, 15)
    right = (aliasing.decode(train, labels, test) == unseen[:, None]).double().mean(0)
    assert right[1] == 1
    assert right[0] < 1 / 15 + 4 * math.sqrt(14 / 15**2 / len(unseen))


def test_distances_are_those_of_a_loop():
    """0 where nothing moved, 1 where a sound is as far from itself as from others; else the curves mean nothing."""
    vectors = torch.randn(3, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vectors[2] = vectors[0] * 2
    result = aliasing.relative_distances(vectors)
    v = vectors.numpy()

    def distance(a, b):
        return np.mean([1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)])

    between = np.mean([distance(v[0, i], v[0, j]) for i in range(4) for j in range(4) if i != j])
    assert np.allclose(result, [[distance(v[s, i], v[0, i]) / between for i in range(4)] for s in range(3)])
    assert np.allclose(result[[0, 2]], 0, atol=1e-12)
    assert np.allclose(aliasing.relative_distances(torch.stack([vectors[0], vectors[0].roll(1, 0)])).mean(1)[1], 1, 0.2)


@pytest.fixture(scope="module")
def tokens():
    sounds = aliasing.random_tones(3, seed=0)[:, : aliasing.SAMPLES]
    with torch.inference_mode():
        log_mel = LogMel()(sounds)
        return log_mel, aliasing.untrained_tokens(-4.0, 4.0, seed=0)(log_mel)


def test_every_stem_is_compared_at_one_width(tokens):
    """A wider stem would be read better for its width alone."""
    log_mel, by_stem = tokens
    yardsticks = {aliasing.FRAMES: (3, 1, 208, 128), aliasing.PATCHES: (3, 8, 13, 256)}
    assert {name: by_stem[name].shape for name in yardsticks} == yardsticks
    assert len(by_stem) == 11
    assert {values.shape for name, values in by_stem.items() if name not in yardsticks} == {(3, 8, 13, 192)}
    patch = (log_mel[1, 0, 32:48, 16:32] + 4) / 4
    assert torch.equal(by_stem[aliasing.PATCHES][1, 2, 1], patch.flatten())
    read = aliasing.read_out(by_stem["standard"])
    assert torch.equal(read["token"], by_stem["standard"][:, :, 6])
    assert torch.allclose(read["mean"][:, 0], by_stem["standard"].flatten(1, 2).mean(1), atol=1e-6)
    assert torch.allclose(read["spread"][:, 0], by_stem["standard"].std(2).mean(1))
    assert set(aliasing.read_out(by_stem["standard"][:, :1, :1])) == {"mean"}


def test_the_standard_stem_is_a_linear_map_of_the_patches(tokens):
    """The yardstick bounds what any linear read-out of the standard stem can hold."""
    patches, standard = (tokens[1][name].double() for name in (aliasing.PATCHES, "standard"))
    (x, y) = (values - values[:1] for values in (patches, standard))  # positions cancel
    solved = torch.linalg.lstsq(x[1:].flatten(0, 2), y[1:].flatten(0, 2), driver="gelsd").solution
    assert torch.allclose(x[1:].flatten(0, 2) @ solved, y[1:].flatten(0, 2), atol=1e-4)


@pytest.mark.parametrize("is_averaging", [False, True])
def test_lengthening_windows_changes_nothing_else(is_averaging):
    """Rows that differ in more than they say would be explained wrongly."""
    stem = build_stem(encoder_config("nano"))
    changed = aliasing.lengthen_windows(stem, is_averaging=is_averaging)
    decay, frequency = changed.kernels(torch.randn(1, 1, 128, 16))
    assert torch.allclose(decay, torch.tensor(2 * math.log(100) / 62), rtol=1e-3)
    assert frequency.min() < 0.4
    assert frequency.max() > 2.9
    before, after = stem.state_dict(), changed.state_dict()
    different = {name for name in before if not torch.equal(before[name], after[name])}
    assert different == {"lambda_encoder.head.bias"} | ({"decimate.weight"} if is_averaging else set())
    assert torch.all(changed.decimate.weight == 1 / 16) == is_averaging
    assert torch.equal(before["lambda_encoder.head.bias"][16:], after["lambda_encoder.head.bias"][16:])


def test_summaries_are_over_seeds_and_sounds():
    """The interval and the confusion that are drawn come from all repetitions."""
    labels = np.array([0, 1, 1])
    runs = [(labels, {("a", "mean"): np.array([[0], [1], [1]])}), (labels, {("a", "mean"): np.array([[0], [0], [2]])})]
    (row,) = aliasing.summarise_decoding(runs)
    assert row["by_seed"] == [1, 1 / 3]
    assert (row["lowest"], row["accuracy"], row["highest"]) == (1 / 3, pytest.approx(2 / 3), 1)
    assert row["confusion"][:2, :3].tolist() == [[2, 0, 0], [1, 2, 1]]
    (row,) = aliasing.summarise_shifts([{("a", "mean"): np.array([[0.0, 0.0], [1.0, 2.0]])}] * 2)
    assert row["median"].tolist() == [0.0, 1.5]
    assert row["lower_quartile"].tolist() == [0.0, 1.0]

"""Vectors by any pool of any blocks: what each number is of, and that a clip has one vector wherever it is met."""

import json

import numpy as np
import pytest
import torch

import aape
from aape.adapters import hear
from aape.errors import CheckpointError, ConfigError
from aape.inference import AudioModel, random_model
from aape.models.pooling import POOLS, merge, pool, pooled_dim
from aape.models.saved import read_model, recommend, save_model
from notes import FRONT_END, nano, save_nano

RATE = 16000
VECTORS = [("cls_mean", [2]), ("frequency", [1]), ("frequency_std", [1, 2]), ("cls", [1, 2]), ("mean", [2])]


def noise(num_samples, seed=0):
    """Noise that gets louder, so that no two moments are alike."""
    ramp = np.linspace(0.1, 1, num_samples)
    return 0.3 * ramp * np.random.default_rng(seed).standard_normal(num_samples)


def by_hand(tokens, kind, num_freq):
    """Pool tokens (1 + Nf Nt, D), a number at a time."""
    num_time, width = (len(tokens) - 1) // num_freq, tokens.shape[1]
    cls, mean, frequency, spread = [], [], [], []
    for channel in range(width):
        cls.append(float(tokens[0, channel]))
        mean.append(
            sum(float(tokens[1 + patch, channel]) for patch in range(num_freq * num_time)) / num_freq / num_time
        )
    for band in range(num_freq):
        for channel in range(width):
            values = [float(tokens[1 + band * num_time + time, channel]) for time in range(num_time)]
            frequency.append(sum(values) / num_time)
            spread.append((sum((value - frequency[-1]) ** 2 for value in values) / num_time) ** 0.5)
    vectors = {"cls": cls, "mean": mean, "cls_mean": cls + mean, "frequency": frequency}
    return np.array({**vectors, "frequency_std": frequency + spread}[kind])


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize("num_time", [1, 2, 5])
def test_every_pool_is_what_a_loop_says(kind, num_time):
    """Bands in another order, or a deviation over the wrong axis, would be a vector of something else."""
    tokens = torch.from_numpy(np.random.default_rng(num_time).standard_normal((3, 1 + 4 * num_time, 6)))
    vectors = pool(tokens, kind, 4)
    assert vectors.shape == (3, pooled_dim(kind, 6, 4))
    np.testing.assert_allclose(vectors, [by_hand(each, kind, 4) for each in tokens], atol=1e-12)


@pytest.mark.parametrize("kind", POOLS)
def test_parts_merge_to_the_pool_of_the_whole(kind):
    """The vector of an hour must not depend on where it was cut; only of class tokens there is one for each part."""
    generator = np.random.default_rng(0)
    cls = generator.standard_normal(6)
    patches = generator.standard_normal((4, 12, 6)) + np.linspace(0, 9, 12)[:, None]  # (Nf, Nt, D)
    vector, weight = np.zeros(0), 0
    for part in np.split(patches, [1, 4, 9], axis=1):
        tokens = torch.from_numpy(np.concatenate([cls[None], part.reshape(-1, 6)]))
        weight += part.shape[1]
        following = pool(tokens[None], kind, 4)[0].numpy()
        vector = merge(vector, following, part.shape[1] / weight, kind) if weight > part.shape[1] else following
    whole = np.concatenate([cls[None], patches.reshape(-1, 6)])
    np.testing.assert_allclose(vector, by_hand(whole, kind, 4), atol=1e-12)


@pytest.mark.parametrize(("kind", "layers"), VECTORS)
def test_a_long_recording_is_pooled_over_all_of_its_tokens(kind, layers):
    """An hour is encoded in segments: its deviation is over the hour, and not a mean of those of the segments."""
    model = AudioModel(nano(), FRONT_END, pool=kind, layers=layers).double()
    wave = noise(1824 * 160 + 3000)  # three segments and a short one
    spectrogram = model.log_mel(torch.from_numpy(wave)[None])
    grids, cls, counts = [], [], []
    for part in spectrogram.split(608, dim=-1):
        with torch.no_grad():
            x = torch.nn.functional.pad(part, (0, -part.shape[-1] % 16))
            tokens = sum(model.encoder.forward_layers(x, [layer])[0] for layer in layers)[0] / len(layers)
        grids.append(tokens[1:].unflatten(0, (8, -1)))
        cls.append(tokens[0])
        counts.append(grids[-1].shape[1])
    patches = torch.cat(grids, 1).flatten(0, 1)
    mean_cls = np.average(np.stack(cls), axis=0, weights=counts)
    tokens = torch.cat([torch.from_numpy(mean_cls)[None], patches])
    assert len(counts) == 4
    np.testing.assert_allclose(model.embed(wave, RATE), pool(tokens[None], kind, 8)[0], atol=1e-10)


def test_the_last_block_is_what_the_encoder_gives():
    """A second way through the blocks must not be a second encoder."""
    encoder = nano(depth=3).eval()
    x = torch.randn(2, 1, 128, 64)
    with torch.no_grad():
        outputs = encoder.forward_layers(x, [3, 1])
        assert len(outputs) == 2
        assert torch.equal(outputs[1], encoder(x))
        encoder.blocks = encoder.blocks[:1]
        assert torch.equal(outputs[0], encoder(x))


@pytest.mark.parametrize(("kind", "layers"), VECTORS)
def test_no_vector_depends_on_its_neighbours_or_padding(kind, layers):
    """Otherwise the same file has another vector in another folder, and no search can be repeated."""
    waves = [noise(length, seed) for seed, length in enumerate((4800, 16000, 5000, 180_000, 16000, 1, 700))]
    padded = np.full((len(waves), max(map(len, waves))), 0.5)
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = wave
    for make, tolerance in ((lambda model: model, 1e-5), (AudioModel.double, 1e-10)):
        model = make(AudioModel(nano(), FRONT_END, pool=kind, layers=layers))
        alone = np.stack([model.embed(wave, RATE) for wave in waves])
        assert alone.shape == (7, model.embed_dim)
        np.testing.assert_allclose(model.embed(waves, RATE), alone, atol=tolerance, rtol=tolerance)
        lengths = [len(wave) for wave in waves]
        np.testing.assert_allclose(model.embed(padded, RATE, lengths=lengths), alone, atol=tolerance, rtol=tolerance)
        other = make(AudioModel(nano(), FRONT_END))
        np.testing.assert_array_equal(other.embed(waves[0], RATE, pool=kind, layers=np.array(layers)), alone[0])
        assert other.embed_dim == 128  # as before
        assert other.fingerprint() != model.fingerprint() or (kind, layers) == ("cls_mean", [2])
    untrained = random_model(model, seed=1)
    assert (untrained.pool, untrained.layers, untrained.embed_dim) == (model.pool, model.layers, model.embed_dim)


def test_a_clip_of_one_patch_does_not_spoil_a_training():
    """Its deviations are 0, where a square root has no gradient: one NaN, and all weights are lost."""
    tokens = torch.randn(1, 1 + 8, 6, requires_grad=True)
    pool(tokens, "frequency_std", 8).sum().backward()
    assert torch.isfinite(tokens.grad).all()


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        ({"pool": "max"}, "pool: expected cls_mean, frequency, frequency_std, cls or mean, got 'max'"),
        ({"pool": ""}, "frequency_std, cls or mean, got ''"),
        ({"pool": 0}, "frequency_std, cls or mean, got 0"),
        ({"pool": ["mean"]}, r"frequency_std, cls or mean, got \['mean'\]"),
        ({"layers": [3]}, "layers: the encoder has blocks 1 to 2, and no 3"),
        ({"layers": [0]}, "blocks 1 to 2, and no 0"),
        ({"layers": [-1]}, "blocks 1 to 2, and no -1"),
        ({"layers": [True]}, "blocks 1 to 2, and no True"),
        ({"layers": [1.0]}, "blocks 1 to 2, and no 1.0"),
        ({"layers": ["1"]}, "blocks 1 to 2, and no '1'"),
        ({"layers": [1, 1]}, r"layers: a block is named twice in \[1, 1\]"),
        ({"layers": 2}, "layers: expected a list of blocks, got 2"),
        ({"layers": "2"}, "layers: expected a list of blocks, got '2'"),
        ({"layers": {}}, "layers: expected a list of blocks, got {}"),
        ({"layers": False}, "layers: expected a list of blocks, got False"),
    ],
)
def test_vectors_that_do_not_exist_are_one_line(tmp_path, use, reason):
    """A wrong name must not give the default: the search would be over other vectors than its owner believes."""
    folder = save_nano(tmp_path / "model")
    for error, call in (
        (ConfigError, lambda: AudioModel(nano(), FRONT_END, **use)),
        (ConfigError, lambda: aape.load_model(folder, "cpu", **use)),
        (ConfigError, lambda: aape.load_model(folder, "cpu").embed(noise(4000), RATE, **use)),
        (CheckpointError, lambda: save_model(tmp_path / "other", nano(), FRONT_END, **use)),
    ):
        with pytest.raises(error, match=reason) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "other").exists()
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | use))
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_model(folder)
    assert str(caught.value).startswith(str(folder / "config.json"))


@pytest.mark.parametrize(("kind", "layers"), VECTORS)
def test_a_recommendation_is_what_everybody_gets(tmp_path, kind, layers):
    """The best vector is no use to someone who has to know its name."""
    folder = save_nano(tmp_path / "model", pool=kind, layers=layers)
    model = aape.load_model(folder, "cpu")
    assert (model.pool, model.layers) == (kind, tuple(layers))
    vector = model.embed(noise(9000), RATE)
    plain = aape.load_model(save_nano(tmp_path / "plain"), "cpu", pool=kind, layers=layers)
    np.testing.assert_array_equal(plain.embed(noise(9000), RATE), vector)
    adapted = hear.load_model(str(folder))
    assert adapted.scene_embedding_size == len(vector)
    np.testing.assert_array_equal(adapted(torch.from_numpy(noise(9000))[None])[0], vector)
    recommend(folder, pool="cls", layers=[1])
    assert aape.load_model(folder, "cpu").embed(noise(9000), RATE).shape == (64,)

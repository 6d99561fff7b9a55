"""What method 8 names, one by one: rates by layer, drop path, mixup, SpecAugment, the average, the draws."""

import numpy as np
import pytest
import torch
from torch import nn

from aape.data.augment import Augmentation, draw_bands, hide, mix_up
from aape.data.sampling import Draws, class_balanced_weights
from aape.downstream.finetuning import Classifier
from aape.layers.positions import PositionTable
from aape.layers.transformer import DropPath
from aape.models.config import encoder_config
from aape.models.encoder import AudioEncoder
from aape.runs.optim import WeightAverage, adamw, layer_decay


def test_rates_fall_from_the_head_to_the_stem():
    """The pre-trained stem would be washed out at the head's rate."""
    classifier = Classifier(AudioEncoder(encoder_config("nano")), 3)
    optimizer = adamw(classifier, learning_rate=1.0, weight_decay=0.05, betas=(0.9, 0.95), rate_of=layer_decay(2, 0.5))
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert set(rates) == {name for name, p in classifier.named_parameters() if p.requires_grad}
    for name, rate in rates.items():
        if "stem" in name or "cls_token" in name:  # the Lambda Encoder's own blocks are part of the stem
            assert rate == 0.5**3, name
        elif "blocks.0" in name:
            assert rate == 0.5**2, name
        elif "blocks.1" in name:
            assert rate == 0.5, name
        else:
            assert rate == 1, name
    assert decays["head.linear.weight"] == 0.05
    assert decays["head.norm.weight"] == decays["encoder.cls_token"] == 0


@pytest.mark.parametrize("frames", [1008, 512, 112], ids=["AudioSet", "ESC-50", "SCV2"])
def test_positions_of_other_lengths_are_cut_in_time_or_interpolated(frames):
    """Ten seconds are longer than the six of pre-training: a wrong place for every patch costs points, silently."""
    num_time = frames // 16
    table = PositionTable((8, 38), 64)
    found = table(num_time).unflatten(0, (8, num_time)).detach().numpy()
    places = (
        np.arange(num_time) if num_time <= 38 else np.clip((np.arange(num_time) + 0.5) * 38 / num_time - 0.5, 0, 37)
    )
    for band in range(8):
        for dim in range(64):
            wanted = np.interp(places, np.arange(38), table.table[band, :, dim].detach().numpy())
            np.testing.assert_allclose(found[band, :, dim], wanted, atol=1e-5)


def test_drop_path_leaves_out_whole_clips_and_keeps_the_mean():
    torch.manual_seed(0)
    layer = DropPath(0.25)
    x = torch.ones(4000, 2, 3)
    assert layer.eval()(x) is x
    out = layer.train()(x)
    values = out.flatten(1)
    assert (values == values[:, :1]).all()
    torch.testing.assert_close(values[:, 0].unique(), torch.tensor([0.0, 1 / 0.75]))
    assert out.mean() == pytest.approx(1, abs=0.03)
    blocks = Classifier(AudioEncoder(encoder_config("nano")), 2, 0.1).encoder.blocks
    assert [block.drop_path.rate for block in blocks] == [0.05, 0.1]


def augmentation(num_clips=12, **options):
    draws = Draws(np.arange(num_clips), batch=8, seed=1)
    options = {"crop": 40, "is_padded": False, "mixup": 0.8, "spec_augment": 0.2, **options}
    return Augmentation(draws=draws, seed=1, bins=20, patch_size=16, num_branches=4, **options)


def test_mixup_keeps_the_length_of_a_clip():
    """What it is mixed with is cut, or goes on with zeros."""
    mixed = mix_up(torch.ones(2, 3), torch.full((2, 8), 3.0), 0.25)
    torch.testing.assert_close(mixed, torch.full((2, 3), 2.5))
    mixed = mix_up(torch.full((2, 8), 3.0), torch.ones(2, 3), 0.25)
    torch.testing.assert_close(mixed, torch.cat([torch.full((2, 3), 1.5), torch.full((2, 5), 0.75)], 1))


def test_pairs_and_shares_are_those_of_the_method():
    """Every clip of a batch is one other's partner, and one share from Beta(0.8, 0.8) is drawn for each pair."""
    own = augmentation()
    shares = np.concatenate([own.draw(step).shares for step in range(500)])
    assert sorted(own.draw(0).partners) == list(range(8))
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(0.25 / (2 * 0.8 + 1), rel=0.05)


@pytest.mark.parametrize("frames", [None, np.arange(12) * 8 + 5])
def test_every_rank_draws_the_same(frames):
    """Whatever it has read: else a clip were mixed with one sound and trained on as another."""
    whole, steps = augmentation(frames=frames), range(20)
    lengths = np.arange(12) * 8 + 5
    for step in steps:
        clips = whole.draw(step).clips
        wanted = whole.draw(step, {place: int(lengths[clip]) for place, clip in enumerate(clips)})
        places = []
        for rank in range(3):
            own = augmentation(frames=frames, rank=rank, num_ranks=3)
            draws = own.draw(step)
            read = own.read(draws)
            assert own[step].tolist() == clips[read].tolist()
            assert set(draws.partners[own.share(draws)]) <= set(read)
            draws = own.draw(step, {place: int(lengths[clips[place]]) for place in read})
            assert draws.partners.tolist() == wanted.partners.tolist()
            assert draws.shares.tolist() == wanted.shares.tolist()
            for place in own.share(draws):
                assert draws.starts[place] == wanted.starts[place]
                assert 0 <= draws.starts[place] <= max(0, lengths[clips[place]] - 40)
                assert draws.bands[place] == wanted.bands[place]
                assert torch.equal(draws.uniforms[place], wanted.uniforms[place])
            places += own.share(draws)
        assert places == list(range(8))


def test_spec_augment_hides_one_band_and_one_stretch_of_at_most_a_fifth():
    generator = np.random.default_rng(0)
    widest = [0, 0]
    for _ in range(200):
        x = torch.rand(20, 50) + 1
        out = hide(x, draw_bands((20, 50), largest=0.2, generator=generator))
        rows, columns = (out == 0).all(1), (out == 0).all(0)
        assert (out[~rows][:, ~columns] == x[~rows][:, ~columns]).all()
        for axis, hidden in enumerate((rows, columns)):
            width = int(hidden.sum())
            widest[axis] = max(widest[axis], width)
            assert int(hidden.int().diff().abs().sum()) <= 2  # in one piece
        assert (x > 0).all()  # the caller's own is kept
    assert widest == [4, 10]
    assert draw_bands((20, 1), largest=0.2, generator=generator)[1][1] == 0


def test_the_average_follows_the_weights():
    layer = nn.Linear(2, 1)
    average = WeightAverage(layer, 0.9)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    average.update(torch.tensor(1.0))
    torch.testing.assert_close(average.module.weight, before)
    average.update(torch.tensor(0.0))
    torch.testing.assert_close(average.module.weight, before + 0.1)
    assert not average.module.weight.requires_grad
    assert WeightAverage(layer, 0.0).module is layer


def test_every_clip_is_seen_once_an_epoch_and_a_step_needs_no_history():
    clips = np.arange(10, 17)
    draws = Draws(clips, batch=3, seed=1)
    seen = np.concatenate([draws[step] for step in range(7)])
    for epoch in range(3):
        assert sorted(seen[7 * epoch : 7 * epoch + 7]) == clips.tolist()
    assert Draws(clips, batch=3, seed=1)[5].tolist() == draws[5].tolist()
    assert len(Draws(clips, batch=20, seed=1)[0]) == 20
    assert Draws(clips, batch=7, seed=2)[0].tolist() != draws[0].tolist()


def test_rare_classes_are_drawn_as_often_as_common_ones():
    targets = [(0,)] * 90 + [(1,)] * 10
    weights = class_balanced_weights(targets)
    assert weights[0] == pytest.approx(1000 / 90.01)
    assert class_balanced_weights([(0, 1), (0,)])[0] == pytest.approx(1000 / 2.01 + 1000 / 1.01)
    draws = Draws(np.arange(100), batch=100, seed=0, weights=weights, draws_per_epoch=1000)
    drawn = np.concatenate([draws[step] for step in range(20)])
    assert (drawn >= 90).mean() == pytest.approx(0.5, abs=0.05)

"""Mixup, SpecAugment and crops as method 8 names them, the same on every rank."""

import numpy as np
import pytest
import torch

from aape.data.augment import Augmentation, draw_bands, hide, mix_up
from aape.data.sampling import Draws


def augmentation(num_clips=12, **options):
    draws = Draws(np.arange(num_clips), batch=8, seed=1)
    options = {"crop": 40, "is_padded": False, "mixup": 0.8, "spec_augment": 0.2, **options}
    return Augmentation(draws=draws, seed=1, bins=20, patch_size=16, num_branches=4, **options)


def test_mixup_keeps_the_length_of_a_clip():
    """The other clip is cut or padded; otherwise mixing would change how long a clip is."""
    mixed = mix_up(torch.ones(2, 3), torch.full((2, 8), 3.0), 0.25)
    torch.testing.assert_close(mixed, torch.full((2, 3), 2.5))
    mixed = mix_up(torch.full((2, 8), 3.0), torch.ones(2, 3), 0.25)
    torch.testing.assert_close(mixed, torch.cat([torch.full((2, 3), 1.5), torch.full((2, 5), 0.75)], 1))


def test_pairs_and_shares_are_those_of_the_method():
    """Every clip of a batch is one other's partner, and one share from Beta(0.8, 0.8) is drawn for each pair."""
    augment = augmentation()
    shares = np.concatenate([augment.draw(step).shares for step in range(500)])
    assert sorted(augment.draw(0).partners) == list(range(8))
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(0.25 / (2 * 0.8 + 1), rel=0.05)


@pytest.mark.parametrize("frames", [None, np.arange(12) * 8 + 5])
def test_every_rank_draws_the_same(frames):
    """If ranks drew differently, a clip would be mixed with one sound and labelled as another."""
    whole, steps = augmentation(frames=frames), range(20)
    lengths = np.arange(12) * 8 + 5
    for step in steps:
        clips = whole.draw(step).clips
        expected = whole.draw(step, {row: int(lengths[clip]) for row, clip in enumerate(clips)})
        rows = []
        for rank in range(3):
            part = augmentation(frames=frames, rank=rank, num_ranks=3)
            draws = part.draw(step)
            read = part.read(draws)
            assert part[step].tolist() == clips[read].tolist()
            assert set(draws.partners[part.share(draws)]) <= set(read)
            draws = part.draw(step, {row: int(lengths[clips[row]]) for row in read})
            assert draws.partners.tolist() == expected.partners.tolist()
            assert draws.shares.tolist() == expected.shares.tolist()
            for row in part.share(draws):
                assert draws.starts[row] == expected.starts[row]
                assert 0 <= draws.starts[row] <= max(0, lengths[clips[row]] - 40)
                assert draws.bands[row] == expected.bands[row]
                assert torch.equal(draws.uniforms[row], expected.uniforms[row])
            rows += part.share(draws)
        assert rows == list(range(8))


def test_spec_augment_hides_one_band_and_one_span_of_at_most_a_fifth():
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
        assert (x > 0).all()  # the input is left alone
    assert widest == [4, 10]
    assert draw_bands((20, 1), largest=0.2, generator=generator)[1][1] == 0

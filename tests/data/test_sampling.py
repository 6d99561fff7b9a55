"""Which clips a step draws: each once an epoch, or rare classes as often as common ones."""

import numpy as np
import pytest

from aape.data.sampling import Draws, class_balanced_weights


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

"""Positions of clips that are shorter or longer than the table."""

import numpy as np
import pytest

from aape.layers.positions import PositionTable


@pytest.mark.parametrize("frames", [1008, 512, 112], ids=["AudioSet", "ESC-50", "SCV2"])
def test_positions_of_other_lengths_are_cut_in_time_or_interpolated(frames):
    """With wrong positions, clips of ten seconds would score lower than those of six, and nothing would say why."""
    num_time = frames // 16
    table = PositionTable((8, 38), 64)
    result = table(num_time).unflatten(0, (8, num_time)).detach().numpy()
    columns = (
        np.arange(num_time) if num_time <= 38 else np.clip((np.arange(num_time) + 0.5) * 38 / num_time - 0.5, 0, 37)
    )
    for band in range(8):
        for dim in range(64):
            expected = np.interp(columns, np.arange(38), table.table[band, :, dim].detach().numpy())
            np.testing.assert_allclose(result[band, :, dim], expected, atol=1e-5)

"""Inverse block masking: the paper's counts, in blocks."""

import pytest
import torch

from aape.pretraining import inverse_block_mask, sample_queries


def neighbours_share(visible, grid):
    """The share of visible tokens with a visible neighbour."""
    kept = torch.zeros(grid, dtype=torch.bool)
    kept.view(-1)[visible] = True
    padded = torch.nn.functional.pad(kept.int(), (1, 1, 1, 1))
    near = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return (near[kept] > 0).float().mean().item()


def test_masks_keep_60_of_304_in_blocks_and_ask_for_183():
    """The paper's counts, exactly, in every view; and blocks, not dust."""
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(200):
        visible = inverse_block_mask((8, 38), 60, generator=generator)
        queries = sample_queries(visible, 304, 183, generator)
        assert visible.unique().tolist() == visible.tolist()
        assert len(visible) == 60
        assert queries.unique().tolist() == queries.tolist()
        assert len(queries) == 183
        assert not set(visible.tolist()) & set(queries.tolist())
        shares.append(neighbours_share(visible, (8, 38)))
    assert sum(shares) / len(shares) > 0.9
    again = torch.Generator().manual_seed(0)
    assert torch.equal(
        inverse_block_mask((8, 38), 60, generator=again),
        inverse_block_mask((8, 38), 60, generator=torch.Generator().manual_seed(0)),
    )


@pytest.mark.parametrize(("grid", "count"), [((8, 1), 1), ((8, 2), 15), ((8, 64), 512)])
def test_masks_of_unusual_grids(grid, count):
    """Short crops train too."""
    assert len(inverse_block_mask(grid, count, generator=torch.Generator().manual_seed(1))) == count

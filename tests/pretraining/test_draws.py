"""The sequence of clips and masks belongs to the seed, not to the number of ranks and workers."""

import hashlib

import pytest
import torch
from torch.utils.data import DataLoader

from aape.data.manifest import read_manifest
from aape.pretraining.config import MaskingConfig
from aape.pretraining.draws import ClipDraws, StepBatches, collate, draw_prefix
from notes import link_notes

CLIPS, STEPS = 8, 6
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores here


@pytest.fixture(scope="module")
def draws(tmp_path_factory):
    folder = link_notes(tmp_path_factory.mktemp("corpus") / "sound", 20)
    return ClipDraws(
        read_manifest(folder), num_draws=CLIPS * STEPS, seed=3, crop_samples=16000, sample_rate=16000, grid=(8, 7),
        masking=MaskingConfig(num_views=2),
    )  # fmt: skip


def sequence(draws, ranks, workers, accumulate=1, first_step=0, last_step=STEPS):
    """Run a loader per rank, and put the steps together again: (clip, fingerprint of its samples and masks)."""
    parts = []
    for rank in range(ranks):
        batches = StepBatches(
            num_draws=len(draws), clips=CLIPS, accumulate=accumulate, rank=rank, num_ranks=ranks, first_step=first_step
        )
        loader = DataLoader(draws, batch_sampler=batches, num_workers=workers, collate_fn=collate)
        parts.append([batch for batch, _ in zip(loader, range((last_step - first_step) * accumulate), strict=False)])
    result = []
    for batches in zip(*parts, strict=True):
        for batch in batches:
            for i, clip in enumerate(batch["clip"]):
                content = b"".join(batch[name][i].numpy().tobytes() for name in ("waveform", "visible", "queries"))
                result.append((clip, hashlib.sha256(content).hexdigest()))
    return result


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_is_the_same_for_any_ranks_and_workers(draws, ranks, workers):
    """A result must not change with the machine it was computed on."""
    expected = sequence(draws, 1, 0)
    assert sequence(draws, ranks, workers) == expected
    assert sorted(clip for clip, _ in expected[:20]) == list(range(20))  # an epoch: nothing lost, nothing twice


def test_order_survives_a_change_of_ranks_and_workers_in_mid_epoch(draws):
    """A run that continues on other hardware would skip clips, or repeat them."""
    changed = sequence(draws, 2, 3, last_step=2) + sequence(draws, 4, 1, first_step=2, last_step=3)
    changed += sequence(draws, 1, 0, accumulate=2, first_step=3)
    assert changed == sequence(draws, 1, 0)


def test_a_late_start_costs_nothing():
    """Resuming at the end of 19 million draws reads no earlier one."""
    batches = StepBatches(num_draws=19_200_000, clips=32, first_step=599_999)
    assert [list(batch) for batch in batches] == [list(range(19_199_968, 19_200_000))]
    assert len(batches) == 600_000


@pytest.mark.parametrize("augment", [0.0, 0.5])
def test_a_clip_draws_the_same_wherever_it_stands(draws, augment):
    """Crop, what is done to it, and masks depend on (seed, epoch, clip), not on the order or the other clips."""
    alone, others = (
        ClipDraws(draws.clips, num_draws=40, seed=3, crop_samples=16000, sample_rate=16000, grid=(8, 7),
                  masking=MaskingConfig(num_views=2), augment=augment)
        for _ in range(2)
    )  # fmt: skip
    alone.epoch_order = lambda epoch: torch.arange(20)
    expected = {others[i]["clip"]: others[i] for i in range(20)}
    for i in range(3):
        for name in ("waveform", "visible", "queries"):
            assert torch.equal(alone[i][name], expected[i][name])
    for i in range(20):
        first, last = expected[draws[i]["clip"]]["waveform"][[0, -1]]
        assert torch.equal(first, last) != bool(augment)  # the student's sound is changed, at least in level


def test_every_length_is_met_and_short_ones_more_often():
    """The log-uniform draw of a run's steps, the same for each of its processes."""
    drawn = [draw_prefix(0, step, 2, 19) for step in range(3000)]
    assert set(drawn) == set(range(2, 20))
    assert drawn.count(2) > 2 * drawn.count(5) > 2 * drawn.count(15)
    assert (
        drawn
        == [draw_prefix(0, step, 2, 19) for step in range(3000)]
        != [draw_prefix(1, step, 2, 19) for step in range(3000)]
    )
    assert {draw_prefix(0, step, 3, 3) for step in range(9)} == {3}

"""The scan of pools: its classifier is the ridge that it says, and its vectors are the package's."""

import shlex
import sys
from pathlib import Path

import numpy as np
import torch

from aape import cli
from aape.commands.probe import ProbeConfig
from aape.downstream.partitions import Partition
from aape.models.pooling import POOLS, pool

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments/pooling"))


def fit(x, target, weights, penalty):
    """Solve a weighted ridge with a free intercept from its normal equations."""
    mean, centre = np.average(x, axis=0, weights=weights), np.average(target, axis=0, weights=weights)
    left = (x - mean).T * weights
    coefficients = np.linalg.solve(left @ (x - mean) + penalty * np.eye(x.shape[1]), left @ (target - centre))
    return lambda other: (other - mean) @ coefficients + centre


def test_the_penalty_is_that_of_leaving_groups_out():
    """A slip in the closed form would choose another penalty, and move every number of the page."""
    import pooling

    generator = np.random.default_rng(0)
    labels, groups = generator.choice(3, p=[0.6, 0.3, 0.1], size=60), np.repeat(np.arange(12), 5)
    x = (generator.normal(size=(60, 100)) + 0.3 * labels[:, None]).astype(np.float32)
    part = Partition("test", np.arange(45), np.arange(45, 60), np.arange(0))
    predicted, penalty = pooling.predict(x, labels, groups, part)
    z = (x - x[:45].mean(0)) / x[:45].std(0) / 10
    target = (labels[:45, None] == np.arange(3)) - 1 / 3
    weights = (15 / np.bincount(labels[:45]))[labels[:45]]
    losses = []
    for candidate in pooling.PENALTIES:
        loss = 0.0
        for group in range(9):
            kept = groups[:45] != group
            guess = fit(z[:45][kept], target[kept], weights[kept], candidate)(z[:45][~kept])
            loss += (weights[~kept, None] * (guess - target[~kept]) ** 2).sum()
        losses.append(loss)
    assert penalty == pooling.PENALTIES[np.argmin(losses)]
    assert np.argmin(losses) not in (0, len(losses) - 1)
    assert (predicted == fit(z[:45], target, weights, penalty)(z[45:]).argmax(1)).all()


def test_stored_vectors_are_those_of_the_package():
    """One file holds all pools of a block: a wrong cut would score another vector under its name."""
    import pooling

    tokens = torch.randn(2, 1 + 8 * 5, 6)
    stored = torch.cat([pool(tokens, "cls", 8), pool(tokens, "frequency_std", 8)], -1)[:, None].numpy()
    for kind in POOLS:
        np.testing.assert_allclose(pooling.vectors_of(stored, kind, 0, 6), pool(tokens, kind, 8), atol=1e-6)


def test_every_line_of_the_list_is_a_probe(capsys):
    """A misspelt option would end the list, or repeat one vector under another's name."""
    import pooling

    pooling.list_probes(Path("corpus"), Path("runs"))
    configs = [cli.parse(ProbeConfig, shlex.split(line)[1:]) for line in capsys.readouterr().out.splitlines()]
    chosen = {(config.data, config.pool, config.layers) for config in configs}
    assert len(chosen) == len({config.out for config in configs}) == len(pooling.SETS) * len(pooling.FINALISTS)

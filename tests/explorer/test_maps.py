"""Where sounds lie and which are near: against brute force."""

import numpy as np
import pytest

from aape.explorer import maps
from aape.explorer.sounds import Points


def points(vectors, **spans):
    n = len(vectors)
    whole = {"source": np.arange(n), "start": np.zeros(n), "end": np.ones(n)}
    result = Points(vectors=np.array(vectors, np.float32), **{**whole, **spans})
    maps.normalise(result.vectors)
    return result


def crowd(n, width, seed=0):
    """Vectors that lie close together, as those of real sounds do."""
    rng = np.random.default_rng(seed)
    return 3 * rng.standard_normal(width) + rng.standard_normal((n, 8)) @ rng.standard_normal((8, width))


def cosines(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.parametrize(("n", "width"), [(2, 5), (11, 5), (300, 40), (40, 300)])
def test_neighbours_are_those_of_brute_force(n, width, monkeypatch):
    """A neighbour that is not the nearest, or not at the cosine that the page says."""
    monkeypatch.setattr(maps, "_COSINES", 7 * n)  # several blocks
    vectors = crowd(n, width)
    rows, values = maps.neighbours(points(vectors))
    exact = cosines(vectors)
    np.fill_diagonal(exact, -np.inf)
    k = min(10, n - 1)
    assert rows.shape == values.shape == (n, k)
    np.testing.assert_allclose(values, -np.sort(-exact, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(exact, rows.astype(int), 1), values, atol=1e-6)
    assert all(len(set(row)) == k and index not in row for index, row in enumerate(rows.tolist()))


def test_overlapping_windows_are_no_neighbours():
    """Windows that share sound are alike whatever the model is: they would hide where else a sound returns."""
    start = np.array([0, 1, 2, 3, 0, 1, 2], np.float32)
    windows = points(crowd(7, 20), source=np.array([0, 0, 0, 0, 1, 1, 1]), start=start, end=start + 2)
    rows, values = maps.neighbours(windows)
    near = [
        {int(row) for row, value in zip(*pair, strict=True) if np.isfinite(value)}
        for pair in zip(rows, values, strict=True)
    ]
    assert near == [{2, 3, 4, 5, 6}, {3, 4, 5, 6}, {0, 4, 5, 6}, {0, 1, 4, 5, 6},
                    {0, 1, 2, 3, 6}, {0, 1, 2, 3}, {0, 1, 2, 3, 4}]  # fmt: skip


@pytest.mark.parametrize(("n", "width"), [(30, 100), (100, 30), (3, 50), (80, 80)])
def test_components_are_those_of_a_singular_value_decomposition(n, width, monkeypatch):
    """A map that is not the PCA it is called."""
    monkeypatch.setattr(maps, "_ROWS", 16)
    vectors = points(np.random.default_rng(1).standard_normal((n, width))).vectors.astype(np.float64)
    found = maps.principal_components(vectors.astype(np.float32))
    left, sizes, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    count = min(n - 1, width, maps.COMPONENTS)
    assert found.scores.shape == (n, count)
    expected = left[:, :count] * sizes[:count]
    signs = np.sign((found.scores * expected).sum(0))
    np.testing.assert_allclose(found.scores * signs, expected, atol=1e-5)
    np.testing.assert_allclose(found.explained, (sizes**2 / (sizes**2).sum())[:count], atol=1e-6)


def test_reduced_vectors_give_cosines():
    """The page ranks by them: a formula that is off by the mean would rank otherwise."""
    vectors = crowd(200, 50)
    found = points(vectors)
    reduced = maps.reduce(found.vectors, maps.principal_components(found.vectors))
    rows = reduced.rows * reduced.scale
    nearly = reduced.square + reduced.offset[:, None] + reduced.offset[None] + rows @ rows.T
    np.testing.assert_allclose(nearly, cosines(vectors), atol=0.01)
    assert maps.agreement(reduced, found, maps.neighbours(found)[0]) > 9


@pytest.mark.parametrize("vectors", [np.ones((1, 6)), np.ones((7, 6)), np.zeros((3, 6))], ids=["one", "same", "zeros"])
def test_sounds_that_do_not_differ(vectors):
    """One sound, or many equal ones: a map with all in one place, and no division by zero."""
    found = points(vectors)
    components = maps.principal_components(found.vectors)
    assert components.scores.shape == (len(vectors), 0)
    np.testing.assert_array_equal(maps.flat(components), np.zeros((len(vectors), 2)))
    assert maps.why_no_tsne(components)
    reduced = maps.reduce(found.vectors, components)
    rows, values = maps.neighbours(found)
    assert np.isfinite(reduced.offset).all()
    assert np.isfinite(values).all()
    assert rows.shape[1] == len(vectors) - 1
    assert maps.agreement(reduced, found, rows) == rows.shape[1]


def test_tsne_depends_on_the_seed_only():
    """A map that comes out differently each time cannot be spoken about."""
    pytest.importorskip("sklearn")
    vectors = np.concatenate([crowd(30, 20), crowd(30, 20)[:3]])  # some sounds twice
    components = maps.principal_components(points(vectors).vectors)
    first, again, other = (maps.tsne(components, seed) for seed in (1, 1, 2))
    assert first.shape == (33, 2)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("n", [5, 6])
def test_tsne_of_few_sounds(n):
    """Its perplexity must be below their number."""
    pytest.importorskip("sklearn")
    components = maps.principal_components(points(crowd(n, 20)).vectors)
    assert maps.why_no_tsne(components) is None
    assert np.isfinite(maps.tsne(components, 0)).all()
    assert maps.why_no_tsne(maps.principal_components(points(crowd(4, 20)).vectors))

"""The searches for the best subset against all subsets."""

from itertools import combinations

import numpy as np
import pytest

from benchmark.kernels.subset import smallest_diameter, smallest_variance
from tests.helpers.vectors import squared_distances
from tests.reference import gram


@pytest.mark.parametrize("style", ["gaussian", "grid", "line", "clusters"])
def test_exact_searches_against_all_subsets(style):
    """On many small inputs, most with ties on the grid: the first subset of the smallest score."""
    ties = 0
    for seed in range(60):
        rng = np.random.default_rng([seed, len(style)])
        n = int(rng.integers(1, 11))
        f, d = int(rng.integers(0, (n + 1) // 2)), int(rng.integers(1, 5))
        x = rng.normal(size=(n, 1 if style == "line" else d))
        if style == "grid":
            x = rng.integers(0, 3, size=(n, d)).astype(float)
        if style == "clusters":
            x = 0.05 * x + rng.integers(0, 2, size=(n, 1))
        squared = squared_distances(x)
        first, good = gram.best_subset(x, f, gram.diameter)
        assert smallest_diameter(squared, n - f).tolist() == first
        ties += len(good) > 1
        if style == "grid":
            continue  # eigenvalues that are equal but for rounding
        first, _ = gram.best_subset(x, f, gram.top_eigenvalue)
        for guess in (np.arange(n - f), np.arange(f, n), np.array(first)):
            assert smallest_variance(squared, n - f, guess).tolist() == first
    assert ties >= 10 or style != "grid"


@pytest.mark.parametrize("density", [0.15, 0.35, 0.6])
def test_smallest_diameter_of_any_graph(density):
    """Numbers that are no distances: graphs of far pairs in which every vertex has many edges, so
    that the search must branch."""
    for seed in range(25):
        rng = np.random.default_rng([seed, int(100 * density)])
        n = int(rng.integers(11, 15))
        f = int(rng.integers(4, n - 3))
        far = np.triu(np.where(rng.random((n, n)) < density, 4.0, rng.integers(1, 4, (n, n))), 1)
        far = far + far.T
        subsets = list(combinations(range(n), n - f))
        rows = np.array(subsets)
        widest = far[rows[:, :, None], rows[:, None, :]].max(axis=(1, 2))
        wanted = subsets[int(np.argmin(widest))]
        assert tuple(smallest_diameter(far, n - f)) == wanted


def test_many_words_of_bits():
    """More than 64 and 128 vectors: planted cliques, the rest far from everything."""
    for n, f in [(64, 20), (65, 31), (130, 40), (200, 99)]:
        rng = np.random.default_rng(n)
        x = rng.uniform(size=(n, 3))
        far = np.sort(rng.permutation(n)[:f])
        x[far] += 100 * (1 + np.arange(f))[:, None]
        wanted = np.delete(np.arange(n), far)
        assert smallest_diameter(squared_distances(x), n - f).tolist() == wanted.tolist()

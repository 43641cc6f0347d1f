"""Krum again and again."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmark.kernels.selection import iterated_krum
from tests import reference
from tests.helpers.arrays import true_distances
from tests.helpers.properties import SEEDS, examples


@examples(25)
@given(st.integers(1, 12), st.integers(0, 4), st.booleans(), SEEDS)
def test_iterated_krum(n, f, ties, seed):
    """Krum of all, of the others, and so on; on a small grid ties abound and all is exact."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (n, 2)).astype(float) if ties else rng.normal(size=(n, 3))
    count = int(rng.integers(1, n + 1))
    left, wanted = list(range(n)), []
    for _ in range(count):
        scores = reference.krum_scores(x[left], f)
        wanted.append(left.pop(scores.index(min(scores))))
    distances = true_distances(x)
    given_distances = distances.copy()
    assert iterated_krum(distances, f, count).tolist() == wanted
    assert np.array_equal(distances, given_distances)

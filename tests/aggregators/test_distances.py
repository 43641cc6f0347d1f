"""Rules of distances to one vector: MoNNA."""

from itertools import combinations

import numpy as np
import torch
from hypothesis import given

from benchmark.aggregators import Context, MoNNA, Updates
from benchmark.testing.rule_inputs import draw
from tests.helpers.properties import SEEDS, examples
from tests.reference import gram


def test_monna_trusts_a_client_and_not_a_row():
    """The clients of a round in another order, or only some of them."""
    x = draw(9, 5)
    wanted = gram.monna(x, 2, 4)
    order = np.random.default_rng(2).permutation(9)
    updates = Updates(torch.from_numpy(x[order]), ids=order)
    vector, _, _ = MoNNA(pivot=4).step(updates, 2, None, Context())
    np.testing.assert_allclose(vector, wanted, rtol=1e-12)
    without = np.delete(np.arange(9), 4)
    updates = Updates(torch.from_numpy(x[without]), ids=without)
    vector, _, report = MoNNA(pivot=4).step(updates, 2, None, Context())
    assert not vector.any() and not report.share(np.arange(8)).any()


@examples(25)
@given(seed=SEEDS)
def test_monna_stays_near_the_subset_of_an_honest_pivot(seed):
    """|F - mean_S| <= 2f / (n - f) max over S of |x_j - x_pivot| for every S that has the pivot:
    those taken from outside S are not farther from it than those of S that are left out."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 9))
    f = int(rng.integers(1, (n + 1) // 2))
    x = rng.normal(size=(n, 2)) * 10.0 ** rng.uniform(-2, 2, size=(n, 1))
    result = MoNNA()(x, f=f)
    for rest in combinations(range(1, n), n - f - 1):
        subset = x[[0, *rest]]
        radius = np.linalg.norm(subset - x[0], axis=1).max()
        gap = np.linalg.norm(result - subset.mean(axis=0))
        assert gap <= 2 * f / (n - f) * radius * (1 + 1e-9)

"""The vectors as rules see them: rows taken, mixtures, and the products that they share."""

from unittest import mock

import numpy as np
import pytest
import torch

from benchmark.aggregators import Updates
from benchmark.aggregators import updates as module
from benchmark.kernels.gram import gram

N, D = 6, 40
TAKEN = [[0, 1, 2, 3, 4, 5], [5, 0, 3], [2, 2, 4, 2], [1]]


def draw():
    return torch.from_numpy(np.random.default_rng(0).normal(5.0, 1.0, (N, D)))


def test_products_are_computed_once_in_whichever_order_they_are_asked_for():
    with mock.patch.object(module, "gram", side_effect=gram) as counted:
        everything = Updates(draw())
        mixed = everything.mixed(np.full((2, N), 1.0 / N), ids=np.arange(2), counts=np.ones(2))
        taken = everything.selected(np.array([3, 1]))
        again = taken.mixed(np.array([[0.5, 0.5], [1.0, 0.0]]))
        _ = again.distances, taken.norms, mixed.inner, everything.inner
    assert counted.call_count == 1


@pytest.mark.parametrize("rows", TAKEN)
def test_rows_that_are_taken_are_the_mixture_with_coefficients_of_one(rows):
    x, rows = draw(), np.array(rows)
    taken, wanted = Updates(x).selected(rows), Updates(x, np.eye(N)[rows])
    for name in ("inner", "centred", "distances", "norms"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(wanted, name))
    for mine, other in zip(taken.joined(x[0] + x[1]), wanted.joined(x[0] + x[1]), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert torch.equal(taken.rows(), x[rows]) and torch.equal(wanted.rows(), x[rows])
    assert torch.equal(torch.stack(list(taken.each())), x[rows])
    assert torch.equal(taken.columns(np.array([7, 3])), x[rows][:, [7, 3]])
    weights = np.arange(1.0, len(rows) + 1)
    np.testing.assert_array_equal(taken.coefficients(weights), wanted.coefficients(weights))
    np.testing.assert_array_equal(taken.shares(weights), wanted.shares(weights))
    matrix = np.random.default_rng(1).integers(-2, 3, (len(rows), len(rows))).astype(float)
    np.testing.assert_array_equal(taken.mixed(matrix).mixing, matrix @ np.eye(N)[rows])
    np.testing.assert_array_equal(
        taken.selected(np.array([0])).rows(), wanted.selected(np.array([0])).rows()
    )


def test_a_permutation_is_no_mixing_where_the_order_does_not_matter():
    x = draw()
    assert Updates(x, np.array([5, 3, 1, 0, 2, 4])).unordered()[1] is None
    vectors, mixing = Updates(x, np.array([5, 3, 3, 0, 2, 4])).unordered()
    assert vectors is x and mixing.tolist() == [5, 3, 3, 0, 2, 4]

"""The geometric median, AutoGM, the median of means and Huber's estimate."""

import numpy as np
import pytest
import torch

from benchmark.aggregators import (
    NNM,
    AutoGM,
    Chain,
    Context,
    GeometricMedian,
    Huber,
    MedianOfMeans,
    Updates,
)
from benchmark.aggregators.geometric_median import _sparse_weights, nearest_half
from benchmark.measure.robustness import kappa_hat
from benchmark.testing.rule_inputs import STYLES, draw, sample
from tests.helpers.vectors import SHAPES_OF_PRODUCTS, dealing, squared_distances
from tests.reference import gram


def test_geometric_median_by_hand():
    """Of four corners of a convex quadrilateral it is where the diagonals cross: here (2, 0)."""
    x = np.array([[0.0, 0.0], [10, 0], [2, 1], [2, -3]])
    np.testing.assert_allclose(GeometricMedian(T=2000)(x, f=1), [2, 0], atol=1e-4)
    # One step from 0 over (3, 0) and (0, 4): weights 1/3 and 1/4 of a sum of 7/12.
    rule = GeometricMedian(T=1, start="zero")
    np.testing.assert_allclose(rule(np.array([[3.0, 0], [0, 4]])), [12 / 7, 12 / 7])
    # Three of four votes for 0 by count.
    weighted = GeometricMedian(weighted=True)(np.array([[0.0], [10]]), counts=[3, 1])
    np.testing.assert_allclose(weighted, [0], atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_huber_is_where_the_gradient_vanishes(style, dtype, relative, weighted):
    for n, f, d in SHAPES_OF_PRODUCTS:
        x = sample(style, n, f, d).astype(dtype)
        exact, counts = x.astype(np.float64), np.arange(1.0, n + 1)[::-1]
        rule = Huber(0.8, relative=relative, iterations=20_000, weighted=weighted)
        a = counts if weighted else np.ones(n)
        radius, _ = nearest_half(squared_distances(exact), a)  # see test_nearest_half_by_hand
        threshold = 0.8 * (radius if relative else 1.0)
        if threshold == 0:
            continue  # most vectors are equal: see below
        z = rule(x, f=f, counts=counts).astype(np.float64)
        gradient = gram.huber_gradient(exact, z, threshold, a)
        rounding = 1e-6 * np.abs(z).max() if dtype == np.float32 else 0
        assert np.linalg.norm(gradient) <= a.sum() * (1e-4 * threshold + 2 * d * rounding)


def test_huber_between_mean_and_geometric_median():
    x = draw(9, 4)
    x[0] += 20
    np.testing.assert_allclose(Huber(1e6)(x, f=1), x.mean(axis=0), rtol=1e-12)
    median = GeometricMedian(nu=1e-9, T=1000)(x, f=1)
    np.testing.assert_allclose(Huber(1e-9)(x, f=1), median, atol=1e-7)
    x[2:8] = x[2]
    np.testing.assert_allclose(Huber()(x, f=1), x[2], atol=1e-12)
    counts = [1, 1, 1, 1, 1, 1, 1, 1, 100]
    result = Huber(0.1, weighted=True)(x, f=1, counts=counts)
    np.testing.assert_allclose(result, x[8], atol=0.05)
    assert np.array_equal(Huber()(x, f=1, counts=counts), Huber()(x, f=1))


def test_weights_of_autogm_by_hand():
    """Distances 1 0 9. lambda = 3: eta = (0 + 1 + 3) / 2 = 2 < 9. lambda = 30: eta = (10 + 30) / 3.
    In the order of the distances, not of the clients."""
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        d = np.array([1.0, 0, 9])[order]
        np.testing.assert_allclose(_sparse_weights(d, 3.0), np.array([1, 2, 0])[order] / 3)
        wanted = np.array([37 / 90, 40 / 90, 13 / 90])[order]
        np.testing.assert_allclose(_sparse_weights(d, 30.0), wanted)
    np.testing.assert_allclose(_sparse_weights(np.array([5.0, 5, 5 + 1e-3]), 1e-300), [0.5, 0.5, 0])
    np.testing.assert_allclose(_sparse_weights(np.array([1e30, 2, 2]), 1.0), [0, 0.5, 0.5])
    d = np.array([3.0, 1, 4, 1, 5])
    for strength in (0.1, 1.0, 50.0):
        wanted = gram.simplex_weights(d, strength)
        np.testing.assert_allclose(_sparse_weights(d, strength), wanted, atol=1e-12)


def test_autogm_is_a_geometric_median_where_the_penalty_is_large():
    x = draw(9, 4)
    x[0] += 30
    np.testing.assert_allclose(AutoGM(1e9)(x, f=1), GeometricMedian()(x, f=1), atol=1e-6)
    assert abs(AutoGM(0.1)(x, f=1) - GeometricMedian()(x, f=1)).max() > 1e-3
    _, _, report = AutoGM().step(Updates(torch.from_numpy(x)), 1, None, Context())
    assert report.share(np.array([0]))[0] == 0  # and what is far away does not count at all


def test_median_of_means_by_hand():
    """Groups 0 1 | 2 3 | 100 5 have means 0.5, 2.5, 52.5; with 100 6 8 the last is 38."""
    rule = MedianOfMeans(groups=3)
    column = torch.tensor([0.0, 1, 2, 3, 100, 5, 8], dtype=torch.float64)[:, None]
    vector, _, report = rule.step(Updates(column[:6]), 1, None, dealing(np.arange(6)))
    assert vector.item() == pytest.approx(2.5, abs=1e-4)
    np.testing.assert_allclose(report.share(np.arange(6)), [0, 0, 0.5, 0.5, 0, 0], atol=1e-4)
    order = [4, 5, 6, 0, 1, 2, 3]
    vector, _, _ = rule.step(Updates(column), 1, None, dealing(order))
    assert vector.item() == pytest.approx(2.5, abs=1e-4)


def test_nearest_half_by_hand():
    """Of 0 1 3 10 three are within 2 of 1, within 3 of the others; of three 0 0 9 two are equal."""
    for column, radius, mean in [
        ([0, 1, 3, 10], 2, 4 / 3),
        ([10, 3, 1, 0], 2, 4 / 3),
        ([0, 0, 9], 0, 0),
        ([5], 0, 5),
        ([1, 4], 3, 2.5),
    ]:
        squared = squared_distances(np.array(column, float)[:, None])
        found, weights = nearest_half(squared, np.ones(len(column)))
        assert (found, weights @ column) == (radius, pytest.approx(mean))
    # Of weights 1 1 1 4 the last alone is more than half; of 3 1 1 2 the first with the second.
    squared = squared_distances(np.array([[0.0], [1], [3], [10]]))
    for prior, radius, wanted in [
        ([1, 1, 1, 4], 0, [0, 0, 0, 1]),
        ([3, 1, 1, 2], 1, [0.75, 0.25, 0, 0]),
    ]:
        found, weights = nearest_half(squared, np.array(prior, float))
        assert (found, weights.tolist()) == (radius, wanted)


@pytest.mark.parametrize(("n", "f"), [(50, 24), (15, 7), (20, 9), (11, 5), (15, 6)])
@pytest.mark.parametrize("far", [1e5, 1e10, 1e19])
def test_the_geometric_median_is_not_carried_away_by_very_far_vectors(n, f, far):
    x = draw(n, 5)
    x[n - f :] = far
    rule = GeometricMedian()
    aggregate = rule(x, f=f)
    assert np.linalg.norm(aggregate - x[: n - f].mean(0)) < 2 * (n - f) / (n - 2 * f) * 5
    found = kappa_hat(torch.from_numpy(x), torch.from_numpy(aggregate), f)
    assert found <= rule.kappa(n, f)


def test_the_geometric_median_claims_no_constant_that_it_has_not():
    for rule in (
        GeometricMedian(T=3),
        GeometricMedian(start="mean"),
        GeometricMedian(nu=0.1),
        GeometricMedian(weighted=True),
        Chain([NNM(), GeometricMedian(T=1)]),
    ):
        assert rule.kappa(20, 4) is None

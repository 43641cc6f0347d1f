"""Krum, Multi-Krum and Bulyan."""

import numpy as np
import pytest
import torch

from benchmark.aggregators import (
    Bulyan,
    Chain,
    Krum,
    Median,
    MedianDistance,
    MultiKrum,
    TrimmedMean,
    Updates,
)
from benchmark.testing.rule_inputs import draw, sample
from tests import reference
from tests.helpers.vectors import SHAPES_OF_COORDINATES


def test_a_filter_may_leave_fewer_than_multi_krum_averages():
    """Nine of nine are asked for, one is thrown out: the mean of eight, not eight ninths of it."""
    x = draw(9, 4)
    x[2] = 1000
    result = Chain([MedianDistance(), MultiKrum(m=9, strict=False)])(x, f=1)
    np.testing.assert_allclose(result, np.delete(x, 2, axis=0).mean(axis=0))


def test_multi_krum_averages_as_many_fewer_as_were_lost():
    """Of 20 with f = 2 it takes 16; of 17 that are left 13, so both attackers stay out."""
    x = draw(17, 4)
    x[:2] += 100
    seen = Updates(torch.from_numpy(x), lost=3)
    coefficients = MultiKrum(m=16).combination(seen, 2)
    assert np.count_nonzero(coefficients) == 13 and not coefficients[:2].any()
    assert seen.selected(np.arange(1, 17)).lost == 4


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "f"), [(7, 1), (12, 2), (20, 4)])
def test_tutorial_027(n, f, seed):
    x = draw(n, 30, seed)
    x[:f] *= -10
    np.testing.assert_array_equal(
        Krum(distance="plain", strict=False)(x, f=f), reference.tutorial_krum(x, f)
    )
    np.testing.assert_allclose(TrimmedMean(0.2)(x, f=f), reference.tutorial_trimmed_mean(x, 0.2))
    np.testing.assert_array_equal(Median("lower")(x, f=f), reference.tutorial_median(x))
    rule = Bulyan("oneshot", "trimmed", 0.25, "plain")
    np.testing.assert_allclose(rule(x, f=f), reference.tutorial_bulyan(x, f))


@pytest.mark.parametrize(("n", "f"), [(2, 0), (3, 1), (4, 3), (6, 4)])
def test_tutorial_krum_has_no_limits(n, f):
    x = draw(n, 30)
    rule = Krum(distance="plain", strict=False)
    np.testing.assert_array_equal(rule(x, f=f), reference.tutorial_krum(x, f))


def test_krum_takes_the_first_of_equals():
    """The corners of a square and a far point, n = 5, f = 1: all corners have the score 1 + 1."""
    x = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1], [9, 9]])
    for order in ([0, 1, 2, 3, 4], [3, 4, 1, 0, 2], [4, 2, 0, 1, 3]):
        corners = [i for i in order if i < 4]
        assert Krum()(x[order], f=1).tolist() == x[corners[0]].tolist()
        assert MultiKrum()(x[order], f=1).tolist() == x[corners[:2]].mean(0).tolist()


def test_multi_krum_of_n_minus_f():
    """Squares of distances on the line 0 1 2 4 50, f = 1, two neighbours: 1 + 4, 1 + 1, 1 + 4,
    4 + 9, ...: the four best are all but 50."""
    x = np.array([[0], [1], [2], [4], [50.0]])
    assert MultiKrum(m="n-f")(x, f=1).tolist() == [7 / 4]
    assert MultiKrum(m=4)(x, f=1).tolist() == [7 / 4]
    assert MultiKrum()(x, f=1).tolist() == [0.5]  # n - f - 2 = 2: 1, then 0, the first of two
    for n, f, d in SHAPES_OF_COORDINATES[3:-1]:
        y = sample("ordinary", n, f, d)
        np.testing.assert_allclose(
            MultiKrum(m="n-f", neighbours="n-f-1", strict=False)(y, f=f),
            reference.multi_krum(y, f, n - f, neighbours="n-f-1"),
            rtol=1e-9,
        )

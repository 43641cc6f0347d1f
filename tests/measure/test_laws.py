"""Exponents of measured points, and of laws."""

import numpy as np
import pytest

from benchmark.measure.laws import exponent, work


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.0])
def test_the_exponent_of_a_power_is_found(power):
    sizes = np.array([10.0, 20, 50, 100])
    assert exponent(sizes, 3e-7 * sizes**power) == pytest.approx(power)


def test_the_exponent_is_that_of_the_largest_sizes():
    """Of 1 + x^2 it is nearly 2 at large x, whatever the order of the points."""
    sizes = np.array([1e4, 1e-3, 1e3, 1e-2, 1e2])
    assert exponent(sizes, 1 + sizes**2) == pytest.approx(2, abs=1e-3)


def test_of_one_size_or_of_no_time_there_is_no_exponent():
    assert np.isnan(exponent([10], [1.0]))
    assert np.isnan(exponent([10, 20, 30], [1.0, 0.0, 2.0]))


@pytest.mark.parametrize(
    ("cost", "wanted"),
    [
        ("n d", 8 * 100),
        ("n^2 d", 64 * 100),
        ("n^2 d + n^3 log n", 64 * 100),
        ("n log^2 n d", 8 * 9 * 100),
        ("n^2 d + n log^2 n d", 64 * 100 + 8 * 9 * 100),
        ("T n^2 b", None),
        ("the rule's, and n d", None),
    ],
)
def test_the_law_of_a_cost(cost, wanted):
    """At n = 8 and d = 100, log2 n being 3."""
    found = work(cost, 8, 100)
    assert np.isnan(found) if wanted is None else found == wanted

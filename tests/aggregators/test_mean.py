"""The mean: counts of examples, and whole and huge numbers."""

import numpy as np
import pytest

from benchmark.aggregators import (
    FABA,
    NNM,
    Bucketing,
    Bulyan,
    Chain,
    GeometricMedian,
    MeaMed,
    Mean,
    Median,
    MultiKrum,
    NormFilter,
    Phocas,
    TrimmedMean,
)
from benchmark.testing.rule_inputs import F, N, draw
from tests import reference
from tests.helpers.labels import one_line


@pytest.mark.parametrize("counts", [[1, 2], [1, -1, 3], [0, 0, 0], [1, np.nan, 1], [1, np.inf, 1]])
def test_impossible_counts_are_an_error_of_one_line(counts):
    with pytest.raises(ValueError, match="counts") as error:
        Mean(weighted=True)(draw(3, 2), counts=counts)
    assert one_line(error)


def test_weighted_rules_by_sample_counts():
    x, counts = draw(), np.random.default_rng(2).integers(1, 50, N)
    wanted = reference.mean(x, counts)
    np.testing.assert_allclose(Mean(weighted=True)(x, f=F, counts=counts), wanted, rtol=1e-12)
    np.testing.assert_allclose(Mean(weighted=True)(x, counts=list(counts)), wanted, rtol=1e-12)
    wanted = reference.geometric_median(x, counts=counts)
    rule = GeometricMedian(weighted=True)
    np.testing.assert_allclose(rule(x, f=F, counts=counts), wanted, atol=1e-8)
    for unweighted in (Mean(), GeometricMedian()):
        assert np.array_equal(unweighted(x, f=F, counts=counts), unweighted(x, f=F))


def test_a_weighted_rule_behind_a_filter_that_leaves_only_clients_without_examples():
    x = np.array([[100.0], [1.0], [2.0], [3.0], [2.0]])
    for rule in (Mean(weighted=True), GeometricMedian(weighted=True)):
        chain = Chain([NormFilter(), rule])
        np.testing.assert_allclose(chain(x, f=1, counts=[9, 0, 0, 0, 0]), [2.0], rtol=1e-9)


def test_means_of_whole_numbers_are_exact():
    """Their sum is, so it is divided; products with a rounded 1/3 give 3.9999999999999996."""
    for x in ([[1.0], [4.0], [7.0]], np.array([[1], [4], [7]], np.float32)):
        for rule in (
            Mean(),
            TrimmedMean(),
            MultiKrum(m="n-f"),
            Bulyan(),
            FABA(),
            Phocas(),
            MeaMed(),
        ):
            assert rule(x)[0] == 4.0
        assert (NNM()(x) == 4.0).all() and (Bucketing(3)(x) == 4.0).all()
        for stage in (NNM(), Bucketing(3)):
            assert Chain([stage, Median()])(x)[0] == Chain([stage, Mean()])(x)[0] == 4.0


def test_sums_of_the_largest_numbers_do_not_overflow():
    for x in (np.full((5, 2), 3e38, np.float32), np.full((4, 2), 1.5e308)):
        for rule in (Mean(), Median(), TrimmedMean(), MeaMed(), Phocas()):
            np.testing.assert_allclose(rule(x, f=1), x[0], rtol=1e-6)
            chain = Chain([Bucketing(1), rule])
            np.testing.assert_allclose(chain(x, f=1), x[0], rtol=1e-6)
        np.testing.assert_allclose(Bucketing(2)(x, f=0)[0], x[0], rtol=1e-6)
        np.testing.assert_allclose(Median()(np.concatenate([x, -x]), f=1), [0, 0])

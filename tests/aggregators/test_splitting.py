"""GAS, which splits the coordinates into groups."""

import numpy as np
import pytest
import torch
from hypothesis import given

from benchmark.aggregators import (
    FABA,
    GAS,
    MDA,
    Bulyan,
    Context,
    GeometricMedian,
    Krum,
    MeaMed,
    Median,
    MultiKrum,
    Phocas,
    TrimmedMean,
    Updates,
)
from benchmark.testing.rule_inputs import draw
from tests import reference
from tests.helpers.properties import SEEDS, examples
from tests.helpers.vectors import sizes
from tests.reference import coordinates


def test_gas_draws_its_groups_from_the_servers_stream():
    x, rule = draw(9, 60), GAS(Median(), p=7)
    results = set()
    for seed in range(20):
        context = Context(generator=lambda seed=seed: np.random.default_rng(seed))
        groups = np.array_split(np.random.default_rng(seed).permutation(60), 7)
        wanted = coordinates.gas(x, 2, groups, lambda rows, f: reference.median(rows))
        result = rule(x, f=2, context=context)
        np.testing.assert_allclose(result, wanted, rtol=1e-9)
        results.add(result.tobytes())
    assert len(results) > 1


@pytest.mark.parametrize(
    "rule",
    [
        *(Krum(), MultiKrum(), Bulyan(), Median(), TrimmedMean(), MeaMed(), Phocas(), FABA()),
        *(GeometricMedian(), MDA()),
    ],
    ids=str,
)
def test_gas_with_every_rule_leaves_out_who_is_far_in_all_groups(rule):
    x = 0.1 * draw(11, 30) + 1
    x[[2, 7]] += 5
    wanted = reference.mean(np.delete(x, [2, 7], axis=0))
    np.testing.assert_allclose(GAS(rule, p=6)(x, f=2), wanted, rtol=1e-9)


def test_gas_by_hand():
    """Each coordinate is a group of its own, its result the median: (1, 2, 1). Scores: 1 + 0 + 1,
    0 + 0 + 0, 1 + 7 + 0; f = 1 leaves out the last."""
    x = np.array([[0, 2, 2], [1, 2, 1], [2, 9, 1.0]])
    np.testing.assert_allclose(GAS(Median())(x, f=1), [0.5, 2, 1.5], rtol=1e-12)


@pytest.mark.parametrize(
    "rule", [GAS(), GAS(Median(), 3), GAS(Bulyan(), 3), GAS(FABA(), 2)], ids=str
)
@examples(15)
@given(seed=SEEDS)
def test_gas_is_a_mean_of_n_minus_f_vectors(rule, seed):
    rng = np.random.default_rng(seed)
    n, f = sizes(rule, rng)
    x = rng.normal(size=(n, 7))
    updates = Updates(torch.from_numpy(x))
    vector, _, report = rule.step(updates, f, None, Context())
    share = report.share(np.arange(n))
    assert np.count_nonzero(share) == n - f
    np.testing.assert_allclose(share[share > 0], 1 / (n - f))
    np.testing.assert_allclose(vector, share @ x, rtol=1e-9, atol=1e-12)


def test_gas_bulyan_averages_values_not_distances():
    """Where all vectors lie at 100, a result made of distances would be near 0, and the scores
    would prefer the vector at 90, nearest to 0."""
    x = 100 + 0.1 * draw(8, 12)
    x[5] = 90
    result = GAS(Bulyan(), p=3)(x, f=1)
    np.testing.assert_allclose(result, np.delete(x, 5, axis=0).mean(0), rtol=1e-12)

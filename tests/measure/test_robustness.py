"""The robustness coefficient against its definition."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.aggregators import NNM, Chain, GeometricMedian, Krum, Mean, Median, TrimmedMean
from benchmark.grid.catalogue import component
from benchmark.measure.robustness import kappa_hat


def brute_force(x, aggregate, f):
    worst = 0.0
    for chosen in combinations(range(len(x)), len(x) - f):
        mean = x[list(chosen)].mean(0)
        spread = ((x[list(chosen)] - mean) ** 2).sum(1).mean()
        error = ((aggregate - mean) ** 2).sum()
        worst = max(worst, error / spread if spread > 1e-12 else (np.inf if error > 1e-12 else 0))
    return worst


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_kappa_hat_is_never_more_than_the_maximum_over_all_sets_and_nearly_it(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 11))
    f = int(rng.integers(0, (n + 1) // 2))
    x = rng.normal(size=(n, 4)) * 10.0 ** rng.uniform(-1, 1, (n, 1))
    x[:f] += 5 * rng.normal(size=4)
    aggregate = rng.normal(size=4) if seed % 2 else x.mean(0)
    found = kappa_hat(torch.from_numpy(x), torch.from_numpy(aggregate), f)
    wanted = brute_force(x, aggregate, f)
    assert found <= wanted * (1 + 1e-6) + 1e-9
    assert found >= 0.8 * wanted - 1e-9


def test_kappa_hat_by_hand():
    """0 and 2 with the aggregate 2 and f = 0: (2 - 1)^2 / 1. With 5 besides and f = 1: of {0, 2} it
    is 1, of {2, 5} 1.5^2 / 1.5^2, of {0, 5} 0.5^2 / 2.5^2. With 0 0 9 and f = 1, {0, 0} has no
    spread: the aggregate must be 0."""
    column = lambda *values: torch.tensor(values, dtype=torch.float64)[:, None]  # noqa: E731
    assert kappa_hat(column(0, 2), column(2)[0], 0) == pytest.approx(1)
    assert kappa_hat(column(0, 2, 5), column(2)[0], 1) == pytest.approx(1)
    assert kappa_hat(column(0, 2, 5), column(1)[0], 1) == pytest.approx(2.5**2 / 1.5**2)
    assert kappa_hat(column(0, 0, 9), column(1)[0], 1) == np.inf
    found = kappa_hat(column(0, 0, 9), column(0)[0], 1)
    assert found == pytest.approx(1)  # of {0, 9}: 4.5^2 / 4.5^2


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        (Mean(), None),
        (Median(), 4 * (4 / 3) ** 2),
        (Median("lower"), None),
        (TrimmedMean(), 6 * (1 / 3) * (4 / 3)),
        (TrimmedMean(0.2), None),
        (Krum(neighbours="n-f-1"), 6 * 4 / 3),
        (Krum(), 6 * 16 / 11),
        (Krum(distance="plain"), None),
        (GeometricMedian(), 4 * (4 / 3) ** 2),
        (Chain([NNM(), Krum(neighbours="n-f-1")]), 8 * 4 / 16 * (1 + 8)),
        (Chain([NNM(), NNM(), Krum(neighbours="n-f-1")]), 2 * (1 + 18)),
        (Chain([NNM(), Mean()]), None),
        (Chain([component("pre_aggregator", "clipping"), Median()]), None),
    ],
    ids=str,
)
def test_proved_constants(rule, wanted):
    """At n = 20, f = 4, where f / (n - 2f) is 1/3."""
    assert rule.kappa(20, 4) == (wanted if wanted is None else pytest.approx(wanted))

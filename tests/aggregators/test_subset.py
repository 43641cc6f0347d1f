"""The best of all subsets: MDA and SMEA."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmark.aggregators import MDA, SMEA
from benchmark.testing.rule_inputs import STYLES, draw, sample
from tests.helpers.labels import label
from tests.helpers.vectors import SHAPES_OF_PRODUCTS
from tests.reference import gram


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("rule", "score"), [(MDA(), gram.diameter), (SMEA(), gram.top_eigenvalue)], ids=label
)
def test_the_best_of_all_subsets(rule, score, style, dtype):
    """In float32 rounding may choose among subsets that are almost equally good."""
    for n, f, d in SHAPES_OF_PRODUCTS:
        x = sample(style, n, f, d).astype(dtype)
        exact = x.astype(np.float64)
        first, good = gram.best_subset(exact, f, score, 1e-9 if dtype == np.float64 else 1e-5)
        result = rule(x, f=f)
        margin = 1e-6 if dtype == np.float32 else 1e-9
        near = [abs(exact[s].mean(axis=0) - result).max() for s in good]
        assert min(near) <= margin * max(1, np.abs(exact[first]).max())
        if dtype == np.float64:
            assert near[0] == min(near)


def test_equal_diameters_by_hand():
    """(2, 3) and (2, -3) are 6 apart; with (0, 0) and (4, 0) either has diameter 4."""
    x = np.array([[0.0, 0], [4, 0], [2, 3], [2, -3]])
    assert MDA()(x, f=1).tolist() == [2, 1]
    assert MDA()(x[[0, 1, 3, 2]], f=1).tolist() == [2, -1]


def test_smallest_top_eigenvalue_by_hand():
    """Covariances of three of a = (0, 0), b = (2, 0), c = (4, 0), d = (1, 2): abd has variances 2/3
    and 8/9, uncorrelated; abc has 8/3 along the axis, acd 26/9; bcd has 14/9 and 8/9 and the
    covariance -8/9: (22/9 + sqrt(292)/9) / 2 = 2.17."""
    x = np.array([[0.0, 0], [2, 0], [4, 0], [1, 2]])
    np.testing.assert_allclose(SMEA()(x, f=1), [1, 2 / 3])
    # Orthogonal vectors of equal length: every subset of three has the same spectrum.
    np.testing.assert_allclose(SMEA()(np.eye(5), f=2), [1 / 3, 1 / 3, 1 / 3, 0, 0])


def test_smea_refuses_what_would_take_too_long():
    """All f at n = 20, and few f at n = 50; the message names both."""
    assert all(SMEA().check(20, f) is None for f in range(10))
    assert SMEA().check(50, 5) is None
    reason = SMEA().check(50, 12)
    assert "n=50, f=12" in reason and "\n" not in reason
    assert SMEA().steps(10, 3) == 330 * 49


def simplex(n, d):
    return np.eye(n, d)


@pytest.mark.parametrize("n", [20, 50, 100])
@pytest.mark.parametrize(
    "make", [draw, simplex, lambda n, d: draw(n, 2)], ids=["far", "equal", "2"]
)
def test_exact_searches_are_fast(make, n):
    """Also where all distances are about equal, and for f just below n/2."""
    MDA()(draw(5, 2), f=1), SMEA()(draw(5, 2), f=1)  # compiled
    x = make(n, 200)
    for f in {n // 10, n // 4, (n - 1) // 2}:
        start = time.perf_counter()
        MDA()(x, f=f)
        assert time.perf_counter() - start < 1
        if n == 20:
            start = time.perf_counter()
            SMEA()(x, f=f)
            assert time.perf_counter() - start < 2


def test_mda_among_equal_vectors_stays_within_its_memory():
    """A clique larger than n - f, with vectors left out before its last member."""
    code = (
        "import numpy as np; from benchmark.aggregators import MDA\n"
        "x = np.zeros((50, 3)); x[:12, 0] = 10 * np.arange(1, 13)\n"
        "assert MDA()(x, f=24).tolist() == [0, 0, 0]\n"
        "assert MDA()(np.array([[0.0], [10], [0], [0], [0]]), f=2).tolist() == [0]\n"
    )
    interpreted = {"NUMBA_DISABLE_JIT": "1"}  # so that every index is checked
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=os.environ | interpreted, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr

"""Norms, thresholds and cosines of the vectors; no copy of them."""

import tracemalloc

import numpy as np
import pytest
import torch

from benchmark.aggregators import LASA, Context, FedSECA, FoundationFL, SignGuard, Updates
from benchmark.aggregators.context import layers_of
from benchmark.aggregators.vectors import angles, clipping_scale, thresholds
from benchmark.testing.rule_inputs import draw
from tests.helpers.vectors import small
from tests.reference import clustering


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.999999])
@pytest.mark.parametrize("mixed", [False, True])
def test_thresholds(sparsity, mixed):
    """The magnitude of the number that floor(sparsity d) others are below."""
    for n, d in [(1, 1), (3, 10), (25, 997)]:
        x = torch.from_numpy(draw(n, d))
        mixing = draw(n, n, 1) if mixed else None
        rows = (x if mixing is None else torch.from_numpy(mixing) @ x).numpy()
        wanted = np.sort(np.abs(rows), axis=1)[:, int(sparsity * d + 1e-9)]
        result = thresholds(Updates(x, mixing), sparsity)
        np.testing.assert_allclose(result.numpy()[:, 0], wanted, rtol=1e-12, atol=1e-14)


def test_norms_are_precise_whatever_the_others_are():
    for rows in ([[3.0, 4.0], [1e30, 0.0]], [[1e30, 0.0], [3.0, 4.0]]):
        for dtype in (torch.float32, torch.float64):
            found = Updates(torch.tensor(rows, dtype=dtype)).norms
            np.testing.assert_allclose(sorted(found), [5, 1e30], rtol=1e-7)
    with pytest.raises(ValueError, match="too long"):
        _ = Updates(torch.full((2, 2), 1e300, dtype=torch.float64)).norms
    scale = clipping_scale(np.array([0.0, 1.0, 2.0, 4.0, 3.0]), 2.0)
    np.testing.assert_array_equal(scale, [1, 1, 1, 0.5, 2 / 3])
    assert clipping_scale(np.array([0.0, 5.0]), 0.0)[1] == 0


def test_no_second_copy_of_the_updates():
    """NumPy's own allocations; torch's are the blocks."""
    x = torch.zeros(40, 200_000)
    x += torch.arange(40)[:, None]
    for rule in (FoundationFL(), SignGuard(), FedSECA(), LASA()):
        tracemalloc.start()
        rule(x, f=5, context=Context(layers=layers_of([(200_000,)])))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.2 * x.numel() * 4


@pytest.mark.parametrize("offset", [0.0, 1000.0, 1e6])
def test_cosine_distances_of_vectors_that_point_almost_the_same_way(offset):
    """There 1 - cos is 1e-13 and less, and the difference of two numbers near 1 is rounding."""
    x = offset + small(6, 40)
    x[4] = x[1] * 1.001
    got = angles(Updates(torch.from_numpy(x)))
    np.testing.assert_allclose(got, clustering.cosine_distances(x), rtol=1e-4, atol=1e-18)
    assert got[1, 4] == 0 and np.array_equal(got, got.T)


def test_cosine_distances_with_zero_and_huge_vectors():
    x = small(5, 4)
    x[0] *= 1e30
    x[2] = 0
    x[3] = -1e25 * x[1]
    got = angles(Updates(torch.from_numpy(x)))
    np.testing.assert_allclose(got, clustering.cosine_distances(x), atol=1e-12)
    assert got[2].tolist() == [1, 1, 0, 1, 1]

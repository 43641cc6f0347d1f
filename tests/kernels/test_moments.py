"""Means and deviations in one pass."""

from unittest import mock

import numpy as np
import pytest
import torch

from benchmark.kernels import blocks, moments
from benchmark.kernels.moments import mean_and_std
from tests.helpers.arrays import DTYPES, VIEWS

LAYOUTS = {"contiguous": torch.from_numpy, **VIEWS}


def draw(n, d, dtype, offset=0.0, spread=1.0):
    return (offset + spread * np.random.default_rng([n, d]).normal(size=(n, d))).astype(dtype)


def other_branches(values):
    """As on another device: by torch, in pieces."""
    stack = mock.patch.multiple(moments, supported_by_kernels=lambda _: False)
    pieces = mock.patch.multiple(blocks, supported_by_kernels=lambda _: False, _PIECE_VALUES=values)
    return stack, pieces


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("offset", "spread"), [(0, 1), (1000, 0.01), (1e5, 1e3), (-3, 1e-9), (0, 1e-15), (0, 1e15)]
)
@pytest.mark.parametrize("n", [2, 3, 10, 45])
def test_mean_and_std(n, offset, spread, dtype):
    x = draw(n, 1300, dtype, offset, spread)
    before = x.copy()
    wide = x.astype(np.float64)
    scale = abs(offset) + spread
    tolerance = (4 + n / 4) * np.finfo(dtype).eps
    for branch in ("kernel", "other"):
        given = torch.from_numpy(x)
        if branch == "kernel":
            mean, std = mean_and_std(given)
        else:
            one, two = other_branches(100 * n)
            with one, two:
                mean, std = mean_and_std(given)
        assert mean.dtype == std.dtype == given.dtype and mean.shape == std.shape == (1300,)
        np.testing.assert_allclose(mean, wide.mean(0), rtol=0, atol=tolerance * scale)
        np.testing.assert_allclose(
            std, wide.std(0, ddof=1), rtol=10 * tolerance, atol=tolerance * scale
        )
    assert np.array_equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("d", [1, 7, 511, 512, 513, 1025])
def test_layouts(layout, d, dtype):
    """The same bits wherever the numbers stand, and no column is lost between blocks."""
    x = draw(6, d, dtype)
    plain, odd = torch.from_numpy(x), LAYOUTS[layout](x)
    assert torch.equal(plain, odd)
    assert all(map(torch.equal, mean_and_std(plain), mean_and_std(odd)))
    one, two = other_branches(6 * 100)
    with one, two:
        for other, kernel in zip(mean_and_std(odd), mean_and_std(plain), strict=True):
            torch.testing.assert_close(other, kernel)
    mean, std = mean_and_std(odd)
    np.testing.assert_allclose(mean, x.astype(float).mean(0), atol=3e-7)
    np.testing.assert_allclose(std, x.astype(float).std(0, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x = torch.from_numpy(draw(9, 700, np.float32)).to(dtype)
    wide = x.double().numpy()
    mean, std = mean_and_std(x)
    assert mean.dtype == std.dtype == dtype
    eps = torch.finfo(dtype).eps
    np.testing.assert_allclose(mean.double(), wide.mean(0), rtol=eps, atol=eps * 1e-2)
    np.testing.assert_allclose(std.double(), wide.std(0, ddof=1), rtol=eps)


def test_moments_by_hand():
    """1 3 5: mean 3, deviations -2 0 2, 8/2. 10 10 40: 20, variance 600/2. Equal ones: 0."""
    x = torch.tensor([[1.0, 10.0, 0.1], [3.0, 10.0, 0.1], [5.0, 40.0, 0.1]], dtype=torch.float64)
    mean, std = mean_and_std(x)
    np.testing.assert_allclose(mean, [3, 20, 0.1], rtol=1e-15)
    np.testing.assert_allclose(std, [2, 300**0.5, 0], rtol=1e-15, atol=1e-16)
    mean, std = mean_and_std(torch.tensor([[1.0], [4.0]]))
    np.testing.assert_allclose([mean[0], std[0]], [2.5, 3 / 2**0.5], rtol=1e-7)

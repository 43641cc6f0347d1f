"""Gram matrices and distances against exact ones."""

from unittest import mock

import numpy as np
import pytest
import torch

from benchmark.kernels import gram as gram_module
from benchmark.kernels.gram import distances_from, gram, squared_distances
from tests.helpers.arrays import DTYPES, draw, true_distances
from tests.helpers.cells import thinned


def measured_distances(x):
    return squared_distances(gram(torch.from_numpy(x)).centred)


def relative_error(measured, true):
    """The largest off the diagonal."""
    others = ~np.eye(len(true), dtype=bool)
    return (np.abs(measured - true)[others] / true[others]).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 33])
@pytest.mark.parametrize("d", thinned([9000, 1, 5, 2049, 2047, 2048]))
def test_gram(n, d, dtype):
    """Both kinds of products, with two more rows and without, against float64."""
    x, extra = draw(n, d, dtype), draw(2, d, dtype, 1)
    wide, more = torch.from_numpy(x), torch.from_numpy(extra)
    for found, rows in ((gram(wide), x), (gram(wide, more), np.vstack([x, extra]))):
        rows = rows.astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1)
        error = np.abs(found.inner - rows @ rows.T)
        assert found.inner.dtype == found.centred.dtype == np.float64
        assert np.all(error <= 50 * np.finfo(dtype).eps * np.outer(lengths, lengths))
        true = true_distances(rows)
        assert np.all(np.abs(squared_distances(found.centred) - true) <= 1e-5 * true.max())


@pytest.mark.parametrize("n", [255, 256, 261])  # with two more rows: many from 257 on
def test_gram_of_many_vectors(n):
    x, extra = draw(n, 5000, np.float32), draw(2, 5000, np.float32, 1)
    rows = np.vstack([x, extra]).astype(np.float64)
    found = gram(torch.from_numpy(x), torch.from_numpy(extra)).inner
    assert np.array_equal(found, found.T)
    np.testing.assert_allclose(found, rows @ rows.T, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("style", ["plain", "tight"])
def test_gram_by_other_branches(style):
    """Half precision and other devices: as good as float32, in pieces."""
    x = torch.from_numpy(draw(9, 3000, np.float32)) + (30 if style == "tight" else 0)
    extra = x.mean(0, keepdim=True)
    for dtype in (torch.float16, torch.bfloat16):
        half, more = x.to(dtype), extra.to(dtype)
        got, wanted = gram(half, more), gram(half.float(), more.float())
        np.testing.assert_allclose(got.inner, wanted.inner, rtol=1e-4, atol=1e-2)
        found, true = squared_distances(got.centred), squared_distances(wanted.centred)
        np.testing.assert_allclose(found, true, rtol=1e-3)
    kernel = gram(x, extra)
    with mock.patch.object(gram_module, "supported_by_kernels", lambda _: False):
        other = gram(x, extra)
    np.testing.assert_allclose(other.inner, kernel.inner, rtol=1e-4, atol=1e-2)
    found, true = squared_distances(other.centred), squared_distances(kernel.centred)
    np.testing.assert_allclose(found, true, rtol=1e-4)


def test_lengths_of_short_rows_beside_long_ones():
    """Whoever is in the majority, and however much longer the others are."""
    x = draw(6, 40, np.float64)
    lengths = np.linalg.norm(x, axis=1)
    for long in ([0], [5], [0, 1, 2, 3]):
        for size in (1e4, 1e12, 1e30):
            stretched = x.copy()
            stretched[long] *= size
            found = np.sqrt(np.diagonal(gram(torch.from_numpy(stretched)).inner))
            found[long] /= size
            np.testing.assert_allclose(found, lengths, rtol=1e-10)
    two = np.array([[1e30, 0], [3, 4]], np.float32)
    np.testing.assert_allclose(
        np.diagonal(gram(torch.from_numpy(two)).inner), [1e60, 25], rtol=1e-6
    )


def test_gram_by_hand():
    """Of (1, 2), (3, 0), (4, 4) and (0, 1): exact, the numbers being small and whole."""
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0], [4.0, 4.0]])
    products = gram(x, torch.tensor([[0.0, 1.0]]))
    wanted = [[5, 3, 12, 2], [3, 9, 12, 0], [12, 12, 32, 4], [2, 0, 4, 1]]
    assert products.inner.tolist() == wanted
    squared = [[0, 8, 13, 2], [8, 0, 17, 10], [13, 17, 0, 25], [2, 10, 25, 0]]
    assert squared_distances(products.centred).tolist() == squared
    assert squared_distances(gram(x).centred).tolist() == [[0, 8, 13], [8, 0, 17], [13, 17, 0]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [3, 100, 20000])
def test_distances_far_from_the_origin(d, dtype):
    """Near 1000 with spread 0.01: a float32 X @ X.T knows nothing of these distances."""
    x = (1000 + 0.01 * draw(30, d, np.float64)).astype(dtype)
    true = true_distances(x)
    assert relative_error(measured_distances(x), true) < 1e-5
    naive = squared_distances((x @ x.T).astype(np.float64))
    if dtype == np.float32:
        assert relative_error(naive, true) > 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e1, 1e2, 3e2, 1e3, 1e4, 1e8, 1e15, 1e20, 1e30])
@pytest.mark.parametrize("where", [0, 4, 19])
def test_one_long_row_spoils_no_distance(where, size, dtype):
    """Wherever it stands, above all first, where the pivot is sought."""
    x = draw(20, 50, dtype)
    x[where] *= size
    assert relative_error(measured_distances(x), true_distances(x)) < 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_rows_of_several_magnitudes(dtype):
    x = draw(20, 50, dtype)
    x[:7] *= np.array([1e15, 1e10, 1e10, 1e5, 1e5, 1e2, 1e2], dtype)[:, None]
    assert relative_error(measured_distances(x), true_distances(x)) < 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-25, 1e-18, 1e-12, 1e12, 1e18, 1e30])
def test_distances_at_every_scale(size, dtype):
    x = draw(12, 50, dtype) * dtype(size)
    error = relative_error(measured_distances(x) / size**2, true_distances(x) / size**2)
    assert error < 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [2, 7, 15, 20, 51])
@pytest.mark.parametrize("d", [1, 6, 100, 20000])
def test_equal_rows_are_at_distance_zero_and_all_is_symmetric(n, d, dtype):
    """Ties go to the lowest index only where equal distances come out equal."""
    x = draw(n, d, dtype)
    x[n // 2 :] = x[n // 2]
    x[0] += 100
    measured = measured_distances(x)
    assert not measured[n // 2 :, n // 2 :].any()
    assert np.array_equal(measured, measured.T)
    assert not np.diagonal(measured).any() and measured.min() >= 0
    mixing = np.random.default_rng(0).dirichlet(np.ones(n), n)
    mixed = squared_distances(mixing @ gram(torch.from_numpy(x)).centred @ mixing.T)
    assert np.array_equal(mixed, mixed.T)


def test_all_rows_equal_or_zero():
    for value in (0.0, 1e-30, 1.0, 1e30):
        assert not measured_distances(np.full((6, 40), value, np.float32)).any()


@pytest.mark.parametrize("seed", range(12))
def test_equal_rows_have_equal_products(seed):
    """By the kernel, by torch for other dtypes, about a pivot, of extra rows, and of mixtures."""
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(5, 40)), int(rng.integers(1, 3000))
    x, same = rng.normal(size=(n, d)), rng.permutation(n)[: n // 2]
    x[same] = x[same[0]]
    mixing = rng.dirichlet(np.ones(n), n)
    mixing[same] = mixing[same[0]]
    for scaled in (x, x + 1e4, x * 1e25):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            rows = torch.from_numpy(scaled).to(dtype)
            products = gram(rows, rows[same[:1]])
            known = [*same, n]
            for table in (products.inner, products.centred):
                assert (table[known] == table[same[0]]).all()
                assert (table[:, known] == table[:, same[:1]]).all()
            if len(same) > 1:
                assert not squared_distances(products.centred)[np.ix_(known, known)].any()
            mixed = gram(rows).mixed(mixing)
            for table in (mixed.inner, mixed.centred, gram(rows).mixed_inner(mixing)):
                assert (table[same] == table[same[0]]).all()


def test_rows_too_short_for_float64_are_an_error_of_one_line():
    with pytest.raises(ValueError, match=r"^updates are too short.*1e-280$"):
        gram(torch.full((3, 2), 1e-200, dtype=torch.float64))
    assert not gram(torch.zeros(3, 2, dtype=torch.float64)).inner.any()


def test_rows_too_long_for_float64_are_an_error_of_one_line():
    with pytest.raises(ValueError, match=r"^updates are too long.*1e300$"):
        gram(torch.full((3, 2), 1e200, dtype=torch.float64) * torch.tensor([[1.0], [2.0], [3.0]]))


@pytest.mark.parametrize("size", [1.0, 1e8, 1e16, 1e30])
def test_distances_from_an_average(size):
    """An average in which a row of length `size` has weight about 1 / size."""
    x = draw(9, 30, np.float64)
    x[2] *= size
    weights = np.full(9, 1.0)
    weights[2] = 1 / size
    weights /= weights.sum()
    z = weights @ x
    measured = distances_from(weights, gram(torch.from_numpy(x)).centred)
    np.testing.assert_allclose(measured, np.sqrt(((x - z) ** 2).sum(axis=1)), rtol=1e-10)

"""The hand-tuned numerics against the plain thing: sorting, Gram matrices, pooling."""

from fractions import Fraction
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from benchmark.kernels import blocks, convolution, order, signs
from benchmark.kernels import gram as gram_module
from benchmark.kernels.gram import distances_from, gram, squared_distances
from benchmark.kernels.offsets import offsets
from benchmark.kernels.pooling import relu_pool, relu_pool_backward
from benchmark.kernels.selection import iterated_krum
from benchmark.kernels.shuffle import permuted
from benchmark.kernels.signs import votes
from tests import reference
from tests.helpers.cells import thinned
from tests.helpers.properties import SEEDS, examples

DTYPES = [np.float32, np.float64]
RTOL = {np.float32: 2e-6, np.float64: 1e-14}


def draw(n, d, dtype, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


# --- order statistics ---------------------------------------------------------------------------


def sorted_mean(x, low, high, mixing=None):
    return order.sorted_mean(x, low, high, mixing)[0]


def nearest_mean(x, count, mixing=None, trim=None):
    return order.nearest_mean(x, count, mixing, trim)[0]


def sorted_share(x, rows, low, high, mixing=None):
    return order.sorted_mean(x, low, high, mixing)[1].share(rows)


def nearest_share(x, rows, count, mixing=None):
    return order.nearest_mean(x, count, mixing)[1].share(rows)


def ranges(n):
    """Windows of ranks: everything, ends, the middle, trimmed by one and by a third."""
    windows = {(0, n), (0, 1), (n - 1, n), ((n - 1) // 2, n // 2 + 1)}
    windows |= {(b, n - b) for b in (1, n // 3) if 2 * b < n}
    return sorted(windows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [*range(1, 41), 63, 64, 65, 100, 127, 128, 129, 200])
def test_sorted_mean_of_any_number_of_rows(n, dtype):
    x = draw(n, 9, dtype, n)
    ordered = np.sort(x, axis=0)
    for low, high in ranges(n):
        got = sorted_mean(torch.from_numpy(x), low, high).numpy()
        assert got.dtype == dtype and got.shape == (9,)
        wanted = ordered[low:high].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(got, wanted, rtol=RTOL[dtype], atol=n * np.finfo(dtype).eps)
        if high - low == 1:
            assert np.array_equal(got, ordered[low])  # a value that was there, bit for bit


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [*range(1, 41), 64, 65, 100, 200])
def test_nearest_mean_of_any_number_of_rows(n, dtype):
    x = draw(n, 9, dtype, n)
    for count in sorted({1, 2, n // 2, n - 2, n - 1, n} & set(range(1, n + 1))):
        got = nearest_mean(torch.from_numpy(x), count).numpy()
        assert got.dtype == dtype and got.shape == (9,)
        wanted = reference.nearest_mean(x.astype(np.float64), count)
        np.testing.assert_allclose(got, wanted, rtol=RTOL[dtype], atol=n * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 2, 511, 512, 513, 1023, 1024, 1025, 1700])
def test_no_column_is_lost_between_blocks(d, dtype):
    x = draw(11, d, dtype)
    columns = np.sort(x, axis=0)
    wide = torch.from_numpy(x)
    assert np.array_equal(sorted_mean(wide, 5, 6).numpy(), columns[5])
    assert np.array_equal(sorted_mean(wide, 0, 1).numpy(), columns[0])
    np.testing.assert_allclose(sorted_mean(wide, 2, 9), columns[2:9].mean(0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        nearest_mean(wide, 5), reference.nearest_mean(x.astype(float), 5), rtol=0, atol=1e-6
    )
    assert np.array_equal(x, draw(11, d, dtype))  # unchanged


@examples(25)
@given(st.integers(2, 12), st.integers(1, 12), SEEDS)
def test_nearest_mean_with_ties(n, count, seed):
    """On a grid of integers all of it is exact, and many values are equally near the median."""
    count = min(count, n)
    x = np.random.default_rng(seed).integers(-3, 4, size=(n, 40)).astype(np.float64)
    wanted = reference.nearest_mean(x, count)
    for dtype in DTYPES:
        got = nearest_mean(torch.from_numpy(x.astype(dtype)), count).numpy()
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_nearest_mean_by_hand():
    """0 1 2 3 10 about their median 2: first 2, then 1 (as far as 3, but lower), 3, 0, 10.
    -3 -3 -2 -1 9 about -2: first -2, then -3: the window that ends nearest, -3 -3, has not got it.
    """
    x = torch.tensor([[10.0, -1.0], [0.0, -3.0], [2.0, 9.0], [3.0, -3.0], [1.0, -2.0]])
    got = [nearest_mean(x, count).tolist() for count in (1, 2, 3, 4)]
    wanted = [[2, -2], [1.5, -2.5], [2, -8 / 3], [1.5, -2.25]]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    np.testing.assert_allclose(nearest_mean(x, 5), [16 / 5, 0], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_huge_row_does_not_spill(dtype):
    """Kept values are summed as they are: nothing is computed by taking 1e30 away again."""
    x = draw(9, 600, dtype)
    x[3] = 1e30
    rest = np.delete(x, 3, axis=0)
    ordered = np.sort(rest.astype(np.float64), axis=0)  # 1e30 comes last
    got = sorted_mean(torch.from_numpy(x), 1, 8).numpy()
    np.testing.assert_allclose(got, ordered[1:8].mean(axis=0), rtol=0, atol=1e-6)
    got = nearest_mean(torch.from_numpy(x), 7).numpy()
    wanted = reference.nearest_mean(x.astype(np.float64), 7)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


LAYOUTS = {
    "transposed": lambda x: torch.from_numpy(np.ascontiguousarray(x.T)).T,
    "padded rows": lambda x: F.pad(torch.from_numpy(x), (0, 5), value=1e9)[:, : x.shape[1]],
    "every other row": lambda x: torch.from_numpy(np.repeat(x, 2, axis=0))[::2],
    "every other column": lambda x: torch.from_numpy(np.repeat(x, 2, axis=1))[:, ::2],
    "last rows of a buffer": lambda x: F.pad(torch.from_numpy(x), (3, 0, 4, 0), value=1e9)[4:, 3:],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("d", [1, 7, 513])
def test_memory_layout_does_not_matter(layout, n, d):
    x = draw(n, d, np.float32)
    plain, odd = torch.from_numpy(x), LAYOUTS[layout](x)
    assert torch.equal(plain, odd)
    low, high = (n - 1) // 3, n - (n - 1) // 3
    assert torch.equal(sorted_mean(plain, low, high), sorted_mean(odd, low, high))
    assert torch.equal(nearest_mean(plain, (n + 1) // 2), nearest_mean(odd, (n + 1) // 2))
    rows = np.arange(n)
    assert np.array_equal(sorted_share(plain, rows, low, high), sorted_share(odd, rows, low, high))
    for one, other in zip(gram(plain), gram(odd), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_piece_by_piece(dtype):
    """As good as the same numbers in float32, rounded once at the end."""
    x = torch.from_numpy(draw(8, 700, np.float32)).to(dtype)
    mixing = np.random.default_rng(0).normal(size=(6, 8))
    with mock.patch.object(blocks, "_PIECE_VALUES", 8 * 300):
        for matrix, m in ((None, 8), (mixing, 6)):
            for function in (
                lambda v, a: order.sorted_mean(v, 1, 4, a),
                lambda v, a: order.nearest_mean(v, 3, a),
                lambda v, a: order.nearest_mean(v, 3, a, 1),
            ):
                half, window = function(x, matrix)
                wide, wide_window = function(x.float(), matrix)
                assert half.dtype == dtype and torch.equal(half, wide.to(dtype))
                share = window.share(np.arange(m))
                np.testing.assert_allclose(share, wide_window.share(np.arange(m)), atol=1e-6)
                assert share.sum() == pytest.approx(1)


@examples(25)
@given(st.integers(1, 12), st.sampled_from([1, 530]), st.booleans(), SEEDS)
def test_the_branch_for_other_devices(n, d, ties, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, (n, d)).astype(np.float64) if ties else rng.normal(size=(n, d))
    x, m = torch.from_numpy(x), int(rng.integers(1, 8))
    # Coefficients of whole numbers would make ties of real ones that rounding breaks either way.
    mixing = rng.integers(-1, 3, (m, n)).astype(float) if ties else rng.normal(size=(m, n))
    mixing = mixing if rng.random() < 0.5 else None
    m = n if mixing is None else m
    low = int(rng.integers(m))
    high, count = int(rng.integers(low + 1, m + 1)), int(rng.integers(1, m + 1))
    trim = int(rng.integers((m + 1) // 2))
    for function in (
        lambda: order.sorted_mean(x, low, high, mixing),
        lambda: order.nearest_mean(x, count, mixing),
        lambda: order.nearest_mean(x, count, mixing, trim),
    ):
        kernel, window = function()
        with (
            mock.patch.object(order, "supported_by_kernels", lambda _: False),
            mock.patch.object(blocks, "supported_by_kernels", lambda _: False),
            mock.patch.object(blocks, "_PIECE_VALUES", 100 * n),
        ):
            by_torch, other = function()
            assert other.first.shape == window.first.shape
            shares = other.share(np.arange(m))
        np.testing.assert_allclose(by_torch, kernel, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(shares, window.share(np.arange(m)), atol=1e-12)


@examples(25)
@given(st.integers(1, 15), SEEDS)
def test_nearest_the_trimmed_mean(n, seed):
    """On whole numbers with a trimmed mean that is exact in binary, all ties are real ties."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, (n, 40)).astype(np.float64)
    count, trim = int(rng.integers(1, n + 1)), int(rng.integers((n + 1) // 2))
    got, _ = order.nearest_mean(torch.from_numpy(x), count, None, trim)
    for column, value in zip(x.T, got.tolist(), strict=True):
        kept = sorted(map(int, column))[trim : n - trim]
        centre = Fraction(sum(kept), len(kept))
        near = sorted(map(int, column), key=lambda v: (abs(v - centre), v))[:count]
        if len(kept) & (len(kept) - 1) == 0:  # 2 / len(kept) is exact
            assert value == pytest.approx(sum(near) / count, abs=1e-12)
        else:
            other = sorted(map(int, column), key=lambda v: (abs(v - centre), -v))[:count]
            assert any(value == pytest.approx(sum(c) / count) for c in (near, other))


def test_nearest_the_trimmed_mean_by_hand():
    column = torch.tensor([[0.0], [1.0], [2.0], [9.0], [10.0]])  # mean 4.4, median 2
    assert nearest_mean(column, 2, trim=0).tolist() == [1.5]  # 2 (2.4 away), 1 (3.4)
    assert nearest_mean(column, 3, trim=0).tolist() == [1.0]  # then 0 (4.4), before 9 (4.6)
    assert nearest_mean(column, 3, trim=1).tolist() == [1.0]  # about 4: 2, 1, 0 before 9
    assert nearest_mean(column, 1, trim=2).tolist() == [2.0]
    far = torch.tensor([[0.0], [1.0], [6.0], [9.0], [14.0]])  # about 16/3: 6, 9 before 1
    assert nearest_mean(far, 2, trim=1).tolist() == [7.5]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_thousand_rows(dtype):
    """Any number of rows up to 1,000, bit for bit."""
    for n in (257, 512, 1000):
        x = draw(n, 700, dtype, n)
        ordered = np.sort(x, axis=0)
        wide = torch.from_numpy(x)
        assert np.array_equal(sorted_mean(wide, n // 3, n // 3 + 1), ordered[n // 3])
        assert np.array_equal(sorted_mean(wide, n - 1, n), ordered[-1])
        assert np.array_equal(nearest_mean(wide, 1), ordered[(n - 1) // 2])


@pytest.mark.parametrize("as_matrix", [False, True])
def test_rows_picked_with_repeats_are_not_multiplied(as_matrix):
    """A selection is copied: even next to a row of 1e38 nothing of it is lost."""
    x = torch.from_numpy(draw(5, 600, np.float32))
    x[2] = 1e38
    picked = [4, 0, 0, 3, 4, 1, 0]
    mixing = np.eye(5)[picked] if as_matrix else np.array(picked)
    assert torch.equal(sorted_mean(x, 2, 5, mixing), sorted_mean(x[picked], 2, 5))
    assert torch.equal(nearest_mean(x, 3, mixing), nearest_mean(x[picked], 3))
    everybody = np.arange(7)
    np.testing.assert_array_equal(
        sorted_share(x, everybody, 2, 5, mixing), sorted_share(x[picked], everybody, 2, 5)
    )


def brute_share(x, kept):
    """Average over the columns of (kept copies of a value) / (all its copies) / (all kept)."""
    share = np.zeros(len(x))
    for column in x.T:
        stay = kept(sorted(column))
        for i, value in enumerate(column):
            share[i] += stay.count(value) / list(column).count(value) / len(stay)
    return share / x.shape[1]


@examples(25)
@given(st.integers(1, 12), st.sampled_from([1, 3, 530]), st.booleans(), SEEDS)
def test_shares(n, d, ties, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, (n, d)).astype(np.float64) if ties else rng.normal(size=(n, d))
    low = int(rng.integers(n))
    high = int(rng.integers(low + 1, n + 1))
    count = int(rng.integers(1, n + 1))
    matrix, everybody = torch.from_numpy(x), np.arange(n)
    got = sorted_share(matrix, everybody, low, high)
    np.testing.assert_allclose(got, brute_share(x, lambda ordered: ordered[low:high]), atol=1e-12)
    assert got.sum() == pytest.approx(1)
    some = rng.permutation(n)[: n // 2]
    np.testing.assert_allclose(sorted_share(matrix, some, low, high), got[some], atol=1e-12)
    got = nearest_share(matrix, everybody, count)
    wanted = brute_share(x, lambda ordered: reference.nearest(ordered, count))
    np.testing.assert_allclose(got, wanted, atol=1e-12)
    assert got.sum() == pytest.approx(1)
    np.testing.assert_allclose(nearest_share(matrix, some, count), got[some], atol=1e-12)
    assert len(sorted_share(matrix, np.array([], int), low, high)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("d", [1, 511, 1300])
@pytest.mark.parametrize("m, n", [(1, 1), (1, 6), (3, 5), (4, 4), (7, 3), (8, 9), (9, 8)])
@pytest.mark.slow
def test_mixtures_are_as_good_as_their_matrix(m, n, d, dtype):
    rng = np.random.default_rng(m + 10 * n + d)
    x = torch.from_numpy(rng.integers(-2, 3, (n, d))).to(dtype)
    mixing = rng.integers(-1, 3, (m, n)).astype(float)  # so that all is exact, with many ties
    rows = torch.from_numpy(mixing).to(dtype) @ x
    low, high, everybody = m // 3, m - m // 3, np.arange(m)
    assert torch.equal(sorted_mean(x, low, high, mixing), sorted_mean(rows, low, high))
    assert torch.equal(nearest_mean(x, high, mixing), nearest_mean(rows, high))
    for some in (everybody, everybody[::-2]):
        mixed = sorted_share(x, some, low, high, mixing), nearest_share(x, some, high, mixing)
        plain = sorted_share(rows, some, low, high), nearest_share(rows, some, high)
        np.testing.assert_array_equal(mixed, plain)
    assert sorted_share(x, everybody, low, high, mixing).sum() == pytest.approx(1)


def test_shares_by_hand():
    """Column one: 1 2 3 4, ranks 1..2 keep 2 and 3, half each. Column two: 0 0 0 5, ranks 1..2 keep
    two of three zeros, a third each. The average is half of the sum of both."""
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 5.0], [4.0, 0.0]])
    share = sorted_share(x, np.arange(4), 1, 3)
    np.testing.assert_allclose(share, [1 / 6, 1 / 4 + 1 / 6, 1 / 4, 1 / 6])


# --- Gram matrices ------------------------------------------------------------------------------


def true_distances(x):
    x = x.astype(np.float64)
    return np.array([((x - row) ** 2).sum(axis=1) for row in x])


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


def test_vectors_that_are_too_short_are_not_read_beyond():
    x = torch.ones(4, 1000)
    for wrong in (
        lambda: gram(x, x[:1, :900]),
        lambda: offsets(x, x[0, :900]),
        lambda: offsets(x, x[0], x[0, :900]),
        lambda: permuted(x, torch.arange(900, dtype=torch.int32)),
        lambda: sorted_mean(x, 0, 1, np.eye(3)),
    ):
        with pytest.raises(ValueError, match=r"for vectors of|for 3 vectors|vectors of 1000"):
            wrong()


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


# --- pooling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 2, 2, 1), (3, 4, 6, 5), (2, 5, 7, 3), (2, 3, 2, 4), (4, 28, 28, 2), (1, 9, 8, 17)]
)
def test_relu_pool(shape, dtype):
    x = draw(int(np.prod(shape)), 1, dtype).reshape(shape)
    mine = torch.from_numpy(x.copy())
    pooled, place = relu_pool(mine)
    theirs = torch.from_numpy(x.copy()).permute(0, 3, 1, 2).requires_grad_()
    wanted = F.max_pool2d(F.relu(theirs), 2)
    assert torch.equal(pooled, wanted.detach().permute(0, 2, 3, 1))
    assert torch.equal(mine, torch.from_numpy(x))
    assert place.dtype == torch.uint8 and place.shape == pooled.shape
    assert torch.equal(place == 4, pooled == 0)
    grad = torch.from_numpy(draw(pooled.numel(), 1, dtype, 1).reshape(pooled.shape))
    wanted.backward(grad.permute(0, 3, 1, 2))
    back = relu_pool_backward(grad, place, shape)
    assert torch.equal(back, theirs.grad.permute(0, 2, 3, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relu_pool_of_ties_and_of_nothing_positive(dtype):
    """Windows (2 2 / 2 2), (-1 0 / -3 -2) and (0 1 / 1 0): the first of equal ones, or nowhere."""
    x = torch.tensor([[2, 2, -1, 0, 0, 1], [2, 2, -3, -2, 1, 0]], dtype=dtype)[None, :, :, None]
    pooled, place = relu_pool(x.contiguous())
    assert pooled.flatten().tolist() == [2, 0, 1]
    assert place.flatten().tolist() == [0, 4, 1]
    back = relu_pool_backward(torch.ones_like(pooled), place, tuple(x.shape))
    assert back[0, :, :, 0].tolist() == [[1, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relu_pool_backward_of_a_gradient_in_another_layout(dtype):
    x = torch.randn(2, 6, 4, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    pooled, place = relu_pool(x)
    grad = torch.randn(2, 3, 3, 2, dtype=dtype).permute(0, 3, 1, 2).permute(0, 2, 1, 3)
    assert grad.shape == pooled.shape and not grad.is_contiguous()
    assert torch.equal(
        relu_pool_backward(grad, place, tuple(x.shape)),
        relu_pool_backward(grad.contiguous(), place, tuple(x.shape)),
    )


# --- selection ----------------------------------------------------------------------------------


@examples(25)
@given(st.integers(1, 12), st.integers(0, 4), st.booleans(), SEEDS)
def test_iterated_krum(n, f, ties, seed):
    """Krum of all, of the others, and so on; on a small grid ties abound and all is exact."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (n, 2)).astype(float) if ties else rng.normal(size=(n, 3))
    count = int(rng.integers(1, n + 1))
    left, wanted = list(range(n)), []
    for _ in range(count):
        scores = reference.krum_scores(x[left], f)
        wanted.append(left.pop(scores.index(min(scores))))
    distances = true_distances(x)
    given_distances = distances.copy()
    assert iterated_krum(distances, f, count).tolist() == wanted
    assert np.array_equal(distances, given_distances)


# --- convolution, ReLU and pooling --------------------------------------------------------------


@pytest.mark.parametrize("branch", ["kernel", "torch"])
@pytest.mark.parametrize("dtype", [DTYPES[0], pytest.param(DTYPES[1], marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "clients, batch, size, inputs, outputs, kernel",
    thinned([(3, 2, (12, 9), 3, 7, 5), (1, 1, (2, 2), 1, 1, 1), (2, 3, (7, 6), 2, 5, 3),
             (4, 1, (12, 12), 20, 18, 5), (1, 4, (28, 28), 1, 20, 5)]),
)  # fmt: skip
def test_pooled_convolution(clients, batch, size, inputs, outputs, kernel, dtype, branch):
    m, rng = clients * batch, np.random.default_rng(0)
    shape = (m, *size, inputs)
    x = torch.from_numpy(rng.normal(size=shape).astype(dtype)).requires_grad_()
    filters = (outputs, kernel, kernel, inputs)
    weights = torch.from_numpy(rng.normal(size=filters).astype(dtype)).requires_grad_()
    bias = torch.from_numpy(rng.normal(size=outputs).astype(dtype)).requires_grad_()
    y = F.conv2d(x.permute(0, 3, 1, 2), weights.permute(0, 3, 1, 2), bias)
    pooled, place = relu_pool(y.detach().permute(0, 2, 3, 1).contiguous())
    grad = torch.from_numpy(rng.normal(size=pooled.shape).astype(dtype))
    results = F.max_pool2d(F.relu(y), 2) * grad.permute(0, 3, 1, 2)
    with mock.patch.object(convolution, "supported_by_kernels", lambda x: branch == "kernel"):
        dx = convolution.input_gradient(grad, place, weights.detach(), shape)
        dw, db = convolution.weight_gradient(grad, place, x.detach(), clients, kernel)
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)
    close(dx, torch.autograd.grad(results.sum(), x, retain_graph=True)[0])
    for client, part in enumerate(results.split(batch)):
        wanted = torch.autograd.grad(part.sum(), [weights, bias], retain_graph=True)
        close(dw[client], wanted[0])
        close(db[client], wanted[1])


# --- votes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("d", [1, 511, 1300])
def test_votes(d, dtype):
    rng = np.random.default_rng(d)
    x = torch.from_numpy(rng.integers(-2, 3, (7, d))).to(dtype)
    mixing = rng.integers(-1, 2, (4, 7)).astype(float)
    picked = np.eye(7)[[3, 3, 0]]
    for matrix, rows in ((None, x), (mixing, torch.from_numpy(mixing).to(dtype) @ x),
                         (picked, x[[3, 3, 0]])):  # fmt: skip
        wanted = torch.sign(rows.double()).sum(0).int()
        assert torch.equal(votes(x, matrix), wanted)
        with (
            mock.patch.object(signs, "supported_by_kernels", lambda _: False),
            mock.patch.object(blocks, "supported_by_kernels", lambda _: False),
            mock.patch.object(blocks, "_PIECE_VALUES", 7 * 100),
        ):
            assert torch.equal(votes(x, matrix), wanted)

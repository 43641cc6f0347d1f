"""Order statistics against sorting."""

from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.kernels import blocks, order
from benchmark.kernels.gram import gram
from benchmark.kernels.offsets import offsets
from benchmark.kernels.shuffle import permuted
from tests import reference
from tests.helpers.arrays import DTYPES, VIEWS, draw
from tests.helpers.properties import SEEDS, examples

RTOL = {np.float32: 2e-6, np.float64: 1e-14}


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


@pytest.mark.parametrize("layout", VIEWS)
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("d", [1, 7, 513])
def test_memory_layout_does_not_matter(layout, n, d):
    x = draw(n, d, np.float32)
    plain, odd = torch.from_numpy(x), VIEWS[layout](x)
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

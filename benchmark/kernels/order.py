"""Order statistics of every coordinate of a few long vectors, or of mixtures of them.

On a CPU a sorting network runs over blocks of columns: a comparator is an element-wise minimum and
maximum of two rows, so that a block is sorted by vector instructions while it lies in cache.
Comparators that no wanted rank depends on are left out. Mixtures exist block by block only. On
other devices torch sorts.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import as_array, suits

_COLUMNS = 512  # of one block: its rows fit the first- or second-level cache


def sorted_mean(
    x: torch.Tensor, low: int, high: int, mixing: np.ndarray | None = None
) -> tuple[torch.Tensor, "Window"]:
    """Mean of the order statistics low, ..., high - 1 (ascending, from 0) of every column.

    Args:
        x: (n, d), finite. Not changed.
        low, high: the ranks kept, 0 <= low < high <= n (or m).
        mixing: (m, n): of the vectors mixing @ x instead of those of x.

    Returns:
        (d,) of the dtype of x: for the median the middle one or two, for the trimmed mean b..n-b;
        and the window of values that it is the mean of.
    """
    if suits(x):
        return _window_mean(x, mixing, low, high - low)
    x = _mixed(x, mixing)
    ordered = torch.sort(x, dim=0).values
    window = Window(x, None, torch.tensor([low]), high - low, ordered[low], ordered[high - 1])
    return ordered[low:high].mean(0), window


def nearest_mean(
    x: torch.Tensor, count: int, mixing: np.ndarray | None = None
) -> tuple[torch.Tensor, "Window"]:
    """Mean of the `count` values nearest the median, of every column.

    They are consecutive order statistics: a window of `count` sorted values moves up from the
    lowest as long as the value that would come in is nearer than the one that would go out, so of
    equally near ones the lower stays.

    Args:
        x, mixing: as for `sorted_mean`.
        count: 1 <= count <= n (or m).

    Returns:
        (d,) of the dtype of x, and the window of values that it is the mean of.
    """
    if suits(x):
        return _window_mean(x, mixing, -1, count)
    x = _mixed(x, mixing)
    n = len(x)
    ordered = torch.sort(x, dim=0).values
    middle = ordered[(n - 1) // 2] + ordered[n // 2]
    first = (middle > ordered[: n - count] + ordered[count:]).sum(0)
    near = ordered.gather(0, first + torch.arange(count, device=x.device)[:, None])
    return near.mean(0), Window(x, None, first, count, near[0], near[-1])


@dataclass(frozen=True)
class Window:
    """The consecutive order statistics of every column that a mean was taken of.

    Attributes:
        x, mixing: the vectors, as for `sorted_mean`; the mixtures themselves if torch made them.
        first: lowest rank kept, from 0, (d,), or (1,) if it is the same for all columns.
        count: how many ranks are kept.
        smallest, largest: (d,) the values of the lowest and the highest of them.
    """

    x: torch.Tensor
    mixing: np.ndarray | None
    first: torch.Tensor
    count: int
    smallest: torch.Tensor
    largest: torch.Tensor

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Shares of the weight that some of the vectors received, averaged over the columns.

        Each of the ranks kept carries 1 / count; equal values share what they get.

        Args:
            rows: indices (k,).

        Returns:
            (k,) float64.
        """
        x, smallest, largest = self.x, self.smallest, self.largest
        if not suits(x):
            x, smallest, largest = (tensor.cpu().double() for tensor in (x, smallest, largest))
        array, d = as_array(x)
        first = self.first.to("cpu", torch.int32).numpy()
        return _shares(
            array, d, *_padded(self.mixing, array), np.asarray(rows, np.int64),
            first, self.count, smallest.numpy(), largest.numpy(),
        )  # fmt: skip


def _mixed(x, mixing):
    return x if mixing is None else torch.as_tensor(mixing).to(x) @ x


def _window_mean(x, mixing, low, count):
    array, d = as_array(x)
    padded, m = _padded(mixing, array)
    network = _network(m, 0, m) if low < 0 else _network(m, low, low + count)
    mean, smallest, largest = (torch.empty(d, dtype=x.dtype) for _ in range(3))
    first = torch.full((1 if low >= 0 else d,), low, dtype=torch.int32)
    _means(
        array, d, padded, m, network, low, count,
        mean.numpy(), first.numpy(), smallest.numpy(), largest.numpy(),
    )  # fmt: skip
    return mean, Window(x, mixing, first, count, smallest, largest)


def _padded(mixing, x):
    """The mixing matrix with both sides filled up to multiples of four, and the number of vectors;
    an empty matrix for none."""
    if mixing is None:
        return np.empty((0, 0), x.dtype), len(x)
    m, n = mixing.shape
    padded = np.zeros((-(-m // 4) * 4, -(-n // 4) * 4), x.dtype)
    padded[:m, :n] = mixing
    return padded, m


@lru_cache(maxsize=256)
def _network(n: int, low: int, high: int) -> np.ndarray:
    """Comparators (i, j), i < j, of Batcher's odd-even merge sort that ranks low..high-1 need."""
    comparators = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(min(k, n - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        comparators.append((i + j, i + j + k))
            k //= 2
        p *= 2
    needed = set(range(low, high))
    kept = []
    for pair in reversed(comparators):
        if needed.intersection(pair):
            needed.update(pair)
            kept.append(pair)
    return np.array(kept[::-1], dtype=np.int64).reshape(-1, 2)


@njit(cache=True, inline="always")
def _load_block(x, mixing, start, width):
    """Columns start.. of x, or of the mixtures; four of these from four rows at a time."""
    n, mixtures, parts = len(x), mixing.shape[0], mixing.shape[1]
    block = np.zeros((max(n, mixtures), _COLUMNS), x.dtype)
    if mixtures == 0:
        for i in range(n):
            block[i, :width] = x[i, start : start + width]
    for i in range(0, mixtures, 4):
        y0, y1, y2, y3 = block[i], block[i + 1], block[i + 2], block[i + 3]
        for j in range(0, parts, 4):  # behind the last row the coefficients are zero
            x0 = x[j, start : start + width]
            x1 = x[min(j + 1, n - 1), start : start + width]
            x2 = x[min(j + 2, n - 1), start : start + width]
            x3 = x[min(j + 3, n - 1), start : start + width]
            a00, a01, a02, a03 = mixing[i, j], mixing[i, j + 1], mixing[i, j + 2], mixing[i, j + 3]
            c = mixing[i + 1]
            a10, a11, a12, a13 = c[j], c[j + 1], c[j + 2], c[j + 3]
            c = mixing[i + 2]
            a20, a21, a22, a23 = c[j], c[j + 1], c[j + 2], c[j + 3]
            c = mixing[i + 3]
            a30, a31, a32, a33 = c[j], c[j + 1], c[j + 2], c[j + 3]
            for k in range(width):
                v0, v1, v2, v3 = x0[k], x1[k], x2[k], x3[k]
                y0[k] += a00 * v0 + a01 * v1 + a02 * v2 + a03 * v3
                y1[k] += a10 * v0 + a11 * v1 + a12 * v2 + a13 * v3
                y2[k] += a20 * v0 + a21 * v1 + a22 * v2 + a23 * v3
                y3[k] += a30 * v0 + a31 * v1 + a32 * v2 + a33 * v3
    return block


@njit(cache=True, inline="always")
def _sort_block(block, network, width):
    for c in range(network.shape[0]):
        upper = block[network[c, 0]]
        lower = block[network[c, 1]]
        for k in range(width):
            a = upper[k]
            b = lower[k]
            upper[k] = min(a, b)
            lower[k] = max(a, b)


@njit(parallel=True, cache=True)
def _means(x, d, mixing, m, network, low, count, mean, first, smallest, largest):
    """Means of the window of `count` ranks from `low`, or nearest the median if low < 0."""
    scale = x.dtype.type(1.0 / count)
    zero = x.dtype.type(0.0)
    for index in prange((d + _COLUMNS - 1) // _COLUMNS):
        start = index * _COLUMNS
        width = min(_COLUMNS, d - start)
        block = _load_block(x, mixing, start, width)
        _sort_block(block, network, width)
        total = np.zeros(width, x.dtype)
        if low >= 0:
            for r in range(low, low + count):
                row = block[r]
                for k in range(width):
                    total[k] += row[k]
            for k in range(width):
                smallest[start + k] = block[low, k]
                largest[start + k] = block[low + count - 1, k]
        else:
            middle = np.empty(width, x.dtype)
            window = np.zeros(width, np.int32)
            for k in range(width):  # twice the median: ties stay exact
                middle[k] = block[(m - 1) // 2, k] + block[m // 2, k]
            for s in range(m - count):  # once the value that would come in is farther, it stays so
                for k in range(width):
                    window[k] += middle[k] > block[s, k] + block[s + count, k]
            for r in range(m):
                for k in range(width):
                    total[k] += block[r, k] if window[k] <= r < window[k] + count else zero
            for k in range(width):
                smallest[start + k] = block[window[k], k]
                largest[start + k] = block[window[k] + count - 1, k]
                first[start + k] = window[k]
        for k in range(width):
            mean[start + k] = total[k] * scale


@njit(cache=True, fastmath={"reassoc", "nsz"})
def _total(values):
    """The sum in an order that suits vector instructions."""
    total = values.dtype.type(0.0)
    for k in range(len(values)):
        total += values[k]
    return total


@njit(parallel=True, cache=True)
def _shares(x, d, mixing, m, rows, first, count, smallest, largest):
    blocks = (d + _COLUMNS - 1) // _COLUMNS
    shares = np.zeros((blocks, len(rows)))
    one, zero = x.dtype.type(1.0), x.dtype.type(0.0)
    for index in prange(blocks):
        start = index * _COLUMNS
        width = min(_COLUMNS, d - start)
        block = _load_block(x, mixing, start, width)
        low, high = smallest[start : start + width], largest[start : start + width]
        below_low, at_low, below_high, at_high = np.zeros((4, width), x.dtype)
        for r in range(m):
            row = block[r]
            for k in range(width):
                below_low[k] += one if row[k] < low[k] else zero
                at_low[k] += one if row[k] == low[k] else zero
                below_high[k] += one if row[k] < high[k] else zero
                at_high[k] += one if row[k] == high[k] else zero
        # Values equal to an end of the window share the ranks within it that have this value.
        for k in range(width):
            begin = x.dtype.type(first[start + k] if len(first) > 1 else first[0])
            end = begin + x.dtype.type(count)
            at_low[k] = (min(below_low[k] + at_low[k], end) - begin) / at_low[k]
            at_high[k] = (end - max(below_high[k], begin)) / at_high[k]
        part = np.empty(width, x.dtype)
        for r in range(len(rows)):
            row = block[rows[r]]
            for k in range(width):
                value = row[k]
                share = one if low[k] < value else zero
                share = share if value < high[k] else zero
                share = at_high[k] if value == high[k] else share
                part[k] = at_low[k] if value == low[k] else share
            shares[index, r] = _total(part)
    return shares.sum(0) / (d * count)

"""Order statistics of every coordinate of a few long vectors, or of mixtures of them.

On a CPU a sorting network runs over blocks of columns. A comparator is an element-wise minimum and
maximum of two rows, so that a block is sorted by vector instructions while it lies in cache.
Comparators that no wanted rank depends on are left out. Mixtures exist only block by block. Half
precision is converted block by block. On other devices torch sorts, also block by block.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import as_array, summed, supported_by_kernels
from benchmark.kernels.blocks import (
    COLUMNS,
    count_unit,
    kernel_arguments,
    load_block,
    mixed,
    pieces,
)


def sorted_mean(
    x: torch.Tensor, low: int, high: int, mixing: np.ndarray | None = None
) -> tuple[torch.Tensor, "Window"]:
    """Return the mean of the order statistics low, ..., high - 1 of each column.

    Ranks ascend from 0. The median is the middle one or two, the trimmed mean b, ..., n - b - 1.

    Args:
        x: (n, d), finite. Not changed.
        low, high: the ranks kept, 0 <= low < high <= n (or m).
        mixing: how m vectors, to be used instead, are made of those of x, see `blocks`.

    Returns:
        The mean (d,), of the dtype of x, and the window of values that it is the mean of.
    """
    return _window_mean(x, mixing, low, high - low, 0)


def nearest_mean(
    x: torch.Tensor, count: int, mixing: np.ndarray | None = None, trim: int | None = None
) -> tuple[torch.Tensor, "Window"]:
    """Return the mean of the `count` values nearest a centre, of each column.

    The centre is the median, or a trimmed mean. The nearest values are consecutive order
    statistics: a window of `count` sorted values moves up from the lowest as long as the value that
    would come in is nearer than the one that would go out. So of equally near ones the lower stays.

    Args:
        x, mixing: as for `sorted_mean`.
        count: 1 <= count <= n (or m).
        trim: how many values the trimmed mean leaves out at each end; None: the centre is the
            median.

    Returns:
        The mean (d,), of the dtype of x, and the window of values that it is the mean of.
    """
    m = len(x) if mixing is None else len(mixing)
    return _window_mean(x, mixing, None, count, (m - 1) // 2 if trim is None else trim)


@dataclass(frozen=True)
class Window:
    """The consecutive order statistics of each column that a mean was taken of.

    Attributes:
        x, mixing: the vectors, as for `sorted_mean`.
        first: (d,) lowest rank kept, from 0; (1,) if it is the same for all columns.
        count: how many ranks are kept.
        smallest, largest: (d,) the values of the lowest and of the highest rank kept, in float32 at
            least.
    """

    x: torch.Tensor
    mixing: np.ndarray | None
    first: torch.Tensor
    count: int
    smallest: torch.Tensor
    largest: torch.Tensor

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Return the shares of the weight that vectors received, averaged over the columns.

        Each rank kept has the weight 1 / count. Equal values share what their ranks have.

        Args:
            rows: (k,) the numbers of the vectors.

        Returns:
            (k,) float64.
        """
        rows, d = np.asarray(rows, np.int64), self.x.shape[1]
        total = np.zeros(len(rows))
        for columns, part in pieces(self.x):
            first = self.first[columns] if len(self.first) > 1 else self.first
            window = first, self.count, self.smallest[columns], self.largest[columns]
            work = _shares_by_kernel if supported_by_kernels(part) else _shares_by_torch
            total += part.shape[1] / d * work(part, self.mixing, rows, *window)
        return total


def _window_mean(
    x: torch.Tensor, mixing: np.ndarray | None, low: int | None, count: int, trim: int
) -> tuple[torch.Tensor, Window]:
    """Return the mean of a window of `count` ranks of each column, and the window.

    Args:
        x, mixing: as for `sorted_mean`.
        low: first rank; None: the ranks are those nearest the mean of all but `trim` at each end.
        count: how many ranks.
        trim: see `low`.
    """
    results = [
        (_by_kernel if supported_by_kernels(part) else _by_torch)(part, mixing, low, count, trim)
        for _, part in pieces(x)
    ]
    mean, first, smallest, largest = (
        parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*results, strict=True)
    )
    first = first if low is None else first[:1]
    return mean.to(x.dtype), Window(x, mixing, first, count, smallest, largest)


def _by_kernel(
    x: torch.Tensor, mixing: np.ndarray | None, low: int | None, count: int, trim: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the mean, the first rank, the smallest and the largest value of each column."""
    array, d = as_array(x)
    vectors = kernel_arguments(mixing, array)
    m = vectors[-1]
    unit = count_unit(np.array([count, m - 2 * trim])).astype(array.dtype)
    network = _network(m, 0, m) if low is None else _network(m, low, low + count)
    mean, smallest, largest = (torch.empty(d, dtype=x.dtype) for _ in range(3))
    first = torch.full((d if low is None else 1,), low or 0, dtype=torch.int32)
    out = (part.numpy() for part in (mean, first, smallest, largest))
    _means(array, d, *vectors, network, -1 if low is None else low, count, trim, unit, *out)
    return mean, first, smallest, largest


def _by_torch(
    x: torch.Tensor, mixing: np.ndarray | None, low: int | None, count: int, trim: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what `_by_kernel` returns, computed by torch."""
    x = mixed(x, mixing)
    m = len(x)
    ordered = torch.sort(x, dim=0).values
    if low is None:
        middle = _mean(ordered[trim : m - trim])
        first = (middle > ordered[: m - count] / 2 + ordered[count:] / 2).sum(0)
        near = ordered.gather(0, first + torch.arange(count, device=x.device)[:, None])
    else:
        first = torch.full((1,), low, device=x.device)
        near = ordered[low : low + count]
    return _mean(near), first, near[0], near[-1]


def _mean(rows: torch.Tensor) -> torch.Tensor:
    """Return the mean of the rows, without overflow of their sum."""
    unit = float(count_unit(len(rows)))
    return (rows * unit).sum(0) / (len(rows) * unit)


def _shares_by_kernel(
    x: torch.Tensor,
    mixing: np.ndarray | None,
    rows: np.ndarray,
    first: torch.Tensor,
    count: int,
    smallest: torch.Tensor,
    largest: torch.Tensor,
) -> np.ndarray:
    array, d = as_array(x)
    vectors = kernel_arguments(mixing, array)
    low, high = smallest.numpy(), largest.numpy()
    return _shares(array, d, *vectors, rows, first.numpy(), count, low, high)


def _shares_by_torch(
    x: torch.Tensor,
    mixing: np.ndarray | None,
    rows: np.ndarray,
    first: torch.Tensor,
    count: int,
    smallest: torch.Tensor,
    largest: torch.Tensor,
) -> np.ndarray:
    x = mixed(x, mixing)
    below_low, at_low = (x < smallest).sum(0), (x == smallest).sum(0)
    below_high, at_high = (x < largest).sum(0), (x == largest).sum(0)
    end = first + count
    at_low = (torch.minimum(below_low + at_low, end) - first) / at_low
    at_high = (end - torch.maximum(below_high, first)) / at_high
    inside = (smallest < x) & (x < largest)
    share = torch.where(x == largest, at_high, inside.to(at_low))
    share = torch.where(x == smallest, at_low, share)
    wanted = torch.as_tensor(rows, device=x.device)
    return (share[wanted].double().mean(1) / count).cpu().numpy()


@lru_cache(maxsize=256)
def _network(n: int, low: int, high: int) -> np.ndarray:
    """Return the comparators (i, j), i < j, of Batcher's odd-even merge sort, (c, 2).

    Only those that the ranks low, ..., high - 1 depend on.
    """
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
def _sort_block(block: np.ndarray, network: np.ndarray, width: int) -> np.ndarray:
    """Sort the columns of a block and return the row of each rank.

    A comparator writes into the last two rows, which are free, and frees the two that it read. In
    place the compiler would take the numbers one by one, five times as slowly.
    """
    place = np.arange(len(block))
    for c in range(network.shape[0]):
        i, j = network[c, 0], network[c, 1]
        above, below = block[place[i]], block[place[j]]
        low, high = block[place[-2]], block[place[-1]]
        for k in range(width):
            a = above[k]
            b = below[k]
            low[k] = min(a, b)
            high[k] = max(a, b)
        place[i], place[-2] = place[-2], place[i]
        place[j], place[-1] = place[-1], place[j]
    return place


@njit(parallel=True, cache=True)
def _means(
    x: np.ndarray,
    d: int,
    mixing: np.ndarray,
    divisors: np.ndarray,
    rows: np.ndarray,
    m: int,
    network: np.ndarray,
    low: int,
    count: int,
    trim: int,
    unit: np.ndarray,
    mean: np.ndarray,
    first: np.ndarray,
    smallest: np.ndarray,
    largest: np.ndarray,
) -> None:
    """Fill the last four with what `_by_kernel` returns.

    The window has `count` ranks from `low` on. If low < 0, it has those nearest the mean of all but
    `trim` values at each end, which is the median if as many as can be are left out.
    """
    # Numbers are added in units of a power of two, so that their sum does not overflow.
    own, central = unit
    divisor, between = x.dtype.type(count) * own, x.dtype.type(m - 2 * trim) * central
    half = x.dtype.type(0.5)
    zero = x.dtype.type(0.0)
    for index in prange((d + COLUMNS - 1) // COLUMNS):
        start = index * COLUMNS
        width = min(COLUMNS, d - start)
        block = load_block(x, mixing, divisors, rows, m, start, width)
        place = _sort_block(block, network, width)
        total = np.zeros(width, x.dtype)
        if low >= 0:
            for r in range(low, low + count):
                row = block[place[r]]
                for k in range(width):
                    total[k] += row[k] * own
            least, most = block[place[low]], block[place[low + count - 1]]
            for k in range(width):
                smallest[start + k] = least[k]
                largest[start + k] = most[k]
        else:
            middle = np.zeros(width, x.dtype)
            window = np.zeros(width, np.int32)
            for r in range(trim, m - trim):
                row = block[place[r]]
                for k in range(width):
                    middle[k] += row[k] * central
            for k in range(width):
                middle[k] /= between
            for s in range(m - count):  # a value that would come in, once farther, stays so
                leaving, coming = block[place[s]], block[place[s + count]]
                for k in range(width):
                    window[k] += middle[k] > leaving[k] * half + coming[k] * half
            for r in range(m):
                row = block[place[r]]
                for k in range(width):
                    total[k] += row[k] * own if window[k] <= r < window[k] + count else zero
            for k in range(width):
                smallest[start + k] = block[place[window[k]], k]
                largest[start + k] = block[place[window[k] + count - 1], k]
                first[start + k] = window[k]
        for k in range(width):
            mean[start + k] = total[k] / divisor


@njit(cache=True, fastmath={"reassoc", "nsz"})
def _total(values: np.ndarray) -> float:
    """Return the sum, in an order that is good for vector instructions."""
    total = values.dtype.type(0.0)
    for k in range(len(values)):
        total += values[k]
    return total


@njit(parallel=True, cache=True)
def _shares(
    x: np.ndarray,
    d: int,
    mixing: np.ndarray,
    divisors: np.ndarray,
    rows: np.ndarray,
    m: int,
    wanted: np.ndarray,
    first: np.ndarray,
    count: int,
    smallest: np.ndarray,
    largest: np.ndarray,
) -> np.ndarray:
    """Return the shares (k,) of the `wanted` vectors, see `Window.share`."""
    blocks = (d + COLUMNS - 1) // COLUMNS
    shares = np.zeros((blocks, len(wanted)))
    one, zero = x.dtype.type(1.0), x.dtype.type(0.0)
    for index in prange(blocks):
        start = index * COLUMNS
        width = min(COLUMNS, d - start)
        block = load_block(x, mixing, divisors, rows, m, start, width)
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
        for r in range(len(wanted)):
            row = block[wanted[r]]
            for k in range(width):
                value = row[k]
                share = one if low[k] < value else zero
                share = share if value < high[k] else zero
                share = at_high[k] if value == high[k] else share
                part[k] = at_low[k] if value == low[k] else share
            shares[index, r] = _total(part)
    return summed(shares) / (d * count)

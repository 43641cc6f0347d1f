"""Order statistics of every coordinate of a few long vectors.

On a CPU a sorting network runs over blocks of columns: a comparator is an element-wise minimum and
maximum of two rows, so that a block is sorted by vector instructions while it lies in cache.
Comparators that no wanted rank depends on are left out. On other devices torch sorts.
"""

from functools import lru_cache

import numpy as np
import torch
from numba import njit, prange

_COLUMNS = 512  # of one block: n rows of it fit the first- or second-level cache


def sorted_mean(x: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Mean of the order statistics low, ..., high - 1 (ascending, from 0) of every column.

    Args:
        x: (n, d), finite. Not changed.
        low, high: the ranks kept, 0 <= low < high <= n.

    Returns:
        (d,) of the dtype of x: for the median the middle one or two, for the trimmed mean b..n-b.
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return torch.sort(x, dim=0).values[low:high].mean(0)
    out = torch.empty(x.shape[1], dtype=x.dtype)
    _sorted_mean(*_array(x), _network(len(x), low, high), low, high, out.numpy())
    return out


def nearest_mean(x: torch.Tensor, count: int) -> torch.Tensor:
    """Mean of the `count` values nearest the median, of every column.

    They are consecutive order statistics: a window of `count` sorted values moves up from the
    lowest as long as the value that would come in is nearer than the one that would go out, so of
    equally near ones the lower stays.

    Args:
        x: (n, d), finite. Not changed.
        count: 1 <= count <= n.

    Returns:
        (d,) of the dtype of x.
    """
    n = len(x)
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        ordered = torch.sort(x, dim=0).values
        middle = ordered[(n - 1) // 2] + ordered[n // 2]
        first = (middle > ordered[: n - count] + ordered[count:]).sum(0)
        window = first + torch.arange(count, device=x.device)[:, None]
        return ordered.gather(0, window).mean(0)
    out = torch.empty(x.shape[1], dtype=x.dtype)
    _nearest_mean(*_array(x), _network(n, 0, n), count, out.numpy())
    return out


def sorted_share(x: torch.Tensor, rows: np.ndarray, low: int, high: int) -> np.ndarray:
    """Share of the weight that `sorted_mean` gives to some rows, averaged over the columns.

    Each of the ranks low..high-1 carries 1 / (high - low); equal values share what they get.

    Args:
        x: (n, d), finite.
        rows: indices (k,).

    Returns:
        (k,) float64.
    """
    return _shares(x, rows, _network(len(x), low, high), low, high - low)


def nearest_share(x: torch.Tensor, rows: np.ndarray, count: int) -> np.ndarray:
    """Share of the weight that `nearest_mean` gives to some rows; as `sorted_share`."""
    return _shares(x, rows, _network(len(x), 0, len(x)), -1, count)


def _shares(x, rows, network, low, count):
    if len(rows) == 0:
        return np.zeros(0)
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        x = x.cpu().float()
    return _kept_share(*_array(x), network, np.asarray(rows), low, count)


def _array(x: torch.Tensor) -> tuple[np.ndarray, int]:
    """x as a C-contiguous array, perhaps of longer rows, and the number of columns that count."""
    x, (n, d), width = x.detach(), x.shape, x.stride(0)
    room = x.untyped_storage().nbytes() // x.element_size() - x.storage_offset()
    if x.stride(1) == 1 and d <= width and n * width <= room:
        return x.as_strided((n, width), (width, 1)).numpy(), d
    return x.contiguous().numpy(), d


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
def _sort_block(x, network, start, width, block):
    for i in range(x.shape[0]):
        for k in range(width):
            block[i, k] = x[i, start + k]
    for c in range(network.shape[0]):
        upper = block[network[c, 0]]
        lower = block[network[c, 1]]
        for k in range(width):
            a = upper[k]
            b = lower[k]
            upper[k] = min(a, b)
            lower[k] = max(a, b)


@njit(parallel=True, cache=True)
def _sorted_mean(x, d, network, low, high, out):
    n = len(x)
    scale = x.dtype.type(1.0 / (high - low))
    for index in prange((d + _COLUMNS - 1) // _COLUMNS):
        start = index * _COLUMNS
        width = min(_COLUMNS, d - start)
        block = np.empty((n, _COLUMNS), x.dtype)
        _sort_block(x, network, start, width, block)
        total = block[low]
        for r in range(low + 1, high):
            row = block[r]
            for k in range(width):
                total[k] += row[k]
        for k in range(width):
            out[start + k] = total[k] * scale


@njit(cache=True, inline="always")
def _nearest_windows(block, count, width, first):
    """First rank of the `count` sorted values nearest the median, for every column of a block."""
    n = len(block)
    middle = np.empty(width, block.dtype)
    for k in range(width):
        middle[k] = block[(n - 1) // 2, k] + block[n // 2, k]  # twice the median: ties stay exact
        first[k] = 0
    for s in range(n - count):  # once the value that would come in is farther, it stays so
        for k in range(width):
            first[k] += middle[k] > block[s, k] + block[s + count, k]


@njit(parallel=True, cache=True)
def _nearest_mean(x, d, network, count, out):
    n = len(x)
    scale = x.dtype.type(1.0 / count)
    zero = x.dtype.type(0.0)
    for index in prange((d + _COLUMNS - 1) // _COLUMNS):
        start = index * _COLUMNS
        width = min(_COLUMNS, d - start)
        block = np.empty((n, _COLUMNS), x.dtype)
        _sort_block(x, network, start, width, block)
        first = np.empty(width, np.int32)
        _nearest_windows(block, count, width, first)
        total = np.zeros(width, x.dtype)
        for r in range(n):
            for k in range(width):
                total[k] += block[r, k] if first[k] <= r < first[k] + count else zero
        for k in range(width):
            out[start + k] = total[k] * scale


@njit(parallel=True, cache=True)
def _kept_share(x, d, network, rows, low, count):
    """Shares of the window of `count` ranks from `low`, or nearest the median if low < 0."""
    n = len(x)
    blocks = (d + _COLUMNS - 1) // _COLUMNS
    shares = np.zeros((blocks, len(rows)))
    for index in prange(blocks):
        start = index * _COLUMNS
        width = min(_COLUMNS, d - start)
        block = np.empty((n, _COLUMNS), x.dtype)
        _sort_block(x, network, start, width, block)
        first = np.full(width, low, np.int32)
        if low < 0:
            _nearest_windows(block, count, width, first)
        # Rows equal to an end of the window share the ranks within it that have this value.
        low_end = np.empty(width, x.dtype)
        high_end = np.empty(width, x.dtype)
        for k in range(width):
            low_end[k] = block[first[k], k]
            high_end[k] = block[first[k] + count - 1, k]
        low_share = _end_shares(x, block, start, width, first, count, low_end, low >= 0)
        high_share = _end_shares(x, block, start, width, first, count, high_end, low >= 0)
        part = np.empty(width, x.dtype)
        one, zero = x.dtype.type(1.0), x.dtype.type(0.0)
        for r in range(len(rows)):
            row = x[rows[r], start : start + width]
            for k in range(width):
                value = row[k]
                share = one if low_end[k] < value else zero
                share = share if value < high_end[k] else zero
                share = high_share[k] if value == high_end[k] else share
                part[k] = low_share[k] if value == low_end[k] else share
            shares[index, r] = part.sum()
    return shares.sum(0) / (d * count)


@njit(cache=True, inline="always")
def _end_shares(x, block, start, width, first, count, end, fixed):
    """Ranks in the window whose value is `end`, over the rows that have it, for every column."""
    kept = np.zeros(width, x.dtype)
    equal = np.zeros(width, x.dtype)
    one, zero = x.dtype.type(1.0), x.dtype.type(0.0)
    if fixed:
        for r in range(first[0], first[0] + count):
            for k in range(width):
                kept[k] += one if block[r, k] == end[k] else zero
    else:
        for k in range(width):
            for r in range(first[k], first[k] + count):
                kept[k] += one if block[r, k] == end[k] else zero
    for r in range(len(x)):
        row = x[r, start : start + width]
        for k in range(width):
            equal[k] += one if row[k] == end[k] else zero
    for k in range(width):
        kept[k] /= equal[k]
    return kept

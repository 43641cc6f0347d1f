"""Counts of small numbers in each coordinate, and norms of the layers of vectors, in one pass."""

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import as_array, supported_by_kernels
from benchmark.kernels.blocks import COLUMNS, pieces
from benchmark.kernels.gram import refuse_short


def small_counts(
    x: torch.Tensor, bounds: torch.Tensor, starts: list[int]
) -> tuple[torch.Tensor, np.ndarray]:
    """Return the counts of small numbers in each column, and the norms of the rows by layers.

    Args:
        x: (n, d). Not changed.
        bounds: (n,) a number of row i is small if its magnitude is below bounds[i].
        starts: (L,) the first column of each layer, ascending from 0.

    Returns:
        Counts (d,), float32, and norms (L, n), float64.

    Raises:
        ValueError: if squared lengths exceed what float64 holds, or all vanish in it.
    """
    n, d = x.shape
    counts = torch.empty(d, dtype=torch.float32, device=x.device)
    stops = [*starts[1:], d]
    if supported_by_kernels(x):
        ends = [np.arange(a, b, COLUMNS) for a, b in zip(starts, stops, strict=True)]
        firsts = np.append(np.concatenate(ends), d)
        squares = np.zeros((len(firsts) - 1, n))
        limits = bounds.to(x.dtype).numpy()
        _small_counts(as_array(x)[0], limits, firsts, counts.numpy(), squares)
        if 1e-30 < squares.max() < np.inf:  # float32 did not overflow or underflow
            layer = np.cumsum([0] + [len(part) for part in ends])[:-1]
            return counts, np.sqrt(np.add.reduceat(squares, layer))
    squares = np.zeros((len(starts), n))
    for number, (a, b) in enumerate(zip(starts, stops, strict=True)):
        for columns, part in pieces(x[:, a:b]):
            at = slice(a + columns.start, a + columns.stop)
            counts[at] = (part.abs() < bounds[:, None]).sum(0)
            squares[number] += part.double().square().sum(1).cpu().numpy()
    if not np.isfinite(squares).all():
        raise ValueError("updates are too long: their squared lengths must be below 1e308")
    refuse_short(squares.max(), x)
    return counts, np.sqrt(squares)


@njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _small_counts(
    x: np.ndarray, limits: np.ndarray, firsts: np.ndarray, counts: np.ndarray, squares: np.ndarray
) -> None:
    for p in prange(len(firsts) - 1):
        start, stop = firsts[p], firsts[p + 1]
        number = np.zeros(stop - start, np.int32)
        for i in range(len(x)):
            row, limit = x[i, start:stop], limits[i]
            total = x.dtype.type(0.0)
            for k in range(stop - start):
                number[k] += 1 if abs(row[k]) < limit else 0
                total += row[k] * row[k]
            squares[p, i] = total
        for k in range(stop - start):
            counts[start + k] = number[k]

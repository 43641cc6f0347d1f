"""Mean and deviation of every coordinate of a few long vectors, in one pass.

On a CPU a block of columns is read once and stays in cache while its sums are taken. Elsewhere, and
for other dtypes, torch computes the same. Columns whose sums or squares overflow or vanish in the
dtype of x are computed again, in units of their largest number.
"""

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import as_array, supported_by_kernels
from benchmark.kernels.blocks import COLUMNS, pieces


def mean_and_std(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the sample standard deviation (divided by n - 1) of each column.

    Args:
        x: (n, d), n >= 2. Not changed.

    Returns:
        Two tensors (d,), of the dtype of x.
    """
    mean, std = x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
    if supported_by_kernels(x):
        smallest = 100 * torch.finfo(x.dtype).tiny  # of squares that have not lost digits
        _mean_and_std(*as_array(x), mean.numpy(), std.numpy(), smallest)
    else:
        for columns, part in pieces(x):
            deviation, centre = torch.std_mean(part, dim=0)
            if not bool(torch.isfinite(deviation.sum())):
                unit = part.abs().amax().double()
                deviation, centre = (m * unit for m in torch.std_mean(part / unit, dim=0))
            std[columns], mean[columns] = deviation, centre
    return mean, std


@njit(parallel=True, cache=True, error_model="numpy")
def _mean_and_std(
    x: np.ndarray, d: int, mean: np.ndarray, std: np.ndarray, smallest: float
) -> None:
    n = len(x)
    for b in prange((d + COLUMNS - 1) // COLUMNS):
        start, end = b * COLUMNS, min(d, (b + 1) * COLUMNS)
        centre, squares = mean[start:end], std[start:end]
        centre[:] = x[0, start:end]
        squares[:] = 0
        for i in range(1, n):
            row = x[i, start:end]
            for k in range(end - start):
                centre[k] += row[k]
        for k in range(end - start):
            centre[k] /= n
        for k in range(end - start):
            if not np.isfinite(centre[k]):
                centre[k] = _large_mean(x[:, start + k])
        for i in range(n):
            row = x[i, start:end]
            for k in range(end - start):
                squares[k] += (row[k] - centre[k]) ** 2
        for k in range(end - start):
            if not smallest < squares[k] < np.inf:
                squares[k] = _extreme_deviation(x[:, start + k], centre[k])
            else:
                squares[k] = np.sqrt(squares[k] / (n - 1))


@njit(cache=True, error_model="numpy")
def _large_mean(column: np.ndarray) -> float:
    total = 0.0
    for value in column:
        total += np.float64(value) / len(column)
    return total


@njit(cache=True, error_model="numpy")
def _extreme_deviation(column: np.ndarray, centre: float) -> float:
    unit = 0.0
    for value in column:
        unit = max(unit, abs(np.float64(value) / 2 - np.float64(centre) / 2))
    if unit == 0.0:
        return 0.0
    total = 0.0
    for value in column:
        total += ((np.float64(value) / 2 - np.float64(centre) / 2) / unit) ** 2
    return 2 * unit * np.sqrt(total / (len(column) - 1))

"""Mean and deviation of every coordinate of a few long vectors, in one pass.

On a CPU a block of columns is read once and stays in cache while its sums are taken; elsewhere, and
for other dtypes, torch computes the same.
"""

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import as_array, suits
from benchmark.kernels.blocks import COLUMNS, pieces


def mean_and_std(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and sample standard deviation (divided by n - 1) of every column.

    Args:
        x: (n, d), n >= 2. Not changed.

    Returns:
        Two tensors (d,) of the dtype of x.
    """
    mean, std = x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
    if suits(x):
        _mean_and_std(*as_array(x), mean.numpy(), std.numpy())
    else:
        for columns, part in pieces(x):
            std[columns], mean[columns] = torch.std_mean(part, dim=0)
    return mean, std


@njit(parallel=True, cache=True, error_model="numpy")
def _mean_and_std(x, d, mean, std):
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
        for i in range(n):
            row = x[i, start:end]
            for k in range(end - start):
                squares[k] += (row[k] - centre[k]) ** 2
        for k in range(end - start):
            squares[k] = np.sqrt(squares[k] / (n - 1))

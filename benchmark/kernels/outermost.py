"""The outermost number of each coordinate, on the side against the mean's sign, in one pass."""

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import as_array, supported_by_kernels
from benchmark.kernels.blocks import COLUMNS, pieces


def outermost(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how far each column reaches against the sign of its mean.

    Args:
        x: (n, d). Not changed.

    Returns:
        reach: (d,) the largest side * x_i.
        side: (d,) 1 where the mean is negative, else -1.
    """
    reach, side = x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
    if supported_by_kernels(x):
        _outermost(*as_array(x), reach.numpy(), side.numpy())
        return reach, side
    for columns, part in pieces(x):
        up = part.sum(0) < 0
        side[columns] = up.to(x.dtype) * 2 - 1
        reach[columns] = torch.where(up, part.amax(0), -part.amin(0)).to(x.dtype)
    return reach, side


@njit(parallel=True, cache=True)
def _outermost(x: np.ndarray, d: int, reach: np.ndarray, side: np.ndarray) -> None:
    n, one = len(x), x.dtype.type(1.0)
    for b in prange((d + COLUMNS - 1) // COLUMNS):
        start, end = b * COLUMNS, min(d, (b + 1) * COLUMNS)
        most, away = reach[start:end], side[start:end]
        away[:] = x[0, start:end]
        for i in range(1, n):
            row = x[i, start:end]
            for k in range(end - start):
                away[k] += row[k]
        for k in range(end - start):
            away[k] = one if away[k] < 0 else -one
            most[k] = x[0, start + k] * away[k]
        for i in range(1, n, 4):  # rows behind the last are the last once more
            x0 = x[i, start:end]
            x1 = x[min(i + 1, n - 1), start:end]
            x2 = x[min(i + 2, n - 1), start:end]
            x3 = x[min(i + 3, n - 1), start:end]
            for k in range(end - start):
                sign, best = away[k], most[k]
                value = x0[k] * sign
                best = value if value > best else best
                value = x1[k] * sign
                best = value if value > best else best
                value = x2[k] * sign
                best = value if value > best else best
                value = x3[k] * sign
                most[k] = value if value > best else best

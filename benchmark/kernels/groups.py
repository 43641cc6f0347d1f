"""Squared distances of vectors within many small groups of coordinates."""

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import as_array


def group_distances(x: torch.Tensor, groups: list[np.ndarray]) -> np.ndarray:
    """Return the squared distances of the rows of x in each group of coordinates.

    Args:
        x: (n, d), for which `arrays.supported_by_kernels` is true. Not changed.
        groups: p arrays of column indices, none of them empty.

    Returns:
        (p, n, n) float64, exactly symmetric and exactly 0 between equal rows.
    """
    bounds = np.cumsum([0] + [len(group) for group in groups])
    out = np.zeros((len(groups), len(x), len(x)))
    _distances(as_array(x)[0], np.concatenate(groups), bounds, out)
    return out


@njit(cache=True, parallel=True, fastmath={"reassoc", "contract", "nsz"})
def _distances(x: np.ndarray, columns: np.ndarray, bounds: np.ndarray, out: np.ndarray) -> None:
    n = len(x)
    for g in prange(len(bounds) - 1):
        start, width = bounds[g], bounds[g + 1] - bounds[g]
        block = np.empty((n, width))
        for i in range(n):
            for k in range(width):
                block[i, k] = x[i, columns[start + k]]
        for i in range(n):
            for j in range(i):
                total = 0.0
                for k in range(width):
                    total += (block[i, k] - block[j, k]) ** 2
                out[g, i, j] = total
                out[g, j, i] = total

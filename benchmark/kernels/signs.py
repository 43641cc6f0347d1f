"""Votes of signs, coordinate by coordinate."""

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import as_array, supported_by_kernels
from benchmark.kernels.blocks import COLUMNS, kernel_arguments, load_block, mixed, pieces


def votes(x: torch.Tensor, mixing: np.ndarray | None = None) -> torch.Tensor:
    """Return sum_i sign x_i of each column: how many more numbers are positive than negative.

    Args:
        x: (n, d), finite. Not changed.
        mixing: how m vectors, to be used instead, are made of those of x, see `blocks`.

    Returns:
        (d,) int32.
    """
    results = []
    for _, part in pieces(x):
        if supported_by_kernels(part):
            array, d = as_array(part)
            total = torch.empty(d, dtype=torch.int32)
            _votes(array, d, *kernel_arguments(mixing, array), total.numpy())
        else:
            total = torch.sign(mixed(part, mixing)).sum(0).to(torch.int32)
        results.append(total)
    return results[0] if len(results) == 1 else torch.cat(results)


@njit(parallel=True, cache=True)
def _votes(
    x: np.ndarray,
    d: int,
    mixing: np.ndarray,
    divisors: np.ndarray,
    rows: np.ndarray,
    m: int,
    total: np.ndarray,
) -> None:
    one, zero = x.dtype.type(1.0), x.dtype.type(0.0)
    for index in prange((d + COLUMNS - 1) // COLUMNS):
        start = index * COLUMNS
        width = min(COLUMNS, d - start)
        block = load_block(x, mixing, divisors, rows, m, start, width)
        counts = np.zeros(width, x.dtype)
        for i in range(m):
            row = block[i]
            for k in range(width):
                counts[k] += (one if row[k] > zero else zero) - (one if row[k] < zero else zero)
        for k in range(width):
            total[start + k] = np.int32(counts[k])

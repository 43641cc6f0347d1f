"""Votes of signs, coordinate by coordinate."""

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import as_array, suits
from benchmark.kernels.blocks import COLUMNS, load_block, mixed, pieces, source


def votes(x: torch.Tensor, mixing: np.ndarray | None = None) -> torch.Tensor:
    """sum_i sign x_i of every column.

    Args:
        x: (n, d), finite. Not changed.
        mixing: (m, n): of the vectors mixing @ x instead of those of x.

    Returns:
        (d,) int32: how many more numbers are positive than negative.
    """
    results = []
    for _, part in pieces(x):
        if suits(part):
            array, d = as_array(part)
            total = torch.empty(d, dtype=torch.int32)
            _votes(array, d, *source(mixing, array), total.numpy())
        else:
            total = torch.sign(mixed(part, mixing)).sum(0).to(torch.int32)
        results.append(total)
    return results[0] if len(results) == 1 else torch.cat(results)


@njit(parallel=True, cache=True)
def _votes(x, d, mixing, divisors, rows, m, total):
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

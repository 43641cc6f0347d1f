"""Tensors as the arrays that numba's kernels take."""

import numpy as np
import torch
from numba import njit


@njit(cache=True)
def summed(rows):
    """Return the sum of the rows of a matrix, one after the other.

    In loops: what numba's `sum(0)` needs takes seconds to compile.
    """
    total = np.zeros(rows.shape[1])
    for i in range(len(rows)):
        for k in range(len(total)):
            total[k] += rows[i, k]
    return total


def suits(x: torch.Tensor) -> bool:
    """Whether the kernels take it; other dtypes and devices are torch's."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def as_array(x: torch.Tensor) -> tuple[np.ndarray, int]:
    """(n, d) as a C-contiguous array, perhaps of longer rows, and the number of columns that count.

    Without a copy if possible: kernels are compiled for contiguous arrays only.
    """
    x, (n, d), width = x.detach(), x.shape, x.stride(0)
    room = x.untyped_storage().nbytes() // x.element_size() - x.storage_offset()
    if x.stride(1) == 1 and d <= width and n * width <= room:
        return x.as_strided((n, width), (width, 1)).numpy(), d
    return x.contiguous().numpy(), d

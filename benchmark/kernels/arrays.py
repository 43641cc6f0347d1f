"""Conversion of tensors to the arrays that numba's kernels take."""

import numpy as np
import torch
from numba import njit


@njit(cache=True)
def summed(rows: np.ndarray) -> np.ndarray:
    """Return the sum (w,) of the rows of a matrix (m, w), added one after the other.

    In loops, since what numba's `sum(0)` needs takes seconds to compile.
    """
    total = np.zeros(rows.shape[1])
    for i in range(len(rows)):
        for k in range(len(total)):
            total[k] += rows[i, k]
    return total


def supported_by_kernels(x: torch.Tensor) -> bool:
    """Return whether the kernels take a tensor; torch computes other dtypes and devices."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def as_array(x: torch.Tensor) -> tuple[np.ndarray, int]:
    """Return a matrix as a C-contiguous array, without a copy if possible.

    Kernels are compiled for contiguous arrays only.

    Args:
        x: (n, d).

    Returns:
        The array (n, width), whose rows may be longer, and d, the number of columns that count.
    """
    x, (n, d), width = x.detach(), x.shape, x.stride(0)
    room = x.untyped_storage().nbytes() // x.element_size() - x.storage_offset()
    if x.stride(1) == 1 and d <= width and n * width <= room:
        return x.as_strided((n, width), (width, 1)).numpy(), d
    return x.contiguous().numpy(), d

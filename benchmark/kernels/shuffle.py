"""Long vectors with their coordinates in another order."""

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import as_array, supported_by_kernels


def permutation(uniform: torch.Tensor) -> torch.Tensor:
    """Return a permutation of 0, ..., d - 1, int32, by the method of Fisher and Yates.

    It is made of numbers (d,) uniform on [0, 1). Each place is drawn with the precision of the
    numbers: 2^-24 in float32, far finer than what d = 1e6 places can show.
    """
    return torch.from_numpy(_permutation(uniform.detach().float().cpu().numpy()))


def permuted(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return x[:, order], for x (n, d) and order (d,) int32, as a new tensor."""
    if order.shape != x.shape[1:]:
        raise ValueError(f"an order of {len(order)} for vectors of {x.shape[1]} numbers")
    if not supported_by_kernels(x):
        return x.index_select(1, order.to(x.device))
    out = x.new_empty(x.shape)
    _permuted(as_array(x)[0], order.numpy(), out.numpy())
    return out


@njit(cache=True)
def _permutation(uniform: np.ndarray) -> np.ndarray:
    d = len(uniform)
    order = np.arange(d).astype(np.int32)
    for i in range(d - 1, 0, -1):
        j = min(i, np.int64(np.float64(uniform[i]) * (i + 1)))
        order[i], order[j] = order[j], order[i]
    return order


@njit(cache=True, parallel=True)
def _permuted(x: np.ndarray, order: np.ndarray, out: np.ndarray) -> None:
    for i in prange(len(out)):  # a row stays in cache
        row, to = x[i], out[i]
        for k in range(len(order)):
            to[k] = row[np.uint32(order[k])]

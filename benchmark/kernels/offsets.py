"""Distances of long vectors from a point and inner products with a direction, in float64.

They are exact enough to guarantee that a vector keeps a distance: differences and sums are in
float64, so that vectors far from zero and close to the point lose nothing. On a CPU it takes one
pass over the vectors.
"""

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import as_array, summed, supported_by_kernels
from benchmark.kernels.blocks import pieces
from benchmark.kernels.gram import refuse_short

_COLUMNS = 1024  # of a block
_CHUNKS = 16  # at most so many threads; the order of summation does not depend on how many


def offsets(
    x: torch.Tensor, centre: torch.Tensor, direction: torch.Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared distances |x_i - c|^2 of the rows of x, and the products <x_i - c, p>.

    Args:
        x: (n, d), finite. Not changed.
        centre: (d,) c, of any dtype.
        direction: (d,) p; by default zero.

    Returns:
        Two arrays (n,), float64, on the host.

    Raises:
        ValueError: if squared lengths exceed what float64 holds, or all vanish in it.
    """
    for point in (centre,) if direction is None else (centre, direction):
        if point.shape != x.shape[1:]:
            raise ValueError(f"vectors of {x.shape[1]} numbers, a point of {tuple(point.shape)}")
    squared, along = _summed(x, centre, direction)
    if not (np.isfinite(squared).all() and np.isfinite(along).all()):
        raise ValueError("updates are too long: their squared lengths must be below 1e308")
    refuse_short(squared.max(initial=0.0), x)
    return squared, along


def _summed(
    x: torch.Tensor, centre: torch.Tensor, direction: torch.Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    if supported_by_kernels(x):
        array, d = as_array(x)
        along = x.new_empty(0) if direction is None else direction.to(x)
        centre = centre if supported_by_kernels(centre) else centre.double()
        return _offsets(array, d, centre.contiguous().numpy(), along.contiguous().numpy())
    squared = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    along = torch.zeros_like(squared)
    for columns, part in pieces(x):
        away = part.double() - centre[columns].to(squared)
        squared += away.square().sum(1)
        if direction is not None:
            along += away @ direction[columns].to(squared)
    return squared.cpu().numpy(), along.cpu().numpy()


def exact_mean(x: torch.Tensor) -> torch.Tensor:
    """Return the mean (d,) of the rows of x (n, d), in float64."""
    mean = torch.empty(x.shape[1], dtype=torch.float64, device=x.device)
    if supported_by_kernels(x):
        _exact_mean(*as_array(x), mean.numpy())
    else:
        for columns, part in pieces(x):
            mean[columns] = part.double().mean(0)
    return mean


@njit(parallel=True, cache=True)
def _exact_mean(x: np.ndarray, d: int, mean: np.ndarray) -> None:
    for b in prange((d + _COLUMNS - 1) // _COLUMNS):
        start, end = b * _COLUMNS, min(d, (b + 1) * _COLUMNS)
        total = mean[start:end]
        total[:] = 0.0
        for i in range(len(x)):
            row = x[i, start:end]
            for k in range(end - start):
                total[k] += np.float64(row[k])
        for k in range(end - start):
            total[k] /= len(x)


@njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _offsets(
    x: np.ndarray, d: int, centre: np.ndarray, direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    n = len(x)
    blocks = (d + _COLUMNS - 1) // _COLUMNS
    chunks = min(_CHUNKS, blocks)
    parts = np.zeros((2, chunks, n))
    for chunk in prange(chunks):
        for b in range(chunk * blocks // chunks, (chunk + 1) * blocks // chunks):
            start, end = b * _COLUMNS, min(d, (b + 1) * _COLUMNS)
            c = centre[start:end]
            p = direction[start:end]
            for i in range(n):
                row = x[i, start:end]
                squared = along = 0.0
                if len(p):
                    for k in range(end - start):
                        away = np.float64(row[k]) - np.float64(c[k])
                        squared += away * away
                        along += away * np.float64(p[k])
                else:
                    for k in range(end - start):
                        away = np.float64(row[k]) - np.float64(c[k])
                        squared += away * away
                parts[0, chunk, i] += squared
                parts[1, chunk, i] += along
    return summed(parts[0]), summed(parts[1])

"""Inner products of vectors chunk of coordinates by chunk of coordinates.

On a CPU a kernel of our own, as for `gram`; elsewhere, and for other dtypes, torch computes the
same.
"""

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import as_array, suits
from benchmark.kernels.gram import tile

_COLUMNS = 1024  # of a block of the kernel
_PIECE = 1 << 14  # coordinates that one thread takes at a time
_STEPS = 20  # of Lanczos' method
_ILL_CONDITIONED = 1e-2  # squared distances from the mean, relative to squared lengths


def chunk_products(x: torch.Tensor, size: int) -> np.ndarray:
    """Inner products in every chunk of `size` coordinates; the last chunk may be shorter.

    Args:
        x: (n, d), any floating-point dtype and device. Not changed.
        size: coordinates in a chunk.

    Returns:
        (chunks, n + 1, n + 1) float64 on the host: products of x_i - mean, and behind them of the
        mean of the rows; precise also where they are close to each other.

    Raises:
        ValueError: if squared lengths exceed what float64 holds.
    """
    n, d = x.shape
    first = np.arange(0, d, size)
    total = np.empty((len(first), n + 1, n + 1))
    doubtful = np.ones(len(first), bool)
    if suits(x):
        starts = [np.arange(start, min(start + size, d), _PIECE) for start in first]
        pieces = _products(as_array(x)[0], np.append(np.concatenate(starts), d))
        inner = np.add.reduceat(pieces, np.cumsum([0, *map(len, starts)])[:-1])
        along = inner.mean(2)
        square = along.mean(1)
        total[:, :n, :n] = inner - along[:, :, None] - (along - square[:, None])[:, None, :]
        total[:, :n, n] = total[:, n, :n] = along - square[:, None]
        total[:, n, n] = square
        lengths, apart = (np.trace(part, axis1=1, axis2=2) for part in (inner, total[:, :n, :n]))
        # float32 over- or underflowed, or what is left is rounding
        doubtful = ~((lengths < np.inf) & (lengths > 1e-30) & (apart > _ILL_CONDITIONED * lengths))
    for chunk in np.flatnonzero(doubtful):
        total[chunk] = _precisely(x[:, first[chunk] : first[chunk] + size])
    if not np.isfinite(total).all():
        raise ValueError("updates are too long: their squared lengths must be below 1e308")
    return total


def _precisely(x: torch.Tensor) -> np.ndarray:
    total = 0.0
    for start in range(0, x.shape[1], _PIECE):
        part = x[:, start : start + _PIECE].double()
        mean = part.mean(0, keepdim=True)
        part = torch.cat([part - mean, mean])
        total = total + part @ part.T
    return total.cpu().numpy()


@njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _products(x, bounds):
    """Inner products of the columns bounds[p]..bounds[p + 1] - 1, for every p."""
    n = len(x)
    parts = np.zeros((len(bounds) - 1, n, n))
    for p in prange(len(bounds) - 1):
        total = parts[p]
        for start in range(bounds[p], bounds[p + 1], _COLUMNS):
            end = min(start + _COLUMNS, bounds[p + 1])
            for i in range(0, n, 4):  # rows behind the last are the last once more
                u0, u1 = x[i, start:end], x[min(i + 1, n - 1), start:end]
                u2, u3 = x[min(i + 2, n - 1), start:end], x[min(i + 3, n - 1), start:end]
                for j in range(i, n, 4):
                    v0, v1 = x[j, start:end], x[min(j + 1, n - 1), start:end]
                    v2, v3 = x[min(j + 2, n - 1), start:end], x[min(j + 3, n - 1), start:end]
                    products = tile(u0, u1, u2, u3, v0, v1, v2, v3)
                    for q in range(min(4, n - i)):
                        for r in range(min(4, n - j)):
                            total[i + q, j + r] += products[q][r]
        for i in range(n):
            for j in range(i):
                total[i, j] = total[j, i]
    return parts


@njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def top_eigenvalues(matrices: np.ndarray) -> np.ndarray:
    """The largest eigenvalue of each positive semidefinite matrix, by Lanczos' method.

    From the longest column, with every new vector made orthogonal to all before: exact for up to 20
    rows; never too large, and too small, by less than a percent, only where the largest eigenvalues
    are nearly the same.

    Args:
        matrices: (c, n, n) float64.

    Returns:
        (c,) float64.
    """
    n = matrices.shape[1]
    steps = min(n, _STEPS)
    values = np.zeros(len(matrices))
    for c in prange(len(matrices)):
        matrix, longest = matrices[c], 0
        for i in range(n):
            if matrix[i, i] > matrix[longest, longest]:
                longest = i
        basis, small = np.zeros((steps + 1, n)), np.zeros((steps, steps))
        basis[0] = matrix[longest]
        for step in range(steps):
            vector, product = basis[step], basis[step + 1]
            length = 0.0
            for i in range(n):
                length += vector[i] * vector[i]
            length = np.sqrt(length)
            if length <= 1e-12 * matrix[longest, longest]:
                break
            if step > 0:
                small[step, step - 1] = small[step - 1, step] = length
            for i in range(n):
                vector[i] /= length
            for i in range(n):
                row, total = matrix[i], 0.0
                for j in range(n):
                    total += row[j] * vector[j]
                product[i] = total
            for other in range(step, -1, -1):
                before, along = basis[other], 0.0
                for i in range(n):
                    along += before[i] * product[i]
                if other == step:
                    small[step, step] = along
                for i in range(n):
                    product[i] -= along * before[i]
        values[c] = np.linalg.eigvalsh(small)[-1]
    return values

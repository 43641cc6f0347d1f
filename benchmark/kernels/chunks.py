"""Inner products of vectors in chunks of their coordinates, and eigenvalues of many such matrices.

On a CPU kernels of our own compute them, as for `gram`. Elsewhere, and for other dtypes, torch
computes the same.
"""

from typing import Any

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import as_array, supported_by_kernels
from benchmark.kernels.gram import tile

_COLUMNS = 1024  # of a block of the kernel
_PIECE = 1 << 14  # coordinates that one thread takes at a time
_STEPS = 20  # of Lanczos' method
_NEWTON = 100  # steps at most; about a dozen from the bound where it begins
_ILL_CONDITIONED = 1e-2  # squared distances from the mean, relative to squared lengths


def chunk_products(x: torch.Tensor, size: int) -> np.ndarray:
    """Return the inner products in every chunk of `size` coordinates; the last may be shorter.

    Args:
        x: (n, d), any floating-point dtype and device. Not changed.
        size: coordinates in a chunk.

    Returns:
        (chunks, n + 1, n + 1) float64, on the host: products of x_i - mean, and behind them of the
        mean of the rows. They are precise also where the rows are close to each other.

    Raises:
        ValueError: if squared lengths exceed what float64 holds.
    """
    n, d = x.shape
    first = np.arange(0, d, size)
    total = np.empty((len(first), n + 1, n + 1))
    doubtful = np.ones(len(first), bool)
    if supported_by_kernels(x):
        starts = [np.arange(start, min(start + size, d), _PIECE) for start in first]
        inner = _products(as_array(x)[0], np.append(np.concatenate(starts), d))
        if len(inner) > len(first):
            inner = np.add.reduceat(inner, np.cumsum([0, *map(len, starts)])[:-1])
        lengths, apart = _about_mean(inner, total)
        # float32 overflowed or underflowed, or what is left is rounding
        doubtful = ~((lengths < np.inf) & (lengths > 1e-30) & (apart > _ILL_CONDITIONED * lengths))
    for chunk in np.flatnonzero(doubtful):
        total[chunk] = _precisely(x[:, first[chunk] : first[chunk] + size])
    if not np.isfinite(total).all():
        raise ValueError("updates are too long: their squared lengths must be below 1e308")
    return total


def _precisely(x: torch.Tensor) -> np.ndarray:
    """Return the products of one chunk (n, size), computed in float64."""
    total: Any = 0.0
    for start in range(0, x.shape[1], _PIECE):
        part = x[:, start : start + _PIECE].double()
        mean = part.mean(0, keepdim=True)
        part = torch.cat([part - mean, mean])
        total = total + part @ part.T
    return total.cpu().numpy()


@njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _products(x: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return the products (p, n, n) of each part, columns bounds[p], ..., bounds[p + 1] - 1."""
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


@njit(parallel=True, cache=True)
def _about_mean(inner: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fill `total` with products about the mean, see `chunk_products`.

    Returns:
        lengths: (chunks,) sums of the squared lengths of the vectors.
        apart: (chunks,) sums of the squared lengths of their differences from the mean.
    """
    n = inner.shape[1]
    lengths, apart = np.zeros(len(inner)), np.zeros(len(inner))
    for c in prange(len(inner)):
        along, square = np.zeros(n), 0.0
        for i in range(n):
            for j in range(n):
                along[i] += inner[c, i, j]
            along[i] /= n
            square += along[i] / n
        for i in range(n):
            for j in range(n):
                total[c, i, j] = inner[c, i, j] - along[i] - (along[j] - square)
            total[c, i, n] = total[c, n, i] = along[i] - square
            lengths[c] += inner[c, i, i]
            apart[c] += total[c, i, i]
        total[c, n, n] = square
    return lengths, apart


@njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def top_eigenvalues(matrices: np.ndarray, size: int) -> np.ndarray:
    """Return the largest eigenvalue of each positive semidefinite matrix, by Lanczos' method.

    It starts from the longest column and makes each new vector orthogonal to all before. The result
    is exact for up to 20 rows. It is never too large. It is too small, by less than a percent, only
    where the largest eigenvalues are nearly the same.

    Args:
        matrices: (c, m, m) float64.
        size: n; the matrices are the first n rows and columns of these.

    Returns:
        (c,) float64.
    """
    steps = min(size, _STEPS)
    values = np.zeros(len(matrices))
    for c in prange(len(matrices)):
        matrix, longest = matrices[c], 0
        for i in range(size):
            if matrix[i, i] > matrix[longest, longest]:
                longest = i
        basis, diagonal, beside = np.zeros((steps + 1, size)), np.zeros(steps), np.zeros(steps)
        basis[0] = matrix[longest, :size]
        for step in range(steps):
            vector, product = basis[step], basis[step + 1]
            length = 0.0
            for i in range(size):
                length += vector[i] * vector[i]
            length = np.sqrt(length)
            if length <= 1e-12 * matrix[longest, longest]:
                break
            if step > 0:
                beside[step] = length
            for i in range(size):
                vector[i] /= length
            for j in range(0, size, 4):  # of the symmetric matrix four rows at a time
                r0, v0 = matrix[j, :size], vector[j]
                r1, v1 = matrix[min(j + 1, size - 1), :size], vector[j + 1] if j + 1 < size else 0.0
                r2, v2 = matrix[min(j + 2, size - 1), :size], vector[j + 2] if j + 2 < size else 0.0
                r3, v3 = matrix[min(j + 3, size - 1), :size], vector[j + 3] if j + 3 < size else 0.0
                for i in range(size):
                    product[i] += v0 * r0[i] + v1 * r1[i] + v2 * r2[i] + v3 * r3[i]
            for other in range(step, -1, -1):
                before, along = basis[other], 0.0
                for i in range(size):
                    along += before[i] * product[i]
                if other == step:
                    diagonal[step] = along
                for i in range(size):
                    product[i] -= along * before[i]
        values[c] = _largest_root(diagonal, beside)
    return values


@njit(cache=True)
def _largest_root(diagonal: np.ndarray, beside: np.ndarray) -> float:
    """Return the largest eigenvalue of a tridiagonal matrix.

    Newton's method on the characteristic polynomial from above, where it falls towards its largest
    root: with the pivots p_i = x - a_i - b_i^2 / p_(i-1), all positive there, the polynomial over
    its derivative is 1 / sum_i p_i' / p_i.

    Args:
        diagonal: (n,) the a_i.
        beside: (n,) b_i, the entry that joins i - 1 and i.
    """
    x = 0.0
    for i in range(len(diagonal)):
        after = beside[i + 1] if i + 1 < len(beside) else 0.0
        x = max(x, diagonal[i] + beside[i] + after)
    x *= 1.0 + 1e-14
    for _ in range(_NEWTON if x > 0 else 0):
        pivot, change, total = 1.0, 0.0, 0.0
        for i in range(len(diagonal)):
            ratio = beside[i] * beside[i] / pivot
            change = 1.0 + ratio * change / pivot
            pivot = x - diagonal[i] - ratio
            if pivot <= 0.0:  # rounding has carried it to the root, or a hair below
                return x
            total += change / pivot
        x -= 1.0 / total
        if 1.0 / total <= 1e-14 * x:
            break
    return x


@njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def inverse_forms(
    matrices: np.ndarray, vectors: np.ndarray, shift: np.ndarray, factor: np.ndarray
) -> np.ndarray:
    """Return v' (shift I - factor M)^-1 v for each matrix M and vector v, by Cholesky's factors.

    Args:
        matrices: (c, m, m) float64, symmetric; M is the first n rows and columns.
        vectors: (c, n) float64.
        shift, factor: (c,) float64.

    Returns:
        (c,) float64; NaN where the matrix in brackets is not positive definite.
    """
    n = vectors.shape[1]
    forms = np.zeros(len(matrices))
    for c in prange(len(matrices)):
        low, solved = np.empty((n, n)), np.empty(n)
        for i in range(n):
            for j in range(i + 1):
                total = -factor[c] * matrices[c, i, j] + (shift[c] if i == j else 0.0)
                for k in range(j):
                    total -= low[i, k] * low[j, k]
                low[i, j] = np.sqrt(total) if i == j else total / low[j, j]
            total = vectors[c, i]
            for k in range(i):
                total -= low[i, k] * solved[k]
            solved[i] = total / low[i, i]
            forms[c] += solved[i] * solved[i]
    return forms

"""Inner products of vectors chunk of coordinates by chunk of coordinates.

On a CPU a kernel of our own, as for `gram`; elsewhere, and for other dtypes, torch computes the
same.
"""

from itertools import pairwise

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import as_array, suits

_COLUMNS = 1024  # of a block of the kernel
_PIECE = 1 << 14  # coordinates that one thread takes at a time
_STEPS = 20  # of Lanczos' method


def chunk_products(x: torch.Tensor, centre: torch.Tensor, size: int) -> np.ndarray:
    """Inner products in every chunk of `size` coordinates; the last chunk may be shorter.

    Args:
        x: (n, d), any floating-point dtype and device. Not changed.
        centre: (d,) a vector amid them, subtracted before multiplying, so that products of vectors
            close to each other are precise.
        size: coordinates in a chunk.

    Returns:
        (chunks, n + 1, n + 1) float64 on the host: products of x_i - centre and, behind them, of
        the centre.

    Raises:
        ValueError: if squared lengths exceed what float64 holds.
    """
    n, d = x.shape
    starts = [np.arange(first, min(first + size, d), _PIECE) for first in range(0, d, size)]
    bounds = np.append(np.concatenate(starts), d)
    chunks = np.cumsum([0] + [len(part) for part in starts])[:-1]
    parts = None
    if suits(x):
        parts = _products(as_array(x)[0], centre.to(x).contiguous().numpy(), bounds)
    if parts is None or not 1e-30 < np.abs(parts).max() < np.inf:  # float32 over- or underflowed
        parts = np.empty((len(bounds) - 1, n + 1, n + 1))
        for i, (start, stop) in enumerate(pairwise(bounds)):
            middle = centre[start:stop].double()
            rows = torch.cat([x[:, start:stop] - middle, middle[None]])
            parts[i] = (rows @ rows.T).cpu().numpy()
        if not np.isfinite(parts).all():
            raise ValueError("updates are too long: their squared lengths must be below 1e308")
    return np.add.reduceat(parts, chunks)


@njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _products(x, centre, bounds):
    """Of the columns bounds[p]..bounds[p + 1] - 1, for every p."""
    n = len(x)
    parts = np.zeros((len(bounds) - 1, n + 1, n + 1))
    for p in prange(len(bounds) - 1):
        block = np.zeros(((n + 4) // 4 * 4, _COLUMNS), x.dtype)  # rows of zeros behind the last
        total = parts[p]
        for start in range(bounds[p], bounds[p + 1], _COLUMNS):
            width = min(_COLUMNS, bounds[p + 1] - start)
            block[n, :width] = centre[start : start + width]
            for i in range(n):
                for k in range(width):
                    block[i, k] = x[i, start + k] - block[n, k]
            for i in range(0, n + 1, 4):
                u0, u1, u2, u3 = block[i], block[i + 1], block[i + 2], block[i + 3]
                for j in range(i, n + 1, 4):
                    v0, v1, v2, v3 = block[j], block[j + 1], block[j + 2], block[j + 3]
                    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = x.dtype.type(0.0)
                    s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = x.dtype.type(0.0)
                    for k in range(width):
                        a0, a1, a2, a3 = u0[k], u1[k], u2[k], u3[k]
                        b0, b1, b2, b3 = v0[k], v1[k], v2[k], v3[k]
                        s00 += a0 * b0
                        s01 += a0 * b1
                        s02 += a0 * b2
                        s03 += a0 * b3
                        s10 += a1 * b0
                        s11 += a1 * b1
                        s12 += a1 * b2
                        s13 += a1 * b3
                        s20 += a2 * b0
                        s21 += a2 * b1
                        s22 += a2 * b2
                        s23 += a2 * b3
                        s30 += a3 * b0
                        s31 += a3 * b1
                        s32 += a3 * b2
                        s33 += a3 * b3
                    tile = (
                        (s00, s01, s02, s03), (s10, s11, s12, s13),
                        (s20, s21, s22, s23), (s30, s31, s32, s33),
                    )  # fmt: skip
                    for q in range(min(4, n + 1 - i)):
                        for r in range(min(4, n + 1 - j)):
                            total[i + q, j + r] += tile[q][r]
        for i in range(n + 1):
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

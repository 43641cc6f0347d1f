"""Access to vectors, to some of them or to mixtures of them, block of columns by block of columns.

This is what the kernels that look at each coordinate by itself have in common. A block is loaded
into cache, and mixtures exist only there.

`mixing` says how vectors y_i are made of the rows of x (n, d). A matrix (m, n): y = mixing @ x.
Integers (m,): y_i is row mixing[i]. None: y is x.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numba import njit

from benchmark.kernels.arrays import supported_by_kernels

COLUMNS = 512  # of one block: its rows fit the first- or second-level cache
_ROUNDING = 1e-13  # relative error of products of shares
_PIECE_VALUES = 1 << 20  # that torch converts or sorts at once


def pieces(x: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Return all of x (n, d) if the kernels take it, else blocks of columns of little memory.

    Yields:
        The columns, and the part (n, width) of x, in float32 at least.
    """
    n, d = x.shape
    width = d if supported_by_kernels(x) else max(1, _PIECE_VALUES // n)
    for start in range(0, d, width):
        columns = slice(start, min(start + width, d))
        yield columns, at_least_float32(x[:, columns])


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Return float64 tensors as they are, all others in float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def fractions(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients and divisors whose quotients are the weights.

    A row of k equal weights 1/k is a mean. There the sum of the vectors is divided by k, since a
    product with the rounded 1/k is not exact where the sum is. Both are in units of a power of two
    no smaller than k, so that the sum does not overflow.

    Args:
        weights: (..., n).

    Returns:
        Coefficients (..., n) and divisors (...,), which are 1 where nothing is divided.
    """
    used = weights != 0
    count = np.maximum(used.sum(-1), 1)
    equal = (np.abs(weights * count[..., None] - used) <= _ROUNDING).all(-1)
    unit = count_unit(count)
    coefficients = np.where(equal[..., None], used * unit[..., None], weights)
    return coefficients, np.where(equal, count * unit, 1.0)


def count_unit(count: Any) -> Any:
    """Return the largest power of two that makes `count` equal numbers sum to one of them or less.

    Args:
        count: a number, or an array of numbers.
    """
    return 2.0 ** -np.ceil(np.log2(count))


def combination(weights: np.ndarray, x: torch.Tensor) -> torch.Tensor:
    """Return weights @ x, for weights (n,) or (m, n) and x (n, d); means as in `fractions`."""
    coefficients, divisors = fractions(weights)
    total = torch.as_tensor(coefficients).to(x) @ x
    if (divisors == 1).all():
        return total
    return total.div_(torch.as_tensor(divisors).to(x)[..., None])


def mixed(x: torch.Tensor, mixing: np.ndarray | None) -> torch.Tensor:
    """Return the vectors (m, d) that `mixing` makes of x (n, d)."""
    if mixing is None:
        return x
    if mixing.ndim == 1:
        return x[torch.as_tensor(mixing, device=x.device)]
    return combination(mixing, x)


def kernel_arguments(
    mixing: np.ndarray | None, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return `mixing` in the form that the kernels take, for x (n, d).

    Returns:
        matrix: (4a, 4b), filled up with zeros; empty if the vectors are no mixtures.
        divisors: (m,) by what mixtures are divided, see `fractions`; empty likewise.
        rows: (m,) which rows of x the vectors are; empty if they are mixtures, or x itself.
        m: the number of vectors.

    Raises:
        ValueError: if the matrix is for another number of vectors.
    """
    nothing = np.empty((0, 0), x.dtype), np.empty(0, x.dtype)
    if mixing is None:
        return *nothing, np.empty(0, np.int64), len(x)
    if mixing.ndim == 1:
        return *nothing, mixing.astype(np.int64), len(mixing)
    m, n = mixing.shape
    if n != len(x):
        raise ValueError(f"mixing is for {n} vectors, not for {len(x)}")
    padded = np.zeros((-(-m // 4) * 4, -(-n // 4) * 4), x.dtype)
    padded[:m, :n], divisors = fractions(mixing)
    return padded, divisors.astype(x.dtype), np.empty(0, np.int64), m


@njit(cache=True, inline="always")
def load_block(
    x: np.ndarray,
    mixing: np.ndarray,
    divisors: np.ndarray,
    rows: np.ndarray,
    m: int,
    start: int,
    width: int,
) -> np.ndarray:
    """Return columns start, ..., start + width - 1 of the vectors, see `kernel_arguments`.

    Of mixtures four are computed from four rows at a time.

    Returns:
        (m + 2 or more, COLUMNS): the last two rows are free for the caller to work on.
    """
    n, mixtures, parts = len(x), mixing.shape[0], mixing.shape[1]
    block = np.empty((max(m, mixtures) + 2, COLUMNS), x.dtype)
    if mixtures == 0:
        for i in range(m):
            row, taken = block[i], x[rows[i] if len(rows) else i, start : start + width]
            for k in range(width):
                row[k] = taken[k]
    else:
        block[:] = 0
    for i in range(0, mixtures, 4):
        y0, y1, y2, y3 = block[i], block[i + 1], block[i + 2], block[i + 3]
        for j in range(0, parts, 4):  # behind the last row the coefficients are zero
            x0 = x[j, start : start + width]
            x1 = x[min(j + 1, n - 1), start : start + width]
            x2 = x[min(j + 2, n - 1), start : start + width]
            x3 = x[min(j + 3, n - 1), start : start + width]
            a00, a01, a02, a03 = mixing[i, j], mixing[i, j + 1], mixing[i, j + 2], mixing[i, j + 3]
            c = mixing[i + 1]
            a10, a11, a12, a13 = c[j], c[j + 1], c[j + 2], c[j + 3]
            c = mixing[i + 2]
            a20, a21, a22, a23 = c[j], c[j + 1], c[j + 2], c[j + 3]
            c = mixing[i + 3]
            a30, a31, a32, a33 = c[j], c[j + 1], c[j + 2], c[j + 3]
            for k in range(width):
                v0, v1, v2, v3 = x0[k], x1[k], x2[k], x3[k]
                y0[k] += a00 * v0 + a01 * v1 + a02 * v2 + a03 * v3
                y1[k] += a10 * v0 + a11 * v1 + a12 * v2 + a13 * v3
                y2[k] += a20 * v0 + a21 * v1 + a22 * v2 + a23 * v3
                y3[k] += a30 * v0 + a31 * v1 + a32 * v2 + a33 * v3
    for i in range(len(divisors)):
        if divisors[i] != 1:
            row, divisor = block[i], divisors[i]
            for k in range(width):
                row[k] /= divisor
    return block

"""Lengths and directions of vectors whose squares overflow or vanish in their dtype."""

import math

import torch


def length(vector: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return the Euclidean norm of a vector (d,), a scalar of the dtype, by default the vector's.

    Where squares overflow or vanish, it is computed in units of the largest number.
    """
    norm = torch.linalg.vector_norm(vector, dtype=dtype)
    if math.sqrt(torch.finfo(norm.dtype).tiny) * 100 < float(norm) < math.inf:
        return norm
    unit = vector.abs().amax().to(norm.dtype)
    return torch.linalg.vector_norm(vector / unit, dtype=dtype) * unit if unit > 0 else unit


def to_unit(vector: torch.Tensor) -> torch.Tensor:
    """Return the vector times the power of two that brings its largest magnitude into [1/2, 1).

    So products of it neither overflow nor vanish, and no digit changes.
    """
    largest = float(vector.abs().amax())
    return vector if largest == 0 else ldexp(vector, -math.frexp(largest)[1])


def squarable(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors (n, d) whose sums of squares float64 holds.

    They are the given ones, or the same in another unit if those are too long or too short, see
    `to_unit`.
    """
    if vectors.dtype != torch.float64:
        return vectors
    largest = max(float(vectors.amax()), -float(vectors.amin()))
    return vectors if 1e-140 < largest < 1e140 else to_unit(vectors)


def squarable_rows(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors (n, d) of the same directions whose sums of squares float64 holds.

    They are the given ones, or each in a unit of its own if some are too long or too short.
    """
    if vectors.dtype != torch.float64:
        return vectors
    largest = vectors.abs().amax(1)
    sound = (largest == 0) | ((largest > 1e-140) & (largest < 1e140))
    return vectors if bool(sound.all()) else torch.stack([to_unit(row) for row in vectors])


def ldexp(vector: torch.Tensor, exponent: int) -> torch.Tensor:
    """Return vector * 2^exponent, also where its dtype does not hold 2^exponent."""
    half = exponent // 2
    return vector * 2.0**half * 2.0 ** (exponent - half)

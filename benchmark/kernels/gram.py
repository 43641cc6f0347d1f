"""Inner products of a few long vectors, precise where a plain float32 ``X @ X.T`` is not.

On a CPU a kernel of our own computes one half of the symmetric product, four rows with four, and
sums blocks of columns in float64. That is several times faster than a general product of so few
rows.

The distance between two vectors that lie far from the origin and close to each other is the small
difference of large numbers. Taken from a float32 Gram matrix it is noise. So the plain product is
kept only if distances are about as large as lengths. Otherwise one of the vectors, the pivot p, is
subtracted first, block of columns by block of columns, and the blocks are summed in float64.
"""

from typing import NamedTuple

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import as_array, supported_by_kernels

_BLOCK_VALUES = 1 << 18  # values in a block: about a megabyte, so that it stays in cache
_COLUMNS = 1024  # of a block of the kernel
_JOBS = 16  # at most so many threads; the order of summation does not depend on how many
_FEW = 256  # vectors, whose inner products take half a megabyte
_STEP = 4  # blocks of many vectors: they stay in the cache that all cores share
_ILL_CONDITIONED = 1e-2  # typical squared distance, relative to the squared distance to the pivot
_SAMPLE = 64  # numbers of vectors that are looked at before all are
_LONGEST, _SHORTEST = 1e300, 1e-280  # of sums of squares, so that many can be added and divided


class Gram(NamedTuple):
    """Inner products of vectors v_1, ..., v_n.

    Attributes:
        inner: (n, n) float64 <v_i, v_j>, precise relative to |v_i| |v_j|.
        about: (n + 1, n + 1) float64 inner products of v_1 - p, ..., v_n - p, p. So that distances
            are precise, p is zero or one of the vectors, in the midst of most of them.
    """

    inner: np.ndarray
    about: np.ndarray

    @property
    def centred(self) -> np.ndarray:
        """Inner products (n, n) <v_i - p, v_j - p>."""
        return self.about[:-1, :-1]

    def mixed(self, mixing: np.ndarray) -> "Gram":
        """Return the products of vectors w_1, ..., w_m that are made of these.

        Equal coefficients give equal products. The new p is s times the old one, where s is the
        median of the sums of coefficients.

        Args:
            mixing: (m, n), w_i = sum_j mixing[i, j] v_j; or integers (m,), w_i = v_mixing[i].
        """
        if mixing.ndim == 1:
            with_pivot = np.append(mixing, len(self.inner))
            return Gram(_taken(self.inner, mixing), _taken(self.about, with_pivot))
        m, n = mixing.shape
        sums = mixing.sum(1)
        middle = np.sort(sums)[len(sums) // 2]
        beyond = sums - middle
        beyond[np.abs(beyond) <= 1e-9] = 0.0  # p cancels, and with it its rounding
        over = np.zeros((m + 1, n + 1))
        over[:m, :n], over[:m, n], over[m, n] = mixing, beyond, middle
        same = np.append(first_equal(mixing), m)
        return Gram(self.mixed_inner(mixing), _taken(over @ self.about @ over.T, same))

    def mixed_inner(self, mixing: np.ndarray) -> np.ndarray:
        """Return `mixed(mixing).inner`."""
        return _mixed_products(mixing, self.inner)

    def mixed_centred(self, mixing: np.ndarray) -> np.ndarray:
        """Return `mixed(mixing).centred`."""
        if not self.about[-1, -1]:  # p is zero
            return _mixed_products(mixing, self.centred)
        return self.mixed(mixing).centred


def _mixed_products(mixing: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Return the products (m, m) of mixtures; equal coefficients give equal products."""
    if mixing.ndim == 1:
        return _taken(products, mixing)
    return _taken(mixing @ products @ mixing.T, first_equal(mixing))


def _taken(products: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the products (m, m) of the vectors in some rows (m,)."""
    return products[np.ix_(rows, rows)]


def first_equal(rows: np.ndarray) -> np.ndarray:
    """Return for each row of a small matrix (m, k) the number of the first equal row, (m,)."""
    seen = {}
    return np.array([seen.setdefault(row.tobytes(), i) for i, row in enumerate(rows + 0.0)], int)


def power_of_two(number: float) -> float:
    """Return the largest power of two that is at most a number; 0 for 0."""
    return float(np.ldexp(0.5, np.frexp(number)[1])) if number else 0.0


def in_range(inner: np.ndarray) -> np.ndarray:
    """Return inner products (n, n) if sums of them are finite.

    Raises:
        ValueError: if they are too large.
    """
    if not np.abs(inner).max(initial=0.0) < _LONGEST:
        raise ValueError("updates are too long: their squared lengths must be below 1e300")
    return inner


def refuse_short(largest: float, *vectors: torch.Tensor | None) -> None:
    """Raise ValueError if the largest of squares is too small to tell squares apart, since numbers
    in the vectors are that small."""
    if largest < _SHORTEST:
        for x in vectors:
            if x is not None and bool(x.any()) and float(x.abs().amax()) < _SHORTEST**0.5:
                raise ValueError(
                    "updates are too short: their squared lengths must be above 1e-280"
                )


def gram(x: torch.Tensor, extra: torch.Tensor | None = None) -> Gram:
    """Return the inner products of the rows of x.

    All inner products of linear combinations of the rows follow from them, and all distances of
    combinations with the same sum of coefficients. Distances are relatively precise also where
    |x_i| is 1e5 times larger than |x_i - x_j|, and where rows differ by 20 orders of magnitude.

    Args:
        x: (n, d), any floating-point dtype and device, finite.
        extra: (e, d) more vectors, which stand behind the rows.

    Returns:
        The products of the n + e vectors, on the host.

    Raises:
        ValueError: if float64 does not hold sums of squared lengths, since they are too large, or
            all too small.
    """
    if extra is not None and extra.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"vectors of {x.shape[1]} numbers, and others of shape {tuple(extra.shape)}"
        )
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if supported_by_kernels(x):
        inner = _symmetric(*as_array(x), _extra_rows(extra, x))
    else:
        inner = _products(x, extra, None, dtype)[:-1, :-1]
    least = _SHORTEST if dtype == torch.float64 else 1e-30
    if not least < np.abs(inner).max() < _LONGEST:  # float32 over- or underflowed
        dtype = torch.float64
        inner = _products(x, extra, None, dtype)[:-1, :-1]
        refuse_short(in_range(inner).max(), x, extra)
    about = np.pad(inner, (0, 1))
    for _ in range(5):  # outliers of several magnitudes are left one after the other
        medoid, ratio = _conditioning(about[: len(x), : len(x)])
        if ratio >= _ILL_CONDITIONED:
            break
        about = _products(x, extra, medoid, dtype)
    return Gram(inner, about)


def _extra_rows(extra: torch.Tensor | None, x: torch.Tensor) -> np.ndarray:
    rows = x.new_empty(0, x.shape[1]) if extra is None else extra.to(x)
    return rows.contiguous().numpy()


@njit(cache=True, inline="always")
def _row(x: np.ndarray, extra: np.ndarray, i: int, start: int, end: int) -> np.ndarray:
    return x[i, start:end] if i < len(x) else extra[i - len(x), start:end]


@njit(cache=True, inline="always")
def tile(
    u0: np.ndarray,
    u1: np.ndarray,
    u2: np.ndarray,
    u3: np.ndarray,
    v0: np.ndarray,
    v1: np.ndarray,
    v2: np.ndarray,
    v3: np.ndarray,
) -> tuple[tuple[float, float, float, float], ...]:
    """Return the sixteen inner products of four vectors with four, summed in their own precision.

    Returns:
        Four tuples of four: <u_p, v_q> is number q of tuple p.
    """
    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = u0.dtype.type(0.0)
    s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = u0.dtype.type(0.0)
    for k in range(len(u0)):
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
    first, second = (s00, s01, s02, s03), (s10, s11, s12, s13)
    third, fourth = (s20, s21, s22, s23), (s30, s31, s32, s33)
    return first, second, third, fourth


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def _add_products(
    x: np.ndarray,
    extra: np.ndarray,
    first: int,
    step: int,
    start: int,
    end: int,
    total: np.ndarray,
) -> None:
    """Add to the total the products of rows i, ..., i + 3 with all rows from i on.

    They are taken over columns start, ..., end - 1, for i = first, first + step, ...
    """
    n = len(x) + len(extra)
    for i in range(first, n, step):  # rows behind the last are the last once more
        u0 = _row(x, extra, i, start, end)
        u1 = _row(x, extra, min(i + 1, n - 1), start, end)
        u2 = _row(x, extra, min(i + 2, n - 1), start, end)
        u3 = _row(x, extra, min(i + 3, n - 1), start, end)
        for j in range(i, n, 4):
            v0 = _row(x, extra, j, start, end)
            v1 = _row(x, extra, min(j + 1, n - 1), start, end)
            v2 = _row(x, extra, min(j + 2, n - 1), start, end)
            v3 = _row(x, extra, min(j + 3, n - 1), start, end)
            products = tile(u0, u1, u2, u3, v0, v1, v2, v3)
            for p in range(min(4, n - i)):
                for q in range(min(4, n - j)):
                    total[i + p, j + q] += products[p][q]


@njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _symmetric(x: np.ndarray, d: int, extra: np.ndarray) -> np.ndarray:
    """Return the inner products of the rows of x, first d columns, and of the extra rows; float64.

    With few vectors a job takes a chunk of the columns, with sums of its own. With many, whose sums
    are large, it takes a share of the rows, a few blocks of columns at a time.
    """
    n = len(x) + len(extra)
    blocks = (d + _COLUMNS - 1) // _COLUMNS
    few = n <= _FEW
    chunks, shares, stride = (min(_JOBS, blocks), 1, blocks) if few else (1, _JOBS, _STEP)
    parts = np.zeros((chunks, n, n))
    for step in range(0, blocks, stride):
        size = min(stride, blocks - step)
        for job in prange(chunks * shares):  # one of the two is 1
            chunk, share = job // shares, job % shares
            for b in range(chunk * size // chunks, (chunk + 1) * size // chunks):
                start, end = (step + b) * _COLUMNS, min(d, (step + b + 1) * _COLUMNS)
                _add_products(x, extra, 4 * share, 4 * shares, start, end, parts[chunk])
    total = parts[0]
    for chunk in range(1, chunks):  # in loops: what sum(0) needs takes seconds to compile
        for i in range(n):
            for j in range(i, n):
                total[i, j] += parts[chunk, i, j]
    for i in range(n):
        for j in range(i):
            total[i, j] = total[j, i]
    return total


def _products(
    x: torch.Tensor, extra: torch.Tensor | None, pivot: int | None, dtype: torch.dtype
) -> np.ndarray:
    """Return the inner products of all vectors less the pivot, and behind them of the pivot.

    Args:
        x, extra: as for `gram`.
        pivot: its row; None: it is zero.
        dtype: of the blocks.

    Returns:
        (n + e + 1, n + e + 1) float64, on the host.
    """
    n, d = x.shape
    size = n + 1 + (0 if extra is None else len(extra))
    block = min(d, max(2048, _BLOCK_VALUES // size))
    rows = torch.zeros(size, block, dtype=dtype, device=x.device)
    total = torch.zeros(size, size, dtype=torch.float64, device=x.device)
    for start in range(0, d, block):
        columns = slice(start, min(start + block, d))
        part = rows[:, : columns.stop - start]
        part[:n] = x[:, columns]
        if extra is not None:
            part[n:-1] = extra[:, columns]
        if pivot is not None:
            part[-1] = part[pivot]
            part[:-1] -= part[-1]
        total += part @ part.T
    total = total.cpu().numpy()
    same = _same_rows(x, extra)
    return total[np.ix_(same, same)]


def _same_rows(x: torch.Tensor, extra: torch.Tensor | None) -> np.ndarray:
    """Return for each vector, and for the pivot behind them, the first vector equal to it.

    In general matrix products those of equal vectors may differ in the last bit.
    """
    rows = [*x, *(() if extra is None else extra.to(x))]
    sample = torch.stack([row[:: max(1, len(row) // _SAMPLE)] for row in rows])
    alike = first_equal(sample.double().cpu().numpy())
    same = np.arange(len(rows) + 1)
    for i, row in enumerate(rows):
        for j in np.flatnonzero((alike[:i] == alike[i]) & (same[:i] == np.arange(i))):
            if torch.equal(row, rows[j]):
                same[i] = j
                break
    return same


def _conditioning(centred: np.ndarray) -> tuple[int, float]:
    """Return the row closest to the nearer half of the others, and how tight that half is.

    It is measured by the squared distance to the farthest of the half, as a share of the row's
    squared distance from the pivot.
    """
    n = len(centred)
    squared = squared_distances(centred)
    near = np.sort(squared, axis=1)[:, n // 2]
    medoid = int(np.argmin(near))
    offset = centred[medoid, medoid]
    return medoid, near[medoid] / offset if offset > 0 else np.inf


def squared_distances(inner: np.ndarray) -> np.ndarray:
    """Return the squared distances |v_i - v_j|^2, (n, n), of inner products <v_i, v_j>.

    They are exactly 0 on the diagonal and exactly symmetric, so that ties stay ties. Matrix
    products are not, in the last bit.
    """
    lengths = np.diagonal(inner)
    squared = np.maximum(lengths[:, None] + lengths[None, :] - (inner + inner.T), 0.0)
    np.fill_diagonal(squared, 0.0)
    return squared


def distances_from(weights: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Return the distances |v_i - z|, (n,), from the average z = sum_j weights[j] v_j.

    They are taken from inner products and not from squared distances. To those, a vector of length
    1e20 and weight 1e-20 would add 1e20 that has to cancel.

    Args:
        weights: (n,), of sum 1.
        inner: (n, n) inner products <v_i, v_j> about a centre among most of the vectors.
    """
    toward = inner @ weights
    return np.sqrt(np.maximum(np.diagonal(inner) - 2.0 * toward + weights @ toward, 0.0))

"""Spectral rules: down-weight or drop vectors that deviate along the direction of most variance.

That direction lies in the span of the vectors, so it is found from their (m, m) inner products.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.context import Context
from benchmark.aggregators.contract import Accepted, Detector, WeightsRule
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import positive
from benchmark.kernels.gram import power_of_two
from benchmark.kernels.scale import squarable

_COLUMNS = 1024  # of a block of sampled coordinates
_EQUAL = 1e-9  # relative; smaller differences count as none


def top_direction(inner: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Return how weighted vectors vary along the direction in which they vary most.

    Where several directions have the largest variance, up to a relative 1e-9, the deviations are
    those in all of them, so that they do not depend on the choice of a basis.

    Args:
        inner: (m, m) inner products about any centre.
        weights: (m,) not negative, of positive sum.

    Returns:
        variance: in that direction.
        deviation: (m,) squared deviations from the mean along it, as shares of the largest; equal
            ones up to a relative 1e-9 are 1. They are 0 for vectors of weight 0, and for all
            vectors where there is no variance.
    """
    weights = weights / weights.sum()
    toward = inner @ weights
    centred = inner - toward[:, None] - toward[None, :] + weights @ toward
    there = weights > 0
    unit = power_of_two(np.abs(centred[np.ix_(there, there)]).max())
    if unit == 0.0:
        return 0.0, np.zeros(len(weights))
    centred = np.where(there[:, None] & there, centred, 0.0) / unit  # squares are in range
    root = np.sqrt(weights)
    values, vectors = np.linalg.eigh(root[:, None] * centred * root)
    variance = max(0.0, float(values[-1]))
    top = vectors[:, values >= variance * (1 - _EQUAL)]
    length = np.linalg.norm(centred @ (root[:, None] * top), axis=1)
    longest = length.max()
    if variance == 0.0 or longest == 0.0:
        return 0.0, np.zeros(len(weights))
    deviation = (length / longest) ** 2
    # Equal vectors of several Byzantine clients must be dropped together: one that kept a weight
    # of 1e-16 would remain the maximum to which all others are compared.
    deviation[(deviation > 1 - _EQUAL) & (deviation < 1)] = 1.0
    return variance * unit, deviation


@dataclass(frozen=True)
class CAF(WeightsRule):
    """Covariance bound-agnostic filter: down-weight what deviates along the top eigenvector.

    The eigenvector v is that of the covariance matrix. c_i <- c_i (1 - tau_i / max tau), from c_i =
    1, where tau_i = <x_i - mean_c, v>^2 and the maximum is over those with c_i > 0, until n - 2f of
    the weight or less is left. The aggregate is the weighted mean whose covariance had the smallest
    top eigenvalue on the way. Allouah, Guerraoui, Stephan, "Towards Trustworthy Federated Learning
    with Untrusted Participants", ICML 2025. With f = 0 it is the mean.

    Requires n >= 2f + 1.

    Example:
        >>> CAF()([[2.0], [2.0], [2.0], [2.0], [90.0]], f=1)
        array([2.])
    """

    paper: ClassVar[str] = "Allouah, Guerraoui, Stephan, ICML 2025"
    cost: ClassVar[str] = "n^2 d + n^4"

    @override
    def combination(self, updates: Updates, f: int) -> np.ndarray:
        m = len(updates)
        c = kept = np.ones(m)
        smallest = np.inf
        while c.sum() > m - 2 * f:
            variance, deviation = top_direction(updates.centred, c)
            if variance < smallest:
                smallest, kept = variance, c
            if variance == 0.0:
                break
            c = np.where(c > 0, c * (1.0 - np.minimum(deviation, 1.0)), 0.0)
        return kept / kept.sum()


@dataclass(frozen=True)
class FilterL2(WeightsRule):
    """Down-weight what deviates along the top eigenvector until its eigenvalue is small enough.

    It is that of the covariance matrix, and has to be at most expansion * sigma^2. Weights decrease
    as in `CAF`; the aggregate is the weighted mean. Steinhardt, "Robust Learning: Information
    Theory and Algorithms", PhD thesis, Stanford 2018; Diakonikolas et al., "Being Robust (in High
    Dimensions) Can Be Practical", ICML 2017. If sigma is true, the Byzantine lose more weight than
    the others, so that at most 2f is lost in all. So we stop before more than 2f is lost: sigma was
    too small.

    Requires n >= 2f + 1.

    Attributes:
        sigma: largest standard deviation of honest vectors in any direction, in units of the
            updates. (It is compared with an eigenvalue as sigma^2, which is a variance; the code of
            Robust Collaborative Learning squares the eigenvalue as well.)
        expansion: 20 in the thesis.

    Example:
        >>> FilterL2()([[2.0], [2.0], [2.0], [2.0], [90.0]], f=1)
        array([2.])
    """

    paper: ClassVar[str] = "Diakonikolas et al., ICML 2017"
    cost: ClassVar[str] = "n^2 d + n^4"
    sigma: float = 1.0
    expansion: float = 20.0

    def __post_init__(self) -> None:
        positive("sigma", self.sigma)
        positive("expansion", self.expansion)

    @override
    def combination(self, updates: Updates, f: int) -> np.ndarray:
        m = len(updates)
        c = np.ones(m)
        while True:
            variance, deviation = top_direction(updates.centred, c)
            less = np.where(c > 0, c * (1.0 - np.minimum(deviation, 1.0)), 0.0)
            if variance <= self.expansion * (self.sigma * self.sigma) or less.sum() <= m - 2 * f:
                return c / c.sum()
            c = less


@dataclass(frozen=True)
class DnC(Detector):
    """Divide and conquer: drop the vectors that deviate most along the direction of most variance.

    `iterations` times b coordinates are drawn, and the vectors of the floor(c f) largest
    <x_i - mean, v>^2 are dropped, where v is the top right singular vector of the centred vectors;
    of equal ones the lower index stays. The aggregate is the mean of the vectors that are never
    dropped, or zero if there are none. Shejwalkar,
    Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for
    Federated Learning", NDSS 2021.

    Requires n >= 2f + 1.

    Attributes:
        b: coordinates in an iteration, or all if there are fewer.
        iterations: how many.
        c: vectors dropped in an iteration for each declared Byzantine one.

    Example:
        >>> DnC()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)
        array([2.5])
    """

    paper: ClassVar[str] = "Shejwalkar, Houmansadr, NDSS 2021"
    cost: ClassVar[str] = "T n^2 b"
    b: int = 10_000
    iterations: int = 5
    c: float = 1.0

    def __post_init__(self) -> None:
        positive("b", self.b)
        positive("iterations", self.iterations)
        positive("c", self.c)

    @override
    def check(self, n: int, f: int) -> str | None:
        """Return the objection to n <= 2f, or to dropping all vectors in an iteration."""
        if 2 * f < n <= self._dropped(f):
            return f"DnC needs n > c f, got n={n}, f={f}, c={self.c}"
        return super().check(n, f)

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        m, d = len(updates), updates.clients.shape[1]
        count = max(0, m - self._dropped(f))
        if self.b >= d:  # all coordinates: every iteration is the same
            kept = _least_deviating(updates.centred, count)
            return np.sort(kept), None
        votes, vectors = np.zeros(m, int), Updates(squarable(updates.clients), updates.mixing)
        generator = context.generator()
        for _ in range(self.iterations):
            index = generator.choice(d, self.b, replace=False, shuffle=False)
            votes[_least_deviating(_inner_of(vectors, np.sort(index)), count)] += 1
        return np.flatnonzero(votes == self.iterations), None

    def _dropped(self, f: int) -> int:
        return int(np.floor(self.c * f + 1e-9))


def _least_deviating(inner: np.ndarray, count: int) -> np.ndarray:
    """Return the rows of the `count` vectors that deviate least, from inner products (m, m)."""
    _, deviation = top_direction(inner, np.ones(len(inner)))
    return np.argsort(deviation, kind="stable")[:count]


def _inner_of(updates: Updates, index: np.ndarray) -> np.ndarray:
    """Return the inner products (m, m) of some coordinates of the vectors about their mean."""
    inner = np.zeros((len(updates), len(updates)))
    for start in range(0, len(index), _COLUMNS):
        part = updates.columns(index[start : start + _COLUMNS]).to(torch.float64)
        part = part - part.mean(0)
        inner += (part @ part.T).cpu().numpy()
    return inner

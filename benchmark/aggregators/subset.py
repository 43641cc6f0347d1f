"""The mean of the best subset of n - f vectors: minimum diameter and smallest maximum eigenvalue.

Both consider all subsets, exactly.
"""

from dataclasses import dataclass
from math import comb
from typing import ClassVar

import numpy as np
from typing_extensions import override

from benchmark.aggregators.contract import WeightsRule
from benchmark.aggregators.spectral import top_direction
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import positive
from benchmark.kernels.subset import smallest_diameter, smallest_variance


@dataclass(frozen=True)
class MDA(WeightsRule):
    """Minimum diameter averaging: the mean of the n - f vectors of least largest mutual distance.

    Rousseeuw, "Multivariate Estimation with High Breakdown Point", 1985; El Mhamdi, Guerraoui,
    Guirguis, Hoang, Rouault, "Genuinely Distributed Byzantine Machine Learning", PODC 2020. Its
    distance to the mean of any n - f vectors is at most 2f / (n - f) of their diameter (Farhadkhani
    et al., "Byzantine Machine Learning Made Easy by Resilient Averaging of Momentums", ICML 2022).

    Subsets that share the pair farthest apart have equal diameters. Of such the lexicographically
    smallest set of indices is taken. The search is exact, see `kernels.subset.smallest_diameter`.

    Requires n >= 2f + 1.

    Example:
        >>> MDA()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)
        array([2.5])
    """

    paper: ClassVar[str] = "El Mhamdi et al., PODC 2020"
    cost: ClassVar[str] = "n^2 d + 1.47^f n^2"

    @override
    def kappa(self, n: int, f: int) -> float | None:
        """Return 8 f^2 / (n - f).

        The chosen vectors share one with any set S of n - f, and have no larger diameter. So their
        means differ by at most 2f / (n - f) diameters of S. The squared diameter is at most
        2 (n - f) times the mean squared distance from the mean.
        """
        return 8 * f**2 / (n - f)

    @override
    def combination(self, updates: Updates, f: int) -> np.ndarray:
        chosen = smallest_diameter(updates.distances, len(updates) - f)
        return _mean_of(chosen, len(updates))


@dataclass(frozen=True)
class SMEA(WeightsRule):
    """Smallest maximum eigenvalue averaging: the mean of the n - f vectors of least top eigenvalue.

    It is the largest eigenvalue of their covariance matrix.

    Allouah, Guerraoui, Gupta, Pinot, Stephan, "On the Privacy-Robustness-Utility Trilemma in
    Distributed Learning", ICML 2023.

    The search over all subsets is exact. Eigenvalues that differ by less than a relative 1e-9 count
    as equal, and of such subsets the lexicographically smallest set of indices is taken. At n = 20
    it takes milliseconds for every f. The worst case grows with the number of subsets, see `steps`.

    Requires n >= 2f + 1, and no more than max_steps.

    Attributes:
        max_steps: refuse n and f that may take more `steps`; 1e11 are a few seconds.

    Example:
        >>> SMEA()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)
        array([2.5])
    """

    paper: ClassVar[str] = "Allouah et al., ICML 2023"
    cost: ClassVar[str] = "n^2 d + C(n, f) n^2"
    max_steps: float = 1e11

    def __post_init__(self) -> None:
        positive("max_steps", self.max_steps)

    @override
    def check(self, n: int, f: int) -> str | None:
        """Return the objection to n <= 2f, or to too many subsets."""
        if 2 * f < n and self.steps(n, f) > self.max_steps:
            return (
                f"SMEA needs {self.steps(n, f):.1e} steps to look at all subsets, more than "
                f"max_steps={self.max_steps:.1e}, got n={n}, f={f}"
            )
        return super().check(n, f)

    @override
    def kappa(self, n: int, f: int) -> float | None:
        """Return 4 f / (n - 2f).

        If a share e of vectors of variance v in a direction is left out, their mean moves there by
        at most sqrt(v e / (1 - e)). The chosen ones and any set S of n - f share all but a share
        f / (n - f). In no direction has either a larger variance than S has in some.
        """
        return 4 * f / (n - 2 * f)

    @staticmethod
    def steps(n: int, f: int) -> int:
        """Return an upper bound on the work: beginnings of subsets times their size squared."""
        return comb(n + 1, f + 1) * (n - f) ** 2

    @override
    def combination(self, updates: Updates, f: int) -> np.ndarray:
        left = np.ones(len(updates))
        for _ in range(f):  # a first guess: drop the farthest along the worst direction, f times
            _, deviation = top_direction(updates.centred, left)
            left[np.argmax(np.where(left > 0, deviation, -1.0))] = 0.0
        guess = np.flatnonzero(left)
        chosen = smallest_variance(updates.distances, len(guess), guess)
        return _mean_of(chosen, len(updates))


def _mean_of(chosen: np.ndarray, m: int) -> np.ndarray:
    """Return the weights (m,) of the mean of the chosen vectors."""
    weights = np.zeros(m)
    weights[chosen] = 1.0 / len(chosen)
    return weights

"""Means of the vectors nearest a trusted vector, the coordinate-wise median, or zero."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import override

from benchmark.aggregators.context import given
from benchmark.aggregators.contract import WeightsRule
from benchmark.aggregators.coordinatewise import Median
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import one_of
from benchmark.kernels.gram import squared_distances
from benchmark.kernels.order import sorted_mean


@dataclass(frozen=True)
class MoNNA(WeightsRule):
    """The mean of the n - f vectors nearest a trusted one, itself included.

    Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan, "Robust Collaborative Learning with Linear
    Gradient Overhead", ICML 2023. There each client averages what its peers send it and trusts its
    own vector. On a server one client has to be trusted; if it is Byzantine, so is the aggregate.
    Of equally near vectors the lower index comes first. The aggregate is zero in a round in which
    the trusted client takes no part.

    Requires n >= 2f + 1.

    Attributes:
        pivot: id of the client that is trusted.

    Example:
        >>> MoNNA(pivot=0)([[1.0], [2.0], [3.0], [4.0], [90.0]], f=2)  # of the three nearest 1
        array([2.])
    """

    paper: ClassVar[str] = "Farhadkhani et al., ICML 2023"
    cost: ClassVar[str] = "n^2 d"
    pivot: int = 0
    needs = frozenset({"clients"})

    def __post_init__(self) -> None:
        if self.pivot < 0:
            raise ValueError(f"pivot must be the id of a client, got {self.pivot}")

    @override
    def combination(self, updates: Updates, f: int) -> np.ndarray:
        trusted = np.flatnonzero(updates.ids == self.pivot)
        if not len(trusted):
            return np.zeros(len(updates))
        distance = updates.distances[trusted[0]].copy()
        distance[trusted[0]] = -1.0
        return nearest(distance, len(updates) - f)


@dataclass(frozen=True)
class Aksel(WeightsRule):
    """The mean of the vectors nearest the coordinate-wise median.

    Boussetta, El Mhamdi, Guerraoui, Maurer, Rouault, "AKSEL: Fast Byzantine SGD", OPODIS 2020. Of
    equally near vectors the lower index comes first.

    Requires n >= 2f + 1.

    Attributes:
        mode: how many are averaged. `mid`: (n + 1) / 2, rounded down, those no farther than the
            median distance, as in the paper; or `n-f`.

    Example:
        >>> Aksel()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)  # of the three nearest 3
        array([3.])
    """

    paper: ClassVar[str] = "Boussetta et al., OPODIS 2020"
    cost: ClassVar[str] = "n log^2 n d"
    depends_on = "everything"
    mode: str = "mid"

    def __post_init__(self) -> None:
        one_of("mode", self.mode, ("mid", "n-f"))

    @override
    def kappa(self, n: int, f: int) -> float | None:
        """Return (sqrt(1 + k) + sqrt(k))^2 with the median's k.

        The chosen vectors are on average no farther from the median than any n - f others.
        """
        k = given(Median().kappa(n, f))
        return (np.sqrt(1 + k) + np.sqrt(k)) ** 2

    @override
    def combination(self, updates: Updates, f: int) -> np.ndarray:
        m = len(updates)
        return nearest(median_distances(updates), (m + 1) // 2 if self.mode == "mid" else m - f)


@dataclass(frozen=True)
class CGE(WeightsRule):
    """Comparative gradient elimination: the mean of the n - f shortest vectors.

    Gupta, Liu, Vaidya, "Byzantine Fault-Tolerant Distributed Machine Learning Using Stochastic
    Gradient Descent (SGD) and Norm-Based Comparative Gradient Elimination (CGE)", 2020. Of equally
    long vectors the lower index comes first.

    Requires n >= 2f + 1.

    Example:
        >>> CGE()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)
        array([2.5])
    """

    paper: ClassVar[str] = "Gupta, Liu, Vaidya, 2020"
    cost: ClassVar[str] = "n^2 d"

    @override
    def combination(self, updates: Updates, f: int) -> np.ndarray:
        return nearest(updates.norms, len(updates) - f)


def nearest(distance: np.ndarray, count: int) -> np.ndarray:
    """Return the weights (m,) of the mean of the `count` vectors of the smallest distance (m,)."""
    weights = np.zeros(len(distance))
    weights[np.argsort(distance, kind="stable")[:count]] = 1.0 / count
    return weights


def median_distances(updates: Updates) -> np.ndarray:
    """Return the distances (m,) of the vectors to their coordinate-wise median."""
    m = len(updates)
    vectors, mixing = updates.unordered()
    median, _ = sorted_mean(vectors, (m - 1) // 2, m // 2 + 1, mixing)
    return np.sqrt(squared_distances(updates.joined(median).centred)[-1, :-1])

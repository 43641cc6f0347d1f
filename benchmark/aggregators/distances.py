"""The mean of what is near: to a trusted vector, to the coordinate-wise median, to zero."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.aggregators.base import Updates, WeightsRule, one_of
from benchmark.aggregators.coordinatewise import Median
from benchmark.kernels.gram import squared_distances
from benchmark.kernels.order import sorted_mean


@dataclass(frozen=True)
class MoNNA(WeightsRule):
    """The mean of the n - f vectors nearest a trusted one, itself included.

    Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan, "Robust Collaborative Learning with Linear
    Gradient Overhead", ICML 2023. There every client averages what its peers send it and trusts its
    own vector. On a server somebody has to be trusted: if that client is Byzantine, so is the
    aggregate. Of equally near vectors the lower index comes first. Zero in a round in which the
    trusted client takes no part.

    Requires n >= 2f + 1.

    Attributes:
        pivot: id of the client that is trusted.
    """

    paper: ClassVar[str] = "Farhadkhani et al., ICML 2023"
    cost: ClassVar[str] = "n^2 d"
    pivot: int = 0
    needs: ClassVar[frozenset] = frozenset({"clients"})

    def __post_init__(self):
        if self.pivot < 0:
            raise ValueError(f"pivot must be the id of a client, got {self.pivot}")

    def combination(self, updates, f):
        """(m,) 1/(m - f) for the nearest, zeros."""
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
        mode: how many are averaged: `mid` is (n + 1)/2, rounded down, those no farther than the
            median distance, as in the paper; `n-f`.
    """

    paper: ClassVar[str] = "Boussetta et al., OPODIS 2020"
    cost: ClassVar[str] = "n log^2 n d"
    depends_on: ClassVar[str] = "everything"
    mode: str = "mid"

    def __post_init__(self):
        one_of("mode", self.mode, ("mid", "n-f"))

    def kappa(self, n, f):
        """(sqrt(1 + k) + sqrt(k))^2 with the median's k: the chosen are no farther from the median,
        on average, than any n - f others."""
        k = Median().kappa(n, f)
        return (np.sqrt(1 + k) + np.sqrt(k)) ** 2

    def combination(self, updates, f):
        """(m,) equal for the nearest, zeros."""
        m = len(updates)
        return nearest(median_distances(updates), (m + 1) // 2 if self.mode == "mid" else m - f)


@dataclass(frozen=True)
class CGE(WeightsRule):
    """Comparative gradient elimination: the mean of the n - f shortest vectors.

    Gupta, Liu, Vaidya, "Byzantine Fault-Tolerant Distributed Machine Learning Using Stochastic
    Gradient Descent (SGD) and Norm-Based Comparative Gradient Elimination (CGE)", 2020. Of equally
    long vectors the lower index comes first.

    Requires n >= 2f + 1.
    """

    paper: ClassVar[str] = "Gupta, Liu, Vaidya, 2020"
    cost: ClassVar[str] = "n^2 d"

    def combination(self, updates, f):
        """(m,) 1/(m - f) for the shortest, zeros."""
        return nearest(updates.norms, len(updates) - f)


def nearest(distance: np.ndarray, count: int) -> np.ndarray:
    """(m,) 1/count for the `count` smallest, zeros."""
    weights = np.zeros(len(distance))
    weights[np.argsort(distance, kind="stable")[:count]] = 1.0 / count
    return weights


def median_distances(updates: Updates) -> np.ndarray:
    """(m,) distances of the vectors to their coordinate-wise median."""
    m = len(updates)
    vectors, mixing = updates.unordered()
    median, _ = sorted_mean(vectors, (m - 1) // 2, m // 2 + 1, mixing)
    return np.sqrt(squared_distances(updates.joined(median).centred)[-1, :-1])

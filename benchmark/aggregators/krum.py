"""Krum, Multi-Krum and Bulyan: rules that select vectors with close neighbours.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent", NeurIPS 2017. El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of
Distributed Learning in Byzantium", ICML 2018.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from benchmark.aggregators.context import Context
from benchmark.aggregators.contract import Rule, Stepped, WeightsRule
from benchmark.aggregators.coordinatewise import report_of, trimmed
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import one_of
from benchmark.kernels.gram import power_of_two
from benchmark.kernels.order import nearest_mean, sorted_mean
from benchmark.kernels.selection import iterated_krum

_DISTANCES = ("squared", "plain", "fourth")
_NEIGHBOURS = ("n-f-2", "n-f-1")


def krum_scores(
    squared: np.ndarray, f: int, distance: str = "squared", neighbours: str = "n-f-2"
) -> np.ndarray:
    """Return Krum's scores: the sum of the distances to the nearest neighbours.

    Args:
        squared: (..., m, m) squared distances.
        f: declared number of Byzantine vectors.
        distance: which power is summed, `squared` as in the paper, `plain`, or the `fourth` power.
        neighbours: how many are summed, at least one: `n-f-2` as in the paper, or `n-f-1`.

    Returns:
        (..., m) scores, lower is better.
    """
    others, m = squared.copy(), squared.shape[-1]
    others[..., np.arange(m), np.arange(m)] = np.inf
    if distance == "plain":
        others = np.sqrt(others)
    elif distance == "fourth":
        others = _fourth_powers(others)
    count = max(1, m - f - (2 if neighbours == "n-f-2" else 1))
    return np.sort(others, axis=-1)[..., :count].sum(-1)


def _fourth_powers(squared: np.ndarray) -> np.ndarray:
    """Return the squares of squared distances, in a unit in which they do not overflow or vanish.

    Infinite distances stay infinite.
    """
    unit = power_of_two(squared[np.isfinite(squared)].max(initial=0.0))
    usual = unit == 0.0 or 1e-100 < unit < 1e100
    return (squared if usual else squared / unit * 2.0**465) ** 2


@dataclass(frozen=True)
class _KrumBase(WeightsRule):
    """The scores and the bound on f of Krum and Multi-Krum."""

    distance: str = "squared"
    neighbours: str = "n-f-2"
    strict: bool = True

    def __post_init__(self) -> None:
        one_of("distance", self.distance, _DISTANCES)
        one_of("neighbours", self.neighbours, _NEIGHBOURS)

    @override
    def check(self, n: int, f: int) -> str | None:
        """Return the objection to n < 2f + 3."""
        if self.strict and n < 2 * f + 3:
            return f"{self.title} needs n >= 2f + 3, got n={n}, f={f}"
        return None if n > 1 else f"{self.title} needs two vectors or more, got n={n}, f={f}"

    def _scores(self, updates: Updates, f: int) -> np.ndarray:
        return krum_scores(updates.distances, f, self.distance, self.neighbours)


@dataclass(frozen=True)
class Krum(_KrumBase):
    """The vector with the smallest sum of squared distances to its n - f - 2 nearest others.

    Ties go to the lowest index.

    Requires n >= 2f + 3.

    Attributes:
        distance: `squared` (the paper), `plain` or `fourth`, as some systems compute it.
        neighbours: `n-f-2` (the paper) or `n-f-1`.
        strict: require n >= 2f + 3; without it at least one neighbour counts.

    Example:
        >>> Krum()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)  # 2 and 3 have the score 1 + 1
        array([2.])
    """

    paper: ClassVar[str] = "Blanchard et al., NeurIPS 2017"
    cost: ClassVar[str] = "n^2 d"

    @override
    def kappa(self, n: int, f: int) -> float | None:
        """Return 6 (1 + f / (n - 2f)) with n - f - 1 neighbours (Allouah et al., AISTATS 2023).

        With n - f - 2 it is 6 (n - f) / (n - 2f - 1), by the same argument with one vector fewer in
        both sets.
        """
        if self.distance != "squared" or n < 2 * f + 3:
            return None
        return 6 * (n - f) / (n - 2 * f - (self.neighbours == "n-f-2"))

    @override
    def combination(self, updates: Updates, f: int) -> np.ndarray:
        return np.eye(len(updates))[np.argmin(self._scores(updates, f))]


@dataclass(frozen=True)
class MultiKrum(_KrumBase):
    """The mean of the m vectors with the best Krum scores.

    Requires n >= 2f + 3, and m <= n.

    Attributes:
        m: how many are averaged, or `n-f`; by default n - f - 2, so that n - m >= f + 2. If vectors
            were removed before, as many fewer.
        distance, neighbours, strict: as for `Krum`.

    Example:
        >>> MultiKrum()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)  # the mean of 2 and 3
        array([2.5])
    """

    paper: ClassVar[str] = "Blanchard et al., NeurIPS 2017"
    cost: ClassVar[str] = "n^2 d"
    counts_vectors: ClassVar[tuple[str, ...]] = ("m",)
    m: int | str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.m, str) and self.m != "n-f":
            raise ValueError(f"m must be a number or n-f, got {self.m}")
        if isinstance(self.m, int) and self.m < 1:
            raise ValueError(f"m must be at least 1, got {self.m}")

    @override
    def combination(self, updates: Updates, f: int) -> np.ndarray:
        n = len(updates)
        if isinstance(self.m, int):
            m = updates.available(self.m)
        else:
            m = n - f if self.m else max(1, n - f - 2)
        best = np.argsort(self._scores(updates, f), kind="stable")[:m]
        weights = np.zeros(n)
        weights[best] = 1.0 / len(best)  # a filter before it may have left fewer than m
        return weights


@dataclass(frozen=True)
class Bulyan(Rule):
    """Krum picks theta = n - 2f vectors; then the mean of the values nearest their median.

    Krum picks them one by one; with m vectors left it counts m - f - 2 neighbours, at least one.
    Then, in each coordinate, the theta - 2f values nearest the median of the picked are averaged.

    Requires n >= 4f + 3.

    Attributes:
        selection: `iterative` (the paper), or `oneshot`: the theta best of a single scoring.
        second: `nearest` (the paper), or `trimmed`: the trimmed mean with `ratio` of the picked,
            as Tutorial 027 computes it.
        ratio: share trimmed at each end in the `trimmed` second stage.
        distance: as for `Krum`.

    Example:
        >>> Bulyan()([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [90.0]], f=1)  # picks 1 to 5
        array([3.])
    """

    paper: ClassVar[str] = "El Mhamdi, Guerraoui, Rouault, ICML 2018"
    cost: ClassVar[str] = "n^2 d + n^3"
    depends_on = "coordinates"
    selection: str = "iterative"
    second: str = "nearest"
    ratio: float = 0.25
    distance: str = "squared"

    def __post_init__(self) -> None:
        one_of("selection", self.selection, ("iterative", "oneshot"))
        one_of("second", self.second, ("nearest", "trimmed"))
        one_of("distance", self.distance, _DISTANCES)
        if not 0 <= self.ratio < 0.5:
            raise ValueError(f"ratio must lie in [0, 0.5), got {self.ratio}")

    @override
    def check(self, n: int, f: int) -> str | None:
        """Return the objection to n < 4f + 3."""
        return None if n >= 4 * f + 3 else f"Bulyan needs n >= 4f + 3, got n={n}, f={f}"

    def select(self, updates: Updates, f: int) -> np.ndarray:
        """Return the rows (theta,) of the vectors that the first stage picks, ascending."""
        theta = len(updates) - 2 * f
        if self.selection == "oneshot":
            scores = krum_scores(updates.distances, f, self.distance)
            return np.sort(np.argsort(scores, kind="stable")[:theta])
        kinds = {"squared": np.copy, "plain": np.sqrt, "fourth": _fourth_powers}
        return np.sort(iterated_krum(kinds[self.distance](updates.distances), f, theta))

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        selected = updates.selected(self.select(updates, f))
        theta = len(selected)
        if self.second == "nearest":
            vector, window = nearest_mean(updates.clients, theta - 2 * f, selected.mixing)
        else:
            b = trimmed(self.ratio, theta)
            vector, window = sorted_mean(updates.clients, b, theta - b, selected.mixing)
        return vector, None, report_of(window, selected)

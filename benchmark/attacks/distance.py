"""Attacks that go exactly as far as the lengths and distances of the honest updates let them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.attacks.base import Informed
from benchmark.attacks.searching import DIRECTIONS, perturbation
from benchmark.attacks.view import View
from benchmark.config.checks import one_of
from benchmark.kernels.gram import gram, squared_distances
from benchmark.kernels.offsets import exact_mean, offsets

_MARGIN = 1e-6  # share of a squared distance, for the rounding of the vector that is sent
_ATTEMPTS = 4
_HALVINGS = 20
_BELOW = 1 - 1e-5  # factor of a length: just below it, as rules compute it in float32


@dataclass(frozen=True)
class _Bounded(Informed):
    """b = mean + gamma * p with the largest gamma for which b is near enough to certain points.

    For every point the squared distance is quadratic in gamma, so gamma is the smallest of their
    roots, in closed form. The bound must hold for the vector as it is sent. So the vector is
    rounded, its distances are taken, and it is moved nearer until the bound holds. If it does not
    hold even for the rounded mean, the honest vector nearest the mean is sent, for which it holds.
    """

    direction: str = "std"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("direction", self.direction, DIRECTIONS)

    def region(self, known: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Return points (m, d), and the largest squared distance from each that is allowed."""
        raise NotImplementedError

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        mean, std = view.mean_and_std(self.knowledge)
        p = perturbation(self.direction, mean, std)
        points, limit = self.region(known)
        squared, along = offsets(points, mean, p)
        length = float(offsets(p[None], torch.zeros_like(p))[0][0])

        def excess(vector: torch.Tensor) -> float:
            return offsets(points, vector)[0].max() - limit

        target = (1 - _MARGIN) * limit
        for _ in range(_ATTEMPTS):
            gamma = _largest_step(length, along, squared - target)
            vector = mean + gamma * p
            over = excess(vector)
            if over <= 0:
                return vector.expand(view.f, -1), state
            target -= 2 * over
        reach = _largest_step(length, along, squared - (1 - _MARGIN) * limit)
        vector = _shrunk(mean, reach, p, excess)
        if vector is None:
            vector = known[int(offsets(known, mean)[0].argmin())]
        return vector.expand(view.f, -1), state


def _shrunk(
    mean: torch.Tensor, reach: float, p: torch.Tensor, excess: Callable[[torch.Tensor], float]
) -> torch.Tensor | None:
    """Return mean + gamma p, rounded, for the largest gamma without an excess.

    The gamma is found by halving, and is at most the reach. None if the mean itself has an excess.
    """
    if excess(mean) > 0:
        return None
    gamma, best = 0.0, mean
    for halving in range(1, _HALVINGS + 1):
        vector = mean + (gamma + reach * 0.5**halving) * p
        if excess(vector) <= 0:
            gamma, best = gamma + reach * 0.5**halving, vector
    return best


def _largest_step(a: float, b: np.ndarray, c: np.ndarray) -> float:
    """Return the largest gamma >= 0 with a gamma^2 - 2 b gamma + c <= 0 for all b and c.

    It is 0 if there is none, or if a is 0.
    """
    if not a > 0:
        return 0.0
    unit = -int(np.frexp(a)[1])  # squares of squared lengths are out of range sooner than these
    scaled, b, c = (np.ldexp(part, unit) for part in (a, b, c))
    return max(0.0, float((b + np.sqrt(np.maximum(b * b - scaled * c, 0.0))).min() / scaled))


@dataclass(frozen=True)
class MinMax(_Bounded):
    """b = mean + gamma * p with the largest gamma for which b is no farther from any honest vector
    than the honest vectors are from each other at most,

        max_i |b - g_i| <= max_ij |g_i - g_j|.

    Shejwalkar, Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and
    Defenses for Federated Learning", NDSS 2021, section IV; the rule need not be known. Their
    search by halving is replaced by the roots of quadratics. The bound holds for the vector as it
    is sent.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        direction: p: `std` -std of the coordinates, `sign` -sign(mean), `unit` -mean / |mean|.

    Example:
        >>> MinMax(direction="sign")([[1.0], [2.0], [3.0]], f=1).round(3)  # 2 from 3
        array([[1.]])
    """

    paper: ClassVar[str] = "Shejwalkar, Houmansadr, NDSS 2021"
    cost: ClassVar[str] = "n^2 d"

    @override
    def region(self, known: torch.Tensor) -> tuple[torch.Tensor, float]:
        # The diameter, computed exactly for the two vectors that seem farthest apart: so it is
        # never too large.
        between = squared_distances(gram(known).centred)
        i, j = np.unravel_index(between.argmax(), between.shape)
        return known, float(offsets(known[i : i + 1], known[j])[0][0])


@dataclass(frozen=True)
class MinSum(_Bounded):
    """b = mean + gamma * p with the largest gamma for which the sum of squared distances to the
    honest vectors is no larger for b than for one of these,

        sum_i |b - g_i|^2 <= max_i sum_j |g_i - g_j|^2.

    Shejwalkar, Houmansadr, NDSS 2021, section IV; the rule need not be known. From any z the sum is
    n |z - mean|^2 plus something that does not depend on z. So b is as far from the mean as the
    honest vector that is farthest from it. The bound holds for the vector as it is sent.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        direction: p: `std` -std of the coordinates, `sign` -sign(mean), `unit` -mean / |mean|.
        bound: `max` over the honest vectors (the paper), or `min` (the authors' code).

    Example:
        >>> MinSum(direction="sign")([[1.0], [2.0], [3.0]], f=1).round(3)  # 1 from the mean
        array([[1.]])
    """

    paper: ClassVar[str] = "Shejwalkar, Houmansadr, NDSS 2021"
    cost: ClassVar[str] = "n d"
    bound: str = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("bound", self.bound, ("max", "min"))

    @override
    def region(self, known: torch.Tensor) -> tuple[torch.Tensor, float]:
        centre = exact_mean(known)
        squared, _ = offsets(known, centre)
        return centre[None], float(squared.max() if self.bound == "max" else squared.min())


@dataclass(frozen=True)
class AntiCGE(Informed):
    """Send against comparative gradient elimination (CGE), which keeps the n - f shortest vectors,
    a vector that it keeps.

    It is minus the sum of the n - 2f honest vectors that the rule would keep, made just shorter
    than the first honest one that it would not. So all f Byzantine vectors are kept.

    Rouault, in the code of Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan, "Robust
    Collaborative Learning with Linear Gradient Overhead", ICML 2023. There the shortest vector
    counts twice in the sum; here once. With knowledge `byzantine` the same share of the vectors
    that are known is taken. Where the rule keeps f vectors only, b is minus the shortest honest
    vector, made just shorter than it.

    Knows all honest updates, in the partial form its clients' own only.

    Example:
        >>> AntiCGE()([[1.0], [2.0], [3.0]], f=1).round(3)  # the rule would keep 1 and 2
        array([[-3.]])
    """

    paper: ClassVar[str] = "Farhadkhani et al., ICML 2023 (code)"
    cost: ClassVar[str] = "n d"
    least: ClassVar[int] = 1

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        origin = known.new_zeros(known.shape[1])
        lengths = np.sqrt(offsets(known, origin)[0])
        order = np.argsort(lengths, kind="stable")
        honest = view.n - view.f
        kept = len(known) * max(0, honest - view.f) // max(1, honest)
        limit = lengths[order[min(kept, len(known) - 1)]]
        weights = np.zeros(len(known))
        weights[order[: max(1, kept)]] = 1.0
        total = torch.as_tensor(weights).to(known) @ known
        length = float(np.sqrt(offsets(total[None], origin)[0][0]))
        factor = float(-_BELOW * limit / length) if length > 0 else 0.0
        return (total * factor).expand(view.f, -1), state

"""Attacks that go exactly as far as the lengths and distances of the honest updates let them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from benchmark.aggregators.base import one_of
from benchmark.attacks.base import Informed
from benchmark.attacks.searching import DIRECTIONS, perturbation
from benchmark.kernels.gram import gram, squared_distances
from benchmark.kernels.offsets import exact_mean, offsets

_MARGIN = 1e-6  # of a squared distance, for the rounding of the vector that is sent
_ATTEMPTS = 4
_HALVINGS = 20
_BELOW = 1 - 1e-5  # as a share of a length: just below it, as rules compute it in float32


@dataclass(frozen=True)
class _Bounded(Informed):
    """b = mean + gamma * p with the largest gamma for which b is near enough to certain points.

    For every point the squared distance is quadratic in gamma, so gamma is the smallest of their
    roots, in closed form. Then the vector is rounded as it is sent, its distances are taken, and it
    is moved nearer until the bound holds for it. Only if it does not hold for the rounded mean
    either, the honest vector nearest the mean is sent, for which it holds.
    """

    direction: str = "std"

    def __post_init__(self):
        super().__post_init__()
        one_of("direction", self.direction, DIRECTIONS)

    def region(self, known: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Points (m, d), and the largest squared distance from each that is allowed."""
        raise NotImplementedError

    def craft(self, view, known, state):
        """See `Informed.craft`."""
        mean, std = view.mean_and_std(self.knowledge)
        p = perturbation(self.direction, mean, std)
        points, limit = self.region(known)
        squared, along = offsets(points, mean, p)
        length = float(offsets(p[None], torch.zeros_like(p))[0][0])

        def excess(vector: torch.Tensor) -> float:
            return offsets(points, vector)[0].max() - limit

        target = (1 - _MARGIN) * limit
        for _ in range(_ATTEMPTS):
            gamma = _largest(length, along, squared - target)
            vector = mean + gamma * p
            over = excess(vector)
            if over <= 0:
                return vector.expand(view.f, -1), state
            target -= 2 * over
        reach = _largest(length, along, squared - (1 - _MARGIN) * limit)
        vector = _shrunk(mean, reach, p, excess)
        if vector is None:
            vector = known[int(offsets(known, mean)[0].argmin())]
        return vector.expand(view.f, -1), state


def _shrunk(
    mean: torch.Tensor, reach: float, p: torch.Tensor, excess: Callable[[torch.Tensor], float]
) -> torch.Tensor | None:
    """Return mean + gamma p, rounded, for the largest gamma up to the reach that a search by halves
    finds without an excess; None if the mean has one."""
    if excess(mean) > 0:
        return None
    gamma, best = 0.0, mean
    for halving in range(1, _HALVINGS + 1):
        vector = mean + (gamma + reach * 0.5**halving) * p
        if excess(vector) <= 0:
            gamma, best = gamma + reach * 0.5**halving, vector
    return best


def _largest(a: float, b: np.ndarray, c: np.ndarray) -> float:
    """The largest gamma >= 0 with a gamma^2 - 2 b gamma + c <= 0 for all b and c; 0 if there is
    none, and if a is 0."""
    if not a > 0:
        return 0.0
    unit = -int(np.frexp(a)[1])  # squares of squared lengths are out of range sooner than these
    a, b, c = (np.ldexp(part, unit) for part in (a, b, c))
    return max(0.0, float((b + np.sqrt(np.maximum(b * b - a * c, 0.0))).min() / a))


@dataclass(frozen=True)
class MinMax(_Bounded):
    """b = mean + gamma * p with the largest gamma for which no honest vector is farther from b than
    the two honest vectors that are farthest apart are from each other,

        max_i |b - g_i| <= max_ij |g_i - g_j|.

    Shejwalkar, Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and
    Defenses for Federated Learning", NDSS 2021, section IV; the rule need not be known. Their
    search by halves is replaced by the roots of quadratics; the bound holds for the vector as it is
    sent.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        direction: p: `std` -std of the coordinates, `sign` -sign(mean), `unit` -mean / |mean|.
    """

    paper: ClassVar[str] = "Shejwalkar, Houmansadr, NDSS 2021"
    cost: ClassVar[str] = "n^2 d"

    def region(self, known):
        """Within the honest diameter of the honest vectors. It is taken of the two that seem
        farthest apart, exactly: so it is never too large."""
        between = squared_distances(gram(known).centred)
        i, j = np.unravel_index(between.argmax(), between.shape)
        return known, float(offsets(known[i : i + 1], known[j])[0][0])


@dataclass(frozen=True)
class MinSum(_Bounded):
    """b = mean + gamma * p with the largest gamma for which the sum of squared distances from b to
    the honest vectors is no larger than that from one of these,

        sum_i |b - g_i|^2 <= max_i sum_j |g_i - g_j|^2.

    Shejwalkar, Houmansadr, NDSS 2021, section IV; the rule need not be known. From any z the sum is
    n |z - mean|^2 and something that does not depend on z: b is as far from the mean as the
    honest vector that is farthest from it. The bound holds for the vector as it is sent.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        direction: p: `std` -std of the coordinates, `sign` -sign(mean), `unit` -mean / |mean|.
        bound: `max` over the honest vectors (the paper), or `min` (the authors' code).
    """

    paper: ClassVar[str] = "Shejwalkar, Houmansadr, NDSS 2021"
    cost: ClassVar[str] = "n d"
    bound: str = "max"

    def __post_init__(self):
        super().__post_init__()
        one_of("bound", self.bound, ("max", "min"))

    def region(self, known):
        """As near to the mean as the farthest, or the nearest, honest vector."""
        centre = exact_mean(known)
        squared, _ = offsets(known, centre)
        return centre[None], float(squared.max() if self.bound == "max" else squared.min())


@dataclass(frozen=True)
class AntiCGE(Informed):
    """Against comparative gradient elimination, which keeps the n - f shortest vectors: minus the
    sum of the honest vectors that it would keep, n - 2f of them, made just shorter than the first
    that it would not. So all f Byzantine vectors are kept.

    Rouault, in the code of Farhadkhani, Guerraoui, Gupta, Hoang, Pinot, Stephan, "Robust
    Collaborative Learning with Linear Gradient Overhead", ICML 2023. There the shortest vector
    counts twice in the sum; here once. With knowledge `byzantine` the same share of the vectors
    that are known is taken. Where f Byzantine vectors are all that is kept, they are shorter than
    any, against the shortest.

    Knows all honest updates, in the partial form its clients' own only.
    """

    paper: ClassVar[str] = "Farhadkhani et al., ICML 2023 (code)"
    cost: ClassVar[str] = "n d"
    least: ClassVar[int] = 1

    def craft(self, view, known, state):
        """See `Informed.craft`."""
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
        factor = -_BELOW * limit / length if length > 0 else 0.0
        return (total * factor).expand(view.f, -1), state

"""The geometric median by smoothed Weiszfeld iterations, and rules that are built on it.

Robust federated averaging (RFA) is the first of them.

Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning", IEEE Transactions on
Signal Processing 2022. Chen, Su, Xu, "Distributed Statistical Machine Learning in Adversarial
Settings: Byzantine Gradient Descent", POMACS 2017.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from benchmark.aggregators.context import Context
from benchmark.aggregators.contract import Rule, Stepped, WeightsRule, combined
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import one_of, positive, positive_if_set
from benchmark.kernels.gram import distances_from


@dataclass(frozen=True)
class GeometricMedian(WeightsRule):
    """The geometric median argmin_z sum_i a_i |z - x_i|, by Weiszfeld iterations.

    z <- sum_i b_i x_i / sum_i b_i with b_i = a_i / max(nu, |z - x_i|).

    In Gram space an iteration costs n^2 operations whatever d is, so it may run to convergence.

    Requires n >= 2f + 1.

    Attributes:
        nu: smoothing, in units of the distances.
        T: iterations at most; they stop early once z has converged. RFA takes 3.
        start: from the mean of the `nearest_half`, which f vectors cannot carry away, from the
            `mean` of all, or from `zero`. From the mean a step takes back only about f / (n - f) of
            what far vectors have pulled: 100 are too few if they are very far and f is near n / 2.
        weighted: a_i proportional to the sample counts instead of 1/n.

    Example:
        >>> GeometricMedian()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1).round(3)  # the median
        array([3.])
    """

    paper: ClassVar[str] = "Pillutla, Kakade, Harchaoui, IEEE TSP 2022"
    cost: ClassVar[str] = "n^2 d + T n^2"
    nu: float = 1e-6
    T: int = 100
    start: str = "nearest_half"
    weighted: bool = False

    def __post_init__(self) -> None:
        positive("nu", self.nu)
        positive("T", self.T)
        one_of("start", self.start, ("nearest_half", "mean", "zero"))

    @override
    def kappa(self, n: int, f: int) -> float | None:
        """Return 4 (1 + f / (n - 2f))^2 (Allouah et al., AISTATS 2023).

        It is that of the exact geometric median, and holds where the iterations reach it up to
        their last digits; `nu` has to be small compared with the distances.
        """
        exact = self.start == "nearest_half" and self.T >= 100 and self.nu <= 1e-6
        return 4 * (1 + f / (n - 2 * f)) ** 2 if exact and not self.weighted else None

    @override
    def combination(self, updates: Updates, f: int) -> np.ndarray:
        prior = updates.prior(self.weighted)
        first = None
        if self.start == "zero":
            first = updates.norms
        elif self.start == "nearest_half":
            _, start = nearest_half(updates.distances, prior)
            first = distances_from(start, updates.centred)
        return weiszfeld(updates.centred, prior, self.nu, self.T, first)


@dataclass(frozen=True)
class AutoGM(WeightsRule):
    """The geometric median with weights that follow the distances.

    It minimises sum_i a_i |z - x_i| + (lambda / 2) sum_i a_i^2 over z and over a, the a_i not
    negative and of sum 1. Both are found in turn, starting from a_i = 1/n and the mean of the
    `nearest_half`, which f vectors cannot carry away. For given a, `T` Weiszfeld iterations give z.
    For given distances d_i = |z - x_i|, a_i = max(0, eta - d_i) / lambda, where eta is such that
    they sum to 1: with d_(1) <= d_(2) <= ... it is (d_(1) + ... + d_(p) + lambda) / p for the
    largest p that leaves eta > d_(p). Vectors farther than eta do not count at all. It ends when
    the sum above has converged.

    Li, Ngai, Voigt, "Byzantine-Robust Aggregation in Federated Learning Empowered Industrial IoT",
    IEEE Transactions on Industrial Informatics 2023.

    Requires n >= 2f + 1.

    Attributes:
        penalty: lambda / n; large values give the geometric median.
        relative: take the penalty in units of the radius of the `nearest_half` of the vectors, so
            that their length does not matter; otherwise in units of the updates.
        nu, T: as for `GeometricMedian`.
        rounds: how many times z and a are found in turn, at most.

    Example:
        >>> AutoGM()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1).round(3)
        array([3.])
    """

    paper: ClassVar[str] = "Li, Ngai, Voigt, IEEE TII 2023"
    cost: ClassVar[str] = "n^2 d + T^2 n^2"
    penalty: float = 1.0
    relative: bool = False
    nu: float = 1e-6
    T: int = 100
    rounds: int = 100

    def __post_init__(self) -> None:
        for name in ("penalty", "nu", "T", "rounds"):
            positive(name, getattr(self, name))

    @override
    def combination(self, updates: Updates, f: int) -> np.ndarray:
        m = len(updates)
        weights = a = np.ones(m) / m
        before = np.inf
        radius, start = nearest_half(updates.distances, a)
        strength = max(self.penalty * m * (radius if self.relative else 1.0), 1e-300)
        distance = distances_from(start, updates.centred)
        for _ in range(self.rounds):
            weights = weiszfeld(updates.centred, a, self.nu, self.T, distance)
            distance = distances_from(weights, updates.centred)
            a = _sparse_weights(distance, strength)
            objective = a @ distance + strength / 2 * (a @ a)
            if before - objective <= 1e-10 * objective:
                break
            before = objective
        return weights


def _sparse_weights(distance: np.ndarray, strength: float) -> np.ndarray:
    """Return the a (m,), not negative, of sum 1, of least a @ distance + strength / 2 (a @ a)."""
    beyond = distance - distance.min()
    ordered = np.sort(beyond)
    spent = np.arange(1, len(ordered) + 1) * ordered - np.cumsum(ordered)
    p = int((spent < strength).sum())  # spent grows: these are the first p
    a = np.maximum(0.0, (ordered[:p].sum() + strength) / p - beyond)
    return a / a.sum()


@dataclass(frozen=True)
class MedianOfMeans(Rule):
    """The geometric median of the means of k groups of vectors.

    Chen, Su, Xu, as above. The groups' sizes differ by one at most. Their members are drawn anew in
    each round. Weiszfeld's iterations start from the mean of the `nearest_half` of the groups.

    Requires n >= 2f + 1.

    Attributes:
        groups: k > 2f; by default 2f + 1, the fewest that leave most of them without a Byzantine
            vector. More groups are more robust and less precise: k = n is the geometric median.
        nu, T: as for `GeometricMedian`.

    Example:
        >>> MedianOfMeans(groups=5)([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1).round(3)
        array([3.])
    """

    paper: ClassVar[str] = "Chen, Su, Xu, POMACS 2017"
    cost: ClassVar[str] = "n^2 d + T n^2"
    depends_on = "products"
    counts_vectors: ClassVar[tuple[str, ...]] = ("groups",)
    groups: int | None = None
    nu: float = 1e-6
    T: int = 100

    def __post_init__(self) -> None:
        for name in ("groups", "nu", "T"):
            positive_if_set(name, getattr(self, name))

    @override
    def check(self, n: int, f: int) -> str | None:
        """Return the objection to k <= 2f."""
        if self.groups is not None and not 2 * f < self.groups:
            return f"MedianOfMeans needs 2f < groups, got groups={self.groups}, n={n}, f={f}"
        return super().check(n, f)

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        m = len(updates)
        k = min(m, 2 * f + 1 if self.groups is None else self.groups)
        matrix = np.zeros((k, m))
        groups = np.array_split(context.generator().permutation(m), k)
        for row, group in zip(matrix, groups, strict=True):
            row[group] = 1.0 / len(group)
        means = updates.mixed(matrix, np.ones(k), np.arange(k))
        _, start = nearest_half(means.distances, np.ones(k))
        first = distances_from(start, means.centred)
        weights = weiszfeld(means.centred, np.ones(k), self.nu, self.T, first)
        return combined(means, weights)


@dataclass(frozen=True)
class Huber(WeightsRule):
    """The minimum of Huber's loss, argmin_z sum_i a_i h(|z - x_i|).

    h(u) = u^2 / 2 up to the threshold T and T u - T^2 / 2 above: near vectors count as in the mean,
    far ones as in the geometric median. It is found by reweighted means, z <- sum_i b_i x_i /
    sum_i b_i with b_i = a_i min(1, T / |z - x_i|). These are Weiszfeld's iterations with T as
    smoothing. They start from the mean of the `nearest_half`.

    Zhao, Yu, Wan, "A Huber Loss Minimization Approach to Byzantine Robust Federated Learning", AAAI
    2024. The paper sets T by the unknown noise of the vectors; ours is relative to how near they
    are to each other.

    Requires n >= 2f + 1.

    Attributes:
        threshold: T; large values give the mean, small ones the geometric median.
        relative: take it in units of the radius of the `nearest_half` of the vectors, so that their
            length does not matter; otherwise in units of the updates.
        iterations: at most; they stop early once z has converged.
        weighted: a_i proportional to the sample counts instead of 1/n.

    Example:
        >>> Huber(threshold=1.0, relative=False)([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1).round(3)
        array([3.])
    """

    paper: ClassVar[str] = "Zhao, Yu, Wan, AAAI 2024"
    cost: ClassVar[str] = "n^2 d + T n^2"
    threshold: float = 1.0
    relative: bool = True
    iterations: int = 1000
    weighted: bool = False

    def __post_init__(self) -> None:
        positive("threshold", self.threshold)
        positive("iterations", self.iterations)

    @override
    def combination(self, updates: Updates, f: int) -> np.ndarray:
        prior = updates.prior(self.weighted)
        radius, start = nearest_half(updates.distances, prior)
        threshold = max(self.threshold * (radius if self.relative else 1.0), 1e-300)
        first = distances_from(start, updates.centred)
        return weiszfeld(updates.centred, prior, threshold, self.iterations, first)


def nearest_half(squared: np.ndarray, prior: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the smallest ball around one of the vectors that holds more than half of the weight.

    Less than half of the weight can neither inflate it nor carry it away from all others. Of
    equally small balls it is the first; of equally near vectors those of the lower indices are in.

    Args:
        squared: (m, m) squared distances.
        prior: (m,) weights, not negative, of positive sum.

    Returns:
        The radius, and the weights (m,), of sum 1, of the mean of the vectors in it.
    """
    order = np.argsort(squared, axis=1, kind="stable")
    last = np.argmax(2 * np.cumsum(prior[order], axis=1) > prior.sum(), axis=1)
    radius = squared[np.arange(len(order)), order[np.arange(len(order)), last]]
    centre = int(np.argmin(radius))
    weights = np.zeros(len(order))
    members = order[centre, : last[centre] + 1]
    weights[members] = prior[members] / prior[members].sum()
    return float(np.sqrt(radius[centre])), weights


def weiszfeld(
    inner: np.ndarray,
    prior: np.ndarray,
    nu: float,
    iterations: int,
    first: np.ndarray | None = None,
) -> np.ndarray:
    """Return the weights of the geometric median by Weiszfeld's iterations.

    z <- sum_i b_i x_i / sum_i b_i with b_i = prior_i / max(nu, |z - x_i|), from the mean by `prior`
    on, until z has converged.

    Args:
        inner: (m, m) inner products about a centre among most of the vectors.
        prior: (m,) weights, not negative, of positive sum.
        nu: smoothing, in units of the distances.
        iterations: at most.
        first: (m,) distances |z - x_i| to start from, instead of those from the mean.

    Returns:
        (m,) b / sum b.
    """
    prior = prior / prior.sum()
    weights = prior
    for iteration in range(iterations):
        start = first is not None and iteration == 0
        distance = first if start else distances_from(weights, inner)
        new = prior / np.maximum(nu, distance)
        new = new / new.sum()
        moved = (np.abs(new - weights) * distance).sum()  # bounds how far z goes
        weights = new
        if iteration > 0 and moved <= 1e-10 * (weights * distance).sum():
            break
    return weights

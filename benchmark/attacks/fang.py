"""Attacks that are made for one rule each, with formulas for how far they can go.

Fang, Cao, Jia, Gong, "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning", USENIX
Security 2020. With full knowledge the attacker has all honest updates, with partial knowledge
(knowledge `byzantine`) what its own clients would send if they were honest.

The paper speaks of models, and of the direction s_j, 1 or -1, in which coordinate j of the model
would move without an attack; it sends models that moved against s. If updates are model deltas, s
is sign(mean), and what is sent is pushed against that. If they are gradients, the model moves
against their mean, s is -sign(mean), and a model that moved along sign(mean) has a gradient of the
signs -sign(mean): the same again. So what is sent is the same in both cases: it points away from
the mean, coordinate by coordinate, and neither the learning rate nor the model need be known.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.krum import krum_scores
from benchmark.attacks.base import Informed
from benchmark.attacks.view import View
from benchmark.config.checks import one_of, positive
from benchmark.kernels.gram import Gram, gram, refuse_short, squared_distances
from benchmark.kernels.outermost import outermost

_INSIDE = 1 - 1e-4  # factor of the radius of a ball, for rounding


@dataclass(frozen=True)
class FangTrimmedMean(Informed):
    """Against trimmed mean and median: every coordinate just beyond all the honest ones, on the
    side away from the direction of their mean.

    Every client draws every number for itself, uniform on an interval. With full knowledge, where
    the mean is negative, it lies between the largest honest number and that times b, or divided by
    b if it is negative. Where the mean is not negative, it lies between the smallest honest number
    and that times b, or divided by b if it is positive. With partial knowledge it lies in
    [mean + low * std, mean + high * std] where the mean is negative, otherwise in
    [mean - high * std, mean - low * std].

    Fang, Cao, Jia, Gong, USENIX Security 2020, sections 4.3 and 4.4; for the signs see this module.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        b: how far beyond, with full knowledge; larger than 1.
        low, high: where, with partial knowledge, in sample standard deviations.

    Example:
        >>> sent = FangTrimmedMean()(np.array([[2.0], [3.0], [4.0]]), f=1)
        >>> 1.0 < sent.item() < 2.0  # below the smallest, 2, and above its half
        True
    """

    paper: ClassVar[str] = "Fang et al., USENIX Security 2020"
    cost: ClassVar[str] = "n d"
    b: float = 2.0
    low: float = 3.0
    high: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 < self.b < np.inf:
            raise ValueError(f"b must be larger than 1 and finite, got {self.b}")
        if not 0 <= self.low <= self.high < np.inf:
            raise ValueError(
                "low and high must be ordered, finite and not negative, "
                f"got {self.low}, {self.high}"
            )

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        if self.knowledge == "honest":
            reach, side = outermost(known)
            near = reach * side
            # times b is farther if the reach is positive, divided by b if it is not
            width = torch.maximum(reach * (self.b - 1), reach * (1 / self.b - 1)).mul_(side)
        else:
            mean, std = view.mean_and_std(self.knowledge)
            away = torch.where(mean < 0, std, -std)
            near, width = mean + self.low * away, (self.high - self.low) * away
        sent = view.uniform()
        return torch.addcmul(near, sent, width, out=sent), state


@dataclass(frozen=True)
class FangKrum(Informed):
    """Against Krum: all Byzantine vectors close together, against the signs of the mean, as far out
    as Krum still picks one of them.

    The first is w = -lambda * s, s = sign(mean); the others are drawn from the ball of radius
    epsilon about it. lambda starts from an upper bound,

        min_i sum_j |g_i - g_j| / ((n - 2f - 1) |s|) + max_i |g_i| / |s|,

    j over the n - f - 2 honest vectors nearest i, and is halved until Krum picks a Byzantine vector
    or lambda would fall below the threshold. (|s| is the square root of d in the paper, where no
    coordinate of the mean is zero.) The attacker tries Krum itself, on inner products of the
    vectors as they are sent; ties count for the honest.

    With partial knowledge the attacker's own updates stand for the honest ones. It tries Krum on
    them and one Byzantine vector; if no lambda is found, on them and two, and so on up to f. Counts
    n - 2f - 1 and n - f - 2, with n and f those of the trial, are 1 at least.

    Fang, Cao, Jia, Gong, USENIX Security 2020, section 4.2; for the signs see this module.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        epsilon: radius of the ball.
        threshold: the smallest lambda.
        units: of epsilon and threshold: `relative` to the root mean square length of the vectors
            that are known, or `absolute`, as in the paper, where vectors much shorter than epsilon
            cannot be attacked.

    Example:
        >>> from benchmark.aggregators import Krum
        >>> sent = FangKrum()(np.eye(5), f=2)
        >>> Krum()(np.vstack([np.eye(5), sent]), f=2) < 0  # it picks a Byzantine vector
        array([ True,  True,  True,  True,  True])
    """

    paper: ClassVar[str] = "Fang et al., USENIX Security 2020"
    cost: ClassVar[str] = "n^2 d"
    epsilon: float = 0.01
    threshold: float = 1e-5
    units: str = "relative"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("epsilon", self.epsilon)
        positive("threshold", self.threshold)
        one_of("units", self.units, ("relative", "absolute"))

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        f, k, d = view.f, *known.shape
        sent = view.normal()  # first the signs, behind them the directions of the others
        sent[0] = torch.sign(view.mean(self.knowledge))
        products = gram(known, sent)
        if products.inner.diagonal()[:k].max() < 1e-30:  # too short for their products in float32
            products = gram(known.double(), sent.double())
            refuse_short(products.inner.diagonal()[:k].max(), known)
        lengths = np.sqrt(np.diagonal(products.inner))
        unit = np.sqrt((lengths[:k] ** 2).mean()) if self.units == "relative" else 1.0
        radii = _INSIDE * self.epsilon * unit * view.generator().random(f) ** (1 / d)
        scale = radii / np.maximum(lengths[k:], 1e-30)
        scale[0] = 0.0
        shift, sizes = 0.0, range(f if self.knowledge == "honest" else 1, f + 1)
        for size in sizes if lengths[k] > 0 and unit > 0 else ():
            shift, found = self._search(_Trial(products, k, scale[:size]), unit)
            if found:
                break
        scale[0] = -shift
        sent *= torch.as_tensor(scale).to(sent)[:, None]
        sent[1:] += sent[0]
        return sent, state

    def _search(self, trial: "_Trial", unit: float) -> tuple[float, bool]:
        """Return lambda, and whether Krum picks a Byzantine vector with it."""
        shift = trial.bound()
        while not trial.succeeds(shift):
            if shift / 2 < self.threshold * unit:
                return shift, False
            shift /= 2
        return shift, True


class _Trial:
    """Krum on known vectors g_j and on Byzantine w_a = -lambda s + scale_a z_a.

    Args:
        products: inner products of the k vectors g_j, of s, and of the z_a for a = 1, 2, ...
        k: how many vectors are known.
        scale: (m,) factors of the Byzantine vectors' z_a; scale_0 is 0.
    """

    def __init__(self, products: Gram, k: int, scale: np.ndarray) -> None:
        self.k, self.m = k, len(scale)
        inner = products.inner[: k + self.m, : k + self.m]
        self.signs = np.sqrt(inner[k, k])
        self.longest = np.sqrt(np.diagonal(inner)[:k].max())
        self.squared = np.zeros((k + self.m, k + self.m))
        self.squared[:k, :k] = squared_distances(products.centred[:k, :k])
        near = inner[k:, k:] * np.outer(scale, scale)
        self.squared[k:, k:] = squared_distances(near)
        # |w_a - g_j|^2 = fixed + 2 lambda slope + lambda^2 |s|^2
        self.fixed = np.diagonal(inner)[:k] - 2.0 * scale[:, None] * inner[k:, :k]
        self.fixed += np.diagonal(near)[:, None]
        self.slope = inner[k, :k] - (scale * inner[k, k:])[:, None]

    def bound(self) -> float:
        """Return the paper's upper bound on lambda."""
        others = np.sqrt(self.squared[: self.k, : self.k])
        np.fill_diagonal(others, np.inf)
        nearest = np.sort(others, axis=1)[:, : min(max(1, self.k - 2), self.k - 1)]
        return (nearest.sum(1).min() / max(1, self.k - self.m - 1) + self.longest) / self.signs

    def succeeds(self, shift: float) -> bool:
        """Return whether Krum picks a Byzantine vector with this lambda."""
        across = np.maximum(self.fixed + 2 * shift * self.slope + (shift * self.signs) ** 2, 0.0)
        self.squared[self.k :, : self.k] = across
        self.squared[: self.k, self.k :] = across.T
        return int(np.argmin(krum_scores(self.squared, self.m))) >= self.k

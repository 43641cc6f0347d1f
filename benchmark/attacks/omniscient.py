"""Attacks that hide among the honest updates, which they know or estimate."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.special import ndtri

from benchmark.aggregators.base import one_of
from benchmark.attacks.base import Attack


def z_max(n: int, f: int) -> float:
    """The largest shift, in standard deviations, that a majority of clients still supports.

    z_max = Phi^-1((n - f - s) / (n - f)) with s = floor(n/2 + 1) - f, the honest supporters that a
    majority with the f Byzantine clients needs; floored at 0, where the shift would turn round.
    Where f alone is a majority (in a round of few, sampled clients) it is as for one supporter.
    """
    supporters = max(1, n // 2 + 1 - f)
    return max(0.0, float(ndtri((n - f - supporters) / (n - f))))


@dataclass(frozen=True)
class ALittleIsEnough(Attack):
    """b = mean - z * std, coordinate by coordinate: far enough to harm, too close to stand out.

    Baruch, Baruch, Goldberg, "A Little Is Enough: Circumventing Defenses For Distributed Learning",
    NeurIPS 2019. The sample standard deviation is used.

    Attributes:
        z: shift in standard deviations; by default `z_max` of the round's n and f.
        knowledge: mean and std of the `honest` updates, or, as in the paper, an estimate from the
            `byzantine` clients' own updates.
    """

    z: float | None = None
    knowledge: str = "honest"

    def __post_init__(self):
        one_of("knowledge", self.knowledge, ("honest", "byzantine"))

    @property
    def reads(self) -> frozenset:
        """The one population that it takes its statistics from."""
        return frozenset({"honest"} if self.knowledge == "honest" else {"own"})

    def check(self, n: int, f: int) -> str | None:
        """f <= n/2 for z_max to exist; two vectors for a standard deviation."""
        if self.z is None and f > n // 2:
            return f"ALittleIsEnough needs f <= n/2 for z_max, got n={n}, f={f}: set attack.z"
        known, name = (n - f, "honest") if self.knowledge == "honest" else (f, "Byzantine")
        if f > 0 and known < 2:
            return f"ALittleIsEnough needs two {name} clients or more, got n={n}, f={f}"
        return None

    def step(self, view, state):
        """See `Attack.step`."""
        known = view.honest if self.knowledge == "honest" else view.own
        if len(known) < 2:  # among the few sampled this round: there is no deviation to hide in
            mean = known.sum(0)  # zero if there is nobody
            return mean.expand(view.f, -1), state
        z = z_max(view.n, view.f) if self.z is None else self.z
        std, mean = torch.std_mean(known, dim=0)
        return (mean - z * std).expand(view.f, -1), state


@dataclass(frozen=True)
class InnerProductManipulation(Attack):
    """b = -epsilon * mean of the honest: turn the inner product of aggregate and gradient negative.

    Xie, Koyejo, Gupta, "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
    Manipulation", UAI 2019. A small epsilon deceives distance-based rules, a large one the others.

    Attributes:
        epsilon: the factor; 1 sends the honest mean reversed.
    """

    epsilon: float = 0.1
    reads: ClassVar[frozenset] = frozenset({"honest"})

    def check(self, n: int, f: int) -> str | None:
        """An honest client, to take the mean of."""
        return None if f < n else f"InnerProductManipulation needs f < n, got n={n}, f={f}"

    def step(self, view, state):
        """See `Attack.step`."""
        return (view.honest_mean * -self.epsilon).expand(view.f, -1), state

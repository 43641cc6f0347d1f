"""Attacks that hide among the honest updates, whose mean and deviation they know or estimate."""

from dataclasses import dataclass
from typing import ClassVar

from scipy.special import ndtri

from benchmark.attacks.base import Informed


def z_max(n: int, f: int) -> float:
    """The largest shift, in standard deviations, that a majority of clients still supports.

    z_max = Phi^-1((n - f - s) / (n - f)) with s = floor(n/2 + 1) - f, the honest supporters that a
    majority with the f Byzantine clients needs; floored at 0, where the shift would turn round.
    Where f alone is a majority (in a round of few, sampled clients) it is as for one supporter.
    """
    supporters = max(1, n // 2 + 1 - f)
    return max(0.0, float(ndtri((n - f - supporters) / (n - f))))


@dataclass(frozen=True)
class ALittleIsEnough(Informed):
    """b = mean - z * std, coordinate by coordinate: far enough to harm, too close to stand out.

    Baruch, Baruch, Goldberg, "A Little Is Enough: Circumventing Defenses For Distributed Learning",
    NeurIPS 2019, where the attacker estimates from its own clients' updates (knowledge
    `byzantine`). The sample standard deviation is used.

    Attributes:
        z: shift in standard deviations; by default `z_max` of the round's n and f.
    """

    paper: ClassVar[str] = "Baruch et al., NeurIPS 2019"
    cost: ClassVar[str] = "n d"
    z: float | None = None

    def check(self, n: int, f: int) -> str | None:
        """f <= n/2 for z_max to exist; two vectors for a standard deviation."""
        if self.z is None and f > n // 2:
            return f"ALittleIsEnough needs f <= n/2 for z_max, got n={n}, f={f}: set attack.z"
        return super().check(n, f)

    def craft(self, view, known, state):
        """See `Informed.craft`."""
        mean, std = view.mean_and_std(self.knowledge)
        z = z_max(view.n, view.f) if self.z is None else self.z
        return (mean - z * std).expand(view.f, -1), state


@dataclass(frozen=True)
class InnerProductManipulation(Informed):
    """b = -epsilon * mean of the honest: turn the inner product of aggregate and gradient negative.

    Xie, Koyejo, Gupta, "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
    Manipulation", UAI 2019. A small epsilon deceives distance-based rules, a large one the others.

    Attributes:
        epsilon: the factor; 1 sends the honest mean reversed.
    """

    paper: ClassVar[str] = "Xie, Koyejo, Gupta, UAI 2019"
    cost: ClassVar[str] = "n d"
    least: ClassVar[int] = 1
    epsilon: float = 0.1

    def craft(self, view, known, state):
        """See `Informed.craft`."""
        return (view.mean(self.knowledge) * -self.epsilon).expand(view.f, -1), state

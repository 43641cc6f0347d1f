"""Attacks that hide among the honest updates, whose mean and deviation they know or estimate."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from scipy.special import ndtri
from typing_extensions import override

from benchmark.attacks.base import Informed
from benchmark.attacks.view import View
from benchmark.kernels.scale import length
from benchmark.kernels.shuffle import permutation, permuted


def z_max(n: int, f: int) -> float:
    """Return the largest shift, in standard deviations, that a majority of clients still supports.

    z_max = Phi^-1((n - f - s) / (n - f)) with s = floor(n/2 + 1) - f, the number of honest
    supporters that the f Byzantine clients need for a majority. It is floored at 0, where the shift
    would turn round. Where f alone is a majority (in a round of few, sampled clients) it is as for
    one supporter.

    Example:
        >>> z_max(10, 4)  # 2 of the 6 honest clients, Phi^-1(4/6)
        0.43072729929545744
    """
    supporters, honest = max(1, n // 2 + 1 - f), max(1, n - f)
    return max(0.0, float(ndtri((honest - supporters) / honest)))


def without_z_max(title: str, n: int, f: int) -> str | None:
    """Return None if z_max > 0 for this n and f, otherwise why not: the mean would be sent."""
    if f > n // 2:
        return f"{title} needs f <= n/2 for z_max, got n={n}, f={f}: set attack.z"
    if f > 0 and not z_max(n, f):
        return f"{title} is no attack with z_max = 0, got n={n}, f={f}: set attack.z"
    return None


@dataclass(frozen=True)
class ALittleIsEnough(Informed):
    """b = mean - z * std, coordinate by coordinate: far enough to harm, too close to stand out.

    Baruch, Baruch, Goldberg, "A Little Is Enough: Circumventing Defenses For Distributed Learning",
    NeurIPS 2019, where the attacker estimates from its own clients' updates (knowledge
    `byzantine`). The sample standard deviation is used. Where z_max is 0 there is no attack, so n
    and f are refused. If it is 0 only in a round of sampled clients, the mean is sent, and a note
    in the results tells in how many rounds that was so.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        z: shift in standard deviations; by default `z_max` of the round's n and f.

    Example:
        >>> ALittleIsEnough(z=2.0)([[1.0], [2.0], [3.0]], f=1)  # mean 2, deviation 1
        array([[0.]])
    """

    paper: ClassVar[str] = "Baruch et al., NeurIPS 2019"
    cost: ClassVar[str] = "n d"
    z: float | None = None

    @override
    def check(self, n: int, f: int) -> str | None:
        reason = super().check(n, f)
        return reason or (without_z_max(self.title, n, f) if self.z is None else None)

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        mean, std = view.mean_and_std(self.knowledge)
        z = z_max(view.n, view.f) if self.z is None else self.z
        return (mean - z * std).expand(view.f, -1), state


@dataclass(frozen=True)
class InnerProductManipulation(Informed):
    """b = -epsilon * mean of the honest, which turns the inner product of aggregate and gradient
    negative.

    Xie, Koyejo, Gupta, "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
    Manipulation", UAI 2019. A small epsilon deceives distance-based rules, a large one the others.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        epsilon: the factor; 1 sends the honest mean reversed.

    Example:
        >>> InnerProductManipulation(epsilon=0.5)([[1.0, 2.0], [3.0, 2.0]], f=1)
        array([[-1., -1.]])
    """

    paper: ClassVar[str] = "Xie, Koyejo, Gupta, UAI 2019"
    cost: ClassVar[str] = "n d"
    least: ClassVar[int] = 1
    epsilon: float = 0.1

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        return (view.mean(self.knowledge) * -self.epsilon).expand(view.f, -1), state


@dataclass(frozen=True)
class ByzMean(Informed):
    """Make the mean of all n vectors equal to what another attack would send, v = mean - z * std.

    The first floor(f/2) clients send v itself, the others

        ((n - floor(f/2)) v - sum of the honest) / (f - floor(f/2)).

    Xu, Huang, Song, Lan, "Byzantine-robust Federated Learning through Collaborative Malicious
    Gradient Filtering", ICDCS 2022, where the attack inside is ALIE. With knowledge `byzantine` the
    sum of the honest is estimated as n - f times the mean that is known.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        z: shift of the attack inside, in standard deviations.

    Example:
        >>> ByzMean(z=1.0)([[1.0], [2.0], [3.0]], f=1)  # v = 1, the mean of 1, 2, 3 and -2
        array([[-2.]])
    """

    paper: ClassVar[str] = "Xu et al., ICDCS 2022"
    cost: ClassVar[str] = "n d"
    z: float = 0.5

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        mean, std = view.mean_and_std(self.knowledge)
        n, f = view.n, view.f
        first = f // 2
        vector = mean - self.z * std
        others = (vector * (n - first) - mean * (n - f)) / (f - first)
        sent = known.new_empty(f, len(mean))
        sent[:first], sent[first:] = vector, others
        return sent, state


@dataclass(frozen=True)
class SignShuffle(Informed):
    """Send random numbers, of which as many are positive, negative and zero as in the mean of the
    honest. So statistics of signs, as SignGuard takes them, look right.

    b_i = scale * u_i * sign(mean) in another order, u_i uniform on (0, 1] for every coordinate and
    client. The Byzantine clients draw the order in common, anew each round.

    Li et al., "Blades: A Unified Benchmark Suite for Byzantine Attacks and Defenses in
    Federated Learning", IoTDI 2024 (the suite that has it), with scale 1.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        scale: the largest magnitude, in units of the updates; null: such that the vectors are about
            as long as the mean, which a filter of lengths lets pass.

    Example:
        >>> sorted(torch.sign(SignShuffle()(torch.tensor([[5.0, -2.0, 1.0]]), f=1))[0].tolist())
        [-1.0, 1.0, 1.0]
    """

    paper: ClassVar[str] = "Li et al., IoTDI 2024"
    cost: ClassVar[str] = "n d"
    least: ClassVar[int] = 1
    scale: float | None = 1.0

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        mean = view.mean(self.knowledge)
        signs = torch.sign(mean)
        scale = self.scale
        if scale is None:  # of a number uniform on (0, 1] the mean square is 1/3
            scale = 3**0.5 * float(length(mean)) / max(1.0, float(length(signs)))
        order = permutation(view.common_uniform())
        signs = permuted(signs[None], order)
        return view.uniform().sub_(1.0).mul_(signs * -scale), state

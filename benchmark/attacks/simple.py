"""Attacks that know nothing of the other clients' updates."""

from dataclasses import dataclass
from typing import ClassVar

from benchmark.attacks.base import Attack, Knowledge


@dataclass(frozen=True)
class NoAttack(Attack):
    """Byzantine clients follow the protocol: the baseline with the same n."""

    paper: ClassVar[str] = "none"
    cost: ClassVar[str] = "none"
    reads: ClassVar[frozenset] = frozenset({Knowledge.OWN})

    def step(self, view, state):
        """See `Attack.step`."""
        return view.own, state


@dataclass(frozen=True)
class Random(Attack):
    """Gaussian noise instead of an update, b_i ~ N(0, scale^2 I), independent for every client.

    Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant
    Gradient Descent", NeurIPS 2017 (with scale 200).

    Attributes:
        scale: standard deviation of a coordinate, in units of the updates.
    """

    paper: ClassVar[str] = "Blanchard et al., NeurIPS 2017"
    cost: ClassVar[str] = "f d"
    scale: float = 1.0

    def step(self, view, state):
        """See `Attack.step`."""
        return view.normal().mul_(self.scale), state


@dataclass(frozen=True)
class SignFlip(Attack):
    """Every Byzantine client sends its own update reversed, b_i = -scale * g_i.

    Damaskinos, El Mhamdi, Guerraoui, Patra, Taziki, "Asynchronous Byzantine Machine Learning",
    ICML 2018; Li, Xu, Chen, Giannakis, Ling, "RSA", AAAI 2019.

    Attributes:
        scale: by how much it is stretched as well.
    """

    paper: ClassVar[str] = "Damaskinos et al., ICML 2018"
    cost: ClassVar[str] = "f d"
    scale: float = 1.0
    reads: ClassVar[frozenset] = frozenset({Knowledge.OWN})

    def step(self, view, state):
        """See `Attack.step`."""
        return view.own * -self.scale, state


@dataclass(frozen=True)
class Scale(Attack):
    """Every Byzantine client boosts its own update, b_i = scale * g_i.

    Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How to Backdoor Federated Learning", AISTATS 2020.

    Attributes:
        scale: the factor.
    """

    paper: ClassVar[str] = "Bagdasaryan et al., AISTATS 2020"
    cost: ClassVar[str] = "f d"
    scale: float = 10.0
    reads: ClassVar[frozenset] = frozenset({Knowledge.OWN})

    def step(self, view, state):
        """See `Attack.step`."""
        return view.own * self.scale, state

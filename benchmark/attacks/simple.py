"""Attacks that know nothing of the other clients' updates."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from benchmark.aggregators.base import positive
from benchmark.attacks.base import Attack, Knowledge
from benchmark.kernels.shuffle import permutation, permuted


@dataclass(frozen=True)
class NoAttack(Attack):
    """Byzantine clients follow the protocol: the baseline with the same n.

    Knows its clients' own updates.
    """

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

    Knows nothing of the updates.

    Attributes:
        scale: standard deviation of a coordinate, in units of the updates.
    """

    paper: ClassVar[str] = "Blanchard et al., NeurIPS 2017"
    cost: ClassVar[str] = "f d"
    scale: float = 1.0

    def __post_init__(self):
        positive("scale", self.scale)

    def step(self, view, state):
        """See `Attack.step`."""
        return view.normal().mul_(self.scale), state


@dataclass(frozen=True)
class SignFlip(Attack):
    """Every Byzantine client sends its own update reversed, b_i = -scale * g_i.

    Damaskinos, El Mhamdi, Guerraoui, Patra, Taziki, "Asynchronous Byzantine Machine Learning",
    ICML 2018; Li, Xu, Chen, Giannakis, Ling, "RSA", AAAI 2019.

    Knows its clients' own updates.

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

    Knows its clients' own updates.

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


@dataclass(frozen=True)
class AdditiveNoise(Attack):
    """Every Byzantine client adds Gaussian noise to its own update, b_i = g_i + scale * N(0, I).

    Xu, Huang, Song, Lan, "Byzantine-robust Federated Learning through Collaborative Malicious
    Gradient Filtering", ICDCS 2022 (with scale 0.5).

    Knows its clients' own updates.

    Attributes:
        scale: standard deviation of the noise of a coordinate, in units of the updates.
    """

    paper: ClassVar[str] = "Xu et al., ICDCS 2022"
    cost: ClassVar[str] = "f d"
    scale: float = 0.5
    reads: ClassVar[frozenset] = frozenset({Knowledge.OWN})

    def __post_init__(self):
        positive("scale", self.scale)

    def step(self, view, state):
        """See `Attack.step`."""
        noise = view.normal()
        return torch.add(view.own, noise, alpha=self.scale, out=noise), state


@dataclass(frozen=True)
class Zero(Attack):
    """Free riders that send zero instead of an update.

    Lin, Du, Liu, "Free-riders in Federated Learning: Attacks and Defenses", 2019.

    Knows nothing of the updates.
    """

    paper: ClassVar[str] = "Lin, Du, Liu, 2019"
    cost: ClassVar[str] = "none"

    def step(self, view, state):
        """See `Attack.step`."""
        return _constant(view, 0.0), state


@dataclass(frozen=True)
class Stale(Attack):
    """Free riders that send the server's last move back, b_i = previous + noise * N(0, I).

    The last move is in units of an aggregate, (model - model before) / server step, so that the
    server repeats it whether updates are gradients or model deltas. In the first round, before
    which it has not moved, it is zero.

    Lin, Du, Liu, "Free-riders in Federated Learning: Attacks and Defenses", 2019.

    Knows the server's model before.

    Attributes:
        noise: standard deviation of a coordinate of the noise that each client adds for itself, so
            that they do not look alike; in units of the updates.
    """

    paper: ClassVar[str] = "Lin, Du, Liu, 2019"
    cost: ClassVar[str] = "f d"
    noise: float = 0.0
    reads: ClassVar[frozenset] = frozenset({Knowledge.HISTORY})

    def step(self, view, state):
        """See `Attack.step`."""
        previous = view.previous
        if previous is None:
            previous = view.like.new_zeros(view.like.shape[1])
        if not self.noise:
            return previous.expand(view.f, -1), state
        noise = view.normal()
        return torch.add(previous, noise, alpha=self.noise, out=noise), state


@dataclass(frozen=True)
class Nan(Attack):
    """Vectors of nothing but NaN: one that a server does not look at destroys the model.

    Knows nothing of the updates.
    """

    paper: ClassVar[str] = "none of its own"
    cost: ClassVar[str] = "none"

    def step(self, view, state):
        """See `Attack.step`."""
        return _constant(view, torch.nan), state


@dataclass(frozen=True)
class Inf(Attack):
    """Vectors of nothing but infinity: one that a server does not look at destroys the model.

    Knows nothing of the updates.
    """

    paper: ClassVar[str] = "none of its own"
    cost: ClassVar[str] = "none"

    def step(self, view, state):
        """See `Attack.step`."""
        return _constant(view, torch.inf), state


def _constant(view, value: float) -> torch.Tensor:
    """(f, d) the same number everywhere, of the dtype of the updates."""
    return view.like.new_full((1, 1), value).expand(view.f, view.like.shape[1])


@dataclass(frozen=True)
class Permutation(Attack):
    """Every Byzantine client sends its own update with the coordinates in another order: of the
    right length and distribution, in a useless direction.

    The order is drawn anew each round, by the Byzantine clients in common, so their vectors stay as
    close to each other as they were.

    Li et al., "Blades: A Unified Benchmark Suite for Byzantine Attacks and Defenses in
    Federated Learning", IoTDI 2024 (the suite that has it, version 0.1).

    Knows its clients' own updates.
    """

    paper: ClassVar[str] = "Li et al., IoTDI 2024"
    cost: ClassVar[str] = "f d"
    reads: ClassVar[frozenset] = frozenset({Knowledge.OWN})

    def step(self, view, state):
        """See `Attack.step`."""
        return permuted(view.own, permutation(view.common_uniform())), state

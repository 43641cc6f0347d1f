"""Attacks that know nothing of the other clients' updates."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from typing_extensions import override

from benchmark.attacks.base import Attack
from benchmark.attacks.view import Knowledge, View
from benchmark.config.checks import positive
from benchmark.kernels.shuffle import permutation, permuted


@dataclass(frozen=True)
class NoAttack(Attack):
    """Follow the protocol: the baseline with the same n.

    Knows its clients' own updates.

    Example:
        >>> NoAttack()([[1.0], [2.0]], f=1, own=[[3.0]])
        array([[3.]])
    """

    paper: ClassVar[str] = "none"
    cost: ClassVar[str] = "none"
    reads: ClassVar[frozenset[Knowledge]] = frozenset({Knowledge.OWN})

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        return view.own, state


@dataclass(frozen=True)
class Random(Attack):
    """Send Gaussian noise instead of an update, b_i ~ N(0, scale^2 I), every client its own.

    Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant
    Gradient Descent", NeurIPS 2017 (with scale 200).

    Knows nothing of the updates.

    Attributes:
        scale: standard deviation of a coordinate, in units of the updates.

    Example:
        >>> sent = Random(scale=200.0)(torch.zeros(1, 10000), f=1)
        >>> bool(sent.mean().abs() < 10) and bool((sent.std() - 200).abs() < 10)
        True
    """

    paper: ClassVar[str] = "Blanchard et al., NeurIPS 2017"
    cost: ClassVar[str] = "f d"
    scale: float = 1.0

    def __post_init__(self) -> None:
        positive("scale", self.scale)

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        return view.normal().mul_(self.scale), state


@dataclass(frozen=True)
class SignFlip(Attack):
    """Send a client's own update reversed, b_i = -scale * g_i.

    Damaskinos, El Mhamdi, Guerraoui, Patra, Taziki, "Asynchronous Byzantine Machine Learning",
    ICML 2018; Li, Xu, Chen, Giannakis, Ling, "RSA", AAAI 2019.

    Knows its clients' own updates.

    Attributes:
        scale: by how much it is stretched as well.

    Example:
        >>> SignFlip(scale=2.0)([[1.0], [2.0]], f=1, own=[[3.0]])
        array([[-6.]])
    """

    paper: ClassVar[str] = "Damaskinos et al., ICML 2018"
    cost: ClassVar[str] = "f d"
    scale: float = 1.0
    reads: ClassVar[frozenset[Knowledge]] = frozenset({Knowledge.OWN})

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        return view.own * -self.scale, state


@dataclass(frozen=True)
class Scale(Attack):
    """Boost a client's own update, b_i = scale * g_i.

    Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How to Backdoor Federated Learning", AISTATS 2020.

    Knows its clients' own updates.

    Attributes:
        scale: the factor.

    Example:
        >>> Scale(scale=10.0)([[1.0], [2.0]], f=1, own=[[3.0]])
        array([[30.]])
    """

    paper: ClassVar[str] = "Bagdasaryan et al., AISTATS 2020"
    cost: ClassVar[str] = "f d"
    scale: float = 10.0
    reads: ClassVar[frozenset[Knowledge]] = frozenset({Knowledge.OWN})

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        return view.own * self.scale, state


@dataclass(frozen=True)
class AdditiveNoise(Attack):
    """Add Gaussian noise to a client's own update, b_i = g_i + scale * N(0, I).

    Xu, Huang, Song, Lan, "Byzantine-robust Federated Learning through Collaborative Malicious
    Gradient Filtering", ICDCS 2022 (with scale 0.5).

    Knows its clients' own updates.

    Attributes:
        scale: standard deviation of the noise of a coordinate, in units of the updates.

    Example:
        >>> AdditiveNoise(scale=1e-9)([[1.0], [2.0]], f=1, own=[[3.0]]).round(3)
        array([[3.]])
    """

    paper: ClassVar[str] = "Xu et al., ICDCS 2022"
    cost: ClassVar[str] = "f d"
    scale: float = 0.5
    reads: ClassVar[frozenset[Knowledge]] = frozenset({Knowledge.OWN})

    def __post_init__(self) -> None:
        positive("scale", self.scale)

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        noise = view.normal()
        return torch.add(view.own, noise, alpha=self.scale, out=noise), state


@dataclass(frozen=True)
class Zero(Attack):
    """Send zero instead of an update, as a free rider does.

    Lin, Du, Liu, "Free-riders in Federated Learning: Attacks and Defenses", 2019.

    Knows nothing of the updates.

    Example:
        >>> Zero()([[1.0], [2.0]], f=1)
        array([[0.]])
    """

    paper: ClassVar[str] = "Lin, Du, Liu, 2019"
    cost: ClassVar[str] = "none"

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        return _constant(view, 0.0), state


@dataclass(frozen=True)
class Stale(Attack):
    """Send the server's last move back, as a free rider does, b_i = previous + noise * N(0, I).

    The last move is in units of an aggregate, (model - model before) / server step, so that the
    server repeats it whether updates are gradients or model deltas. In the first round it is zero.

    Lin, Du, Liu, "Free-riders in Federated Learning: Attacks and Defenses", 2019.

    Knows the server's model before.

    Attributes:
        noise: standard deviation of a coordinate of the noise that each client adds for itself, so
            that the clients do not look alike; in units of the updates.

    Example:
        >>> Stale()([[1.0], [2.0]], f=1, previous=[5.0])
        array([[5.]])
    """

    paper: ClassVar[str] = "Lin, Du, Liu, 2019"
    cost: ClassVar[str] = "f d"
    noise: float = 0.0
    reads: ClassVar[frozenset[Knowledge]] = frozenset({Knowledge.HISTORY})

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        previous = view.previous
        if previous is None:
            previous = view.like.new_zeros(view.like.shape[1])
        if not self.noise:
            return previous.expand(view.f, -1), state
        noise = view.normal()
        return torch.add(previous, noise, alpha=self.noise, out=noise), state


@dataclass(frozen=True)
class Nan(Attack):
    """Send nothing but NaN, which destroys the model of a server that does not check.

    Knows nothing of the updates.

    Example:
        >>> Nan()([[1.0], [2.0]], f=1)
        array([[nan]])
    """

    paper: ClassVar[str] = "none of its own"
    cost: ClassVar[str] = "none"

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        return _constant(view, torch.nan), state


@dataclass(frozen=True)
class Inf(Attack):
    """Send nothing but infinity, which destroys the model of a server that does not check.

    Knows nothing of the updates.

    Example:
        >>> Inf()([[1.0], [2.0]], f=1)
        array([[inf]])
    """

    paper: ClassVar[str] = "none of its own"
    cost: ClassVar[str] = "none"

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        return _constant(view, torch.inf), state


def _constant(view: View, value: float) -> torch.Tensor:
    """Return (f, d) times the same number, in the dtype of the updates."""
    return view.like.new_full((1, 1), value).expand(view.f, view.like.shape[1])


@dataclass(frozen=True)
class Permutation(Attack):
    """Send a client's own update with the coordinates in another order: the right length and
    distribution, but a useless direction.

    The Byzantine clients draw the order in common, anew each round. So their vectors stay as close
    to each other as they were.

    Li et al., "Blades: A Unified Benchmark Suite for Byzantine Attacks and Defenses in
    Federated Learning", IoTDI 2024 (the suite that has it, version 0.1).

    Knows its clients' own updates.

    Example:
        >>> sorted(Permutation()([[0.0, 0.0, 0.0]], f=1, own=[[1.0, 2.0, 3.0]])[0].tolist())
        [1.0, 2.0, 3.0]
    """

    paper: ClassVar[str] = "Li et al., IoTDI 2024"
    cost: ClassVar[str] = "f d"
    reads: ClassVar[frozenset[Knowledge]] = frozenset({Knowledge.OWN})

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        return permuted(view.own, permutation(view.common_uniform())), state

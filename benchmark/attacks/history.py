"""Attacks that follow the server's moves from round to round."""

from dataclasses import dataclass
from math import cos, radians, sin
from typing import Any, ClassVar

import torch
from scipy.special import bdtrc
from typing_extensions import override

from benchmark.attacks.base import Attack, Informed
from benchmark.attacks.statistics import without_z_max, z_max
from benchmark.attacks.view import Knowledge, View
from benchmark.config.checks import positive
from benchmark.kernels.scale import length, to_unit


@dataclass(frozen=True)
class ROP(Informed):
    """Relocated orthogonal perturbation: send what centred clipping takes for its centre, moved to
    one side, which is the same in every round.

    m is the server's last move in units of an aggregate, which is what it clips around, and
    u = lamb m + (1 - lamb) mean the reference. With q the all-ones vector without its part along u,
    p = sin(angle) q / |q| + cos(angle) u / |u|, and b = pi m + (1 - pi) mean + z p. Clipping bounds
    how far from the centre a vector is, but not to which side, and the next round starts from the
    centre so moved. In the first round the mean stands for m.

    Ozfatura, Ozfatura, Kupcu, Gunduz, "Byzantines Can Also Learn From History: Fall of Centered
    Clipping in Federated Learning", IEEE Transactions on Information Forensics and Security 2024.

    Knows all honest updates, in the partial form its clients' own only; and the server's model
    before.

    Attributes:
        z: length of the perturbation, in units of the updates. By default it is `z_max` of the
            round's n and f, as in the authors' code; where that is 0, for few Byzantine clients,
            the attack is refused.
        lamb: weight of the last move in the reference.
        pi: weight of the last move in the place that is perturbed; 0: the mean is.
        angle: of the perturbation with the reference, in degrees: 90 or 270 is beside it, 180
            against it.

    Example:
        >>> import numpy as np
        >>> ROP(z=1.0)(np.array([[3.0, 0.0], [5.0, 0.0]]), f=1)  # q = (0, 1), beside the mean
        array([[ 4., -1.]])
    """

    paper: ClassVar[str] = "Ozfatura et al., IEEE TIFS 2024"
    cost: ClassVar[str] = "n d"
    least: ClassVar[int] = 1
    also_reads: ClassVar[frozenset[Knowledge]] = frozenset({Knowledge.HISTORY})
    z: float | None = None
    lamb: float = 0.9
    pi: float = 1.0
    angle: float = 270.0

    @override
    def check(self, n: int, f: int) -> str | None:
        reason = super().check(n, f)
        return reason or (without_z_max(self.title, n, f) if self.z is None else None)

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        mean = view.mean(self.knowledge)
        last = mean if view.previous is None else view.previous
        z = z_max(view.n, view.f) if self.z is None else self.z
        reference = to_unit(torch.lerp(mean, last, self.lamb))  # only its direction counts
        square = float(reference.double().square().sum())
        share = float(reference.sum(dtype=torch.float64)) / square if square > 0 else 0.0
        rest = len(mean) - share**2 * square  # squared length of the ones without their part
        beside = z * sin(radians(self.angle))
        beside = beside / rest**0.5 if rest > 1e-9 * len(mean) else 0.0
        along = z * cos(radians(self.angle)) / square**0.5 if square > 0 else 0.0
        sent = torch.lerp(mean, last, self.pi)
        sent.add_(beside).add_(reference, alpha=along - share * beside)
        return sent.expand(view.f, -1), state


@dataclass(frozen=True)
class PoisonedFL(Attack):
    """Drive the model along one random vector of signs, the same in all rounds.

    The magnitudes follow the model's own last moves. Nothing of the honest clients is known.

    What the clients send moves the model along k * s, with signs s in {-1, 1}^d drawn once and
    magnitudes k = c |m| v. Here m is the server's last move. Coordinate by coordinate, v is the
    magnitude of m - |m| b / |b|, brought to length 1, where b is what was sent before: what the
    honest clients seem to have added. Every `period` rounds a test counts the coordinates in which
    the model has moved to the side of s, x of them. With X ~ Bin(d, 1/2), if P(X >= x) > level the
    attack does not get through, and c becomes decay c, unless that is below `least_scale`.

    Xie, Fang, Gong, "Model Poisoning Attacks to Federated Learning via Multi-Round Consistency",
    CVPR 2025. As in the authors' code zero is sent in the first round. Ours: coordinates that did
    not move are not tested (dead inputs never do). Where m lies along b, so that nothing is left
    for v, b gives the magnitudes. Vectors are in units of an aggregate: where updates are
    gradients, which the model moves against, what is sent is turned round.

    Knows the global model and the server's model before.

    Attributes:
        scale: c at first.
        period: rounds from test to test.
        level: of the test.
        decay: factor of c if the attack does not get through, in (0, 1).
        least_scale: c never gets smaller.

    Example:
        >>> import numpy as np
        >>> sent = PoisonedFL()(np.zeros((1, 2)), f=1, model=[0.0, 0.0], previous=[3.0, 4.0])
        >>> np.abs(sent)  # c = 8 times the last move
        array([[24., 32.]])
    """

    paper: ClassVar[str] = "Xie, Fang, Gong, CVPR 2025"
    cost: ClassVar[str] = "d"
    reads: ClassVar[frozenset[Knowledge]] = frozenset({Knowledge.MODEL, Knowledge.HISTORY})
    scale: float = 8.0
    period: int = 50
    level: float = 0.01
    decay: float = 0.7
    least_scale: float = 0.5

    def __post_init__(self) -> None:
        for name in ("scale", "period", "least_scale"):
            positive(name, getattr(self, name))
        for name in ("level", "decay"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in (0, 1), got {getattr(self, name)}")

    @override
    def state_rows(self, n: int, rounds: int) -> tuple[float, float]:
        return 2.25, 1  # signs in int8, what was sent last, and a model

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        # The state holds the signs, what was sent last, c, and of the last test model and round.
        model, move = view.model, view.previous
        if state is None:
            signs = 1 - 2 * (view.common_uniform() < 0.5).to(torch.int8)
            state = {"signs": signs, "sent": None, "scale": float(self.scale)}
            state |= {"model": model.clone(), "round": view.round}
        elif view.round - state["round"] >= self.period:
            scale = self._adapted(model - state["model"], state)
            state = state | {"model": model.clone(), "round": view.round, "scale": scale}
        if move is None:
            sent = view.like.sum(0)
        else:
            sent = _magnitudes(move, state["sent"]).mul_(state["scale"]).mul_(state["signs"])
            if view.server_step < 0:
                sent.neg_()
        return sent.expand(view.f, -1), state | {"sent": sent}

    def _adapted(self, moved: torch.Tensor, state: dict) -> float:
        """Return c after a test of how the model has moved since the last one."""
        smaller = self.decay * state["scale"]
        toward = torch.sign(moved) * state["signs"]
        number, for_it = int((toward != 0).sum()), int((toward > 0).sum())
        gets_through = bdtrc(for_it - 1, number, 0.5) <= self.level
        return state["scale"] if gets_through or smaller < self.least_scale else smaller


def _magnitudes(move: torch.Tensor, sent: torch.Tensor | None) -> torch.Tensor:
    """Return (d,) |m| v, as long as the move m, given what was sent before it."""
    moved = float(length(move, torch.float64))
    before = 0.0 if sent is None else float(length(sent, torch.float64))
    added = move if sent is None or before == 0.0 else move - sent * (moved / before)
    rest = added.abs()
    left = float(length(rest, torch.float64))
    if left <= 1e-6 * moved:
        if sent is None or before == 0.0 or moved == 0.0:
            return torch.zeros_like(move)
        rest, left = sent.abs(), before
    return rest.mul_(moved / left)

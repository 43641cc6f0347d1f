"""Attacks that copy one client: nobody can tell, but one client's data count too much."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from benchmark.aggregators.base import positive
from benchmark.aggregators.state import Memory
from benchmark.attacks.base import Informed
from benchmark.kernels.offsets import offsets
from benchmark.kernels.scale import length


@dataclass(frozen=True)
class _Copying(Informed):
    """An attack that sends the vector of one of the population."""

    least: ClassVar[int] = 1

    def check(self, n: int, f: int) -> str | None:
        """Somebody else to copy: who copies itself is honest."""
        if self.knowledge == "byzantine" and f == 1:
            return f"{self.title} needs 2 Byzantine clients or more, got n={n}, f={f}"
        return super().check(n, f)

    def ids(self, view) -> np.ndarray:
        """(k,) which clients the population is, ascending: the honest clients' ids, or places among
        the Byzantine ones."""
        return view.honest_ids if self.knowledge == "honest" else np.arange(view.f)


def _place(ids: np.ndarray, target: int) -> int:
    """Where among these clients the target is; if it is not there, as under client sampling, the
    next one, and behind the last the first."""
    return int(np.searchsorted(ids, target)) % len(ids)


@dataclass(frozen=True)
class Mimic(_Copying):
    """All Byzantine clients send what one honest client sends, b = g_i*, always the same one.

    Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing",
    ICLR 2022. The client is chosen in the first round, by its place among the honest ones by
    ascending id; in a round in which it is not sampled, the next one is copied. With knowledge
    `byzantine` one of the Byzantine clients' own updates is.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        target: the place, from 0; where there are not so many, counted round and round.
    """

    paper: ClassVar[str] = "Karimireddy, He, Jaggi, ICLR 2022"
    cost: ClassVar[str] = "none"
    target: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.target < 0:
            raise ValueError(f"target must not be negative, got {self.target}")

    def craft(self, view, known, state):
        """See `Informed.craft`. The state is the id of the target."""
        ids = self.ids(view)
        target = int(ids[self.target % len(ids)]) if state is None else state
        return known[_place(ids, target)].expand(view.f, -1), target


@dataclass(frozen=True)
class MimicHeuristic(_Copying):
    """All Byzantine clients send what one honest client sends: the one that is farthest out in the
    direction z in which the honest vectors differ most.

    z is followed by Oja's rule for the first rounds t = 0, 1, ... with honest clients,

        m <- t/(1+t) m + 1/(1+t) mean,    y = sum_i (g_i - m) <g_i - m, z>,
        z <- t/(1+t) z + 1/(1+t) y / |y|, and then of length 1,

    from a random z (where y is zero, as with a single client, z stays), and of each client the sum
    of <z, g_i> over these rounds is kept. In the last of them the client i* with the largest |sum|
    is chosen for good; in all of them, the best so far of those that are there is copied. If i* is
    not sampled later, the next client is copied, and behind the last the first.

    Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing",
    ICLR 2022, appendix. There y is not divided by its length, so that z would follow at a speed
    that depends on the units of the updates; the authors' code divides. In the absolute value it
    departs from their code, as the paper does.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        warmup: rounds before the choice; in the paper an epoch.
    """

    paper: ClassVar[str] = "Karimireddy, He, Jaggi, ICLR 2022"
    cost: ClassVar[str] = "n d"
    warmup: int = 20

    def __post_init__(self):
        super().__post_init__()
        positive("warmup", self.warmup)

    def state_rows(self, n, rounds):
        """A mean and a direction, until the choice."""
        return (2, 2) if self.warmup > 1 else (0, 0)

    def craft(self, view, known, state):
        """See `Informed.craft`. The state is the id of the target, or what is needed to choose it:
        rounds, mean, direction and the sums by client id."""
        ids = self.ids(view)
        if isinstance(state, int):
            return known[_place(ids, state)].expand(view.f, -1), state
        if state is None:
            zero, sums = torch.zeros_like(known[0]), Memory.empty(np.zeros(1))
            state = {"rounds": 0, "mean": zero, "direction": view.common_normal(), "sums": sums}
        new = 1.0 / (1 + state["rounds"])
        mean = torch.lerp(state["mean"], view.mean(self.knowledge), new)
        z = state["direction"]
        _, along = offsets(known, mean, z)
        along = np.ldexp(along, -np.frexp(np.abs(along).max())[1])  # only the direction counts
        y = torch.as_tensor(along).to(known) @ known - float(along.sum()) * mean
        size = length(y)
        z = _unit(torch.lerp(z, torch.where(size > 0, y / size, z), new))
        sums = state["sums"].of(ids) + offsets(known, torch.zeros_like(z), z)[1]
        memory = state["sums"].updated(ids, sums)
        sent = known[int(np.abs(sums).argmax())].expand(view.f, -1)
        if state["rounds"] + 1 >= self.warmup:
            return sent, int(memory.ids[np.abs(memory.rows).argmax()])
        return sent, {"rounds": state["rounds"] + 1, "mean": mean, "direction": z, "sums": memory}


def _unit(vector: torch.Tensor) -> torch.Tensor:
    """Of length 1; zero stays zero."""
    size = length(vector)
    return torch.where(size > 0, vector / size, vector)

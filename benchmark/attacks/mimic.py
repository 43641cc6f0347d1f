"""Attacks that copy one client: nobody can tell them from it, but its data count too much."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.state import Memory
from benchmark.attacks.base import Informed
from benchmark.attacks.view import View
from benchmark.config.checks import positive
from benchmark.kernels.offsets import offsets
from benchmark.kernels.scale import length


@dataclass(frozen=True)
class _Copying(Informed):
    """An attack that sends the vector of one client of the population."""

    least: ClassVar[int] = 1

    @override
    def check(self, n: int, f: int) -> str | None:
        if self.knowledge == "byzantine" and f == 1:  # a client that copies itself is honest
            return f"{self.title} needs 2 Byzantine clients or more, got n={n}, f={f}"
        return super().check(n, f)

    def ids(self, view: View) -> np.ndarray:
        """Return the (k,) clients of the population in ascending order: the honest clients' ids, or
        the places of the Byzantine ones."""
        return view.honest_ids if self.knowledge == "honest" else np.arange(view.f)


def _place(ids: np.ndarray, target: int) -> int:
    """Return the place of the target among the clients with these ids.

    If it is not there, as under client sampling, it is the place of the next one, and behind the
    last one that of the first.
    """
    return int(np.searchsorted(ids, target)) % len(ids)


@dataclass(frozen=True)
class Mimic(_Copying):
    """Send what one honest client sends, b = g_i*, always the same one.

    Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing",
    ICLR 2022. The client is chosen in the first round, by its place among the honest ones by
    ascending id. In a round in which it is not sampled, the next one is copied. With knowledge
    `byzantine` one of the Byzantine clients' own updates is copied.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        target: the place, from 0; behind the last place the count goes on with the first.

    Example:
        >>> Mimic(target=1)(np.array([[1.0, 2.0], [3.0, 4.0]]), f=2)
        array([[3., 4.],
               [3., 4.]])
    """

    paper: ClassVar[str] = "Karimireddy, He, Jaggi, ICLR 2022"
    cost: ClassVar[str] = "none"
    target: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target < 0:
            raise ValueError(f"target must not be negative, got {self.target}")

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        ids = self.ids(view)  # the state is the id of the target
        target = int(ids[self.target % len(ids)]) if state is None else state
        return known[_place(ids, target)].expand(view.f, -1), target


@dataclass(frozen=True)
class MimicHeuristic(_Copying):
    """Send what one honest client sends, the one farthest out in the direction z in which the
    honest vectors differ most.

    Oja's rule estimates z in the first rounds t = 0, 1, ... with honest clients,

        m <- t/(1+t) m + 1/(1+t) mean,    y = sum_i (g_i - m) <g_i - m, z>,
        z <- t/(1+t) z + 1/(1+t) y / |y|, and then of length 1,

    from a random z. Where y is zero, as with a single client, z stays. For each client the sum of
    <z, g_i> over these rounds is kept. In each of them the client that is there with the largest
    |sum| so far is copied; in the last of them the client i* with the largest |sum| is chosen for
    good. If i* is not sampled later, the next client is copied, and behind the last the first.

    Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing",
    ICLR 2022, appendix. There y is not divided by its length, so the speed at which z changes
    would depend on the units of the updates; the authors' code divides. The absolute value is the
    paper's; it is not in their code.

    Knows all honest updates, in the partial form its clients' own only.

    Attributes:
        warmup: rounds before the choice; in the paper an epoch.

    Example:
        >>> MimicHeuristic()(np.array([[1.0], [2.0], [9.0]]), f=1)
        array([[9.]])
    """

    paper: ClassVar[str] = "Karimireddy, He, Jaggi, ICLR 2022"
    cost: ClassVar[str] = "n d"
    warmup: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("warmup", self.warmup)

    @override
    def state_rows(self, n: int, rounds: int) -> tuple[float, float]:
        return (2, 2) if self.warmup > 1 else (0, 0)  # a mean and a direction, until the choice

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        # The state is the id of the target, or what it takes to choose it: the number of rounds,
        # mean, direction, and the sums by client id.
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
    """Return the vector at length 1; zero stays zero."""
    size = length(vector)
    return torch.where(size > 0, vector / size, vector)

"""What the rounds to come depend on, and the rows that a round's vectors lie in."""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from benchmark.federation.cell import Cell
from benchmark.federation.streams import torch_generator
from benchmark.models.network import Network
from benchmark.models.tensors import on_device
from benchmark.simulation.cast import Cast, attackers_train, cast_of, is_constant


@dataclass(frozen=True)
class State:
    """All that the rounds to come of a cell depend on; streams are functions of the round.

    A checkpoint is this tree. The large tensors are overwritten by the next round.

    Attributes:
        round_number: the last that is finished; -1 before the evaluation at the start.
        model: (1, >= D) the server's model; rows are padded to 64 bytes.
        memories: for each transform what it keeps, (n, >= D) by client, or (k, >= D) in the very
            rows of those who compute if these are the same in every round; None if nothing.
        root: (1, >= D) the update of the root data; None if there are none.
        root_memories: for each transform what it keeps of the root data, (1, >= D); that of the
            last one is `root`.
        server, rule, attack: states.
        previous: (D,) the last move of the server; None if nobody asks for it.
    """

    round_number: int
    model: Tensor
    memories: tuple[Tensor | None, ...]
    root: Tensor | None = None
    root_memories: tuple[Tensor | None, ...] = ()
    server: Any = None
    rule: Any = None
    attack: Any = None
    previous: Tensor | None = None

    def shapes(self) -> list[tuple[int, ...] | None]:
        """Return the shapes of the tensors that any state of the same cell has, too."""
        parts = [self.model, self.root, *self.memories, *self.root_memories]
        return [None if part is None else tuple(part.shape) for part in parts]

    def moved(self, model: Tensor, rows: Tensor | None) -> Self:
        """Return this state with the model, and the memory of the last transform unless `rows` is
        None, copied to these tensors."""
        model.copy_(self.model)
        memories = self.memories
        if rows is not None:
            assert memories[-1] is not None
            memories = (*memories[:-1], rows.copy_(memories[-1]))
        return replace(self, model=model, memories=memories)


@dataclass(frozen=True)
class Rows:
    """Named slices of the buffer that holds a round's vectors.

    First come the Byzantine clients' own updates, if they compute any, then the honest clients',
    then room for what the Byzantine clients send in the place of their own. So both the rows to
    compute and the rows that reach the server are contiguous, and nothing is copied.

    Attributes:
        buffer: (rows, >= D).
        width: D.
        f, h: how many attack, how many are honest.
        trains: whether those who attack compute an update of their own.
    """

    buffer: Tensor
    width: int
    f: int
    h: int
    trains: bool

    @property
    def _own(self) -> int:
        return self.f if self.trains else 0

    @property
    def computed(self) -> Tensor:
        """The rows (k, >= D) of those who compute."""
        return self.buffer[: self._own + self.h]

    @property
    def own(self) -> Tensor:
        """What those who attack have computed, (f, D), or none."""
        return self.buffer[: self._own, : self.width]

    @property
    def honest(self) -> Tensor:
        """What honest clients send (h, D)."""
        return self.buffer[self._own : self._own + self.h, : self.width]

    @property
    def sent(self) -> Tensor:
        """What those who attack send (f, D)."""
        start = self._own + self.h
        return self.buffer[start : start + self.f, : self.width]

    @property
    def received(self) -> Tensor:
        """What reaches the server (h + f, D): the honest vectors, and behind them the others."""
        return self.buffer[self._own : self._own + self.h + self.f, : self.width]


def rows_of(buffer: Tensor, width: int, cast: Cast) -> Rows:
    """Return the rows of a round."""
    return Rows(buffer, width, len(cast.byzantine), len(cast.honest), cast.trains)


def buffer_rows(cell: Cell) -> int:
    """Return how many rows a cell's vectors take."""
    sampled = cell.fl.participants
    return sampled + (min(cell.f, sampled) if attackers_train(cell) else 0)


def padded(width: int) -> int:
    """Return the numbers of a row of D numbers, which takes a multiple of 64 bytes."""
    return -(-width // 16) * 16


def kept_in_rows(cell: Cell) -> bool:
    """Return whether what the last transform keeps lies in the rows: it may, if a row is the same
    client's in every round."""
    transforms = cell.fl.transforms
    return bool(transforms) and transforms[-1].remembers and is_constant(cell)


def initial_state(cell: Cell, network: Network, device: torch.device) -> State:
    """Return the state before training.

    Args:
        cell: to be trained.
        network: its model.
        device: where the tensors are.

    Raises:
        ValueError: if the initial model is not finite.
    """
    size = padded(network.num_parameters)
    model = torch.zeros(1, size, device=device)
    initial = network.initial(torch_generator(cell.seed, "initial model"))
    if not is_finite(initial):
        raise ValueError("model: its initial parameters are not finite")
    model[0, : network.num_parameters] = initial.to(device)
    remembers = [transform.remembers for transform in cell.fl.transforms]
    by_client = remembers[:-1] if kept_in_rows(cell) else remembers
    memories = [torch.zeros(cell.n, size, device=device) if there else None for there in by_client]
    if kept_in_rows(cell):  # the rows themselves come with a block
        rows = len(cast_of(cell, 1).computing)
        memories.append(torch.zeros(1, size, device=device).expand(rows, -1))
    root: Tensor | None = None
    root_memories: list[Tensor | None] = []
    if "root" in cell.rule.needs:
        root = torch.zeros(1, size, device=device)
        root_memories = [torch.zeros_like(root) if there else None for there in remembers]
        if remembers and remembers[-1]:
            root_memories[-1] = root
    rule, attack = cell.rule.init(), cell.attack.init()
    return State(-1, model, tuple(memories), root, tuple(root_memories), None, rule, attack)


def recall(cell: Cell, state: State, cast: Cast, rows: Rows) -> list[Tensor | None]:
    """Return for each transform what it keeps of those who compute, (k, >= D); that of the last one
    is in their rows."""
    computed = rows.computed
    found: list[Tensor | None] = []
    clients = on_device(cast.computing, computed.device)
    for index, memory in enumerate(state.memories):
        if memory is None:
            found.append(None)
        elif index < len(state.memories) - 1:
            found.append(memory[clients])
        else:
            if not kept_in_rows(cell):
                torch.index_select(memory, 0, clients, out=computed)  # no copy on the way
            found.append(computed)
    return found


def remember(cell: Cell, state: State, cast: Cast, recalled: list[Tensor | None]) -> None:
    """Keep by client what `recall` found and transforms have changed since."""
    by_client = len(recalled) - kept_in_rows(cell)
    for memory, part in zip(state.memories[:by_client], recalled[:by_client], strict=True):
        if memory is not None and part is not None:
            memory[cast.computing] = part


def is_finite(x: Tensor) -> bool:
    """Return whether all numbers are finite; the slow look is for sums that overflow."""
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def finite_rows(x: Tensor) -> Tensor:
    """Return which rows of x are finite, (rows,)."""
    return torch.stack([torch.isfinite(row).all() for row in x])

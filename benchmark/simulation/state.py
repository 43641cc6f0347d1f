"""What the rounds to come depend on, and the rows that a round's vectors lie in."""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from benchmark.federation.cell import Cell
from benchmark.federation.streams import torch_generator
from benchmark.federation.transforms import Transform
from benchmark.models.network import Network
from benchmark.simulation.cast import Cast, is_constant


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

    def placed(self, other: Self) -> Self:
        """Return the state `other`, as read from a checkpoint, with its memories in the tensors of
        this one, where a run looks for them.

        Raises:
            ValueError, AttributeError: if it is not of this state's shape.
        """
        ours = [self.model, self.root, *self.memories, *self.root_memories]
        theirs = [other.model, other.root, *other.memories, *other.root_memories]
        pairs = list(zip(ours, theirs, strict=True))
        shapes = [[part if part is None else part.shape for part in pair] for pair in pairs]
        if any(mine != read for mine, read in shapes):
            raise ValueError(f"{shapes}")
        for mine, read in pairs:
            if mine is not None and read is not None:
                mine.copy_(read)
        names = ("model", "root", "memories", "root_memories")
        return replace(other, **{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Rows:
    """Named slices of the buffer that holds a round's vectors.

    First come the Byzantine clients' own updates, then the honest clients', then room for what the
    Byzantine clients send in the place of their own. So both the rows to compute and the rows that
    reach the server are contiguous, and nothing is copied.

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
    def computed(self) -> Tensor:
        """The rows (k, >= D) of those who compute."""
        return self.buffer[0 if self.trains else self.f : self.f + self.h]

    @property
    def own(self) -> Tensor:
        """What those who attack have computed (f, D)."""
        return self.buffer[: self.f, : self.width]

    @property
    def honest(self) -> Tensor:
        """What honest clients send (h, D)."""
        return self.buffer[self.f : self.f + self.h, : self.width]

    @property
    def sent(self) -> Tensor:
        """What those who attack send (f, D)."""
        return self.buffer[self.f + self.h : 2 * self.f + self.h, : self.width]

    @property
    def received(self) -> Tensor:
        """What reaches the server (h + f, D): the honest vectors, and behind them the others."""
        return self.buffer[self.f : 2 * self.f + self.h, : self.width]


def rows_of(buffer: Tensor, width: int, cast: Cast) -> Rows:
    """Return the rows of a round."""
    return Rows(buffer, width, len(cast.byzantine), len(cast.honest), cast.trains)


def buffer_rows(cell: Cell) -> int:
    """Return how many rows a cell's buffer has."""
    sampled = cell.fl.participants
    return sampled + min(cell.f, sampled)


def padded(width: int) -> int:
    """Return the numbers of a row of D numbers, which takes a multiple of 64 bytes."""
    return -(-width // 16) * 16


def kept_in_rows(cell: Cell, transforms: list[Transform]) -> list[bool]:
    """Return for each transform whether what it keeps lies in the rows.

    The last one's may, if a row is the same client's in every round.
    """
    last = len(transforms) - 1
    return [
        index == last and t.remembers and is_constant(cell) for index, t in enumerate(transforms)
    ]


def initial_state(cell: Cell, network: Network, rows: Tensor, device: torch.device) -> State:
    """Return the state before training.

    Args:
        cell: to be trained.
        network: its model.
        rows: (k, >= D) of those who compute in the first round.
        device: where the tensors are.

    Raises:
        ValueError: if the initial model is not finite.
    """
    size = rows.shape[1]
    model = torch.zeros(1, size, device=device)
    initial = network.initial(torch_generator(cell.seed, "initial model"))
    if not is_finite(initial):
        raise ValueError("model: its initial parameters are not finite")
    model[0, : network.num_parameters] = initial.to(device)
    transforms = list(cell.fl.transforms)
    in_rows = kept_in_rows(cell, transforms)
    memories = tuple(
        rows if there else torch.zeros(cell.n, size, device=device) if t.remembers else None
        for t, there in zip(transforms, in_rows, strict=True)
    )
    root, root_memories = None, ()
    if "root" in cell.rule.needs:
        root = torch.zeros(1, size, device=device)
        root_memories = tuple(
            (root if index == len(transforms) - 1 else torch.zeros_like(root))
            if t.remembers
            else None
            for index, t in enumerate(transforms)
        )
    rule, attack = cell.rule.init(), cell.attack.init()
    return State(-1, model, memories, root, root_memories, None, rule, attack)


def recall(cell: Cell, state: State, cast: Cast, rows: Rows) -> list[Tensor | None]:
    """Return for each transform what it keeps of those who compute, (k, >= D); that of the last one
    is in their rows."""
    transforms = list(cell.fl.transforms)
    found, computed = [], rows.computed
    clients = torch.from_numpy(cast.computing).to(computed.device)
    for index, (memory, there) in enumerate(
        zip(state.memories, kept_in_rows(cell, transforms), strict=True)
    ):
        if memory is None:
            found.append(None)
        elif index == len(transforms) - 1:
            if not there:
                torch.index_select(memory, 0, clients, out=computed)  # no copy on the way
            found.append(computed)
        else:
            found.append(memory[clients])
    return found


def remember(cell: Cell, state: State, cast: Cast, recalled: list[Tensor | None]) -> None:
    """Keep by client what `recall` found and transforms have changed since."""
    in_rows = kept_in_rows(cell, list(cell.fl.transforms))
    for memory, part, there in zip(state.memories, recalled, in_rows, strict=True):
        if memory is not None and part is not None and not there:
            memory[cast.computing] = part


def is_finite(x: Tensor) -> bool:
    """Return whether all numbers are finite; the slow look is for sums that overflow."""
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())


def finite_rows(x: Tensor) -> Tensor:
    """Return which rows of x are finite, (rows,)."""
    return torch.stack([torch.isfinite(row).all() for row in x])

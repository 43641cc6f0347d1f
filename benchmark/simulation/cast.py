"""Who is who in a round."""

from dataclasses import dataclass

import numpy as np

from benchmark.attacks.base import Knowledge
from benchmark.config.checks import is_whole
from benchmark.federation.cell import Cell
from benchmark.federation.streams import generator


@dataclass(frozen=True)
class Cast:
    """Who takes part in a round, and how.

    Attributes:
        byzantine: ids, ascending, of those who take part and attack.
        honest: ids, ascending, of the others who take part.
        compromised: (f,) ids of all clients in the attacker's hands, whoever takes part, in the
            order in which they join in.
        trains: whether those who attack compute an update of their own, too.
    """

    byzantine: np.ndarray
    honest: np.ndarray
    compromised: np.ndarray
    trains: bool

    @property
    def attackers(self) -> int:
        """How many attack."""
        return len(self.byzantine)

    @property
    def present(self) -> int:
        """How many take part."""
        return len(self.byzantine) + len(self.honest)

    @property
    def computing(self) -> np.ndarray:
        """Ids of those whose own update is computed, in the order of their rows."""
        return np.concatenate([self.byzantine, self.honest]) if self.trains else self.honest


def cast_of(cell: Cell, round_number: int) -> Cast:
    """Return the cast of a cell's round, from 1.

    Raises:
        ValueError: if the schedule of attacks counts or names clients that there are not.
    """
    here = np.arange(cell.n)
    if cell.fl.participants < cell.n:
        stream = generator(cell.seed, "participants", 0, round_number)
        here = cell.fl.sampler.draw(cell.n, stream)
    bad = compromised(cell, round_number)
    count = cell.schedule.count(round_number, cell.f)
    if not (is_whole(count) and 0 <= count <= cell.f):
        name = type(cell.schedule).__name__
        raise ValueError(f"{name}: count must be one of 0 to {cell.f}, got {count}")
    attackers = bad[:count]
    byzantine, honest = np.intersect1d(here, attackers), np.setdiff1d(here, attackers)
    return Cast(byzantine, honest, bad, attackers_train(cell))


def attackers_train(cell: Cell) -> bool:
    """Return whether those who attack compute an update of their own, too: if the attack reads it,
    and whoever follows the protocol at other times, whose momentum goes on."""
    return Knowledge.OWN in cell.attack.reads or not cell.schedule.constant


def is_constant(cell: Cell) -> bool:
    """Return whether the cast is the same in every round."""
    return cell.fl.participants == cell.n and cell.schedule.constant


def compromised(cell: Cell, round_number: int) -> np.ndarray:
    """Return the ids (f,) of the compromised clients in a round, see `Schedule.compromised`.

    Raises:
        ValueError: if the schedule names others than f different clients.
    """

    def stream(purpose: str, number: int) -> np.random.Generator:
        return generator(cell.seed, purpose, 0, number)

    ids = np.asarray(cell.schedule.compromised(stream, cell.n, cell.f, round_number))
    sound = ids.shape == (cell.f,) and (ids.dtype.kind in "iu" or not cell.f)
    if not (sound and len(np.intersect1d(ids, np.arange(cell.n))) == cell.f):
        raise ValueError(
            f"{type(cell.schedule).__name__}: compromised must return {cell.f} different ids of "
            f"{cell.n} clients, got {ids.tolist()}"
        )
    return ids

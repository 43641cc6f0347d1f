"""State of rules that remember: by client, without side effects, and ready to be stored.

A state is None, a number, a string, an array, a tensor, or a tuple, list or string-keyed dict of
states, or a `Memory`. It is never changed in place: a step returns a new one. So it can be handed
to an adaptive attacker, and written to a checkpoint and read back without pickle.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import torch

from benchmark.config.checks import settings_have_their_types


@dataclass(frozen=True)
class Memory:
    """One row for every client that was seen, by id, since under client sampling others come
    every round.

    Attributes:
        ids: (k,) ascending.
        rows: (k, *shape) a tensor, or an array.
    """

    ids: np.ndarray
    rows: Any

    @staticmethod
    def empty(like) -> "Memory":
        """No client yet; rows like those of `like`, (m, *shape)."""
        return Memory(np.zeros(0, np.int64), like[:0])

    def knows(self, ids: np.ndarray) -> np.ndarray:
        """(m,) whether each of the clients was seen."""
        return np.isin(ids, self.ids)

    def of(self, ids: np.ndarray):
        """(m, *shape) rows of these clients, zeros for new ones."""
        known = self.knows(ids)
        place = np.searchsorted(self.ids, ids[known])
        if isinstance(self.rows, torch.Tensor):
            out = self.rows.new_zeros((len(ids), *self.rows.shape[1:]))
            device = self.rows.device
            out[torch.as_tensor(known, device=device)] = self.rows[
                torch.as_tensor(place, device=device)
            ]
        else:
            out = np.zeros((len(ids), *self.rows.shape[1:]), self.rows.dtype)
            out[known] = self.rows[place]
        return out

    def updated(self, ids: np.ndarray, rows) -> "Memory":
        """With these rows (m, *shape) for these clients; of the others as before."""
        everybody = np.union1d(self.ids, ids)
        out = self.of(everybody)
        place = np.searchsorted(everybody, ids)
        if isinstance(out, torch.Tensor):
            place = torch.as_tensor(place, device=out.device)
        out[place] = rows
        return Memory(everybody, out)


class Stateful:
    """What rules, stages and attacks share: their name, settings of the types that their fields
    have, and a state that goes in and out of a step."""

    def __init_subclass__(cls, **arguments):
        """Have types checked before a class's own `__post_init__`, which need not call this one."""
        super().__init_subclass__(**arguments)
        own = cls.__dict__.get("__post_init__")
        if own is not None:

            @wraps(own)
            def checked(self, *given):
                settings_have_their_types(self)
                own(self, *given)

            cls.__post_init__ = checked

    def __post_init__(self):
        settings_have_their_types(self)

    @property
    def title(self) -> str:
        """The class name, for messages."""
        return type(self).__name__

    def init(self) -> Any:
        """The state before the first round; None for what is stateless."""
        return None

    def state_rows(self, n: int, rounds: int) -> tuple[float, float]:
        """How many vectors its state of n clients grows to in so many rounds, in units of d float32
        numbers, and how many of them every round makes anew."""
        return 0.0, 0.0

    def scratch_rows(self, n: int, f: int) -> float:
        """How many vectors a step makes besides, for a while, if they are more than the f + 3 that
        the server makes. By both the memory of a run is told in advance."""
        return 0.0


def rows_of_states(parts: Iterable[Stateful], n: int, rounds: int) -> tuple[float, float]:
    """The sums of `Stateful.state_rows` over several parts, at least one."""
    kept, renewed = zip(*(part.state_rows(n, rounds) for part in parts), strict=True)
    return sum(kept), sum(renewed)


def packed(state: Any) -> tuple[Any, dict[str, np.ndarray | torch.Tensor]]:
    """A state as a structure that JSON can hold, and the arrays and tensors in it by name."""
    arrays = {}

    def pack(part: Any) -> Any:
        if isinstance(part, np.ndarray | torch.Tensor):
            name = str(len(arrays))
            arrays[name] = part
            return {"array": name}
        if isinstance(part, Memory):
            return {"memory": [pack(part.ids), pack(part.rows)]}
        if isinstance(part, dict):
            return {"dict": {key: pack(value) for key, value in part.items()}}
        if isinstance(part, tuple | list):
            return {type(part).__name__: [pack(value) for value in part]}
        if part is None or type(part) in (bool, int, float, str):
            return part
        raise TypeError(f"a rule's state may not hold a {type(part).__name__}")

    return pack(state), arrays


def unpacked(structure: Any, arrays: dict[str, Any]) -> Any:
    """The state that `packed` took apart."""
    if not isinstance(structure, dict):
        return structure
    ((kind, value),) = structure.items()
    if kind == "array":
        return arrays[value]
    if kind == "dict":
        return {key: unpacked(part, arrays) for key, part in value.items()}
    parts = [unpacked(part, arrays) for part in value]
    return Memory(*parts) if kind == "memory" else {"tuple": tuple, "list": list}[kind](parts)

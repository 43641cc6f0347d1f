"""State of rules with a memory: by client, without side effects, and ready to be stored.

A state is None, a number, a string, an array, a tensor, or a tuple, list or string-keyed dict of
states, or a `Memory`. It is never changed in place: a step returns a new one. So it can be given to
an adaptive attacker, and written to a checkpoint and read back without pickle.
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
    """One row for each client that was seen, by id.

    Under client sampling other clients come in each round.

    Attributes:
        ids: (k,) ascending.
        rows: (k, *shape), a tensor or an array.
    """

    ids: np.ndarray
    rows: Any

    @staticmethod
    def empty(like: Any) -> "Memory":
        """Return the memory of no client, whose rows will be like those of `like` (m, *shape)."""
        return Memory(np.zeros(0, np.int64), like[:0])

    def knows(self, ids: np.ndarray) -> np.ndarray:
        """Return whether each of the clients was seen, (m,)."""
        return np.isin(ids, self.ids)

    def of(self, ids: np.ndarray) -> Any:
        """Return the rows (m, *shape) of the clients with these ids, zeros for new ones."""
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

    def updated(self, ids: np.ndarray, rows: Any) -> "Memory":
        """Return the memory with these rows (m, *shape) for these clients, the others as before."""
        all_ids = np.union1d(self.ids, ids)
        out = self.of(all_ids)
        place = np.searchsorted(all_ids, ids)
        if isinstance(out, torch.Tensor):
            place = torch.as_tensor(place, device=out.device)
        out[place] = rows
        return Memory(all_ids, out)


class Stateful:
    """What rules, stages and attacks share: a name, checked settings, and explicit state."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Check the settings' types before a class's own `__post_init__`.

        So that need not call this one's.
        """
        super().__init_subclass__(**arguments)
        own = cls.__dict__.get("__post_init__")
        if own is not None:

            @wraps(own)
            def checked(self: "Stateful", *given: Any) -> None:
                settings_have_their_types(self)
                own(self, *given)

            cls.__post_init__ = checked

    def __post_init__(self) -> None:
        settings_have_their_types(self)

    @property
    def title(self) -> str:
        """The class name, for error messages."""
        return type(self).__name__

    def init(self) -> Any:
        """Return the state before the first round; None without a state."""
        return None

    def state_rows(self, n: int, rounds: int) -> tuple[float, float]:
        """Return the size of its state, for the prediction of a run's memory.

        Args:
            n: number of clients.
            rounds: how many there will be.

        Returns:
            How many vectors of d float32 numbers the state grows to, and how many of them each
            round allocates anew.
        """
        return 0.0, 0.0

    def scratch_rows(self, n: int, f: int) -> float:
        """Return how many vectors a step allocates for a while, if more than the server's f + 3."""
        return 0.0


def rows_of_states(parts: Iterable[Stateful], n: int, rounds: int) -> tuple[float, float]:
    """Return the sums of `Stateful.state_rows` over one part or more."""
    kept, renewed = zip(*(part.state_rows(n, rounds) for part in parts), strict=True)
    return sum(kept), sum(renewed)


def packed(state: Any) -> tuple[Any, dict[str, np.ndarray | torch.Tensor]]:
    """Return a state as a structure that JSON can hold, and its arrays and tensors by name."""
    arrays: dict[str, np.ndarray | torch.Tensor] = {}

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
    """Return the state of which `packed` made the structure and the arrays."""
    if not isinstance(structure, dict):
        return structure
    ((kind, value),) = structure.items()
    if kind == "array":
        return arrays[value]
    if kind == "dict":
        return {key: unpacked(part, arrays) for key, part in value.items()}
    parts = [unpacked(part, arrays) for part in value]
    return Memory(*parts) if kind == "memory" else {"tuple": tuple, "list": list}[kind](parts)

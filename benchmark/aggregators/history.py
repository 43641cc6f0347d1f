"""What rules remember of each client: rows of long vectors, by id, written block by block.

Under client sampling others come every round. Absent clients keep their rows; new ones begin with
zeros. Vectors of different rounds are not comparable, so where a paper sums up all that a client
has sent, the sum here is of what it sent less a vector of the same round: with everybody there
all the time that changes no difference between two clients.
"""

import numpy as np
import torch

from benchmark.aggregators.base import Updates
from benchmark.aggregators.state import Memory

_LARGEST = 1e150  # float64 of which the squares of many can be added


def remember(
    memory: Memory | None,
    updates: Updates,
    keep: float = 1.0,
    scale: float = 1.0,
    centre: int | None = None,
    largest: float = _LARGEST,
) -> Memory:
    """The memory after a round: keep * row_i + scale * (x_i - x_centre) for the clients in it.

    Only the new rows are allocated. Numbers that would overflow stop at the largest there is, so
    that a client which always sends the largest number does not turn its row into infinities.

    Args:
        memory: of earlier rounds; None: there were none.
        updates: the vectors of the round.
        keep: what is left of earlier rounds.
        scale: of the new part.
        centre: row of the vector that is subtracted from all; None: nothing is.
        largest: number in the memory, if there is no smaller limit.
    """
    clients = updates.clients
    dtype = clients.dtype if clients.dtype == torch.float64 else torch.float32
    if memory is None:
        memory = Memory(
            np.zeros(0, np.int64), clients.new_zeros((0, clients.shape[1]), dtype=dtype)
        )
    everybody = np.union1d(memory.ids, updates.ids)
    known, place = (
        torch.as_tensor(np.searchsorted(everybody, ids), device=clients.device)
        for ids in (memory.ids, updates.ids)
    )
    limit = min(torch.finfo(dtype).max, largest)
    rows = clients.new_zeros((len(everybody), clients.shape[1]), dtype=dtype)
    for columns, part in updates.blocks():
        block = rows[:, columns]
        block[known] = memory.rows[:, columns]
        if centre is not None:
            part = part - part[centre]
        block[place] = (keep * block[place] + scale * part).clamp_(-limit, limit)
    return Memory(everybody, rows)


def rows_of(memory: Memory, ids: np.ndarray) -> Updates:
    """The rows of these clients, all of them known, as vectors; a copy only if others have rows
    too."""
    place = np.searchsorted(memory.ids, ids)
    if len(ids) < len(memory.ids):
        return Updates(memory.rows[torch.as_tensor(place, device=memory.rows.device)])
    return Updates(memory.rows, np.eye(len(ids))[place])


def concentrated_median(distances: np.ndarray, total: int) -> tuple[int, float]:
    """The vector that is closest to most: the one with the smallest ball about it that holds more
    than half of `total` vectors, and the radius of this ball.

    Any vector with more than half of all within some threshold is called a vector median by
    Alistarh et al. and Allen-Zhu et al.; if there is one, this is one too, and unlike theirs it is
    always there.

    Args:
        distances: (m, m), not squared.
        total: of how many vectors, m or more, it must be more than half; all m if m are fewer.
    """
    count = min(total // 2 + 1, len(distances))
    radius = np.sort(distances, axis=1)[:, count - 1]
    middle = int(np.argmin(radius))
    return middle, float(radius[middle])

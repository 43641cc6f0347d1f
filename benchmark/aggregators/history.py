"""Memories of each client's vectors: rows of long vectors, by id, written block by block.

Under client sampling other clients come in each round. Absent clients keep their rows; new ones
begin with zeros. Vectors of different rounds are not comparable. So where a paper sums up all that
a client has sent, the sum here is of what it sent less a vector of the same round. If all clients
take part in all rounds, that changes no difference between two of them.
"""

import numpy as np
import torch

from benchmark.aggregators.state import Memory
from benchmark.aggregators.updates import Updates

_LARGEST = 1e150  # float64 of which the squares of many can be added


def remember(
    memory: Memory | None,
    updates: Updates,
    keep: float = 1.0,
    scale: float = 1.0,
    centre: int | None = None,
    largest: float = _LARGEST,
) -> Memory:
    """Return the memory after a round: keep * row_i + scale * (x_i - x_centre) for its clients.

    Only the new rows are allocated. Numbers that would overflow stop at the largest there is, so
    that a client which always sends the largest number does not turn its row into infinities.

    Args:
        memory: the one of earlier rounds; None: there were none.
        updates: the vectors of the round.
        keep: factor of the earlier rounds.
        scale: factor of the new part.
        centre: row of the vector that is subtracted from all; None: nothing is.
        largest: limit on the numbers in the memory, besides that of their dtype.
    """
    clients = updates.clients
    dtype = clients.dtype if clients.dtype == torch.float64 else torch.float32
    if memory is None:
        memory = Memory(
            np.zeros(0, np.int64), clients.new_zeros((0, clients.shape[1]), dtype=dtype)
        )
    all_ids = np.union1d(memory.ids, updates.ids)
    known, place = (
        torch.as_tensor(np.searchsorted(all_ids, ids), device=clients.device)
        for ids in (memory.ids, updates.ids)
    )
    limit = min(torch.finfo(dtype).max, largest)
    rows = clients.new_zeros((len(all_ids), clients.shape[1]), dtype=dtype)
    for columns, part in updates.blocks():
        block = rows[:, columns]
        block[known] = memory.rows[:, columns]
        if centre is not None:
            part = part - part[centre]
        block[place] = (keep * block[place] + scale * part).clamp_(-limit, limit)
    return Memory(all_ids, rows)


def rows_of(memory: Memory, ids: np.ndarray) -> Updates:
    """Return the rows of these clients, all of them known, as vectors.

    They are copied only if other clients have rows too.
    """
    place = np.searchsorted(memory.ids, ids)
    if len(ids) < len(memory.ids):
        return Updates(memory.rows[torch.as_tensor(place, device=memory.rows.device)])
    return Updates(memory.rows, place)


def concentrated_median(distances: np.ndarray, total: int) -> tuple[int, float]:
    """Return the vector with the smallest ball that holds more than half of `total` vectors.

    Alistarh et al. and Allen-Zhu et al. call any vector with more than half of all within some
    threshold a vector median. If there is one, this is one too, and this one always exists.

    Args:
        distances: (m, m), not squared.
        total: m or more; if m is no more than half of it, the ball holds all m.

    Returns:
        The row of the vector, and the radius of the ball about it.
    """
    count = min(total // 2 + 1, len(distances))
    radius = np.sort(distances, axis=1)[:, count - 1]
    middle = int(np.argmin(radius))
    return middle, float(radius[middle])

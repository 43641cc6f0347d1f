"""Selections on a small distance matrix that would take many calls of NumPy."""

import numpy as np
from numba import njit


@njit(cache=True)
def iterated_krum(distances: np.ndarray, f: int, count: int) -> np.ndarray:
    """Krum's pick of n vectors, then of the n - 1 others, and so on.

    With m vectors left a score is the sum of the m - f - 2 smallest distances to the others, at
    least one; ties go to the lowest index, and a last single vector is picked unseen.

    Args:
        distances: (n, n) float64.
        f: declared number of Byzantine vectors.
        count: how many to pick, count <= n.

    Returns:
        (count,) indices in the order of the picks.
    """
    n = len(distances)
    left = np.arange(n)
    picks = np.empty(count, np.int64)
    others = np.empty(n)
    for pick in range(count):
        m = n - pick
        best = 0
        lowest = np.inf
        for i in range(m):
            size = 0
            for j in range(m):
                if j != i:
                    others[size] = distances[left[i], left[j]]
                    size += 1
            others[:size].sort()
            score = 0.0
            for k in range(min(size, max(1, m - f - 2))):
                score += others[k]
            if score < lowest:
                lowest = score
                best = i
        picks[pick] = left[best]
        left[best : m - 1] = left[best + 1 : m].copy()
    return picks

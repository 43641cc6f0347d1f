"""Repeated selection by Krum on a small distance matrix, which would take many calls of NumPy."""

import numpy as np
from numba import njit


@njit(cache=True)
def iterated_krum(distances: np.ndarray, f: int, count: int) -> np.ndarray:
    """Return Krum's pick of n vectors, then its pick of the n - 1 others, and so on.

    With m vectors left a score is the sum of the m - f - 2 smallest distances to the others, at
    least one. Ties go to the lowest index. A last single vector is picked without a score.

    Args:
        distances: (n, n) float64.
        f: declared number of Byzantine vectors.
        count: how many to pick, count <= n.

    Returns:
        (count,) indices in the order of the picks.
    """
    n = len(distances)
    nearest = np.empty((n, n - 1), np.int64)  # the others of each, the nearest first
    for i in range(n):
        place = 0
        for j in np.argsort(distances[i]):  # a mask would take seconds to compile
            if j != i:
                nearest[i, place] = j
                place += 1
    left = np.ones(n, np.bool_)
    picks = np.empty(count, np.int64)
    for pick in range(count):
        m = n - pick
        counted = min(m - 1, max(1, m - f - 2))
        best = -1
        lowest = np.inf
        for i in range(n):
            if not left[i]:
                continue
            score = 0.0
            size = 0
            for j in nearest[i]:
                if size == counted:
                    break
                if left[j]:
                    score += distances[i, j]
                    size += 1
            if best < 0 or score < lowest:
                lowest = score
                best = i
        picks[pick] = best
        left[best] = False
    return picks

"""How robust an aggregate is: against the definition of Allouah et al.

A rule F is (f, kappa)-robust if for all vectors x_1..x_n and every S of n - f of them

    |F(x) - mean_S|^2 <= kappa * (1/|S|) sum_{i in S} |x_i - mean_S|^2,

since nobody knows which S is the honest one (Allouah, Farhadkhani, Guerraoui, Gupta, Pinot,
Stephan, "Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity", AISTATS 2023).
No rule has a kappa below f / (n - 2f).
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from benchmark.kernels.gram import gram, squared_distances


def kappa_hat(
    vectors: torch.Tensor, aggregate: torch.Tensor, f: int, starts: Iterable[np.ndarray] = ()
) -> float:
    """Return the largest ratio of the two sides of the definition that a search over S finds.

    It is a lower bound of the rule's kappa.

    From several sets, vectors are exchanged one for one as long as the ratio grows.

    Args:
        vectors: (n, d).
        aggregate: (d,) what the rule made of them.
        f: n - f vectors make a set.
        starts: sets, index arrays (n - f,), to begin with besides the usual: the vectors nearest
            each vector, and those farthest from the aggregate.

    Returns:
        The ratio; inf if all of a set are equal and the aggregate is something else.
    """
    n = len(vectors)
    squared = squared_distances(gram(vectors, aggregate[None]).centred)
    between, away = squared[:n, :n], squared[n, :n]
    size = n - f
    nearest = np.argsort(between, axis=1, kind="stable")[:, :size]
    farthest = np.argsort(-away, kind="stable")[:size]
    return max(_climb(between, away, start) for start in [*starts, *nearest, farthest])


def _climb(between: np.ndarray, away: np.ndarray, start: np.ndarray) -> float:
    """Return the largest ratio that exchanges from one set reach.

    With w_i = 1/k on the set, |F - mean|^2 = w.away - wDw/2, and the spread is wDw/2.
    """
    n, k = len(away), len(start)
    inside = np.zeros(n, bool)
    inside[start] = True
    best = -1.0
    while True:
        mean_away = away[inside].mean()
        toward = between[:, inside].sum(1) / k
        spread = toward[inside].mean() / 2
        ratio = float(_ratio(mean_away - spread, spread, mean_away))
        if not ratio > best * (1 + 1e-12):
            return best
        best = ratio
        leaves, enters = np.flatnonzero(inside), np.flatnonzero(~inside)
        if best == np.inf or not len(enters):
            return best
        # Exchanging i for j: w changes by (e_j - e_i) / k.
        pair = np.ix_(leaves, enters)
        new_away = mean_away + (away[enters] - away[leaves][:, None]) / k
        change = (toward[enters] - toward[leaves][:, None]) / k - between[pair] / k**2
        new_spread = np.maximum(spread + change, 0.0)
        ratios = _ratio(new_away - new_spread, new_spread, new_away)
        i, j = np.unravel_index(np.argmax(ratios), ratios.shape)
        inside[leaves[i]], inside[enters[j]] = False, True


def _ratio(error: Any, spread: Any, scale: float) -> Any:
    """Return error / spread; both may be nothing but rounding of numbers of the given scale."""
    error, spread = np.maximum(error, 0.0), np.asarray(spread, float)
    nothing = spread <= 1e-12 * scale
    ratio = error / np.where(nothing, 1.0, spread)
    return np.where(nothing, np.where(error <= 1e-9 * scale, 0.0, np.inf), ratio)[()]

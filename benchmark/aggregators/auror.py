"""Auror: two clusters of the clients' values in each coordinate."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from benchmark.aggregators.context import Context
from benchmark.aggregators.contract import Accepted, Detector
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import positive

_PART = 1 << 16  # values that are sorted at a time


@dataclass(frozen=True)
class Auror(Detector):
    """Remove the clients in the smaller of two clusters in most of the indicative coordinates.

    The two clusters are those of the clients' values in a coordinate. A coordinate is indicative if
    the centres of its two clusters are alpha or more apart in each of the first `warmup` rounds. A
    client is malicious in a round if it is in the smaller cluster of more than a share tau of the
    indicative coordinates.

    Shen, Tople, Saxena, "Auror: Defending Against Poisoning Attacks in Collaborative Deep Learning
    Systems", ACSAC 2016, which looks for indicative features in the first ten epochs. Ours: during
    these rounds the coordinates that were indicative so far decide; of two clusters of the same
    size neither is suspicious; clients are judged anew in each round. The paper's own limit is that
    a coordinate that is not indicative in one of the first rounds never becomes so. The state is
    the number of rounds seen, up to `warmup`, and the indicative coordinates (d,).

    2-means of numbers is a split of the sorted ones. It is found exactly by running sums, a block
    of coordinates at a time, where scikit-learn would need one call for each coordinate. Of equally
    good splits the lowest is taken.

    Requires n >= 2f + 1.

    Attributes:
        alpha: distance of the centres, in units of the updates.
        tau: share of the indicative coordinates, in [0, 1).
        warmup: rounds that choose the coordinates; 0: each round chooses its own.

    Example:
        >>> Auror(warmup=0)([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)
        array([2.5])
    """

    paper: ClassVar[str] = "Shen, Tople, Saxena, ACSAC 2016"
    cost: ClassVar[str] = "n log n d"
    alpha: float = 0.002
    tau: float = 0.5
    warmup: int = 10

    def __post_init__(self) -> None:
        positive("alpha", self.alpha)
        if not 0 <= self.tau < 1:
            raise ValueError(f"tau must lie in [0, 1), got {self.tau}")
        if self.warmup < 0:
            raise ValueError(f"warmup must not be negative, got {self.warmup}")

    @override
    def state_rows(self, n: int, rounds: int) -> tuple[float, float]:
        """Count a truth value for each coordinate."""
        return (0.25, 0.25) if self.warmup else (0, 0)

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        m, d = len(updates), updates.clients.shape[1]
        rounds, indicative = (0, None) if state is None else state
        choosing = self.warmup == 0 or rounds < self.warmup
        chosen = np.ones(d, bool) if indicative is None else indicative.copy()
        suspected, coordinates = np.zeros(m, np.int64), 0
        for columns, block in updates.blocks():
            width = max(1, _PART // m)
            for start in range(0, block.shape[1], width):
                part = block[:, start : start + width].cpu().numpy()
                first = columns.start + start
                mask = chosen[first : first + part.shape[1]]
                gap, smaller = _two_means(part)
                if choosing:
                    mask &= gap >= self.alpha
                suspected += np.count_nonzero(smaller & mask, axis=1)
                coordinates += np.count_nonzero(mask)
        kept = np.flatnonzero(suspected <= self.tau * coordinates)
        if self.warmup == 0:
            return kept, None
        return kept, (min(rounds + 1, self.warmup), chosen)


def _two_means(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best split in two of each column.

    Args:
        values: (m, w).

    Returns:
        The distance of the two means (w,), and whether each value is in the smaller part (m, w).
        The distance is 0, and no value is, where all values are equal.
    """
    m = len(values)
    if m == 1:
        return np.zeros(values.shape[1]), np.zeros(values.shape, bool)
    ordered = np.sort(values, axis=0)
    count = np.arange(1.0, m)[:, None]
    huge = float(np.abs(ordered[[0, -1]]).max()) > 1e298  # sums would overflow
    parts = ordered * 2.0**-32 if huge else ordered
    # Both sums run from their own end, since in a difference of sums a huge value would cancel.
    gaps = np.cumsum(parts[:0:-1], axis=0, dtype=np.float64)[::-1] / (m - count)
    gaps -= np.cumsum(parts[:-1], axis=0, dtype=np.float64) / count
    quality = gaps * np.sqrt(count * (m - count))  # orders splits as the squares between them do
    quality[ordered[1:] == ordered[:-1]] = 0.0
    best = quality.argmax(0)[None]
    gap = np.where(np.take_along_axis(quality, best, 0) > 0, np.take_along_axis(gaps, best, 0), 0.0)
    below = values <= np.take_along_axis(ordered, best, 0)
    size = best + 1
    smaller = (below == (2 * size < m)) & (2 * size != m) & (gap > 0)
    return gap[0], smaller

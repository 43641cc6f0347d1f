"""Detection: stages that throw suspicious vectors out before a rule sees them.

The defence pipeline receive -> detect -> filter -> aggregate is a chain whose first stage is one
of these.
"""

from dataclasses import dataclass

import numpy as np

from benchmark.aggregators.base import Stage, positive
from benchmark.kernels.gram import gram, squared_distances
from benchmark.kernels.order import sorted_mean


@dataclass(frozen=True)
class MedianDistance(Stage):
    """Drop vectors whose distance to the coordinate-wise median is an outlier.

    With distances r_i, the robust z-score is z_i = (r_i - median(r)) / (1.4826 MAD(r)), MAD being
    the median absolute deviation (Iglewicz, Hoaglin, "How to Detect and Handle Outliers", 1993).
    Vectors with z_i > threshold go, the farthest first and f at most, and the next stage reckons
    with as many Byzantine ones fewer; so whatever is feasible before the filter is so behind it.

    Attributes:
        threshold: robust standard deviations.
    """

    threshold: float = 3.0

    def __post_init__(self):
        positive("threshold", self.threshold)

    def apply(self, updates, f, state, context):
        """See `Stage.apply`."""
        rows = updates.rows()
        n = len(rows)
        median, _ = sorted_mean(rows, (n - 1) // 2, n // 2 + 1)
        products = gram(rows, median)
        distance = np.sqrt(squared_distances(products[: n + 1, : n + 1])[n, :n])
        deviation = distance - np.median(distance)
        spread = 1.4826 * np.median(np.abs(deviation))
        suspects = np.flatnonzero(deviation > self.threshold * max(spread, 1e-300))
        dropped = suspects[np.argsort(-distance[suspects], kind="stable")][:f]
        kept = np.setdiff1d(np.arange(n), dropped)
        return updates.selected(kept), f - len(dropped), None

"""Detection: stages that remove suspicious vectors before a rule sees them.

The pipeline receive, detect, filter, aggregate is a chain whose first stage is one of these.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from benchmark.aggregators.context import Context
from benchmark.aggregators.contract import Accepted, Detector
from benchmark.aggregators.distances import median_distances
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import positive
from benchmark.kernels.order import sorted_mean


@dataclass(frozen=True)
class MedianDistance(Detector):
    """Drop vectors whose distance to the coordinate-wise median is an outlier.

    With distances r_i, the robust z-score is z_i = (r_i - median(r)) / (1.4826 MAD(r)), MAD being
    the median absolute deviation (Iglewicz, Hoaglin, "How to Detect and Handle Outliers", 1993).
    Vectors with z_i > threshold are dropped, the farthest first and f at most.

    Requires n >= 2f + 1.

    Attributes:
        threshold: in robust standard deviations.

    Example:
        >>> MedianDistance()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)  # 87 from the median
        array([2.5])
    """

    paper: ClassVar[str] = "Iglewicz, Hoaglin, 1993"
    cost: ClassVar[str] = "n log^2 n d"
    threshold: float = 3.0

    def __post_init__(self) -> None:
        positive("threshold", self.threshold)

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        distance = median_distances(updates)
        deviation = distance - np.median(distance)
        spread = 1.4826 * np.median(np.abs(deviation))
        suspects = np.flatnonzero(deviation > self.threshold * max(spread, 1e-300))
        dropped = suspects[np.argsort(-distance[suspects], kind="stable")][:f]
        return np.setdiff1d(np.arange(len(updates)), dropped), None


@dataclass(frozen=True)
class NormFilter(Detector):
    """Drop vectors whose norm is not within [lower, upper] times the median norm.

    The first test of SignGuard (Xu, Huang, Song, Lan, "Byzantine-robust Federated Learning through
    Collaborative Malicious Gradient Filtering", ICDCS 2022), with its bounds.

    Requires n >= 2f + 1.

    Attributes:
        lower, upper: in units of the median norm, 0 <= lower <= 1 <= upper.

    Example:
        >>> NormFilter()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)  # 90 > 3 * 3
        array([2.5])
    """

    paper: ClassVar[str] = "Xu et al., ICDCS 2022"
    cost: ClassVar[str] = "n^2 d"
    depends_on = "products"
    lower: float = 0.1
    upper: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.lower <= 1:
            raise ValueError(f"lower must lie in [0, 1], got {self.lower}")
        if not 1 <= self.upper < np.inf:
            raise ValueError(f"upper must be a number of at least 1, got {self.upper}")

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        norms = updates.norms
        middle = np.median(norms)
        kept = (self.lower * middle <= norms) & (norms <= self.upper * middle)
        return np.flatnonzero(kept), None


@dataclass(frozen=True)
class CosineFilter(Detector):
    """Drop vectors whose cosine to the coordinate-wise median is below the threshold.

    A common filter without a paper of its own. The reference is the median and not the mean, which
    a single long vector turns into any direction. The cosine with a zero vector, or with a median
    that is zero, is 0.

    Requires n >= 2f + 1.

    Attributes:
        threshold: in [-1, 1).

    Example:
        >>> CosineFilter()([[1.0], [2.0], [3.0], [-90.0]], f=1)  # the median is 1.5
        array([2.])
    """

    paper: ClassVar[str] = "none of its own"
    cost: ClassVar[str] = "n log^2 n d"
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if not -1 <= self.threshold < 1:
            raise ValueError(f"threshold must lie in [-1, 1), got {self.threshold}")

    @override
    def accept(self, updates: Updates, f: int, state: Any, context: Context) -> Accepted:
        m = len(updates)
        vectors, mixing = updates.unordered()
        median = sorted_mean(vectors, (m - 1) // 2, m // 2 + 1, mixing)[0]
        inner = updates.joined(median).inner
        norms = np.sqrt(np.diagonal(inner))
        cosine = inner[-1, :-1] / np.maximum(norms[:-1] * norms[-1], 1e-300)
        return np.flatnonzero(cosine >= self.threshold - 1e-6), None  # the cosine's rounding

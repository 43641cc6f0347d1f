"""Rules that look at every coordinate by itself: order statistics and means of near values.

Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", ICML 2018 (median, trimmed mean).
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from benchmark.aggregators.context import Context
from benchmark.aggregators.contract import Rule, Stepped, combined
from benchmark.aggregators.report import Report
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import one_of
from benchmark.kernels.order import Window, nearest_mean, sorted_mean
from benchmark.kernels.scale import squarable


class _RanksRule(Rule):
    """The mean, in each coordinate, of the order statistics low, ..., high - 1."""

    depends_on = "coordinates"

    def ranks(self, n: int, f: int) -> tuple[int, int]:
        """Return the ranks low and high of n values, from 0; high is left out."""
        raise NotImplementedError

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        low, high = self.ranks(len(updates), f)
        vectors, mixing = updates.unordered()
        aggregate, window = sorted_mean(vectors, low, high, mixing)
        return aggregate, None, report_of(window, updates)


def report_of(window: Window, updates: Updates) -> Report:
    """Return the report of a mean of order statistics of the vectors."""
    if window.mixing is None:
        return Report(window.share)

    def share(clients: np.ndarray) -> np.ndarray:
        weights = window.share(np.arange(len(updates)))
        return Report.of_shares(updates.shares(weights)).share(clients)

    return Report(share)


@dataclass(frozen=True)
class Median(_RanksRule):
    """The median of each coordinate.

    Requires n >= 2f + 1.

    Attributes:
        even: of an even number of values take the `mean` of the two middle ones, the `lower`
            (as torch.median does) or the `upper`.

    Example:
        >>> Median()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)
        array([3.])
    """

    paper: ClassVar[str] = "Yin et al., ICML 2018"
    cost: ClassVar[str] = "n log^2 n d"
    even: str = "mean"

    def __post_init__(self) -> None:
        one_of("even", self.even, ("mean", "lower", "upper"))

    @override
    def kappa(self, n: int, f: int) -> float | None:
        """Return 4 (1 + f / (n - 2f))^2 (Allouah et al., AISTATS 2023)."""
        return 4 * (1 + f / (n - 2 * f)) ** 2 if self.even == "mean" else None

    @override
    def ranks(self, n: int, f: int) -> tuple[int, int]:
        low = n // 2 if self.even == "upper" else (n - 1) // 2
        high = (n - 1) // 2 + 1 if self.even == "lower" else n // 2 + 1
        return low, high


@dataclass(frozen=True)
class TrimmedMean(_RanksRule):
    """In each coordinate, drop the b smallest and the b largest values and average the rest.

    Requires n >= 2f + 1.

    Attributes:
        ratio: trim b = floor(ratio * n) whatever f is; by default b = f.
        untrimmed: the aggregate where b = 0: the `mean`, or `zero`, as FLPoison's code has it.

    Example:
        >>> TrimmedMean()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)  # of 2, 3 and 4
        array([3.])
    """

    paper: ClassVar[str] = "Yin et al., ICML 2018"
    cost: ClassVar[str] = "n log^2 n d"
    ratio: float | None = None
    untrimmed: str = "mean"

    def __post_init__(self) -> None:
        one_of("untrimmed", self.untrimmed, ("mean", "zero"))
        if self.ratio is not None and not 0 <= self.ratio < 0.5:
            raise ValueError(f"ratio must lie in [0, 0.5), got {self.ratio}")

    @override
    def check(self, n: int, f: int) -> str | None:
        """Return the objection to 2f >= n; with a given ratio f plays no part."""
        return None if self.ratio is not None else super().check(n, f)

    @override
    def kappa(self, n: int, f: int) -> float | None:
        """Return 6 f / (n - 2f) (1 + f / (n - 2f)) (Allouah et al., AISTATS 2023)."""
        if self.ratio is not None or (f == 0 and self.untrimmed == "zero"):
            return None
        return 6 * f / (n - 2 * f) * (1 + f / (n - 2 * f))

    @override
    def ranks(self, n: int, f: int) -> tuple[int, int]:
        b = f if self.ratio is None else trimmed(self.ratio, n)
        return b, n - b

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        if self.untrimmed == "zero" and self.ranks(len(updates), f)[0] == 0:
            return combined(updates, np.zeros(len(updates)))
        return super().step(updates, f, state, context)


def trimmed(ratio: float, n: int) -> int:
    """Return how many of n values are trimmed at each end: floor(ratio * n), so that some stay."""
    return min(int(np.floor(ratio * n + 1e-9)), (n - 1) // 2)


@dataclass(frozen=True)
class MeaMed(Rule):
    """In each coordinate the mean of the n - f values nearest the median ("mean around median").

    Of equally near values the lower stays.

    Xie, Koyejo, Gupta, "Generalized Byzantine-tolerant SGD", arXiv 2018.

    Requires n >= 2f + 1.

    Example:
        >>> MeaMed()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)  # of the four nearest 3
        array([2.5])
    """

    paper: ClassVar[str] = "Xie, Koyejo, Gupta, 2018"
    cost: ClassVar[str] = "n log^2 n d"
    depends_on = "coordinates"

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        vectors, mixing = updates.unordered()
        vector, window = nearest_mean(vectors, len(updates) - f, mixing)
        return vector, None, report_of(window, updates)


@dataclass(frozen=True)
class Phocas(Rule):
    """In each coordinate the mean of the n - f values nearest the trimmed mean.

    The trimmed mean leaves out the f smallest and the f largest. Of equally near values the lower
    stays.

    Xie, Koyejo, Gupta, "Phocas: Dimensional Byzantine-Resilient Stochastic Gradient Descent",
    arXiv 2018.

    Requires n >= 2f + 1.

    Example:
        >>> Phocas()([[1.0], [2.0], [3.0], [7.0], [90.0]], f=1)  # of the four nearest 4
        array([3.25])
    """

    paper: ClassVar[str] = "Xie, Koyejo, Gupta, 2018"
    cost: ClassVar[str] = "n log^2 n d"
    depends_on = "coordinates"

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        vectors, mixing = updates.unordered()
        vector, window = nearest_mean(vectors, len(updates) - f, mixing, trim=f)
        return vector, None, report_of(window, updates)


@dataclass(frozen=True)
class FoundationFL(Rule):
    """A median or trimmed mean of the vectors and m copies of the one farthest from the extremes.

    With h and l the largest and the smallest value in each coordinate, vector i has the score
    min(|x_i - h|, |x_i - l|). The vector of the highest score, the lowest index of equal ones, is
    added m times.

    Fang, Nabavirazavi, Liu, Sun, Iyengar, Yang, "Do We Really Need to Design New Byzantine-robust
    Aggregation Rules?", NDSS 2025. A long vector with random signs is itself far from both
    extremes, which it stretches. If it is chosen, its copies may outvote the honest. So the rule
    does not withstand f Byzantine vectors in general.

    Requires n >= 2f + 1.

    Attributes:
        rule: `Median`, or `TrimmedMean` with the f smallest and the f largest left out. On the
            command line and for `benchmark.load` it may be a name, `median` or `trimmed_mean`.
        m: copies; by default half as many as there are vectors, rounded down.

    Example:
        >>> FoundationFL(m=2)([[1.0], [2.0], [4.0], [8.0], [9.0]], f=1)  # 4, farthest from 1 and 9
        array([4.4])
    """

    paper: ClassVar[str] = "Fang et al., NDSS 2025"
    cost: ClassVar[str] = "n log^2 n d"
    rule: Median | TrimmedMean = field(default_factory=TrimmedMean)
    m: int | None = None

    def __post_init__(self) -> None:
        if self.m is not None and self.m < 0:
            raise ValueError(f"m must not be negative, got {self.m}")

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        n = len(updates)
        copies = n // 2 if self.m is None else self.m
        best = np.full(copies, np.argmax(self.scores(updates)))
        extended = updates.selected(np.append(np.arange(n), best))
        return self.rule.step(extended, f, state, context)

    def scores(self, updates: Updates) -> np.ndarray:
        """Return the distances (m,) to the nearer of the two extremes, in any unit."""
        squared = np.zeros((2, len(updates)))
        for _, part in Updates(squarable(updates.clients), updates.mixing).blocks():
            part = part.double()
            for total, extreme in zip(squared, (part.amax(0), part.amin(0)), strict=True):
                total += (part - extreme).square().sum(1).cpu().numpy()
        return np.sqrt(squared.min(0))

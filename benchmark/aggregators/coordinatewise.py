"""Coordinate-wise median and trimmed mean.

Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", ICML 2018.
"""

from dataclasses import dataclass

import numpy as np

from benchmark.aggregators.base import Report, Rule, one_of
from benchmark.kernels.order import Window, sorted_mean


class _RanksRule(Rule):
    """Mean, in every coordinate, of the order statistics low..high-1."""

    def ranks(self, n: int, f: int) -> tuple[int, int]:
        """The ranks kept of n, from 0, the upper one excluded."""
        raise NotImplementedError

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        low, high = self.ranks(len(updates), f)
        vectors, mixing = updates.unordered()
        aggregate, window = sorted_mean(vectors, low, high, mixing)
        return aggregate, None, report_of(window, mixing)


def report_of(window: Window, mixing: np.ndarray | None) -> Report:
    """Report of the weights of clients whose vectors, or mixtures of them, entered a mean."""
    if mixing is None:
        return Report(window.share)
    sizes, everybody = np.abs(mixing), np.arange(len(mixing))
    return Report(
        lambda clients: Report.of_coefficients(window.share(everybody) @ sizes).share(clients)
    )


@dataclass(frozen=True)
class Median(_RanksRule):
    """The median of every coordinate.

    Attributes:
        even: of an even number of values take the `mean` of the two middle ones, the `lower`
            (as torch.median does) or the `upper`.
    """

    even: str = "mean"

    def __post_init__(self):
        one_of("even", self.even, ("mean", "lower", "upper"))

    def ranks(self, n, f):
        """The middle one or two."""
        low = n // 2 if self.even == "upper" else (n - 1) // 2
        high = (n - 1) // 2 + 1 if self.even == "lower" else n // 2 + 1
        return low, high


@dataclass(frozen=True)
class TrimmedMean(_RanksRule):
    """In every coordinate, drop the b smallest and the b largest values and average the rest.

    Attributes:
        ratio: trim b = floor(ratio * n) whatever f is; by default b = f.
    """

    ratio: float | None = None

    def __post_init__(self):
        if self.ratio is not None and not 0 <= self.ratio < 0.5:
            raise ValueError(f"ratio must lie in [0, 0.5), got {self.ratio}")

    def check(self, n: int, f: int) -> str | None:
        """2b < n; with a given ratio f plays no part."""
        return None if self.ratio is not None else super().check(n, f)

    def ranks(self, n, f):
        """b..n-b-1"""
        b = f if self.ratio is None else trimmed(self.ratio, n)
        return b, n - b


def trimmed(ratio: float, n: int) -> int:
    """How many of n values go at each end: floor(ratio * n), at least one or two stay."""
    return min(int(np.floor(ratio * n + 1e-9)), (n - 1) // 2)

"""Gradient splitting: a rule applied to groups of coordinates tells who is to be trusted.

Liu, Chen, Lyu, Wu, Wu, Chen, "Byzantine-Robust Learning on Heterogeneous Data via Gradient
Splitting", ICML 2023.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from benchmark.aggregators.base import Rule, Updates, combined, positive
from benchmark.aggregators.coordinatewise import MeaMed, Median, Phocas, TrimmedMean
from benchmark.aggregators.faba import FABA
from benchmark.aggregators.geometric_median import GeometricMedian
from benchmark.aggregators.krum import Bulyan, Krum, MultiKrum, krum_scores
from benchmark.aggregators.subset import MDA
from benchmark.kernels.arrays import suits
from benchmark.kernels.gram import gram, squared_distances
from benchmark.kernels.groups import group_distances
from benchmark.kernels.scale import squarable

_RULES = {
    "krum": Krum,
    "multi_krum": MultiKrum,
    "bulyan": Bulyan,
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "meamed": MeaMed,
    "phocas": Phocas,
    "geometric_median": GeometricMedian,
    "faba": FABA,
    "mda": MDA,
}

_SQUARED = 1 << 15  # distances at once: a quarter of a megabyte


@dataclass(frozen=True)
class GAS(Rule):
    """The mean of the n - f vectors that lie nearest to what a rule makes of groups of coordinates.

    The coordinates are split at random into p groups of equal size. The score of a vector is the
    sum over the groups of its distance, within the group, to the rule's result for the group; the
    n - f lowest scores win, of equal ones the lowest index.

    Requires what its rule requires.

    Attributes:
        rule: applied to each group: one of krum, multi_krum, bulyan, median, trimmed_mean, meamed,
            phocas, geometric_median, faba, mda, with their defaults; from Python also any rule
            object that needs nothing but the vectors; one with a state begins afresh each time.
        p: number of groups; one for each coordinate if there are fewer.
    """

    paper: ClassVar[str] = "Liu et al., ICML 2023"
    cost: ClassVar[str] = "the rule's, and n d"
    rule: Any = "krum"
    p: int = 1000

    def __post_init__(self):
        if not (isinstance(self.rule, Rule) or self.rule in _RULES):
            raise ValueError(f"rule must be one of {', '.join(_RULES)}, got {self.rule}")
        if self._base.needs:
            raise ValueError(f"rule must look at the vectors only, got {self._base.title}")
        positive("p", self.p)

    @property
    def _base(self) -> Rule:
        return self.rule if isinstance(self.rule, Rule) else _RULES[self.rule]()

    def check(self, n: int, f: int) -> str | None:
        """What the rule demands."""
        return self._base.check(n, f)

    def scratch_rows(self, n, f):
        """The vectors in the order of ids, and the groups."""
        return n + 3.5

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        n, d = len(updates), updates.clients.shape[1]
        base, order = self._base, context.generator().permutation(d).astype(np.int32)
        groups = list(map(np.sort, np.array_split(order, min(self.p, d))))
        if isinstance(base, Krum) and suits(updates.clients):
            scores = _distances_to_krums(base, squarable(updates.rows()), groups, f)
        else:
            scores = sum(self._distances(base, updates, group, f, context) for group in groups)
        weights = np.zeros(n)
        weights[np.argsort(scores, kind="stable")[: n - f]] = 1.0 / (n - f)
        return combined(updates, weights)

    def _distances(self, base: Rule, updates: Updates, group, f: int, context) -> np.ndarray:
        """(n,) distances to the rule's result in a group of coordinates."""
        part = Updates(updates.columns(group), None, updates.counts, updates.ids)
        aggregate, _, _ = base.step(part, f, base.init(), context)
        products = gram(part.clients, aggregate[None]).centred
        return np.sqrt(squared_distances(products)[-1, :-1])


def _distances_to_krums(rule: Krum, rows, groups: list[np.ndarray], f: int) -> np.ndarray:
    """(n,) the sum over the groups of the distances to Krum's pick in each, for many groups at
    once."""
    scores, together = np.zeros(len(rows)), max(1, _SQUARED // len(rows) ** 2)
    for start in range(0, len(groups), together):
        squared = group_distances(rows, groups[start : start + together])
        picks = krum_scores(squared, f, rule.distance, rule.neighbours).argmin(1)
        scores += np.sqrt(squared[np.arange(len(squared)), picks]).sum(0)
    return scores

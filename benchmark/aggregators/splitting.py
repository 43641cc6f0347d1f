"""Gradient splitting: a rule applied to groups of coordinates scores the vectors.

Liu, Chen, Lyu, Wu, Wu, Chen, "Byzantine-Robust Learning on Heterogeneous Data via Gradient
Splitting", ICML 2023.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.context import Context
from benchmark.aggregators.contract import Rule, Stepped, combined
from benchmark.aggregators.krum import Krum, krum_scores
from benchmark.aggregators.updates import Updates
from benchmark.config.checks import positive
from benchmark.kernels.arrays import supported_by_kernels
from benchmark.kernels.gram import gram, squared_distances
from benchmark.kernels.groups import group_distances
from benchmark.kernels.scale import squarable

_SQUARED = 1 << 15  # distances at once: a quarter of a megabyte


@dataclass(frozen=True)
class GAS(Rule):
    """The mean of the n - f vectors nearest to a rule's results in groups of coordinates.

    The coordinates are split at random into p groups of equal size. The score of a vector is the
    sum over the groups of its distance, within the group, to the rule's result for the group; the
    n - f lowest scores win, of equal ones the lowest index.

    Requires what its rule requires.

    Attributes:
        rule: applied to each group: any rule that needs nothing but the vectors. One with a state
            begins anew each time. On the command line and for `benchmark.load` it may be a name,
            with settings behind it if any: `krum strict=false`.
        p: number of groups; one for each coordinate if there are fewer.

    Example:
        >>> from benchmark.aggregators import Median
        >>> GAS(rule=Median())([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)
        array([2.5])
    """

    paper: ClassVar[str] = "Liu et al., ICML 2023"
    cost: ClassVar[str] = "the rule's, and n d"
    rule: Rule = field(default_factory=Krum)
    p: int = 1000

    def __post_init__(self) -> None:
        if self.rule.needs:
            raise ValueError(f"rule must look at the vectors only, got {self.rule.title}")
        positive("p", self.p)

    @override
    def check(self, n: int, f: int) -> str | None:
        """Return the objection of its rule."""
        return self.rule.check(n, f)

    @override
    def scratch_rows(self, n: int, f: int) -> float:
        """Count the vectors in the order of ids, and the groups."""
        return n + 3.5

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        n, d = len(updates), updates.clients.shape[1]
        order = context.generator().permutation(d).astype(np.int32)
        groups = list(map(np.sort, np.array_split(order, min(self.p, d))))
        if isinstance(self.rule, Krum) and supported_by_kernels(updates.clients):
            scores = _distances_to_krums(self.rule, squarable(updates.rows()), groups, f)
        else:
            scores = np.zeros(n)
            for group in groups:
                scores += self._distances(updates, group, f, context)
        weights = np.zeros(n)
        weights[np.argsort(scores, kind="stable")[: n - f]] = 1.0 / (n - f)
        return combined(updates, weights)

    def _distances(
        self, updates: Updates, group: np.ndarray, f: int, context: Context
    ) -> np.ndarray:
        """Return the distances (n,) to the rule's result in a group of coordinates."""
        part = Updates(updates.columns(group), None, updates.counts, updates.ids)
        aggregate, _, _ = self.rule.step(part, f, self.rule.init(), context)
        products = gram(part.clients, aggregate[None]).centred
        return np.sqrt(squared_distances(products)[-1, :-1])


def _distances_to_krums(
    rule: Krum, rows: torch.Tensor, groups: list[np.ndarray], f: int
) -> np.ndarray:
    """Return the sums (n,) over the groups of the distances to Krum's pick, many groups at once."""
    scores, together = np.zeros(len(rows)), max(1, _SQUARED // len(rows) ** 2)
    for start in range(0, len(groups), together):
        squared = group_distances(rows, groups[start : start + together])
        picks = krum_scores(squared, f, rule.distance, rule.neighbours).argmin(1)
        scores += np.sqrt(squared[np.arange(len(squared)), picks]).sum(0)
    return scores

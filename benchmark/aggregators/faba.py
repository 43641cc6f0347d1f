"""FABA: remove the vector farthest from the mean, again and again.

Xia, Tao, Hao, Li, "FABA: An Algorithm for Fast Aggregation against Byzantine Attacks in Distributed
Neural Networks", IJCAI 2019.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import override

from benchmark.aggregators.contract import WeightsRule
from benchmark.aggregators.updates import Updates


@dataclass(frozen=True)
class FABA(WeightsRule):
    """The mean of what is left when f times the vector farthest from the mean is removed.

    Each time the mean is that of the vectors that remain. Of equally far ones the lowest index is
    removed.

    Requires n >= 2f + 1.

    Example:
        >>> FABA()([[1.0], [2.0], [3.0], [4.0], [90.0]], f=1)
        array([2.5])
    """

    paper: ClassVar[str] = "Xia et al., IJCAI 2019"
    cost: ClassVar[str] = "n^2 d + f n^2"

    @override
    def combination(self, updates: Updates, f: int) -> np.ndarray:
        left = np.arange(len(updates))
        for _ in range(f):
            # |x_i - mean|^2 is the mean of i's squared distances less a constant of the set.
            squared = updates.distances[np.ix_(left, left)]
            left = np.delete(left, np.argmax(squared.sum(1)))
        weights = np.zeros(len(updates))
        weights[left] = 1.0 / len(left)
        return weights

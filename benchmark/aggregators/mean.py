"""The mean: federated averaging, optimal without Byzantine clients, lost with a single one.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks
from Decentralized Data", AISTATS 2017.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import override

from benchmark.aggregators.contract import WeightsRule
from benchmark.aggregators.updates import Updates


@dataclass(frozen=True)
class Mean(WeightsRule):
    """F(X) = sum_i w_i x_i with w_i = 1/n, or proportional to the clients' sample counts.

    Requires f < n only.

    Attributes:
        weighted: weigh by the number of training examples. Off by default: the number is the
            client's own claim, and a Byzantine one claims what it likes. Where a filter has left
            only clients without examples, they count alike.

    Example:
        >>> Mean()([[1.0], [4.0]])
        array([2.5])
        >>> Mean(weighted=True)([[1.0], [4.0]], counts=[2, 1])
        array([2.])
    """

    paper: ClassVar[str] = "McMahan et al., AISTATS 2017"
    cost: ClassVar[str] = "n d"
    weighted: bool = False

    @override
    def check(self, n: int, f: int) -> str | None:
        """Return None: the mean is defined for every f, it guarantees nothing."""
        return None

    @override
    def combination(self, updates: Updates, f: int) -> np.ndarray:
        counts = updates.prior(self.weighted)
        return counts / counts.sum()

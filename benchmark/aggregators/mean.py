"""The mean: federated averaging, optimal without Byzantine clients, lost with a single one.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks
from Decentralized Data", AISTATS 2017.
"""

from dataclasses import dataclass
from typing import ClassVar

from benchmark.aggregators.base import WeightsRule


@dataclass(frozen=True)
class Mean(WeightsRule):
    """F(X) = sum_i w_i x_i with w_i = 1/n, or proportional to the clients' sample counts.

    Requires f < n only.

    Attributes:
        weighted: weigh by the number of training examples. Off by default: the number is the
            client's own claim, and a Byzantine one claims what it likes. Where a filter has left
            only clients without examples they count alike.
    """

    paper: ClassVar[str] = "McMahan et al., AISTATS 2017"
    cost: ClassVar[str] = "n d"
    weighted: bool = False

    def check(self, n: int, f: int) -> str | None:
        """Defined for every f: it promises nothing."""
        return None

    def combination(self, updates, f):
        """(m,) 1/m each, or the shares of the sample counts."""
        counts = updates.prior(self.weighted)
        return counts / counts.sum()

"""FedProx: local training that is pulled back to the server's model.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated optimization in heterogeneous networks",
MLSys 2020.
"""

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from benchmark.federation.fedavg import FedAvg
from benchmark.federation.work import ClientWork, LocalTraining


@dataclass(frozen=True)
class ProximalTraining(LocalTraining):
    """Steps along the gradient of the loss and of mu / 2 |w - w_server|^2.

    Attributes:
        mu: weight of the distance to the server's model.
    """

    mu: float

    @override
    def correction(self, models: Tensor, starts: Tensor) -> Tensor:
        return self.mu * (models - starts)


@dataclass(frozen=True)
class FedProx(FedAvg):
    """FedAvg with the proximal term mu / 2 |w - w_server|^2 in every client's loss.

    Attributes:
        mu: weight of the term.
    """

    mu: float = 0.01

    @property
    @override
    def work(self) -> ClientWork:
        return ProximalTraining(**vars(super().work), mu=self.mu)

    @override
    def check(self) -> None:
        super().check()
        self.demand(self.mu >= 0, "mu", "must not be negative")

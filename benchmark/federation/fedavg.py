"""FedAvg: local training of every client in a round.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-efficient learning of deep networks
from decentralized data", AISTATS 2017.
"""

from dataclasses import dataclass

from typing_extensions import override

from benchmark.federation.algorithm import Algorithm
from benchmark.federation.server import ServerOptimizer, ServerSGD
from benchmark.federation.work import ClientWork, LocalTraining


@dataclass(frozen=True)
class FedAvg(Algorithm):
    """Local gradient descent on every client; model deltas are aggregated.

    Attributes:
        local_epochs, local_steps: length of local training, one of the two.
    """

    local_epochs: int | None = None
    local_steps: int | None = None

    @property
    @override
    def work(self) -> ClientWork:
        return LocalTraining(
            self.batch_size,
            self.weight_decay,
            self.horizontal_flip != "none",
            self.local_epochs,
            self.local_steps,
            self.rate,
        )

    @property
    @override
    def server(self) -> ServerOptimizer:
        return ServerSGD(lambda number: self.server_learning_rate, *self._momentum("server"))

    @override
    def check(self) -> None:
        super().check()
        lengths = self.local_epochs, self.local_steps
        for name, value in zip(("local_epochs", "local_steps"), lengths, strict=True):
            self.demand(value is None or value > 0, name, "must be positive")
        right = f"or fl.local_steps={self.local_steps}: set exactly one of the two"
        self.demand(lengths.count(None) == 1, "local_epochs", right)

"""FedSGD: one gradient of every client in a round.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-efficient learning of deep networks
from decentralized data", AISTATS 2017. With momentum at the workers: Karimireddy, He, Jaggi,
"Learning from history for Byzantine robust optimization", ICML 2021.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from benchmark.federation.algorithm import Algorithm
from benchmark.federation.server import ServerOptimizer, ServerSGD
from benchmark.federation.transforms import Clip, Transform
from benchmark.federation.work import ClientWork, Gradient


@dataclass(frozen=True)
class FedSGD(Algorithm):
    """One gradient a client and round; the model moves against the aggregate.

    Attributes:
        gradient_clip: largest norm of a client's gradient, after weight decay; None: none.
    """

    gradient_clip: float | None = None

    @property
    @override
    def work(self) -> ClientWork:
        return Gradient(self.batch_size, self.weight_decay, self.horizontal_flip != "none")

    @property
    @override
    def transforms(self) -> Sequence[Transform]:
        clip = [] if self.gradient_clip is None else [Clip(self.gradient_clip)]
        return [*clip, *super().transforms]

    @property
    @override
    def server(self) -> ServerOptimizer:
        return ServerSGD(
            lambda number: -self.rate(number) * self.server_learning_rate,
            *self._momentum("server"),
        )

    @override
    def check(self) -> None:
        super().check()
        clip = self.gradient_clip
        self.demand(clip is None or clip > 0, "gradient_clip", "must be positive")

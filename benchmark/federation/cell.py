"""A cell: one federated training run, as a value."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from benchmark.aggregators.chain import Chain
from benchmark.attacks.base import Attack
from benchmark.attacks.schedule import Schedule
from benchmark.config.keys import key_of
from benchmark.federation.algorithm import Algorithm
from benchmark.tasks import Classification, Task

_NONE: Any = None


@dataclass(frozen=True)
class Cell:
    """One federated training run: a resolved config, and what was built from it.

    Attributes:
        config: the resolved application config, plain values; nothing else decides the result.
        labels: how people call each part, for tables and plots.
        problem: why the cell is infeasible, None if it is not.
        scenario: digest of what cells share that are drawn into one figure.
        attack, schedule, rule, data, partition, model, task: the components.
        fl: the algorithm, with n and f as counts.

    Components and algorithm are None if a value was rejected, which only `problem` then tells.
    """

    config: dict[str, Any]
    labels: dict[str, str]
    problem: str | None
    scenario: str
    attack: Attack = _NONE
    schedule: Schedule = _NONE
    rule: Chain = _NONE
    data: Any = None
    partition: Any = None
    model: Any = None
    fl: Algorithm = _NONE
    task: Task = field(default_factory=Classification)

    @property
    def key(self) -> str:
        """Hash of the config and the schema version; names the cell's folder."""
        return self._key

    @cached_property
    def _key(self) -> str:
        return key_of(self.config)

    @property
    def seed(self) -> int:
        """The seed of all random streams."""
        return self.config["seed"]

    @property
    def n(self) -> int:
        """All clients."""
        return self.config["fl"]["num_clients"]

    @property
    def f(self) -> int:
        """The Byzantine ones among them."""
        return self.config["fl"]["num_byzantine"]

    @property
    def title(self) -> str:
        """The cell in one line."""
        return (
            f"attack={self.labels['attack']} aggregator={self.defence} "
            f"f={self.f}/{self.n} seed={self.seed}"
        )

    @property
    def defence(self) -> str:
        """The chain of stages and the rule, `nnm+krum`."""
        return "+".join(filter(None, (self.labels["pre_aggregator"], self.labels["aggregator"])))

"""A federated algorithm: what it is put together from, and the settings that every one has."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import cos, pi
from typing import Any, ClassVar, Self

from benchmark.config.errors import ConfigError
from benchmark.federation.sampling import Sampler, UniformSampling
from benchmark.federation.server import ServerOptimizer
from benchmark.federation.transforms import Momentum, Transform
from benchmark.federation.work import ClientWork


@dataclass(frozen=True)
class Algorithm(ABC):
    """A federated algorithm.

    It is put together from `work`, what a client does in a round; `transforms`, through which what
    a client has computed goes on its way to the server; `server`, which moves the model by the
    aggregate; and `sampler`, which decides who takes part.

    Attributes:
        num_clients: n, all clients; or give num_honest, then n = num_honest + f.
        byzantine_fraction: f / n, rounded to a count; num_byzantine gives the count itself.
        declared_byzantine: f as the server believes it; None: the true one.
        rounds: rounds of training.
        batch_size: examples of a client in a step.
        learning_rate: of whoever takes steps along gradients, the server or the clients.
        server_learning_rate: multiplies the aggregate.
        momentum: heavy-ball factor; momentum_at: `worker` (clients send momenta) or `server`.
        dampening: momentum is m <- b m + (1 - b) g if true, m <- b m + g otherwise.
        weight_decay: times the weights, added to every gradient (l2 regularisation).
        client_fraction: share of the clients that take part in a round.
        schedule: of the learning rate: `constant`, `multistep` (times decay at each milestone) or
            `cosine` (to zero at the last round).
        milestones, decay: of the multistep schedule; it changes after a milestone's round.
        evaluate_every: rounds between evaluations; the last round is always evaluated.
        evaluate_train: evaluate on the honest clients' training data as well.
        horizontal_flip: mirror images at random: `none`, `train` or `both` (testing too).
    """

    num_clients: int | None = 20
    num_honest: int | None = None
    byzantine_fraction: float | None = 0.2
    num_byzantine: int | None = None
    declared_byzantine: int | None = None
    rounds: int = 100
    batch_size: int = 32
    learning_rate: float = 0.1
    server_learning_rate: float = 1.0
    momentum: float = 0.0
    momentum_at: str = "worker"
    dampening: bool = True
    weight_decay: float = 0.0
    client_fraction: float = 1.0
    schedule: str = "constant"
    milestones: list[int] = field(default_factory=list)
    decay: float = 0.1
    evaluate_every: int = 10
    evaluate_train: bool = False
    horizontal_flip: str = "none"

    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "momentum_at": ("worker", "server"),
        "schedule": ("constant", "multistep", "cosine"),
        "horizontal_flip": ("none", "train", "both"),
    }

    @property
    @abstractmethod
    def work(self) -> ClientWork:
        """What a client does in a round."""

    @property
    @abstractmethod
    def server(self) -> ServerOptimizer:
        """What the server does with the aggregate."""

    @property
    def transforms(self) -> Sequence[Transform]:
        """What happens to a client's vector before it is sent, in order."""
        beta, alpha = self._momentum("worker")
        return [Momentum(beta, alpha)] if beta else []

    @property
    def sampler(self) -> Sampler:
        """Who takes part in a round."""
        return UniformSampling(self.client_fraction)

    @property
    def participants(self) -> int:
        """How many clients take part in a round."""
        return self.sampler.size(self.num_clients or 0)

    def resolved(self) -> Self:
        """Return the same with n, f and the declared f as counts.

        A given num_honest is kept: n then differs within one scenario, see `cell.Cell`.

        Raises:
            ConfigError: if a value makes no sense whatever the attack and the rule.
        """
        self.check()
        n, f = self._counts()
        declared = f if self.declared_byzantine is None else self.declared_byzantine
        counts = {"num_clients": n, "num_byzantine": f, "declared_byzantine": declared}
        return replace(self, byzantine_fraction=None, **counts)

    def check(self) -> None:
        """Raise ConfigError for a value that makes no sense; own settings are checked besides."""
        for name in (
            "rounds",
            "batch_size",
            "learning_rate",
            "server_learning_rate",
            "decay",
            "evaluate_every",
        ):
            self.demand(getattr(self, name) > 0, name, "must be positive")
        for name in ("num_clients", "num_honest"):
            value = getattr(self, name)
            self.demand(value is None or value > 0, name, "must be positive")
        for name, choices in self.choices.items():
            right = f"must be one of {', '.join(choices)}"
            self.demand(getattr(self, name) in choices, name, right)
        self.demand(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)")
        self.demand(self.weight_decay >= 0, "weight_decay", "must not be negative")
        self.demand(0 < self.client_fraction <= 1, "client_fraction", "must lie in (0, 1]")
        self.demand(min(self.milestones, default=1) > 0, "milestones", "must be positive")

    def demand(self, condition: bool, name: str, right: str) -> None:
        """Raise ConfigError that names a setting and what is right, unless a condition holds."""
        if not condition:
            raise ConfigError(f"fl.{name}={getattr(self, name)} {right}")

    def rate(self, round_number: int) -> float:
        """Return the learning rate of a round, from 1."""
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + cos(pi * (round_number - 1) / self.rounds))
        passed = 0
        if self.schedule == "multistep":
            passed = sum(round_number > milestone for milestone in self.milestones)
        return self.learning_rate * self.decay**passed

    def _momentum(self, place: str) -> tuple[float, float]:
        """Return the factors (b, a) of the momentum m <- b m + a g kept at a place; (0, 1) if none
        is."""
        if self.momentum == 0 or self.momentum_at != place:
            return 0.0, 1.0
        return self.momentum, 1.0 - self.momentum if self.dampening else 1.0

    def _counts(self) -> tuple[int, int]:
        f, fraction = self.num_byzantine, self.byzantine_fraction
        if f is None:
            if fraction is None:
                raise ConfigError("fl.num_byzantine: set it or fl.byzantine_fraction")
            self.demand(0 <= fraction < 1, "byzantine_fraction", "must lie in [0, 1)")
            if self.num_honest is None:
                f = round(fraction * (self.num_clients or 0))
            else:
                f = round(fraction * self.num_honest / (1 - fraction))
        if f < 0:
            raise ConfigError(f"fl.num_byzantine={f} must not be negative")
        if self.num_honest is not None:
            return self.num_honest + f, f
        if self.num_clients is None:
            raise ConfigError("fl.num_clients=None set it or fl.num_honest")
        if f >= self.num_clients:
            raise ConfigError(f"fl.num_byzantine={f} must be below n={self.num_clients}")
        return self.num_clients, f


def as_algorithm(built: Any) -> Algorithm:
    """Return what was built for `fl`, if it is an algorithm.

    Raises:
        ConfigError: if it is none.
    """
    if not isinstance(built, Algorithm):
        raise ConfigError(f"fl._target_: {type(built).__name__} is no Algorithm")
    return built

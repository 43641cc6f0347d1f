"""The settings of the federated algorithm."""

from dataclasses import asdict, dataclass, field
from math import cos, pi
from typing import Any

from benchmark.config.errors import ConfigError


@dataclass
class FL:
    """The federated algorithm.

    Attributes:
        algorithm: `fedsgd`, one gradient a client and round, or `fedavg`, local training.
        num_clients: n, all clients; or give num_honest, then n = num_honest + f.
        byzantine_fraction: f / n, rounded to a count; num_byzantine gives the count itself.
        declared_byzantine: f as the server believes it; null: the true one.
        rounds: rounds of training.
        batch_size: examples a client and step.
        local_epochs, local_steps: length of local training (fedavg), one of the two.
        learning_rate: of the server's step (fedsgd) or of the clients' (fedavg).
        server_learning_rate: multiplies the aggregate.
        momentum: heavy-ball factor; momentum_at: `worker` (clients send momenta) or `server`.
        dampening: momentum is m <- b m + (1 - b) g if true, m <- b m + g otherwise.
        gradient_clip: largest norm of a client's gradient, after weight decay; null: none.
        weight_decay: times the weights, added to every gradient (l2 regularisation).
        client_fraction: share of the clients that take part in a round.
        schedule: of the learning rate: `constant`, `multistep` (times decay at each milestone) or
            `cosine` (to zero at the last round).
        milestones, decay: of the multistep schedule; it changes after a milestone's round.
        evaluate_every: rounds between evaluations; the last round is always evaluated.
        evaluate_train: evaluate on the honest clients' training data as well.
        horizontal_flip: mirror images at random: `none`, `train` or `both` (testing too).
    """

    algorithm: str = "fedsgd"
    num_clients: int | None = 20
    num_honest: int | None = None
    byzantine_fraction: float | None = 0.2
    num_byzantine: int | None = None
    declared_byzantine: int | None = None
    rounds: int = 100
    batch_size: int = 32
    local_epochs: int | None = None
    local_steps: int | None = None
    learning_rate: float = 0.1
    server_learning_rate: float = 1.0
    momentum: float = 0.0
    momentum_at: str = "worker"
    dampening: bool = True
    gradient_clip: float | None = None
    weight_decay: float = 0.0
    client_fraction: float = 1.0
    schedule: str = "constant"
    milestones: list[int] = field(default_factory=list)
    decay: float = 0.1
    evaluate_every: int = 10
    evaluate_train: bool = False
    horizontal_flip: str = "none"

    def resolved(self) -> "FL":
        """The same with n, f and the declared f as counts.

        A given num_honest is kept: n then differs within one scenario, see `grid.Cell`.

        Raises:
            ConfigError: if a value makes no sense whatever the attack and the rule.
        """
        positive = ("rounds", "batch_size", "learning_rate", "server_learning_rate", "decay")
        for name in (*positive, "evaluate_every"):
            _demand(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        for name in ("num_clients", "num_honest", "local_epochs", "local_steps", "gradient_clip"):
            value = getattr(self, name)
            _demand(value is None or value > 0, name, value, "must be positive")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            _demand(value in choices, name, value, f"must be one of {', '.join(choices)}")
        _demand(0 <= self.momentum < 1, "momentum", self.momentum, "must lie in [0, 1)")
        _demand(self.weight_decay >= 0, "weight_decay", self.weight_decay, "must not be negative")
        _demand(
            0 < self.client_fraction <= 1, "client_fraction", self.client_fraction,
            "must lie in (0, 1]",
        )  # fmt: skip
        _demand(
            min(self.milestones, default=1) > 0, "milestones", self.milestones, "must be positive",
        )  # fmt: skip
        local = (self.local_epochs, self.local_steps)
        if self.algorithm == "fedavg":
            _demand(local.count(None) == 1, "local_epochs", local[0],
                    f"or fl.local_steps={local[1]}: set exactly one of the two")  # fmt: skip
            _demand(self.gradient_clip is None, "gradient_clip", self.gradient_clip,
                    "belongs to fl=fedsgd")  # fmt: skip
        else:
            _demand(local == (None, None), "local_steps", local[1],
                    f"and fl.local_epochs={local[0]} belong to fl=fedavg")  # fmt: skip
        n, f = self._counts()
        declared = f if self.declared_byzantine is None else self.declared_byzantine
        values = asdict(self) | {
            "num_clients": n,
            "byzantine_fraction": None,
            "num_byzantine": f,
            "declared_byzantine": declared,
        }
        return FL(**values)

    def _counts(self) -> tuple[int, int]:
        f, fraction = self.num_byzantine, self.byzantine_fraction
        if f is None and fraction is None:
            raise ConfigError("fl.num_byzantine: set it or fl.byzantine_fraction")
        if f is None:
            _demand(0 <= fraction < 1, "byzantine_fraction", fraction, "must lie in [0, 1)")
            if self.num_honest is None:
                f = round(fraction * (self.num_clients or 0))
            else:
                f = round(fraction * self.num_honest / (1 - fraction))
        _demand(f >= 0, "num_byzantine", f, "must not be negative")
        if self.num_honest is not None:
            return self.num_honest + f, f
        _demand(self.num_clients is not None, "num_clients", None, "set it or fl.num_honest")
        _demand(f < self.num_clients, "num_byzantine", f, f"must be below n={self.num_clients}")
        return self.num_clients, f

    def momentum_of(self, place: str) -> tuple[float, float]:
        """Factors (b, a) of the momentum m <- b m + a g kept at a place; (0, 1) if none is."""
        if self.momentum == 0 or self.momentum_at != place:
            return 0.0, 1.0
        return self.momentum, 1.0 - self.momentum if self.dampening else 1.0

    def rate(self, round: int) -> float:
        """The learning rate of a round, from 1."""
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + cos(pi * (round - 1) / self.rounds))
        passed = sum(round > m for m in self.milestones) if self.schedule == "multistep" else 0
        return self.learning_rate * self.decay**passed


_CHOICES = {
    "algorithm": ("fedsgd", "fedavg"),
    "momentum_at": ("worker", "server"),
    "schedule": ("constant", "multistep", "cosine"),
    "horizontal_flip": ("none", "train", "both"),
}


def _demand(condition: bool, name: str, value: Any, right: str) -> None:
    if not condition:
        raise ConfigError(f"fl.{name}={value} {right}")

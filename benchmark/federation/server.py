"""What the server does with the aggregate."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override


class ServerOptimizer(ABC):
    """How the model moves: by `rate` times what `step` makes of the aggregate."""

    @property
    def state_rows(self) -> int:
        """How many vectors of D numbers its state holds."""
        return 0

    @abstractmethod
    def rate(self, round_number: int) -> float:
        """Return what a move is multiplied by in a round, from 1; rules and attacks may know it."""

    @abstractmethod
    def step(self, aggregate: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the move (D,) for an aggregate (D,), and the new state.

        Args:
            aggregate: what the rule returned.
            state: what the last step returned, None at first. Its tensors may be overwritten.
        """


@dataclass(frozen=True)
class ServerSGD(ServerOptimizer):
    """Gradient descent, with or without momentum v <- beta v + alpha aggregate.

    Attributes:
        rates: the rate of a round.
        beta, alpha: the factors of the momentum; beta is 0 if there is none.
    """

    rates: Callable[[int], float]
    beta: float = 0.0
    alpha: float = 1.0

    @property
    @override
    def state_rows(self) -> int:
        return 1 if self.beta else 0

    @override
    def rate(self, round_number: int) -> float:
        return self.rates(round_number)

    @override
    def step(self, aggregate: Tensor, state: Any) -> tuple[Tensor, Any]:
        if not self.beta:
            return aggregate, None
        velocity = torch.zeros_like(aggregate) if state is None else state
        velocity.mul_(self.beta).add_(aggregate, alpha=self.alpha)
        return velocity, velocity

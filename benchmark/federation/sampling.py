"""Who takes part in a round."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from typing_extensions import override


class Sampler(ABC):
    """Who takes part in a round."""

    @abstractmethod
    def size(self, n: int) -> int:
        """Return how many of n clients take part in a round."""

    @abstractmethod
    def draw(self, n: int, stream: np.random.Generator) -> np.ndarray:
        """Return the ids (size,) of those of n clients who take part, in ascending order.

        Args:
            n: all clients.
            stream: of the round; a run in which everybody takes part asks for no draw.
        """


@dataclass(frozen=True)
class UniformSampling(Sampler):
    """A share of the clients, each as likely as any other, without replacement.

    Attributes:
        fraction: the share; at least one client takes part.
    """

    fraction: float

    @override
    def size(self, n: int) -> int:
        return max(1, round(self.fraction * n))

    @override
    def draw(self, n: int, stream: np.random.Generator) -> np.ndarray:
        return np.sort(stream.choice(n, self.size(n), replace=False))

"""What happens to a client's vector before it is sent: momentum, clipping, noise, quantisation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from benchmark.models.sequential import mix
from benchmark.models.tensors import lengths


class Transform(ABC):
    """One step of a client's vector on its way to the server.

    Attributes:
        remembers: whether a vector is kept for every client from round to round.
    """

    remembers: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self, vectors: Tensor, memory: Tensor | None, keys: Callable[[int], int]
    ) -> Tensor:
        """Return what becomes of the vectors of some clients.

        Args:
            vectors: (k, D) of k clients, may be overwritten.
            memory: (k, D) what is kept for these clients, zeros at first, to be overwritten; None
                unless it remembers.
            keys: 64 random bits of a client, by its place, for `benchmark.kernels.noise`.

        Returns:
            (k, D).
        """


@dataclass(frozen=True)
class Momentum(Transform):
    """Momentum m <- beta m + alpha g at the worker, which sends m.

    Attributes:
        beta, alpha: the factors.
    """

    beta: float
    alpha: float

    remembers: ClassVar[bool] = True

    @override
    def __call__(
        self, vectors: Tensor, memory: Tensor | None, keys: Callable[[int], int]
    ) -> Tensor:
        assert memory is not None
        mix(memory, vectors, self.beta, self.alpha)
        return memory


def fused(transforms: Sequence[Transform]) -> Momentum | None:
    """Return the momentum that gradients may be accumulated into, if that is all that becomes of
    them; None if they need room of their own."""
    if len(transforms) == 1 and isinstance(transforms[0], Momentum):
        return transforms[0]
    return None if transforms else Momentum(0.0, 1.0)


@dataclass(frozen=True)
class Clip(Transform):
    """Scale a vector that is longer than `norm` down to that length.

    Attributes:
        norm: the largest length.
    """

    norm: float

    @override
    def __call__(
        self, vectors: Tensor, memory: Tensor | None, keys: Callable[[int], int]
    ) -> Tensor:
        vectors *= (self.norm / lengths(vectors).clamp_min(1e-30)).clamp_max(1.0)
        return vectors

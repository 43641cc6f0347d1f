"""What every attack is: a frozen dataclass that declares what it reads and is given only that."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from benchmark.aggregators.base import Infeasible, as_matrix


class Forbidden(AttributeError):
    """An attack touched knowledge that it had not declared."""


class View:
    """One round as the attacker sees it.

    Args:
        n: updates that reach the server this round.
        f: those of them that are the attacker's.
        like: (0, d) an empty tensor with the dtype and device of the updates.
        reads: what the attack declared; all else raises `Forbidden`.
        generator: maps the place of a Byzantine client, 0..f-1, to its random stream of the round.
        own: (f, d) what the Byzantine clients would send if they were honest.
        honest: (n - f, d) what the honest clients send.
        replacement: () -> (d,) the aggregate that would put the attacker's target model in the
            place of the server's.
    """

    def __init__(
        self,
        n: int,
        f: int,
        like: torch.Tensor,
        reads: frozenset,
        generator: Callable[[int], torch.Generator],
        own: torch.Tensor | None = None,
        honest: torch.Tensor | None = None,
        replacement: Callable[[], torch.Tensor] | None = None,
    ):
        self.n = n
        self.f = f
        self.like = like
        self.generator = generator
        self._reads = reads
        self._own = own
        self._honest = honest
        self._replacement = replacement

    def _declared(self, name: str) -> None:
        if name not in self._reads:
            raise Forbidden(f"the attack reads '{name}' without declaring it in `reads`")

    @property
    def own(self) -> torch.Tensor:
        """(f, d) the Byzantine clients' own honest-protocol updates; for reading only."""
        self._declared("own")
        if self._own is None:
            raise ValueError("the attack needs the Byzantine clients' own updates: pass own=(f, d)")
        return self._own

    @property
    def honest(self) -> torch.Tensor:
        """(n - f, d) the honest updates; for reading only."""
        self._declared("honest")
        return self._honest

    @cached_property
    def honest_mean(self) -> torch.Tensor:
        """(d,) the mean of the honest updates; zero in a round without an honest client."""
        return self.honest.mean(0) if len(self.honest) else self.like.sum(0)

    @property
    def replacement(self) -> torch.Tensor:
        """(d,) the aggregate that would turn the server's model into the target model."""
        self._declared("replacement")
        if self._replacement is None:
            raise ValueError("the attack needs a target: pass replacement=(d,)")
        return self._replacement()


class Attack:
    """An attack. Subclasses are frozen dataclasses, declare `reads` and define `step`.

    Attributes:
        reads: which of "own", "honest", "replacement" the attacker knows.
        poisons: whether it changes the labels that Byzantine clients train on.
    """

    reads: ClassVar[frozenset] = frozenset()
    poisons: ClassVar[bool] = False

    def check(self, n: int, f: int) -> str | None:
        """None if it is defined for f Byzantine of n clients, otherwise why not."""
        return None

    def init(self) -> Any:
        """The state before the first round; None for a stateless attack."""
        return None

    def poison(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """The labels that a Byzantine client trains on, given its own."""
        return labels

    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        """One round: what the Byzantine clients send, (f, d), and the new state."""
        raise NotImplementedError

    def __call__(self, honest, f: int, own=None, replacement=None, seed: int = 0):
        """Attack once, from a fresh state.

        Args:
            honest: h vectors of d numbers, as a tensor, an array or a list of either; unchanged.
            f: how many vectors to send.
            own: f vectors, what the Byzantine clients would send if honest, where it is read.
            replacement: one vector, see `View`.
            seed: of the random streams.

        Returns:
            (f, d) vectors, of the same kind as `honest`.

        Raises:
            Infeasible: if the attack is not defined for this n and f.
            ValueError: if the vectors are not finite, or something that it reads is missing.
        """
        matrix, restore = as_matrix(honest)
        if f < 0:
            raise Infeasible(f"f must not be negative, got f={f}")
        reason = self.check(len(matrix) + f, f)
        if reason:
            raise Infeasible(reason)
        if f == 0:
            return restore(matrix[:0].clone())
        own_matrix = None if own is None else as_matrix(own)[0].to(matrix)
        if own_matrix is not None and own_matrix.shape != (f, matrix.shape[1]):
            raise ValueError(
                f"own must have shape {(f, matrix.shape[1])}, got {tuple(own_matrix.shape)}"
            )
        target = None if replacement is None else as_matrix([replacement])[0][0].to(matrix)
        if target is not None and len(target) != matrix.shape[1]:
            raise ValueError(f"replacement must have {matrix.shape[1]} numbers, got {len(target)}")
        view = View(
            n=len(matrix) + f,
            f=f,
            like=matrix[:0],
            reads=self.reads,
            generator=lambda i: torch.Generator().manual_seed(seed * 1_000_003 + i),
            own=own_matrix,
            honest=matrix,
            replacement=None if target is None else lambda: target,
        )
        sent, _ = self.step(view, self.init())
        return restore(sent.clone())

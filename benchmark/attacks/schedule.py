"""When Byzantine clients attack, how many of them, and which clients are compromised.

In a round in which a compromised client does not attack it follows the protocol and counts as
honest.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmark.config.checks import settings_have_their_types


@dataclass(frozen=True)
class Schedule:
    """Rounds and clients of an attack.

    Attributes:
        start: first round with an attack, from 1.
        stop: last round with an attack; null: until the end. With stop = start it is a single shot.
        every: rounds from the beginning of one attack to that of the next.
        lasting: rounds that each attack lasts, at most `every`.
        shares: pairs (round, share): from that round on, that share of the f compromised clients
            attacks, rounded up; before the first pair none does. Empty: always all.
        churn: share of the compromised clients that is replaced by others every `churn_every`
            rounds, rounded up: the attacker loses some and gains as many. f stays as it is.
        churn_every: rounds between replacements.

    Example:
        >>> schedule = Schedule(start=2, every=3)
        >>> [schedule.count(round_number, f=4) for round_number in range(1, 7)]
        [0, 4, 0, 0, 4, 0]
    """

    start: int = 1
    stop: int | None = None
    every: int = 1
    lasting: int = 1
    shares: list[list[float]] = field(default_factory=list)
    churn: float = 0.0
    churn_every: int = 10

    def __post_init__(self) -> None:
        settings_have_their_types(self)
        for name in ("start", "every", "lasting", "churn_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.stop is not None and self.stop < self.start:
            raise ValueError(f"stop must be at least start={self.start}, got {self.stop}")
        if self.lasting > self.every:
            raise ValueError(f"lasting must be at most every={self.every}, got {self.lasting}")
        if not 0 <= self.churn <= 1:
            raise ValueError(f"churn must lie in [0, 1], got {self.churn}")
        rounds = [pair[0] for pair in self.shares if len(pair) == 2]
        if len(rounds) < len(self.shares) or rounds != sorted(set(rounds)):
            raise ValueError(
                f"shares must be pairs [round, share] in the order of rounds, got {self.shares}"
            )
        if not all(0 <= share <= 1 for _, share in self.shares):
            raise ValueError(f"shares must lie in [0, 1], got {self.shares}")

    @property
    def constant(self) -> bool:
        """Whether the same clients attack in every round."""
        return self.always and not self.churn

    @property
    def always(self) -> bool:
        """Whether all compromised clients attack in every round."""
        return (self.start, self.stop, self.lasting) == (1, None, self.every) and not self.shares

    def count(self, round_number: int, f: int) -> int:
        """Return how many of f compromised clients attack in a round."""
        over = self.stop is not None and round_number > self.stop
        since = round_number - self.start
        if since < 0 or over or since % self.every >= self.lasting:
            return 0
        if not self.shares:
            return f
        share = [share for start, share in self.shares if start <= round_number][-1:] or [0.0]
        return int(np.ceil(share[0] * f - 1e-9))

    def compromised(
        self, stream: Callable[[str, int], np.random.Generator], n: int, f: int, round_number: int
    ) -> np.ndarray:
        """Return the (f,) ids of the compromised clients, in the order in which they join in.

        Args:
            stream: maps a purpose and a number to a random stream.
            n: number of all clients.
            f: number of the compromised ones among them.
            round_number: from 1.
        """
        order = stream("byzantine", 0).permutation(n)
        bad, good = order[:f], order[f:]
        replaced = min(int(np.ceil(self.churn * f - 1e-9)), len(good))
        epochs = (round_number - 1) // self.churn_every if replaced else 0
        for epoch in range(1, epochs + 1):
            draws = stream("churn", epoch)
            out = draws.choice(f, replaced, replace=False)
            into = draws.choice(len(good), replaced, replace=False)
            bad[out], good[into] = good[into], bad[out]
        return bad

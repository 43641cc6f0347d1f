"""The most damaging of several attacks, chosen anew in every round."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.state import rows_of_states
from benchmark.attacks.base import Attack
from benchmark.attacks.distance import MinMax
from benchmark.attacks.searching import MEASURES, ask
from benchmark.attacks.simple import SignFlip
from benchmark.attacks.statistics import ALittleIsEnough, InnerProductManipulation
from benchmark.attacks.view import POPULATIONS, Knowledge, View
from benchmark.config.checks import one_of


@dataclass(frozen=True)
class WorstOf(Attack):
    """In every round the most damaging of several attacks, found by asking the server's rule what
    it would make of each.

    Every attack sees only what it declares itself, and keeps its state as if it had been chosen.

    Knows all honest updates, in the partial form its clients' own only; and the server's rule.

    Attributes:
        damage: `descent` or `distance`, as for `Adaptive`.
        attacks: the attacks to choose from. On the command line and for `benchmark.load` they may
            be names, with settings behind them if any: `ipm epsilon=0.1`.
        knowledge: `honest`; or `byzantine`: the damage is measured on an estimate of the honest
            updates from the own ones, and all attacks take their partial-knowledge form.

    Example:
        >>> from benchmark.aggregators import Mean
        >>> from benchmark.attacks import Scale, SignFlip
        >>> attack = WorstOf(attacks=[SignFlip(), Scale(scale=-5.0)])
        >>> attack([[1.0], [3.0]], f=1, own=[[2.0]], rule=Mean())  # -10 moves the mean more than -2
        array([[-10.]])
    """

    paper: ClassVar[str] = "none of its own"
    cost: ClassVar[str] = "that of all, and a rule for each"
    damage: str = "descent"
    attacks: list[Attack] = field(
        default_factory=lambda: [
            SignFlip(),
            InnerProductManipulation(),
            ALittleIsEnough(),
            MinMax(),
        ]
    )
    knowledge: str = "honest"

    def __post_init__(self) -> None:
        one_of("damage", self.damage, MEASURES)
        one_of("knowledge", self.knowledge, tuple(POPULATIONS))
        if not self.attacks:
            raise ValueError("attacks must not be empty")
        for attack in self.attacks:
            if attack.poisons or Knowledge.DATA in attack.reads:
                raise ValueError(
                    f"attacks: {attack.title} works through training data, which cannot be chosen "
                    "round by round"
                )

    @cached_property
    def members(self) -> list[Attack]:
        """The attacks, with this one's knowledge if it is partial."""
        if self.knowledge == "honest":
            return list(self.attacks)
        attacks = cast(list[Any], self.attacks)  # of which type checkers do not see: dataclasses
        return [
            replace(attack, knowledge="byzantine") if hasattr(attack, "knowledge") else attack
            for attack in attacks
        ]

    @property
    @override
    def reads(self) -> frozenset[Knowledge]:  # pyright: ignore[reportIncompatibleVariableOverride]
        # A constant of each attack, but not of this class: what any of the attacks reads, and what
        # it takes to measure their damage.
        needed = {POPULATIONS[self.knowledge], Knowledge.RULE}
        return frozenset(needed).union(*(member.reads for member in self.members))

    @override
    def check(self, n: int, f: int) -> str | None:
        for member in self.members:
            reason = member.check(n, f)
            if reason:
                return f"{reason} in attack.attacks, or leave it out"
        return None

    @override
    def init(self) -> tuple:
        return tuple(member.init() for member in self.members)

    @override
    def state_rows(self, n: int, rounds: int) -> tuple[float, float]:
        return rows_of_states(self.members, n, rounds)

    @override
    def scratch_rows(self, n: int, f: int) -> float:
        most = max(member.scratch_rows(n, f) for member in self.members)
        return max(most, 2 * f + 2 * len(self.members) + 1)

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        pairs = zip(self.members, state, strict=True)
        steps = [member.step(view.only(member.reads), before) for member, before in pairs]
        sent, states = zip(*steps, strict=True)
        # Where there is no honest client, and so no damage, the first attack is taken.
        return sent[self._most_damaging(view, sent) if view.n > view.f else 0], states

    def _most_damaging(self, view: View, sent: Sequence[torch.Tensor]) -> int:
        """Return the number of the most damaging of these (f, d) vectors, the first of equals.

        Vectors that are not finite do no damage: the server will discard them.
        """
        known, damage = view.known(self.knowledge), np.zeros(len(sent))
        # Most attacks send f times the same vector, in the same memory.
        rows = [part[:1] if part.stride(0) == 0 else part for part in sent]
        finite = [bool(torch.isfinite(part.sum())) for part in rows]
        extra = [part for part, good in zip(rows, finite, strict=True) if good]
        questions = ask(view, self.knowledge, torch.cat([*extra, known[:0]]))
        start = len(known)
        for i in np.flatnonzero(finite):
            own = np.eye(start + len(rows[i]), len(questions.mean))[start:]
            damage[i] = questions.damage(own, self.damage)
            start += len(rows[i])
        return int(damage.argmax())

"""Attacks that ask the server's rule, many times a round, how far a candidate would move it.

All candidates lie in the span of what the attacker knows and of one or two directions, so a
question costs arithmetic on small matrices only, see `oracle`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from scipy.linalg import eigh

from benchmark.aggregators.base import one_of
from benchmark.aggregators.state import rows_of_states
from benchmark.attacks.base import POPULATIONS, Attack, Informed, Knowledge
from benchmark.attacks.oracle import Questions
from benchmark.kernels.scale import length

_MEASURES = ("descent", "distance")  # of damage, see `Questions.damage`
_REACH = 6  # magnitudes are searched from 2^-6 to 2^6 first


def most_damaging(
    damage: Callable[[int, float], float], evaluations: int, lines: int = 1
) -> tuple[int, float]:
    """The line and the positive magnitude on it at which the damage is largest.

    On every line half the evaluations go over magnitudes evenly spaced on a logarithmic scale from
    1/64 to 64. Where that did half the damage that it did on the worst line, or more,
    the step is halved around the best so far with the other half. What is returned was evaluated;
    of magnitudes that do as much damage, up to a thousandth, it is the smallest, which stands out
    least, and does not depend on rounding.
    """
    coarse = max(2, evaluations // 2)
    exponents = np.linspace(-_REACH, _REACH, coarse)
    found = [{e: damage(line, 2.0**e) for e in exponents} for line in range(lines)]
    limit = _almost(max(max(tried.values()) for tried in found), 0.5)
    for line, tried in enumerate(found):
        step = 2.0 * _REACH / (coarse - 1)
        while max(tried.values()) >= limit and len(tried) < evaluations:
            step /= 2
            best = _smallest_of_the_worst(tried)
            near = [e for e in (best + step, best - step) if abs(e) <= _REACH]
            for exponent in near[: evaluations - len(tried)]:
                tried[exponent] = damage(line, 2.0**exponent)
    worst = max(range(lines), key=lambda line: max(found[line].values()))
    return worst, float(2.0 ** _smallest_of_the_worst(found[worst]))


def _smallest_of_the_worst(tried: dict[float, float]) -> float:
    limit = _almost(max(tried.values()), 1e-3)
    return min(exponent for exponent, damage in tried.items() if damage >= limit)


def _almost(damage: float, share: float) -> float:
    return damage - share * abs(damage) if np.isfinite(damage) else damage


def standins(known: int, honest: int, generator: np.random.Generator) -> np.ndarray:
    """(honest, known) coefficients of vectors to be taken for the honest ones: Gaussian, with the
    mean and the sample covariance of the known vectors.

    Coefficients are 1/k + (e - mean of e) / sqrt(k - 1), e standard normal.
    """
    draws = generator.normal(size=(honest, known))
    draws -= draws.mean(1, keepdims=True)
    return 1.0 / known + draws / np.sqrt(max(1, known - 1))


@dataclass(frozen=True)
class _Searching(Informed):
    """An attack that knows the server's rule.

    Attributes:
        evaluations: questions to the rule a round; of several directions, half as many for each
            and as many again for those that do about as much damage as the best.
    """

    evaluations: int = 20
    also_reads: ClassVar[frozenset] = frozenset({Knowledge.RULE})

    def __post_init__(self):
        super().__post_init__()
        if self.evaluations < 2:
            raise ValueError(f"evaluations must be 2 or more, got {self.evaluations}")

    def step(self, view, state):
        """See `Informed.step`. Where there is no honest client there is no damage to look for."""
        if view.n == view.f:
            return view.mean(self.knowledge).expand(view.f, -1), state
        return super().step(view, state)

    def ask(self, view, extra=None) -> Questions:
        """Questions about combinations of the known vectors and of (e, d) extra ones."""
        return _questions(view, self.knowledge, extra)

    def search(
        self, questions: Questions, *lines: tuple, measure: str = "distance"
    ) -> tuple[int, float]:
        """Which of the lines (start, direction), and which magnitude m on it, is most damaging:
        start + m * direction, all f alike."""

        def damage(line: int, m: float) -> float:
            start, direction = lines[line]
            return questions.damage((start + m * direction)[None], measure)

        return most_damaging(damage, self.evaluations, len(lines))


def _questions(view, knowledge: str, extra: torch.Tensor | None) -> Questions:
    known, coefficients = view.known(knowledge), None
    if knowledge == "byzantine":
        coefficients = standins(len(known), view.n - view.f, view.generator())
    return view.rule.about(known, extra, coefficients, view.generator())


@dataclass(frozen=True)
class OptimalIPM(_Searching):
    """b = -epsilon * mean of the honest, with the epsilon > 0 that moves the aggregate of the
    server's rule farthest from that mean.

    El Mhamdi, Guerraoui, Rouault, "Distributed Momentum for Byzantine-resilient Stochastic Gradient
    Descent", ICLR 2021 (the search); Xie, Koyejo, Gupta, UAI 2019 (the direction). Here the search
    is `most_damaging`.

    Knows all honest updates, in the partial form its clients' own only; and the server's rule.
    """

    paper: ClassVar[str] = "El Mhamdi et al., ICLR 2021"
    cost: ClassVar[str] = "n^2 d + T rule(n)"

    def craft(self, view, known, state):
        """See `Informed.craft`."""
        questions = self.ask(view)
        _, epsilon = self.search(questions, (0.0 * questions.mean, -questions.mean))
        return (view.mean(self.knowledge) * -epsilon).expand(view.f, -1), state


@dataclass(frozen=True)
class OptimalALIE(_Searching):
    """b = mean - z * std, with the z > 0 that moves the aggregate of the server's rule farthest.

    El Mhamdi, Guerraoui, Rouault, ICLR 2021 (the search); Baruch, Baruch, Goldberg, NeurIPS 2019
    (the direction).

    Knows all honest updates, in the partial form its clients' own only; and the server's rule.

    Attributes:
        both_sides: search z < 0 as well.
    """

    paper: ClassVar[str] = "El Mhamdi et al., ICLR 2021"
    cost: ClassVar[str] = "n^2 d + T rule(n)"
    both_sides: bool = False

    def craft(self, view, known, state):
        """See `Informed.craft`."""
        mean, std = view.mean_and_std(self.knowledge)
        questions = self.ask(view, std[None])
        signs = (-1.0, 1.0) if self.both_sides else (-1.0,)
        lines = [(questions.mean, sign * _unit(questions)) for sign in signs]
        line, z = self.search(questions, *lines)
        return (mean + signs[line] * z * std).expand(view.f, -1), state


def _unit(questions: Questions, place: int = -1) -> np.ndarray:
    """Coefficients of one base vector, by default the last."""
    row = np.zeros(len(questions.mean))
    row[place] = 1.0
    return row


DIRECTIONS = ("std", "sign", "unit")


def perturbation(direction: str, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Shejwalkar and Houmansadr's perturbations p: `std` -std, `sign` -sign(mean), `unit`
    -mean / |mean|."""
    if direction == "std":
        return -std
    if direction == "sign":
        return -torch.sign(mean)
    size = length(mean)
    return -mean / size if size > 0 else -mean


@dataclass(frozen=True)
class AGRTailored(_Searching):
    """b = mean + gamma * p, with the gamma > 0 that moves the aggregate of the server's rule
    farthest from the mean; for any rule.

    Shejwalkar, Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and
    Defenses for Federated Learning", NDSS 2021, section IV. Instead of a derivation for each rule,
    the rule itself is asked.

    Knows all honest updates, in the partial form its clients' own only; and the server's rule.

    Attributes:
        direction: p: `std` -std of the coordinates, `sign` -sign(mean), `unit` -mean / |mean|.
    """

    paper: ClassVar[str] = "Shejwalkar, Houmansadr, NDSS 2021"
    cost: ClassVar[str] = "n^2 d + T rule(n)"
    direction: str = "std"

    def __post_init__(self):
        super().__post_init__()
        one_of("direction", self.direction, DIRECTIONS)

    def craft(self, view, known, state):
        """See `Informed.craft`."""
        mean, std = view.mean_and_std(self.knowledge)
        p = perturbation(self.direction, mean, std)
        questions = self.ask(view, p[None])
        _, gamma = self.search(questions, (questions.mean, _unit(questions)))
        return (mean + gamma * p).expand(view.f, -1), state


@dataclass(frozen=True)
class BulyanCoordinate(_Searching):
    """b = mean + m * e, with the m > 0 that moves the aggregate of the server's rule farthest; e is
    one coordinate, or all of them.

    El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium",
    ICML 2018: in high dimension a rule that looks at distances cannot see a large change of a
    single coordinate. m is searched in units of the root mean square distance of the honest vectors
    from their mean.

    Knows all honest updates, in the partial form its clients' own only; and the server's rule.

    Attributes:
        coordinate: which one, counted from the end if negative; null: all.
    """

    paper: ClassVar[str] = "El Mhamdi et al., ICML 2018"
    cost: ClassVar[str] = "n^2 d + T rule(n)"
    coordinate: int | None = -1

    def craft(self, view, known, state):
        """See `Informed.craft`."""
        mean, std = view.mean_and_std(self.knowledge)
        e = torch.zeros_like(mean)
        if self.coordinate is None:
            e += length(std) / len(mean) ** 0.5
        else:
            e[self.coordinate % len(mean)] = length(std)
        questions = self.ask(view, e[None])
        _, m = self.search(questions, (questions.mean, _unit(questions)))
        return (mean + m * e).expand(view.f, -1), state


@dataclass(frozen=True)
class Adaptive(_Searching):
    """The most damaging vector over several directions and all magnitudes, found by asking the
    server's complete chain: an attacker that knows its enemy (Tutorial 027, exercise 2).

    It looks one round ahead: what does less in every round may do more in the end, and against
    rules with a memory often does.

    Candidates, each with its magnitude searched, are: from zero, against the mean (as in `ipm`);
    from the mean, along the deviations to either side, against the signs of the mean, and to either
    side along the direction in which the honest vectors differ most.

    Knows all honest updates, in the partial form its clients' own only; and the server's rule, and
    its root data if `knows_root`.

    Attributes:
        damage: what is searched for: the least `descent`, that is the aggregate F with the smallest
            part along the honest mean, which would lower the loss fastest; or the largest
            `distance` of F from that mean, which any other direction adds to as well.
        knows_root: whether it knows the server's root data too, if the rule has any; otherwise it
            takes the mean of the vectors it knows for their update.
    """

    paper: ClassVar[str] = "Tutorial 027, exercise 2"
    cost: ClassVar[str] = "n^2 d + T rule(n)"
    damage: str = "descent"
    knows_root: bool = False

    def __post_init__(self):
        super().__post_init__()
        one_of("damage", self.damage, _MEASURES)

    @property
    def reads(self) -> frozenset:
        """A population, the rule, and the root data if it knows them."""
        return super().reads | ({Knowledge.ROOT} if self.knows_root else set())

    def craft(self, view, known, state):
        """See `Informed.craft`."""
        mean, std = view.mean_and_std(self.knowledge)
        signs = torch.sign(mean)
        signs *= length(std) / max(1, len(mean)) ** 0.5
        extra = torch.stack([std, signs])
        questions = self.ask(view, extra)
        centre, principal = questions.mean, _principal(questions, len(known))
        lines = [
            (0.0 * centre, -centre),
            (centre, -_unit(questions, -2)),
            (centre, _unit(questions, -2)),
            (centre, -_unit(questions, -1)),
            (centre, -principal),
            (centre, principal),
        ]
        line, magnitude = self.search(questions, *lines, measure=self.damage)
        start, direction = lines[line]
        weights = torch.as_tensor(start + magnitude * direction).to(known)
        vector = weights[: len(known)] @ known + weights[len(known) :] @ extra
        return vector.expand(view.f, -1), state


def _principal(questions: Questions, known: int) -> np.ndarray:
    """Coefficients of the direction of largest variance of the known vectors about their mean, as
    long as that deviation. The sign is such that its largest coefficient is positive."""
    centring = np.eye(known) - 1.0 / known
    products = centring @ questions.products[:known, :known] @ centring
    _, vectors = eigh(products, driver="evd")
    top = vectors[:, -1] * np.sign(vectors[np.abs(vectors[:, -1]).argmax(), -1])
    row = np.zeros(len(questions.mean))
    row[:known] = centring @ top / np.sqrt(max(1, known - 1))
    return row


@dataclass(frozen=True)
class WorstOf(Attack):
    """In every round the most damaging of several attacks, found by asking the server's rule what
    it would make of each.

    Every attack sees only what it declares itself, and keeps its state as if it had been chosen.

    Knows all honest updates, in the partial form its clients' own only; and the server's rule.

    Attributes:
        damage: `descent` or `distance`, as for `Adaptive`.
        attacks: their names, with settings behind them if any: `ipm epsilon=0.1`.
        knowledge: `honest`; or `byzantine`: the damage is measured on an estimate of the honest
            updates from the own ones, and all attacks take their partial-knowledge form.
    """

    paper: ClassVar[str] = "none of its own"
    cost: ClassVar[str] = "that of all, and a rule for each"
    damage: str = "descent"
    attacks: list[str] = field(default_factory=lambda: ["sign_flip", "ipm", "alie", "min_max"])
    knowledge: str = "honest"

    def __post_init__(self):
        one_of("damage", self.damage, _MEASURES)
        one_of("knowledge", self.knowledge, tuple(POPULATIONS))
        if not self.attacks:
            raise ValueError("attacks must not be empty")
        from benchmark.grid.catalogue import in_full

        for attack in self.attacks:
            if not isinstance(attack, str | Attack):
                raise ValueError(f"attacks must be names or attacks, got {attack!r}")
        full = [a if isinstance(a, Attack) else in_full("attack", a) for a in self.attacks]
        object.__setattr__(self, "attacks", full)
        for member in self.members:
            if member.poisons or Knowledge.DATA in member.reads:
                raise ValueError(f"attacks: {member.title} works through training data, which "
                                 "cannot be chosen round by round")  # fmt: skip

    @cached_property
    def members(self) -> list[Attack]:
        """The attacks themselves."""
        from benchmark.grid.catalogue import component

        members = [a if isinstance(a, Attack) else component("attack", a) for a in self.attacks]
        if self.knowledge == "honest":
            return members
        return [replace(member, knowledge="byzantine") if hasattr(member, "knowledge") else member
                for member in members]  # fmt: skip

    @property
    def reads(self) -> frozenset:
        """What any of them reads, and what it takes to measure their damage."""
        needed = {POPULATIONS[self.knowledge], Knowledge.RULE}
        return frozenset(needed).union(*(member.reads for member in self.members))

    def check(self, n: int, f: int) -> str | None:
        """The first attack's objection."""
        for member in self.members:
            reason = member.check(n, f)
            if reason:
                return f"{reason} in attack.attacks, or leave it out"
        return None

    def init(self) -> tuple:
        """One state an attack."""
        return tuple(member.init() for member in self.members)

    def state_rows(self, n, rounds):
        """The sums of the attacks'."""
        return rows_of_states(self.members, n, rounds)

    def scratch_rows(self, n, f):
        """What each of them would send, and what the most demanding one needs."""
        most = max(member.scratch_rows(n, f) for member in self.members)
        return max(most, 2 * f + 2 * len(self.members) + 1)

    def step(self, view, state):
        """See `Attack.step`. Where there is no honest client the first attack is taken."""
        steps = [member.step(view.only(member.reads), before)
                 for member, before in zip(self.members, state, strict=True)]  # fmt: skip
        sent, states = zip(*steps, strict=True)
        return sent[self._worst(view, sent) if view.n > view.f else 0], states

    def _worst(self, view, sent: Sequence[torch.Tensor]) -> int:
        """The number of the most damaging of these (f, d) vectors; the first of equals. What is not
        finite is not: the server will discard it."""
        known, damage = view.known(self.knowledge), np.zeros(len(sent))
        # Most attacks send f times the same vector, in the same memory.
        rows = [part[:1] if part.stride(0) == 0 else part for part in sent]
        finite = [bool(torch.isfinite(part.sum())) for part in rows]
        extra = [part for part, good in zip(rows, finite, strict=True) if good]
        questions = _questions(view, self.knowledge, torch.cat([*extra, known[:0]]))
        start = len(known)
        for i in np.flatnonzero(finite):
            own = np.eye(start + len(rows[i]), len(questions.mean))[start:]
            damage[i] = questions.damage(own, self.damage)
            start += len(rows[i])
        return int(damage.argmax())

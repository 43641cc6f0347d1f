"""Attacks that ask the server's rule, many times a round, how far a candidate would move it.

All candidates lie in the span of what the attacker knows and of one or two directions, so a
question costs arithmetic on small matrices only, see `oracle`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.linalg import eigh
from typing_extensions import override

from benchmark.attacks.base import Informed
from benchmark.attacks.oracle import Questions
from benchmark.attacks.view import Knowledge, View
from benchmark.config.checks import one_of
from benchmark.kernels.scale import length

Line = tuple[np.ndarray, np.ndarray]  # start and direction, coefficients of the base vectors

MEASURES = ("descent", "distance")  # of damage, see `Questions.damage`
_REACH = 6  # magnitudes are searched from 2^-6 to 2^6 first


def most_damaging(
    damage: Callable[[int, float], float], evaluations: int, lines: int = 1
) -> tuple[int, float]:
    """Return the line, and the positive magnitude on it, at which the damage is largest.

    On every line half the evaluations go over magnitudes evenly spaced on a logarithmic scale from
    1/64 to 64. Lines that did at least half the damage of the worst one get the other half too:
    there the step is halved around the best magnitude so far. The magnitude that is returned was
    evaluated. Of magnitudes that do as much damage, up to a thousandth, it is the smallest, which
    stands out least, and does not depend on rounding.

    Args:
        damage: maps the number of a line and a magnitude to the damage.
        evaluations: how often to ask on every line.
        lines: how many there are.
    """
    coarse = max(2, evaluations // 2)
    exponents = np.linspace(-_REACH, _REACH, coarse).tolist()
    found = [{e: damage(line, 2.0**e) for e in exponents} for line in range(lines)]
    limit = _lowered(max(max(tried.values()) for tried in found), 0.5)
    for line, tried in enumerate(found):
        step = 2.0 * _REACH / (coarse - 1)
        while max(tried.values()) >= limit and len(tried) < evaluations:
            step /= 2
            best = _smallest_worst(tried)
            near = [e for e in (best + step, best - step) if abs(e) <= _REACH]
            for exponent in near[: evaluations - len(tried)]:
                tried[exponent] = damage(line, 2.0**exponent)
    worst = max(range(lines), key=lambda line: max(found[line].values()))
    return worst, float(2.0 ** _smallest_worst(found[worst]))


def _smallest_worst(tried: dict[float, float]) -> float:
    """Return the smallest exponent whose damage is the largest, up to a thousandth."""
    limit = _lowered(max(tried.values()), 1e-3)
    return min(exponent for exponent, damage in tried.items() if damage >= limit)


def _lowered(damage: float, share: float) -> float:
    """Return the damage less a share of its size."""
    return damage - share * abs(damage) if np.isfinite(damage) else damage


def standins(known: int, honest: int, generator: np.random.Generator) -> np.ndarray:
    """Return the coefficients (honest, known) of vectors to be taken for the honest ones.

    The vectors are Gaussian, with the mean and the sample covariance of the k known vectors. The
    coefficients are 1/k + (e - mean of e) / sqrt(k - 1), e standard normal.
    """
    draws = generator.normal(size=(honest, known))
    draws -= draws.mean(1, keepdims=True)
    return 1.0 / known + draws / np.sqrt(max(1, known - 1))


@dataclass(frozen=True)
class _Searching(Informed):
    """An attack that knows the server's rule.

    Attributes:
        evaluations: questions to the rule a round. Of several directions, each gets half as many,
            and those that do about as much damage as the best get the other half.
    """

    evaluations: int = 20
    also_reads: ClassVar[frozenset[Knowledge]] = frozenset({Knowledge.RULE})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluations < 2:
            raise ValueError(f"evaluations must be 2 or more, got {self.evaluations}")

    @override
    def step(self, view: View, state: Any) -> tuple[torch.Tensor, Any]:
        if view.n == view.f:  # no honest client, no damage to look for
            return view.mean(self.knowledge).expand(view.f, -1), state
        return super().step(view, state)

    def search(
        self, questions: Questions, *lines: Line, measure: str = "distance"
    ) -> tuple[int, float]:
        """Return the number of the most damaging line, and the magnitude m on it.

        All Byzantine clients send start + m * direction.
        """

        def damage(line: int, m: float) -> float:
            start, direction = lines[line]
            return questions.damage((start + m * direction)[None], measure)

        return most_damaging(damage, self.evaluations, len(lines))


def ask(view: View, knowledge: str, extra: torch.Tensor | None = None) -> Questions:
    """Return questions about combinations of the `known` vectors and of (e, d) extra ones."""
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

    Example:
        >>> from benchmark.aggregators import Mean
        >>> OptimalIPM(evaluations=2)([[1.0], [2.0], [3.0]], f=1, rule=Mean())  # tries 1/64 and 64
        array([[-128.]])
    """

    paper: ClassVar[str] = "El Mhamdi et al., ICLR 2021"
    cost: ClassVar[str] = "n^2 d + T rule(n)"

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        questions = ask(view, self.knowledge)
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

    Example:
        >>> from benchmark.aggregators import Mean
        >>> OptimalALIE(evaluations=2)([[1.0], [2.0], [3.0]], f=1, rule=Mean())  # z = 64
        array([[-62.]])
    """

    paper: ClassVar[str] = "El Mhamdi et al., ICLR 2021"
    cost: ClassVar[str] = "n^2 d + T rule(n)"
    both_sides: bool = False

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        mean, std = view.mean_and_std(self.knowledge)
        questions = ask(view, self.knowledge, std[None])
        signs = (-1.0, 1.0) if self.both_sides else (-1.0,)
        lines = [(questions.mean, sign * _unit(questions)) for sign in signs]
        line, z = self.search(questions, *lines)
        return (mean + signs[line] * z * std).expand(view.f, -1), state


def _unit(questions: Questions, place: int = -1) -> np.ndarray:
    """Return the coefficients of one base vector, by default the last."""
    row = np.zeros(len(questions.mean))
    row[place] = 1.0
    return row


DIRECTIONS = ("std", "sign", "unit")


def perturbation(direction: str, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return Shejwalkar and Houmansadr's perturbation p (d,), as named in `DIRECTIONS`.

    It is -std for `std`, -sign(mean) for `sign`, and -mean / |mean| for `unit`.
    """
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

    Example:
        >>> from benchmark.aggregators import Mean
        >>> AGRTailored(evaluations=2)([[1.0], [2.0], [3.0]], f=1, rule=Mean())  # gamma = 64
        array([[-62.]])
    """

    paper: ClassVar[str] = "Shejwalkar, Houmansadr, NDSS 2021"
    cost: ClassVar[str] = "n^2 d + T rule(n)"
    direction: str = "std"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("direction", self.direction, DIRECTIONS)

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        mean, std = view.mean_and_std(self.knowledge)
        p = perturbation(self.direction, mean, std)
        questions = ask(view, self.knowledge, p[None])
        _, gamma = self.search(questions, (questions.mean, _unit(questions)))
        return (mean + gamma * p).expand(view.f, -1), state


@dataclass(frozen=True)
class BulyanCoordinate(_Searching):
    """b = mean + m * e, with the m > 0 that moves the aggregate of the server's rule farthest. The
    direction e is one coordinate, or all of them.

    El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium",
    ICML 2018: in high dimension a rule that looks at distances cannot see a large change of a
    single coordinate. m is searched in units of the root mean square distance of the honest vectors
    from their mean.

    Knows all honest updates, in the partial form its clients' own only; and the server's rule.

    Attributes:
        coordinate: the number of the coordinate, from the end if negative; null: all of them.

    Example:
        >>> from benchmark.aggregators import Mean
        >>> BulyanCoordinate(evaluations=2)([[1.0], [2.0], [3.0]], f=1, rule=Mean())  # m = 64
        array([[66.]])
    """

    paper: ClassVar[str] = "El Mhamdi et al., ICML 2018"
    cost: ClassVar[str] = "n^2 d + T rule(n)"
    coordinate: int | None = -1

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        mean, std = view.mean_and_std(self.knowledge)
        e = torch.zeros_like(mean)
        if self.coordinate is None:
            e += length(std) / len(mean) ** 0.5
        else:
            e[self.coordinate % len(mean)] = length(std)
        questions = ask(view, self.knowledge, e[None])
        _, m = self.search(questions, (questions.mean, _unit(questions)))
        return (mean + m * e).expand(view.f, -1), state


@dataclass(frozen=True)
class Adaptive(_Searching):
    """The most damaging vector over several directions and all magnitudes, found by asking the
    server's complete chain: an attacker that knows its enemy (Tutorial 027, exercise 2).

    It looks one round ahead. What does less damage in every round may do more in the end, and
    against rules with a memory often does.

    It searches the magnitude on six lines. One starts from zero and goes against the mean, as in
    `ipm`. The others start from the mean: along the deviations to either side, against the signs of
    the mean, and to either side along the direction in which the honest vectors differ most.

    Knows all honest updates, in the partial form its clients' own only; and the server's rule, and
    its root data if `knows_root`.

    Attributes:
        damage: what is searched for. `descent`: the aggregate F with the smallest part along the
            honest mean, the direction that would lower the loss fastest. `distance`: the F farthest
            from that mean, in whatever direction.
        knows_root: whether it knows the server's root data too, if the rule has any. Otherwise it
            takes the mean of the vectors that it knows for their update.

    Example:
        >>> from benchmark.aggregators import Mean
        >>> Adaptive(evaluations=2)([[1.0], [2.0], [3.0]], f=1, rule=Mean())  # -64 mean
        array([[-128.]])
    """

    paper: ClassVar[str] = "Tutorial 027, exercise 2"
    cost: ClassVar[str] = "n^2 d + T rule(n)"
    damage: str = "descent"
    knows_root: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("damage", self.damage, MEASURES)

    @property
    @override
    def reads(self) -> frozenset[Knowledge]:
        return super().reads | ({Knowledge.ROOT} if self.knows_root else set())

    @override
    def craft(self, view: View, known: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        mean, std = view.mean_and_std(self.knowledge)
        signs = torch.sign(mean)
        signs *= length(std) / max(1, len(mean)) ** 0.5
        extra = torch.stack([std, signs])
        questions = ask(view, self.knowledge, extra)
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
    """Return the coefficients of the direction in which the known vectors vary most.

    Its length is their standard deviation in that direction. Its sign is such that the largest
    coefficient is positive.

    Args:
        known: how many vectors are known.
    """
    centring = np.eye(known) - 1.0 / known
    products = centring @ questions.products[:known, :known] @ centring
    _, vectors = eigh(products, driver="evd")
    top = vectors[:, -1] * np.sign(vectors[np.abs(vectors[:, -1]).argmax(), -1])
    row = np.zeros(len(questions.mean))
    row[:known] = centring @ top / np.sqrt(max(1, known - 1))
    return row

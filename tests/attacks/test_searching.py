"""Attacks that ask the rule: they find the worst."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.aggregators import (
    MDA,
    NNM,
    CenteredClipping,
    Chain,
    GeometricMedian,
    Krum,
    Mean,
    Median,
    Rule,
    TrimmedMean,
)
from benchmark.aggregators.contract import feasibility
from benchmark.attacks import (
    Adaptive,
    AGRTailored,
    ALittleIsEnough,
    BulyanCoordinate,
    InnerProductManipulation,
    OptimalALIE,
    OptimalIPM,
    SignFlip,
)
from benchmark.attacks.searching import most_damaging, standins
from benchmark.testing.rule_inputs import D, F, N, knowledge
from tests.helpers.properties import examples
from tests.helpers.rules import RULES, every_rule
from tests.helpers.vectors import honest_rows
from tests.reference import attacks_searching as reference

H = N - F
MEASURES = ("distance", "descent")


@examples(20)
@given(known=st.integers(2, 6), seed=st.integers(0, 99))
def test_standins(known, seed):
    """Of very many, mean and covariance are those of the known vectors."""
    x = np.random.default_rng(seed).normal(size=(known, 3)) + 5
    made = standins(known, 40_000, np.random.default_rng(seed)) @ x
    np.testing.assert_allclose(made.mean(0), x.mean(0), atol=0.06)
    np.testing.assert_allclose(np.cov(made.T), np.cov(x.T), atol=0.12)
    coefficients = standins(known, 5, np.random.default_rng(seed))
    np.testing.assert_allclose(coefficients.sum(1), 1)


def test_the_search_by_hand():
    """Log-spaced first, then halved steps; the smallest of equals; exactly so many questions."""
    on_one = lambda damage, evaluations: most_damaging(  # noqa: E731
        lambda line, m: damage(m), evaluations
    )[1]
    for evaluations in (2, 3, 9, 20):
        asked = []

        def damage(m, asked=asked):
            asked.append(m)
            return -abs(np.log(m / 3))

        best = on_one(damage, evaluations)
        assert len(asked) == len(set(asked)) == evaluations and best in asked
        assert min(asked) == 1 / 64 and max(asked) == 64
    assert abs(np.log(best / 3)) < 0.05
    assert 64 * (1 - 1e-3) <= on_one(lambda m: m, 20) <= 64
    assert on_one(lambda m: 5.0, 20) == 1 / 64
    assert on_one(lambda m: np.inf if m > 60 else m, 20) > 60
    # it saturates at 2: what is about as bad as the worst and stands out least
    assert 1.9 < on_one(lambda m: min(m, 2.0), 20) < 2.3


def test_the_search_on_several_lines():
    """Ten questions on each, and ten more on what did half as much as the worst; of equals
    the first."""
    asked = []

    def damage(line, m):
        asked.append((line, m))
        return [1.5, 4.0, 4.0, 3.0][line] - abs(np.log(m / 3))

    line, best = most_damaging(damage, 20, 4)
    assert line == 1 and abs(np.log(best / 3)) < 0.05
    assert [sum(on == line for on, _ in asked) for line in range(4)] == [10, 20, 20, 20]
    assert len(set(asked)) == len(asked)
    assert most_damaging(lambda line, m: m, 20, 3)[0] == 0


DEFENCES = {
    "krum": Krum(),
    "nnm+krum": Chain([NNM(), Krum()]),
    "median": Median(),
    "trimmed_mean": TrimmedMean(),
    "geometric_median": GeometricMedian(),
    "centered_clipping": CenteredClipping(tau=3.0),
    "mda": MDA(),
}
LINES = {
    "optimal_ipm": OptimalIPM(),
    "optimal_alie": OptimalALIE(),
    "std": AGRTailored(),
    "sign": AGRTailored(direction="sign"),
    "unit": AGRTailored(direction="unit"),
    "last": BulyanCoordinate(),
    "all": BulyanCoordinate(coordinate=None),
}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("defence", DEFENCES)
def test_the_worst_magnitude_is_found(defence, line):
    """Within a tenth of the worst of 80 on the vectors themselves; and it is on the line."""
    rule = DEFENCES[defence]
    honest = honest_rows(12, 40).numpy()
    ask = lambda x: rule(x, f=3)  # noqa: E731
    start, direction = reference.candidates(line, honest)
    best = reference.worst_on_a_grid(ask, honest, 3, start, direction)
    sent = LINES[line](honest, f=3, rule=rule)
    assert reference.damage(ask, honest, sent) >= 0.9 * best
    magnitude = (sent[0] - start) @ direction / (direction @ direction)
    np.testing.assert_allclose(sent, np.tile(start + magnitude * direction, (3, 1)), atol=1e-9)
    assert magnitude * (1 + 1e-9) >= 1 / 64 and magnitude <= 64 * (1 + 1e-9)


@pytest.mark.parametrize("attack", [OptimalIPM, OptimalALIE, AGRTailored])
def test_the_partial_form_estimates_from_its_own(attack):
    """Same formula with the own updates' mean and deviation, whatever the honest ones are."""
    own, honest = honest_rows(4, seed=2).numpy(), honest_rows(H).numpy()
    attack = attack(knowledge="byzantine")
    sent = attack(honest, f=4, own=own, rule=Krum())
    assert np.array_equal(sent, attack(honest * 3 - 1, f=4, own=own, rule=Krum()))
    mean, std = own.mean(0), own.std(0, ddof=1)
    start, direction = (0 * mean, -mean) if attack.title == "OptimalIPM" else (mean, -std)
    magnitude = (sent[0] - start) @ direction / (direction @ direction)
    np.testing.assert_allclose(sent[0], start + magnitude * direction, atol=1e-9)


def test_by_hand():
    """Two honest numbers 1 and 3, the mean of three: -epsilon 2 moves it farthest for the largest
    epsilon, 64; with the median of (1, 3, -2 epsilon) any epsilon gives 1, so the smallest."""
    honest = np.array([[1.0], [3.0]])
    assert OptimalIPM()(honest, f=1, rule=Mean())[0, 0] == pytest.approx(-128, rel=1e-3)
    assert OptimalIPM()(honest, f=1, rule=Median(), declared=1)[0, 0] == pytest.approx(-2 / 64)
    # mean 2, deviation sqrt(2): 2 - 64 sqrt(2); with both sides the two are equal, and z > 0 wins
    wanted = 2 - 64 * 2**0.5
    assert OptimalALIE()(honest, f=1, rule=Mean())[0, 0] == pytest.approx(wanted, rel=1e-3)
    found = OptimalALIE(both_sides=True)(honest, f=1, rule=Mean())[0, 0]
    assert min(abs(found - wanted), abs(found - 2 - 64 * 2**0.5)) < 0.1


def test_both_sides_are_searched():
    """A rule that takes the largest number of every coordinate is moved upwards only."""

    class Largest(Rule):
        def step(self, updates, f, state, context):
            _, state, report = Mean().step(updates, f, state, context)
            return updates.rows().amax(0), state, report

    honest = honest_rows(9).numpy()
    below, both = (OptimalALIE(both_sides=b)(honest, f=2, rule=Largest()) for b in (False, True))
    assert (below <= honest.mean(0)).all() and (both >= honest.mean(0)).all()


PLAIN = [InnerProductManipulation(epsilon=e) for e in (0.1, 1.0, 10.0)]
PLAIN += [ALittleIsEnough(), ALittleIsEnough(z=1.5), OptimalIPM(), OptimalALIE(), SignFlip()]
DETERMINISTIC = [line for line in RULES if line.thing.needs <= {"clients"} and "," not in line.name
                 and not ({"order", "coordinates"} & line.exempt)]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("rule", [line.thing for line in DETERMINISTIC],
                         ids=[line.name for line in DETERMINISTIC])  # fmt: skip
def test_the_adaptive_attacker_does_most_damage(rule):
    """As much as any plain attack, on every rule that has no coins, by its own measure: but for a
    few per cent, the search being finite. Sign flipping sends f different vectors, which may be
    worse against rules that look for groups: it is not among them."""
    honest, own = honest_rows(H, seed=3), honest_rows(F, seed=4)
    for measure in MEASURES:
        achieved = {}
        for attack in [*PLAIN[:-1], Adaptive(damage=measure)]:
            sent = attack(honest, f=F, own=own, rule=rule)
            aggregate = rule(torch.cat([honest, sent]), f=F)
            lost = honest.mean(0) - aggregate
            descent = float(lost @ honest.mean(0) / honest.mean(0).norm())
            achieved[attack] = float(lost.norm()) if measure == "distance" else descent
        *others, adaptive = achieved.values()
        assert adaptive >= max(others) - 0.05 * abs(max(others)) - 1e-6, achieved


def test_the_adaptive_attacker_stops_descent_where_distance_alone_does_not():
    """Against Krum on spread vectors, the farthest aggregate may still point downhill."""
    honest = honest_rows(16, 300, 1) * 0.5
    mean = honest.mean(0)
    parts = {}
    for measure in MEASURES:
        sent = Adaptive(damage=measure)(honest, f=4, rule=Krum())
        parts[measure] = float(Krum()(torch.cat([honest, sent]), f=4) @ mean / mean.norm() ** 2)
    assert parts["descent"] < 0 and parts["descent"] <= parts["distance"]


@every_rule
def test_every_rule_can_be_attacked_adaptively(rule):
    """With and without knowledge of all, a finite vector comes out."""
    if feasibility(rule, N, F):
        pytest.skip("not defined here")
    honest, own = honest_rows(H), honest_rows(F, seed=1)
    for known in ("honest", "byzantine"):
        attack = Adaptive(knowledge=known, evaluations=4)
        sent = attack(honest, f=F, own=own, rule=rule, context=knowledge(honest))
        assert sent.shape == (F, D) and torch.isfinite(sent).all()

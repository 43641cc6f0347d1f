"""Attacks that ask the rule: their questions are answered truly, and they find the worst."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import benchmark
from benchmark.aggregators import (
    MDA,
    NNM,
    Bucketing,
    CenteredClipping,
    Chain,
    FLTrust,
    GeometricMedian,
    Krum,
    Mean,
    Median,
    Rule,
    TrimmedMean,
    Updates,
)
from benchmark.aggregators.contract import feasibility
from benchmark.aggregators.state import packed
from benchmark.attacks import (
    Adaptive,
    AGRTailored,
    ALittleIsEnough,
    BulyanCoordinate,
    InnerProductManipulation,
    OptimalALIE,
    OptimalIPM,
    SignFlip,
    WorstOf,
)
from benchmark.attacks.oracle import Oracle, outsiders_context
from benchmark.attacks.searching import most_damaging, standins
from benchmark.testing.rule_inputs import D, F, N, knowledge
from tests.helpers.properties import examples
from tests.helpers.rule_table import TABLE
from tests.reference import attacks_searching as reference

H = N - F
RULES = [line for line in TABLE if isinstance(line.thing, Rule)]
every_rule = pytest.mark.parametrize("rule", [line.thing for line in RULES],
                                     ids=[line.name for line in RULES])  # fmt: skip
MEASURES = ("distance", "descent")


def draw(rows, d=D, seed=0):
    return torch.from_numpy(np.random.default_rng([seed, rows]).normal(size=(rows, d)) + 0.3)


def chain_of(rule):
    return rule if isinstance(rule, Chain) else Chain([rule])


def after_some_rounds(chain, n, d, rounds=3):
    """The state of a rule that has seen some rounds of other vectors."""
    state = chain.init()
    for round in range(rounds):
        x = draw(n, d, 70 + round)
        context = knowledge(x, round=round + 1)
        _, state, _ = chain.step(Updates(x), F, state, context.only(chain))
    return state


def true_damage(chain, x, state, context, order, counts, ids, honest, measure):
    """By a step of the rule on the vectors themselves, the server's way."""
    seen = Updates(x, np.eye(len(x))[order], counts, ids)
    vector, _, _ = chain.step(seen, F, state, context.only(chain))
    lost = honest.mean(0) - vector
    if measure == "distance":
        return float(lost.norm())
    return float(lost @ honest.mean(0) / honest.mean(0).norm())


# --- questions ----------------------------------------------------------------------------------


@every_rule
@pytest.mark.parametrize("extra", [0, 2])
def test_damage_is_what_the_server_would_suffer(rule, extra):
    """For every rule, after some rounds, in the server's order, with counts and ids: and asking
    leaves the server's state, and the next answer, as they were."""
    chain, rng = chain_of(rule), np.random.default_rng(5)
    honest, directions = draw(H), draw(2, seed=9)[:extra]
    order, ids = rng.permutation(N), np.sort(rng.permutation(40)[:N])
    counts = np.arange(1.0, N + 1)
    state = after_some_rounds(chain, N, D)
    before = copy.deepcopy(packed(state))
    context = outsiders_context(knowledge(honest, round=9), True, 3)
    oracle = Oracle(chain, F, state, context, N, order, counts, ids)
    questions = oracle.about(honest, directions if extra else None)
    for scale in (0.1, 1.0, 30.0):
        sent = scale * rng.normal(size=(F, H + extra)) / np.sqrt(H)
        base = torch.cat([honest, directions]) if extra else honest
        x = torch.cat([honest, torch.from_numpy(sent) @ base])
        for measure in MEASURES:
            arguments = (chain, x, state, context, order, counts, ids, honest, measure)
            wanted, found = true_damage(*arguments), questions.damage(sent, measure)
            assert found == pytest.approx(wanted, rel=1e-6, abs=1e-7)
            assert questions.damage(sent, measure) == found
    after = packed(state)
    assert before[0] == after[0]
    assert all(np.array_equal(before[1][k], after[1][k]) for k in before[1])


@pytest.mark.parametrize(
    "rule",
    [Median(), TrimmedMean(), Chain([NNM(), Median()]), Chain([NNM(), TrimmedMean()])],
    ids=["median", "trimmed_mean", "nnm+median", "nnm+trimmed_mean"],
)
def test_damage_of_long_vectors_is_estimated(rule):
    """From 8,192 of 60,000 coordinates: within a few per cent; products are of all."""
    honest, std = draw(H, 60_000), torch.ones(1, 60_000, dtype=torch.float64)
    chain = chain_of(rule)
    questions = Oracle(chain, F, chain.init(), knowledge(honest), N).about(honest, std)
    for magnitude in (0.3, 2.0, 50.0):
        row = questions.mean - magnitude * np.eye(H + 1)[-1]
        vector = honest.mean(0) - magnitude
        everything = torch.cat([honest, vector.expand(F, -1)])
        for measure in MEASURES:
            wanted = true_damage(chain, everything, chain.init(), knowledge(honest), np.arange(N),
                                 None, None, honest, measure)  # fmt: skip
            assert questions.damage(np.tile(row, (F, 1)), measure) == pytest.approx(
                wanted, rel=0.04
            )


def test_a_single_coordinate_is_never_left_out():
    honest = draw(H, 50_000)
    spike = torch.zeros(1, 50_000, dtype=torch.float64)
    spike[0, 31_234] = 1000.0
    chain = Chain([TrimmedMean()])
    questions = Oracle(chain, 0, chain.init(), knowledge(honest), N).about(honest, spike)
    row = questions.mean + np.eye(H + 1)[-1]
    everything = torch.cat([honest, (honest.mean(0) + spike[0]).expand(F, -1)])
    wanted = float((everything.mean(0) - honest.mean(0)).norm())
    assert questions.damage(np.tile(row, (F, 1))) == pytest.approx(wanted, rel=1e-3)


def test_random_rules_toss_the_attackers_coins():
    """Not the server's, which it cannot know; the same for all questions of a round."""
    honest, chain = draw(H), Chain([Bucketing(), Krum()])
    servers = knowledge(honest, generator=lambda: pytest.fail("the server's stream was read"))
    context = outsiders_context(servers, False, 1)
    questions = Oracle(chain, 1, chain.init(), context, N).about(honest)
    sent = np.tile(-questions.mean, (F, 1))
    assert questions.damage(sent) == questions.damage(sent)


def test_unknown_root_data_are_guessed_and_known_ones_used():
    """FLTrust's answer with the honest mean for the root update, or with the true one."""
    honest, rule = draw(H), FLTrust()
    root = draw(1, seed=8)[0]
    known = knowledge(honest, root_update=lambda: root)
    sent = np.tile(0.2 * np.eye(H)[0], (F, 1))
    x = torch.cat([honest, torch.from_numpy(sent) @ honest])
    for knows, update in ((True, root), (False, honest.mean(0))):
        context = outsiders_context(known, knows, 0)
        questions = Oracle(Chain([rule]), F, (None,), context, N).about(honest)
        aggregate = rule(x, f=F, context=knowledge(honest, root_update=lambda u=update: u))
        assert questions.damage(sent) == pytest.approx(float((aggregate - honest.mean(0)).norm()))


def test_directions_that_the_rule_remembers():
    """Centred clipping about what it remembers: the state is turned with the vectors."""
    honest, centre = draw(H), draw(1, seed=4)[0]
    chain = Chain([CenteredClipping(tau=0.5)])
    questions = Oracle(chain, F, (centre,), knowledge(honest), N).about(honest)
    sent = np.tile(-5 * questions.mean, (F, 1))
    x = torch.cat([honest, (-5 * honest.mean(0)).expand(F, -1)])
    lengths = (x - centre).norm(dim=1, keepdim=True)
    moved = centre + ((x - centre) * (0.5 / lengths).clamp_max(1)).mean(0)
    assert questions.damage(sent) == pytest.approx(float((moved - honest.mean(0)).norm()))


def test_vectors_far_from_zero():
    """Distances of 1e-3 at a distance of 1e3, in float32."""
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(H, 200)))
    honest = (1000 + 1e-3 * noise).float()
    chain = Chain([Krum()])
    questions = Oracle(chain, F, chain.init(), knowledge(honest), N).about(honest)
    sent = np.tile(0.999999 * questions.mean, (F, 1))
    x = torch.cat([honest.double(), 0.999999 * honest.double().mean(0).expand(F, -1)])
    wanted = float((Krum()(x, f=F) - honest.double().mean(0)).norm())
    assert questions.damage(sent) == pytest.approx(wanted, rel=2e-2)


def test_an_aggregate_that_is_not_finite_is_infinite_damage():
    class Broken(Rule):
        def step(self, updates, f, state, context):
            vector, state, report = Mean().step(updates, f, state, context)
            return vector * np.nan, state, report

    honest = draw(H)
    questions = Oracle(Chain([Broken()]), F, (None,), knowledge(honest), N).about(honest)
    assert questions.damage(np.tile(questions.mean, (F, 1))) == np.inf


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


# --- the search ---------------------------------------------------------------------------------


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
    honest = draw(12, 40).numpy()
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
    own, honest = draw(4, seed=2).numpy(), draw(H).numpy()
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

    honest = draw(9).numpy()
    below, both = (OptimalALIE(both_sides=b)(honest, f=2, rule=Largest()) for b in (False, True))
    assert (below <= honest.mean(0)).all() and (both >= honest.mean(0)).all()


# --- the adaptive attacker ----------------------------------------------------------------------

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
    honest, own = draw(H, seed=3), draw(F, seed=4)
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
    honest = draw(16, 300, 1) * 0.5
    mean = honest.mean(0)
    parts = {}
    for measure in MEASURES:
        sent = Adaptive(damage=measure)(honest, f=4, rule=Krum())
        parts[measure] = float(Krum()(torch.cat([honest, sent]), f=4) @ mean / mean.norm() ** 2)
    assert parts["descent"] < 0 and parts["descent"] <= parts["distance"]


def test_the_worst_of_several_is_sent():
    """Whichever moves the rule farthest when all are tried, with its state kept."""
    honest, own = draw(H), draw(F, seed=6)
    members = [SignFlip(), InnerProductManipulation(epsilon=0.3), ALittleIsEnough(z=1.0)]
    for rule in (Krum(), Median(), Chain([NNM(), TrimmedMean()]), Mean()):
        for measure in MEASURES:
            damages = []
            for member in members:
                sent = member(honest, f=F, own=own, rule=rule)
                lost = honest.mean(0) - rule(torch.cat([honest, sent]), f=F)
                along = float(lost @ honest.mean(0))
                damages.append(float(lost.norm()) if measure == "distance" else along)
            sent = WorstOf(damage=measure, attacks=members)(honest, f=F, own=own, rule=rule)
            wanted = members[int(np.argmax(damages))](honest, f=F, own=own, rule=rule)
            assert torch.equal(sent, wanted)


def test_worst_of_by_name():
    worst_of = partial(benchmark.load, "attack/worst_of")
    attack = worst_of(attacks=["ipm epsilon=2.5", "sign_flip"])
    assert attack.members == [InnerProductManipulation(epsilon=2.5), SignFlip()]
    assert attack.reads == {"honest", "own", "rule"}
    for names, wrong in (
        ([], "attacks must not be empty"),
        (["label_flip"], "LabelFlip works through training data"),
        (["badnets"], "BadNets works through training data"),
        (["neurotoxin"], "Neurotoxin works through training data"),
    ):
        with pytest.raises(ValueError, match=wrong) as error:
            worst_of(attacks=names)
        assert "\n" not in str(error.value)


@every_rule
def test_every_rule_can_be_attacked_adaptively(rule):
    """With and without knowledge of all, a finite vector comes out."""
    if feasibility(rule, N, F):
        pytest.skip("not defined here")
    honest, own = draw(H), draw(F, seed=1)
    for known in ("honest", "byzantine"):
        attack = Adaptive(knowledge=known, evaluations=4)
        sent = attack(honest, f=F, own=own, rule=rule, context=knowledge(honest))
        assert sent.shape == (F, D) and torch.isfinite(sent).all()

"""Questions to the server's rule: the answers are true for every rule, also with other vectors in
the place of the honest, in other precision, and of stages by themselves."""

import copy

import numba
import numpy as np
import pytest
import torch

from benchmark.aggregators import (
    FLAME,
    NNM,
    Bucketing,
    Bulyan,
    CenteredClipping,
    Chain,
    Clipping,
    DnC,
    FLTrust,
    GeometricMedian,
    Krum,
    Mean,
    Median,
    Rule,
    Stage,
    TrimmedMean,
    Updates,
    Zeno,
)
from benchmark.aggregators.state import packed
from benchmark.attacks.oracle import Oracle, outsiders_context
from benchmark.attacks.searching import standins
from benchmark.testing.rule_inputs import D, F, N, knowledge
from tests.helpers.rule_table import TABLE
from tests.helpers.rules import every_rule
from tests.helpers.vectors import honest_rows

H, OWN = N - F, 5  # honest vectors, and those that the attacker knows in their place
MEASURES = ("distance", "descent")


def chain_of(rule):
    return rule if isinstance(rule, Chain) else Chain([rule])


def after_some_rounds(chain, n, d, rounds=3):
    """The state of a rule that has seen some rounds of other vectors."""
    state = chain.init()
    for round in range(rounds):
        x = honest_rows(n, d, 70 + round)
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


@every_rule
@pytest.mark.parametrize("extra", [0, 2])
def test_damage_is_what_the_server_would_suffer(rule, extra):
    """For every rule, after some rounds, in the server's order, with counts and ids: and asking
    leaves the server's state, and the next answer, as they were."""
    chain, rng = chain_of(rule), np.random.default_rng(5)
    honest, directions = honest_rows(H), honest_rows(2, seed=9)[:extra]
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
    honest, std = honest_rows(H, 60_000), torch.ones(1, 60_000, dtype=torch.float64)
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
    honest = honest_rows(H, 50_000)
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
    honest, chain = honest_rows(H), Chain([Bucketing(), Krum()])
    servers = knowledge(honest, generator=lambda: pytest.fail("the server's stream was read"))
    context = outsiders_context(servers, False, 1)
    questions = Oracle(chain, 1, chain.init(), context, N).about(honest)
    sent = np.tile(-questions.mean, (F, 1))
    assert questions.damage(sent) == questions.damage(sent)


def test_unknown_root_data_are_guessed_and_known_ones_used():
    """FLTrust's answer with the honest mean for the root update, or with the true one."""
    honest, rule = honest_rows(H), FLTrust()
    root = honest_rows(1, seed=8)[0]
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
    honest, centre = honest_rows(H), honest_rows(1, seed=4)[0]
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

    honest = honest_rows(H)
    questions = Oracle(Chain([Broken()]), F, (None,), knowledge(honest), N).about(honest)
    assert questions.damage(np.tile(questions.mean, (F, 1))) == np.inf


CHAINS = [
    pytest.param(line.thing if isinstance(line.thing, Chain) else
                 Chain([line.thing] if isinstance(line.thing, Rule) else [line.thing, Mean()]),
                 id=line.name)
    for line in TABLE
]  # fmt: skip
FILTERS = [pytest.param(Chain([line.thing, end]), id=f"{line.name}, {end.title}")
           for line in TABLE for end in (Mean(), Median())
           if isinstance(line.thing, Stage)]  # fmt: skip


def distance(chain, x, mean, state, context, **given):
    """How far the aggregate of the vectors themselves is from their honest mean."""
    vector, _, _ = chain.step(Updates(x, **given), F, state, context.only(chain))
    return float((vector - mean).norm())


@pytest.mark.parametrize("chain", CHAINS)
def test_other_vectors_in_the_place_of_the_honest(chain):
    """As an attacker asks that knows its own clients' updates only."""
    own, mixing = honest_rows(OWN), standins(OWN, H, np.random.default_rng(2))
    honest = torch.from_numpy(mixing) @ own
    context = outsiders_context(knowledge(own, round=4), True, 5)
    state, order = chain.init(), np.random.default_rng(6).permutation(N)
    questions = Oracle(chain, F, state, context, N, order).about(own, None, mixing)
    assert questions.honest.shape == (H, OWN)
    np.testing.assert_allclose(questions.mean @ own.numpy(), honest.mean(0), atol=1e-12)
    for row in (-0.5 * questions.mean, 3 * np.eye(OWN)[1]):
        sent = np.tile(row, (F, 1))
        x = torch.cat([honest, torch.from_numpy(sent) @ own])[order]
        wanted = distance(chain, x, honest.mean(0), state, context)
        assert questions.damage(sent) == pytest.approx(wanted, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("chain", FILTERS)
def test_stages_before_rules_of_both_kinds(chain):
    """After a round with another half of the clients."""
    ids = [np.sort(np.random.default_rng(i).permutation(2 * N)[:N]) for i in range(2)]
    context = outsiders_context(knowledge(honest_rows(H), round=2), True, 5)
    _, state, _ = chain.step(Updates(honest_rows(N, seed=3), None, None, ids[0]), F, chain.init(),
                             context.only(chain))  # fmt: skip
    honest, std = honest_rows(H), honest_rows(1, seed=1)
    questions = Oracle(chain, F, state, context, N, ids=ids[1]).about(honest, std)
    for size in (0.1, 4.0):
        row = questions.mean - size * np.eye(H + 1)[-1]
        x = torch.cat([honest, (honest.mean(0) - size * std[0]).expand(F, -1)])
        wanted = distance(chain, x, honest.mean(0), state, context, ids=ids[1])
        found = questions.damage(np.tile(row, (F, 1)))
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize(
    "rule", [Mean(), Krum(), Chain([NNM(), Krum()]), GeometricMedian(), CenteredClipping(tau=2.0),
             Median(), TrimmedMean(), Bulyan(), DnC()], ids=str,
)  # fmt: skip
def test_single_precision(rule, offset):
    """Also where vectors are close to each other and far from zero."""
    chain = rule if isinstance(rule, Chain) else Chain([rule])
    honest = (honest_rows(H, 3000) + offset).float()
    std = honest.std(0, keepdim=True)
    questions = Oracle(chain, F, chain.init(), knowledge(honest), N).about(honest, std)
    for size in (0.2, 1.5):
        row = questions.mean - size * np.eye(H + 1)[-1]
        wide = honest.double()
        x = torch.cat([wide, (wide.mean(0) - size * std[0].double()).expand(F, -1)])
        wanted = distance(chain, x, wide.mean(0), chain.init(), knowledge(honest))
        found = questions.damage(np.tile(row, (F, 1)))
        assert found == pytest.approx(wanted, rel=2e-3 if offset else 1e-4)


def test_the_first_order_change_stands_for_an_unknown_loss():
    """Zeno, asked without the root data, ranks by <mean, x>: where updates are gradients the model
    moves against them, so the loss falls most along the longest."""
    honest = honest_rows(H)
    mean = honest.mean(0)
    sent = torch.cat([5 * mean[None], -5 * mean[None], 0 * mean[None]])
    mixing = np.vstack([np.full(H, 5 / H), np.full(H, -5 / H), np.zeros(H)])
    for step in (-0.1, 0.1):
        known = knowledge(honest, server_step=step)
        questions = Oracle(
            Chain([Zeno(rho=0.0)]), F, (None,), outsiders_context(known, False, 0), N
        ).about(honest)
        x = torch.cat([honest, sent])
        gain = x @ mean
        kept = torch.argsort(gain, descending=True, stable=True)[: N - F]
        assert H in kept.tolist() and H + 1 not in kept.tolist()
        wanted = float((x[kept].mean(0) - mean).norm())
        assert questions.damage(mixing) == pytest.approx(wanted)


def test_what_an_outsider_does_not_know():
    """Neither the server's coins nor, unless it says so, its root data."""
    known = knowledge(honest_rows(H), generator=lambda: pytest.fail("the server's coins"))
    blind, seeing = (outsiders_context(known, knows, 7) for knows in (False, True))
    assert blind.root_update is None and blind.root_loss is None
    assert seeing.root_update is known.root_update and seeing.root_loss is known.root_loss
    for context in (blind, seeing):
        assert context.generator().random() == context.generator().random()
        assert context.layers == known.layers and context.server_step == known.server_step
    other = outsiders_context(known, False, 8)
    assert other.generator().random() != blind.generator().random()


@pytest.mark.parametrize("rule", [Krum(), Median(), DnC(), FLAME(), FLTrust()], ids=str)
def test_threads_are_as_many_as_before(rule):
    """Also behind a rule that fails."""

    class Failing(Rule):
        depends_on = rule.depends_on

        def step(self, *_):
            raise RuntimeError("no answer")

    before, honest = numba.get_num_threads(), honest_rows(H)
    for chain in (Chain([Clipping(2.0), rule]), Chain([Failing()])):
        questions = Oracle(chain, F, chain.init(), knowledge(honest), N).about(honest)
        try:
            questions.damage(np.tile(-questions.mean, (F, 1)))
        except RuntimeError:
            assert isinstance(chain.stages[0], Failing)
        assert numba.get_num_threads() == before

"""Questions to the server's rule: other vectors in the place of the honest, other precision, stages
by themselves. That the answers are true for every rule is in test_searching_attacks.py."""

import numba
import numpy as np
import pytest
import torch

from benchmark.aggregators import (
    FLAME,
    NNM,
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
from benchmark.attacks.oracle import Oracle, outsiders_context
from benchmark.attacks.searching import standins
from benchmark.testing.rule_inputs import D, F, N, knowledge
from tests.helpers.rule_table import TABLE

H, OWN = N - F, 5  # honest vectors, and those that the attacker knows in their place
CHAINS = [
    pytest.param(line.thing if isinstance(line.thing, Chain) else
                 Chain([line.thing] if isinstance(line.thing, Rule) else [line.thing, Mean()]),
                 id=line.name)
    for line in TABLE
]  # fmt: skip
FILTERS = [pytest.param(Chain([line.thing, end]), id=f"{line.name}, {end.title}")
           for line in TABLE for end in (Mean(), Median())
           if isinstance(line.thing, Stage)]  # fmt: skip


def draw(rows, d=D, seed=0, dtype=np.float64):
    x = np.random.default_rng([seed, rows]).normal(size=(rows, d)) + 0.3
    return torch.from_numpy(x.astype(dtype))


def distance(chain, x, mean, state, context, **given):
    """How far the aggregate of the vectors themselves is from their honest mean."""
    vector, _, _ = chain.step(Updates(x, **given), F, state, context.only(chain))
    return float((vector - mean).norm())


@pytest.mark.parametrize("chain", CHAINS)
def test_other_vectors_in_the_place_of_the_honest(chain):
    """As an attacker asks that knows its own clients' updates only."""
    own, mixing = draw(OWN), standins(OWN, H, np.random.default_rng(2))
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
    context = outsiders_context(knowledge(draw(H), round=2), True, 5)
    _, state, _ = chain.step(Updates(draw(N, seed=3), None, None, ids[0]), F, chain.init(),
                             context.only(chain))  # fmt: skip
    honest, std = draw(H), draw(1, seed=1)
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
    honest = (draw(H, 3000) + offset).float()
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
    honest = draw(H)
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
    known = knowledge(draw(H), generator=lambda: pytest.fail("the server's coins"))
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

    before, honest = numba.get_num_threads(), draw(H)
    for chain in (Chain([Clipping(2.0), rule]), Chain([Failing()])):
        questions = Oracle(chain, F, chain.init(), knowledge(honest), N).about(honest)
        try:
            questions.damage(np.tile(-questions.mean, (F, 1)))
        except RuntimeError:
            assert isinstance(chain.stages[0], Failing)
        assert numba.get_num_threads() == before

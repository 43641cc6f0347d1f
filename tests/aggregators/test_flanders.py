"""FLANDERS: models are foretold by an autoregression of matrices."""

import numpy as np
import pytest

from benchmark.aggregators import FLANDERS
from benchmark.testing.rule_inputs import STYLES
from tests.helpers.rounds import context, play, styled, updates_of, world
from tests.helpers.states import same
from tests.reference import history as reference


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{}, {"window": 4}, {"samples": 3}, {"samples": 2, "window": 5, "iterations": 3}, {"keep": 5}],
    ids=str,
)
def test_flanders(settings, sampled):
    for seed in range(4):
        rounds, models = world(seed, n=12, d=9, sampled=sampled, f=2, drift=2.0)
        rule = FLANDERS(**settings)
        _, stayed = play(rule, rounds, 2, models)
        drawn = np.random.default_rng(5).choice(9, min(9, rule.samples), replace=False)
        wanted = reference.flanders(rounds, models, -0.1, 2, np.sort(drawn), **settings_of(rule))
        assert stayed == wanted
        assert [len(kept) for kept in stayed[:2]] == [len(sent) for sent in rounds[:2]]
        assert len(stayed[2]) == (len(rounds[2]) - 2 if rule.keep is None else 5)


def settings_of(rule):
    return {name: getattr(rule, name) for name in ("window", "keep", "iterations", "ridge")}


@pytest.mark.parametrize("style", [s for s in STYLES if s != "duplicates"])
def test_flanders_of_what_an_attacker_sends(style):
    rounds = styled(style, n=9, f=2, d=6)
    models = [np.full(6, 0.1 * t) for t in range(4)]
    _, stayed = play(FLANDERS(), rounds, 2, models, step=1.0)
    assert stayed == reference.flanders(rounds, models, 1.0, 2, np.arange(6))
    if "1e30" in style:
        assert all((0 if "first" in style else 8) not in kept for kept in stayed[2:])


def test_flanders_by_hand():
    """Local models 1 2 4 and 2 4 8: A = 2, B projects on (2, 4, 8), so 4 8 16 is foretold. Client 1
    with 8.5 goes; in round 4 its past is the model that came out, 5, so that (4, 5, 16) follows
    (2, 4, 8): A = 156/84, B projects on A (2, 4, 8), and what is foretold are multiples of it."""
    line = [{i: np.array([v]) for i, v in enumerate(row)} for row in ([1.0, 2, 4], [2, 4, 8])]
    third = {0: np.array([4.0]), 1: np.array([8.5]), 2: np.array([16.0])}
    models = [np.zeros(1)] * 3
    _, stayed = play(FLANDERS(), [*line, third], 1, models, step=1.0)
    assert stayed == [[0, 1, 2], [0, 1, 2], [0, 2]]
    rule, state = FLANDERS(), None
    for sent in (*line, third):
        _, state = rule.accept(updates_of(sent), 1, state, context(step=1.0))
    _, state = rule.accept(updates_of(third), 1, state, context(model=[5.0], step=1.0))
    earlier = state["rounds"][0]
    assert earlier["ids"].tolist() == [0, 2] and earlier["models"].ravel().tolist() == [4, 16]
    assert earlier["result"].tolist() == [5]
    # keep = 2 without an f; f stays, whoever went
    kept, f, _ = FLANDERS(keep=1).apply(updates_of(third), 1, state, context(step=1.0))
    assert len(kept) == 1 and f == 1


def test_flanders_is_defined_for_negative_zero_and_repeated_models():
    """Some systems divide by the largest number, whatever its sign, and start at random."""
    for value in (-3.0, 0.0, 1e30):
        rounds = [{i: np.full(3, value) for i in range(4)}] * 5
        _, stayed = play(FLANDERS(), rounds, 1, step=1.0)
        assert stayed[-1] == [0, 1, 2]
    rounds, models = world(0, d=20)
    assert play(FLANDERS(samples=4), rounds, 3, models) and same(
        play(FLANDERS(samples=4), rounds, 3, models), play(FLANDERS(samples=4), rounds, 3, models)
    )

"""Safeguard against its paper, and what an attacker sends it and ByzantineSGD."""

import numpy as np
import pytest
import torch
from hypothesis import given

from benchmark.aggregators import ByzantineSGD, Safeguard, Updates
from benchmark.testing.rule_inputs import STYLES
from tests.helpers.properties import SEEDS, examples
from tests.helpers.rounds import context, play, styled, world
from tests.reference import history as reference


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"T0": 2, "T1": 4},
        {"T0": 3, "slack": 1.1},
        {"T0": 1, "T1": 1, "slack": 1.2},
        {"T0": 2, "T1": 6, "threshold0": 0.2, "threshold1": 0.3},
        {"T0": 5, "T1": 5, "threshold1": 0.25},
    ],
    ids=str,
)
def test_safeguard(settings, plain):
    dropped = set()
    for seed in range(6):
        rounds, _ = world(seed, sampled=not plain, drift=1.5)
        rule = Safeguard(**({"T1": None} | settings))
        _, stayed = play(rule, rounds, 3)
        assert stayed == reference.safeguard(rounds, **settings, plain=plain)
        dropped.add(len(rounds[-1]) - len(stayed[-1]))
    assert dropped != {0}


@pytest.mark.parametrize("style", [s for s in STYLES if s != "duplicates"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_safeguards_of_what_an_attacker_sends(style, dtype):
    rounds = styled(style)
    if dtype == np.float32:  # what the reference sees is rounded alike
        rounds = [{i: x.astype(dtype).astype(float) for i, x in sent.items()} for sent in rounds]
    models = [np.full(6, 0.1 * t) for t in range(4)]
    _, stayed = play(ByzantineSGD(), rounds, 3, models, dtype)
    assert stayed == reference.byzantine_sgd(rounds, models)
    _, stayed = play(Safeguard(T0=2, T1=3), rounds, 3, dtype=dtype)
    assert stayed == reference.safeguard(rounds, 2, 3)


LINE = np.array([[0.0], [1], [2], [3], [10]])


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        # The ball about 1 that holds three of five has radius 1, so does that about 2: the first.
        (ByzantineSGD(slack=1.5), [0, 1, 2, 3]),  # 4V = 2 * 1.5 * 1: 3 is at 2, 10 at 9
        (ByzantineSGD(slack=0.9), [0, 1, 2]),  # 1.8
        (ByzantineSGD(slack=4.5), [0, 1, 2, 3, 4]),  # 9
        (ByzantineSGD(V=0.5), [0, 1, 2, 3]),  # 2; T_B = 2 sqrt(ln 1600) = 5.4
        (ByzantineSGD(V=0.49), [0, 1, 2]),
        (ByzantineSGD(V=1e-9), [1]),  # no vector median; other systems give up
        (ByzantineSGD(V=9.0, threshold_b=1.0), [0, 1, 2]),
        (Safeguard(slack=1.5), [0, 1, 2, 3]),  # 2 * 1.5 * 1/5 for distances 1/5, 2/5, 9/5
        (Safeguard(slack=0.9), [0, 1, 2]),
        (Safeguard(threshold0=0.19, threshold1=9.0), [0, 1, 2]),
        (Safeguard(threshold1=0.21), [0, 1, 2, 3]),
        (Safeguard(T1=None, threshold0=0.91), [0, 1, 2, 3, 4]),
    ],
    ids=str,
)
def test_one_round_by_hand(rule, wanted):
    now = context()
    assert rule.filtered(LINE, f=1, context=now).ravel().tolist() == LINE[wanted].ravel().tolist()
    np.testing.assert_allclose(rule(LINE, f=1, context=now), LINE[wanted].mean(0))
    _, f, _ = rule.apply(Updates(torch.from_numpy(LINE)), 2, None, now)
    assert f == 2


def steady(rounds, away=1.0, n=5):
    """Every round four clients send 0, the last `away`."""
    return [{i: np.array([away if i == n - 1 else 0.0]) for i in range(n)}] * rounds


def out_after(stayed, client=4):
    """The first round, from 1, without the client, which never comes back."""
    there = [client in kept for kept in stayed]
    assert there == sorted(there, reverse=True)
    return there.index(False) + 1 if False in there else None


def test_small_deviations_add_up_by_hand():
    """|B| = t of the one away by 1 with V = 0.5, so |x - x_med| <= 2 always. T_B = 2 sqrt(t ln(1600
    t)) < t from t = 45 on: 4 ln(1600 * 45) = 44.74, 4 ln(1600 * 44) = 44.65. A = (t - 1) * 1 if the
    model is 0 and then 1. Safeguard adds up t / 5."""
    models = [np.zeros(1)] + [np.ones(1)] * 49
    rounds = steady(50)
    assert out_after(play(ByzantineSGD(V=0.5, threshold_a=99.0), rounds, 1, models)[1]) == 45
    given = ByzantineSGD(V=0.5, threshold_a=99.0, threshold_b=6.5)
    assert out_after(play(given, rounds, 1, models)[1]) == 7
    given = ByzantineSGD(V=0.5, threshold_a=6.5, threshold_b=99.0)
    assert out_after(play(given, rounds, 1, models)[1]) == 8
    rule = Safeguard(T0=3, T1=None, threshold0=0.29)  # 0.58 < 3/5
    assert out_after(play(rule, rounds, 1)[1]) == 3
    assert out_after(play(Safeguard(T0=2, T1=None, threshold0=0.29), rounds, 1)[1]) is None
    assert out_after(play(Safeguard(2, 7, 0.29, 0.69), rounds, 1)[1]) == 7  # 1.38 < 7/5
    assert out_after(play(Safeguard(2, 6, 0.29, 0.69), rounds, 1)[1]) is None


def test_a_removed_client_stays_out_even_when_it_behaves():
    rounds = steady(1, away=50.0) + steady(3, away=0.0)
    for rule in (ByzantineSGD(), Safeguard(T0=1, T1=2)):
        _, stayed = play(rule, rounds, 1)
        assert stayed == [[0, 1, 2, 3]] * 4
        only = [*rounds, {4: np.zeros(1)}]  # nobody is trusted: the model stays
        vectors, stayed = play(rule, only, 0)
        assert stayed[-1] == [] and not vectors[-1].any()


def test_who_is_absent_keeps_what_it_had():
    """Client 4 deviates in rounds 1 and 3 and is away in round 2; a newcomer begins at nothing."""
    one, two = steady(1)[0], {i: np.zeros(1) for i in range(4)}
    late = {**one, 9: np.array([1.0])}
    assert play(ByzantineSGD(V=9.0, threshold_b=1.5), [one, two, late], 1)[1][-1] == [0, 1, 2, 3, 9]
    rule = Safeguard(T0=9, T1=None, threshold0=0.17)  # 1/5 + 1/6 > 2 * 0.17 > 1/6
    assert play(rule, [one, two, late], 1)[1][-1] == [0, 1, 2, 3, 9]


@pytest.mark.parametrize("rule", [ByzantineSGD(), Safeguard(T0=2, T1=3)], ids=str)
@examples(8)
@given(seed=SEEDS)
def test_f_vectors_cannot_carry_the_aggregate_away(rule, seed):
    """Of length 1e9, together or apart, from the first round or later: none stays, and the
    aggregate is in the range of the honest."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 14))
    f = int(rng.integers(1, (n + 1) // 2))
    begins = int(rng.integers(0, 3))
    if n < 2 * f + 3:  # an honest client thrown out by chance before would cost the majority
        begins = 0
    rounds = []
    for t in range(4):
        honest = {i: rng.normal(size=5) for i in range(f, n)}
        direction = rng.normal(size=(f, 5)) if rng.random() < 0.5 else np.ones((f, 5))
        away = 1e9 if t >= begins else 1.0
        rounds.append({**{i: away * direction[i] for i in range(f)}, **honest})
    vectors, stayed = play(rule, rounds, f)
    for t in range(begins, 4):
        assert not set(stayed[t]) & set(range(f)) and stayed[t]
        honest = np.array([rounds[t][i] for i in stayed[t]])
        assert np.all(honest.min(0) - 1e-6 <= vectors[t])
        assert np.all(vectors[t] <= honest.max(0) + 1e-6)


def test_honest_clients_are_not_thrown_out_in_many_coordinates():
    """200 coordinates, 30 rounds: nobody of ten alike goes by the automatic thresholds."""
    rounds, models = world(0, n=10, d=200, rounds=30, sampled=False, f=0)
    for rule in (ByzantineSGD(), Safeguard(T0=4, T1=24)):
        _, stayed = play(rule, rounds, 0, models)
        assert all(len(kept) == 10 for kept in stayed)


def test_a_little_every_round_is_found_out_over_a_window():
    """As in A Little Is Enough: within the spread every round, but always the same way."""
    rng = np.random.default_rng(0)
    rounds = [
        {i: rng.normal(size=50) if i > 2 else np.full(50, 1.2) for i in range(11)}
        for _ in range(30)
    ]
    _, stayed = play(Safeguard(T0=25, T1=None), rounds, 3)
    assert stayed[0] == list(range(11)) and stayed[-1] == list(range(3, 11))

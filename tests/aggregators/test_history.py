"""Rules that remember the clients: memory, states, and what all of them promise."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given

from benchmark.aggregators import (
    FLANDERS,
    NNM,
    Bucketing,
    ByzantineSGD,
    Chain,
    Context,
    FLDetector,
    FoolsGold,
    Mean,
    Median,
    Safeguard,
    Updates,
)
from benchmark.aggregators.history import concentrated_median, remember, rows_of
from benchmark.aggregators.state import packed
from benchmark.testing.rule_inputs import STYLES
from tests.helpers.properties import SEEDS, examples
from tests.helpers.rounds import context, play, styled, updates_of, world
from tests.helpers.states import same, through_a_file

RULES = [
    FoolsGold(),
    FoolsGold(features="output"),
    FLDetector(window=2, references=3),
    ByzantineSGD(),
    Safeguard(T0=2, T1=3),
    Safeguard(T0=2, T1=None),
    FLANDERS(samples=5),
]
DETECTORS = [rule for rule in RULES if not isinstance(rule, FoolsGold)]


def test_concentrated_median():
    """Four of seven: 10 to 13 about 11 within 2, and 12 likewise. Five: 2 to 12 about 10 within 8,
    and 2 likewise. All seven: 10 about 10."""
    points = np.array([0.0, 1, 2, 10, 11, 12, 13])
    distances = abs(points[:, None] - points)
    assert concentrated_median(distances, 7) == (4, 2.0)
    assert concentrated_median(distances, 9) == (3, 8.0)
    assert concentrated_median(distances, 99) == (3, 10.0)
    assert concentrated_median(np.zeros((1, 1)), 1) == (0, 0.0)


def test_rows_are_remembered_by_id():
    first = updates_of({5: [1.0, 2], 3: [3, 4]})
    memory = remember(None, first, scale=2.0)
    assert memory.ids.tolist() == [3, 5] and memory.rows.tolist() == [[6, 8], [2, 4]]
    second = updates_of({4: [1.0, 1], 3: [0, 5]})
    later = remember(memory, second, keep=0.5, centre=0)
    assert later.ids.tolist() == [3, 4, 5]
    assert later.rows.tolist() == [[2, 8], [0, 0], [2, 4]]
    assert memory.rows.tolist() == [[6, 8], [2, 4]]
    assert rows_of(later, np.array([5, 3])).rows().tolist() == [[2, 4], [2, 8]]
    assert rows_of(later, np.array([5, 3, 4])).rows().tolist() == [[2, 4], [2, 8], [0, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_histories_are_kept_in_float32_at_least_and_never_overflow(dtype):
    huge = torch.full((3, 4), torch.finfo(dtype).max, dtype=dtype)
    huge[1] *= -1
    huge[2, :2] = 1
    memory = None
    for _ in range(3):
        memory = remember(memory, Updates(huge), scale=1.0)
    assert memory.rows.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(memory.rows).all()
    if dtype != torch.float64:
        vector, _, _ = FoolsGold().step(Updates(huge), 1, memory, Context())
        assert torch.isfinite(vector).all() and vector.dtype == dtype


def test_a_client_that_sends_the_largest_number_every_round_breaks_nothing():
    rounds = [
        {**{i: np.random.default_rng([t, i]).normal(size=6) for i in range(6)}, 6: np.full(6, 3e38)}
        for t in range(5)
    ]
    for rule in RULES:
        play(rule, rounds, 1, dtype=np.float32)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_state_survives_a_file_and_being_asked(rule):
    """The same bits whether or not the state went to a file between the rounds; and a step leaves
    the old state as it was."""
    rounds, models = world(2, d=8, rounds=7)
    straight = play(rule, rounds, 3, models)
    filed = play(rule, rounds, 3, models, between=through_a_file)
    assert same(straight, filed)
    state = rule.init()
    for t, sent in enumerate(rounds):
        kept = through_a_file(state)
        _, new, _ = rule.step(updates_of(sent), 3, state, context(t, models[t], 8))
        rule.step(updates_of(rounds[-1]), 3, state, context(t, models[0], 8))
        assert same(state, kept)
        state = new


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_state_does_not_grow_with_the_rounds(rule):
    """One row a client, not a list of all rounds."""
    rounds, models = world(1, n=6, d=40, rounds=4, sampled=False, f=0)
    state, sizes = rule.init(), []
    for t in range(20):
        _, state, _ = rule.step(updates_of(rounds[t % 4]), 0, state, context(t, models[t % 4], 40))
        sizes.append(sum(np.asarray(part).size for part in packed(state)[1].values()))
    rows = {FoolsGold: 1, ByzantineSGD: 1, Safeguard: 2, FLDetector: 1, FLANDERS: 0}[type(rule)]
    pairs = 2 * 2 + 2 if isinstance(rule, FLDetector) else 2
    assert max(sizes) <= rows * 6 * 40 + pairs * 40 + 200
    assert max(sizes[8:14]) >= max(sizes[14:])


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_servers_model_may_change_after_the_round(rule):
    """It is the server's own memory that a context shows; the state must not."""
    rounds, models = world(3, d=5, rounds=5, sampled=False)
    wanted = play(rule, rounds, 3, models)
    live, state, vectors = torch.zeros(5, dtype=torch.float64), rule.init(), []
    for t, sent in enumerate(rounds):
        live.copy_(torch.from_numpy(models[t]))
        vector, state, _ = rule.step(updates_of(sent), 3, state, context(t + 1, live, 5))
        vectors.append(vector.numpy())
    np.testing.assert_array_equal(vectors, wanted[0])


@pytest.mark.parametrize("rule", RULES, ids=str)
@examples(8)
@given(seed=SEEDS)
def test_the_order_of_clients_does_not_matter(rule, seed):
    rounds, models = world(seed, d=6, rounds=5)
    rng = np.random.default_rng(seed)
    mixed = [{i: sent[i] for i in rng.permutation(list(sent))} for sent in rounds]
    straight, shuffled = play(rule, rounds, 3, models), play(rule, mixed, 3, models)
    np.testing.assert_allclose(shuffled[0], straight[0], rtol=1e-7, atol=1e-9)
    for one, other in zip(straight[1], shuffled[1], strict=True):
        assert set(one) == set(other)


@pytest.mark.parametrize("rule", [ByzantineSGD(), Safeguard(T0=2, T1=3), FoolsGold()], ids=str)
@examples(8)
@given(seed=SEEDS)
def test_shifting_turning_and_stretching(rule, seed):
    """Who is thrown out depends on neither; of FoolsGold, whose cosines are about the origin, what
    is trusted depends neither on the axes nor on the unit."""
    rng = np.random.default_rng(seed)
    rounds, models = world(seed, d=6, rounds=5, drift=2.0)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    s = 10.0 ** rng.uniform(-3, 3) * rng.choice([-1, 1])
    shifts = np.zeros((5, 6)) if isinstance(rule, FoolsGold) else 10 * rng.normal(size=(5, 6))
    other = [
        {i: s * x @ turn + shift for i, x in sent.items()}
        for sent, shift in zip(rounds, shifts, strict=True)
    ]
    vectors, stayed = play(rule, rounds, 3, models)
    turned, same_stayed = play(rule, other, 3, [model @ turn for model in models])
    assert same_stayed == stayed
    for vector, result, shift in zip(vectors, turned, shifts, strict=True):
        np.testing.assert_allclose(result, s * vector @ turn + shift, rtol=1e-6, atol=1e-6 * abs(s))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rounds_of_another_unit(rule):
    """Updates and models 2^k times as long give aggregates 2^k times as long, or are refused."""
    rounds, models = world(2, d=6, rounds=9, sampled=False)
    for sent in rounds:
        sent |= {i: -4 * sent[i] for i in (191, 198, 205)}
    wanted, stayed = play(rule, rounds, 3, models)
    for power in (-900, -520, -440, -300, 300, 440, 520, 900):
        unit = 2.0**power
        longer = [{i: x * unit for i, x in sent.items()} for sent in rounds]
        try:
            vectors, same_stayed = play(rule, longer, 3, [model * unit for model in models])
        except ValueError as error:
            assert re.match("updates are too (long|short): their squared", str(error))
            continue
        assert same_stayed == stayed
        np.testing.assert_allclose(np.array(vectors) / unit, wanted, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=str)
@examples(8)
@given(seed=SEEDS)
def test_the_aggregate_lies_among_the_vectors_or_is_zero(rule, seed):
    rng = np.random.default_rng(seed)
    style = STYLES[rng.integers(len(STYLES))]
    rounds = styled(style, n=7, f=2, d=4, seed=seed)
    for vector, sent in zip(play(rule, rounds, 2)[0], rounds, strict=True):
        x = np.array(list(sent.values()))
        margin = 1e-9 * np.maximum(1, abs(x).max(0))
        inside = np.all(x.min(0) - margin <= vector) and np.all(vector <= x.max(0) + margin)
        assert inside or not vector.any()


@pytest.mark.parametrize("rule", DETECTORS, ids=str)
def test_filters_before_a_rule(rule):
    """A chain carries the state; its rule sees what the filter lets through."""
    rounds, models = world(4, d=6, rounds=6, drift=9.0)
    chain = Chain([rule, Median()])
    vectors, _ = play(chain, rounds, 3, models)
    _, stayed = play(rule, rounds, 3, models)
    for vector, sent, kept in zip(vectors, rounds, stayed, strict=True):
        wanted = np.median([sent[i] for i in kept], axis=0)
        np.testing.assert_allclose(vector, wanted, rtol=1e-12, atol=1e-12)
    play(Chain([NNM(), rule, Mean()]), rounds, 3, models)
    reason = Chain([Bucketing(), rule]).check(12, 2)
    assert "follows single clients" in reason and "\n" not in reason


@pytest.mark.parametrize("rule", [ByzantineSGD(), FLDetector(), FLANDERS()], ids=str)
def test_a_missing_model_is_an_error_of_one_line(rule):
    with pytest.raises(ValueError, match="needs 'model'"):
        rule(np.ones((5, 2)), f=1)

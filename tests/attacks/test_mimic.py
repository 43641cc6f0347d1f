"""Mimic: copies of an honest client."""

import numpy as np
import pytest
import torch

from benchmark.attacks import Mimic, MimicHeuristic
from tests.helpers.basic_attacks import WIDTH, F, H, attacked, drawn, dtypes, numbers
from tests.reference import attacks_basic as reference


def test_mimic_copies_one_client():
    honest, own = drawn(), drawn(F, seed=1)
    assert np.array_equal(Mimic()(honest, f=2), honest[[0, 0]])
    assert np.array_equal(Mimic(target=4)(honest, f=2), honest[[4, 4]])
    assert np.array_equal(Mimic(target=H + 4)(honest, f=2), honest[[4, 4]])
    sent, _ = attacked(Mimic(target=1, knowledge="byzantine"), honest, own)
    assert np.array_equal(sent, own[[1] * F])


def test_mimic_under_sampling():
    """The client is remembered by its id; while it is away, the next one is copied."""
    attack, state, copied = Mimic(target=1), None, []
    for ids in ([3, 7, 9], [7, 9], [3, 9], [1, 3], [], [2], [1, 3, 7]):
        rows = np.repeat(np.array(ids, float)[:, None], WIDTH, axis=1)
        sent, state = attacked(attack, rows, state=state, honest_ids=np.array(ids, int))
        copied.append(sent[0, 0])
    assert copied == [7, 7, 9, 1, 0, 2, 7] and state == 7 and type(state) is int


def play(attack, rounds, seed=0):
    """Which client is copied in every round, and the states."""
    state, copied, states = None, [], []
    for present in rounds:
        ids = np.array(sorted(present), int)
        rows = np.array([present[i] for i in sorted(present)])
        sent, after = attacked(attack, rows, state=state, honest_ids=ids, seed=seed)
        copied.append(int(ids[[np.array_equal(sent[0], row) for row in rows].index(True)]))
        assert (sent == sent[0]).all()
        state = after
        states.append(state)
    return copied, states


@dtypes
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_mimic_heuristic(sampled, seed, dtype):
    """Against the loop from the paper; under sampling, too."""
    rng = np.random.default_rng(seed)
    centres = drawn(H, seed=seed)
    rounds = []
    for _ in range(9):
        ids = np.sort(rng.choice(H, rng.integers(1, 6), replace=False)) if sampled else range(H)
        noise = 0.3 * rng.normal(size=(H, WIDTH))
        rounds.append({int(i): (centres[i] + noise[i]).astype(dtype) for i in ids})
    copied, states = play(MimicHeuristic(warmup=5), rounds, seed)
    exact = [{i: row.astype(np.float64) for i, row in present.items()} for present in rounds]
    z = numbers("common_normal", seed, dtype)
    assert copied == reference.mimic_heuristic(exact, z, 5)
    assert all(isinstance(state, dict) for state in states[:4])
    assert len(set(states[4:])) == 1 and type(states[4]) is int
    if not sampled:
        assert copied[4:] == [states[4]] * 5


def test_mimic_heuristic_finds_the_client_that_is_different():
    """One client far out along an axis, on either side of zero."""
    for side in (-30.0, 30.0):
        rounds = []
        for t in range(6):
            rows = drawn(H, seed=t, offset=0.0)
            rows[6, 3] += side
            rounds.append(dict(enumerate(rows)))
        copied, states = play(MimicHeuristic(warmup=4), rounds)
        assert copied[3:] == [6, 6, 6] and states[-1] == 6
        direction = states[2]["direction"]
        assert abs(float(direction[3])) > 0.9 and float(direction.norm()) == pytest.approx(1)


def test_mimic_heuristic_in_any_units():
    rounds = [dict(enumerate(drawn(H, seed=t))) for t in range(4)]
    small = [{i: 2.0**-40 * row for i, row in present.items()} for present in rounds]
    attack = MimicHeuristic(warmup=3)
    assert play(attack, rounds)[0] == play(attack, small)[0]


def test_mimic_heuristic_leaves_its_state_alone():
    attack, rows = MimicHeuristic(warmup=3), drawn()
    _, state = attacked(attack, rows)
    before = {name: state[name].clone() for name in ("mean", "direction")}
    sums = state["sums"].rows.copy()
    one, _ = attacked(attack, drawn(seed=1), state=state)
    other, _ = attacked(attack, drawn(seed=1), state=state)
    assert np.array_equal(one, other) and np.array_equal(sums, state["sums"].rows)
    assert all(torch.equal(before[name], state[name]) for name in before)


def test_mimic_heuristic_partial():
    own = drawn(F, seed=1)
    sent, state = attacked(MimicHeuristic(warmup=1, knowledge="byzantine"), drawn(), own)
    assert np.array_equal(sent, own[[state] * F])

"""Steps: the state that they hand on, what they report, and the vectors as they stand in memory."""

from typing import Any

import numpy as np
import torch

from benchmark.aggregators.contract import Rule
from benchmark.aggregators.updates import Updates
from benchmark.testing.rule_inputs import D, F, N, call, draw, knowledge, one_step, sample
from benchmark.testing.states import same_state, stored


def a_call_is_one_step_from_a_fresh_state(rule: Rule) -> None:
    """A call is one step from a fresh state."""
    x = draw()
    vector, _, _ = one_step(rule, Updates(torch.from_numpy(x)))
    assert np.array_equal(vector.numpy(), call(rule, x, F))


def _rounds(
    rule: Rule, count: int, first: int = 0, state: Any = None
) -> tuple[list[torch.Tensor], Any]:
    """Return the aggregates of rounds of sampled clients, 11 of 15 each, and the last state."""
    vectors, state = [], rule.init() if state is None else state
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        ids = np.sort(rng.permutation(N)[:11])
        x = torch.from_numpy(draw(seed=number)[ids])
        x[torch.from_numpy(ids < 2)] += 5
        told = {
            "round": number + 1,
            "generator": lambda number=number: np.random.default_rng(number),
            "model": torch.full((D,), 1.0 + number, dtype=torch.float64),
        }
        vector, state, _ = one_step(rule, Updates(x, ids=ids), 2, state, **told)
        vectors.append(vector)
    return vectors, state


def a_run_goes_on_from_a_checkpoint(rule: Rule) -> None:
    """A run whose state was stored and read back goes on to the same bits."""
    straight, end = _rounds(rule, 6)
    _, state = _rounds(rule, 3)
    resumed, other_end = _rounds(rule, 3, 3, stored(state))
    assert all(map(torch.equal, straight[3:], resumed))
    assert same_state(end, other_end)
    assert all(bool(torch.isfinite(vector).all()) for vector in straight)


def asking_does_not_disturb_the_state(rule: Rule) -> None:
    """A step changes neither the state it got nor the vectors, whoever asks how often."""
    first, second, other = (torch.from_numpy(draw(seed=seed)) for seed in range(3))
    _, state, _ = one_step(rule, Updates(first))
    kept = stored(state)
    wanted, new, _ = one_step(rule, Updates(second), F, state, round=2)
    one_step(rule, Updates(other), F, state, round=2)
    again, newer, _ = one_step(rule, Updates(second), F, state, round=2)
    assert same_state(state, kept) and same_state(new, newer)
    assert torch.equal(wanted, again)
    assert torch.equal(first, torch.from_numpy(draw(seed=0)))


def shares_are_a_distribution(rule: Rule) -> None:
    """The shares of the clients are not negative and sum to 1, or to 0 if nobody is trusted.

    They are the same whichever rows are asked for.
    """
    for style in ("ordinary", "long rows of many magnitudes", "duplicates"):
        x = torch.from_numpy(sample(style, N, F, D))
        vector, _, report = one_step(rule, Updates(x))
        if report is None:
            continue  # the clients' weights are not known
        share = report.share(np.arange(N))
        assert share.shape == (N,) and (share >= 0).all()
        trusted = 1 if vector.any() else 0
        assert abs(share.sum() - trusted) <= 1e-9 or abs(share.sum() - 1) <= 1e-6
        some = np.array([9, 3, 4])
        np.testing.assert_allclose(report.share(some), share[some], atol=1e-12)
        assert len(report.share(np.array([], int))) == 0


def weights_are_the_coefficients(rule: Rule) -> None:
    """Where the aggregate is a linear combination, `weights` are its coefficients."""
    x = draw()
    try:
        weights = rule.weights(x, f=F, context=knowledge(x))
    except TypeError as error:
        assert "no linear combination" in str(error)
        return
    assert weights.shape == (N,) and weights.dtype == np.float64
    np.testing.assert_allclose(weights @ x, call(rule, x, F), rtol=1e-7, atol=1e-9)


def vectors_may_stand_in_another_order_in_memory(rule: Rule) -> None:
    """A buffer and the order of the clients in it give what the vectors in order give."""
    x, order = draw(), np.random.default_rng(5).permutation(N)
    wanted, _, report = one_step(rule, Updates(torch.from_numpy(x)))
    buffer = torch.from_numpy(x[order])
    updates = Updates(buffer, np.eye(N)[np.argsort(order)])
    np.testing.assert_array_equal(updates.rows(), x)
    vector, _, other = one_step(rule, updates)
    np.testing.assert_allclose(vector, wanted, rtol=1e-8, atol=1e-11)
    assert (report is None) == (other is None)
    if report and other:
        everybody = np.arange(N)
        np.testing.assert_allclose(
            other.share(everybody), report.share(everybody)[order], atol=1e-9
        )


def mixed_vectors_give_what_the_vectors_give(rule: Rule) -> None:
    """Vectors that exist as combinations only give what the vectors themselves would."""
    x, mixing = torch.from_numpy(draw()), np.random.default_rng(8).normal(size=(N, N)) / 4
    mixed = torch.from_numpy(mixing) @ x
    wanted, _, _ = one_step(rule, Updates(mixed))
    vector, _, _ = one_step(rule, Updates(x, mixing))
    np.testing.assert_allclose(vector, wanted, rtol=1e-7, atol=1e-9)

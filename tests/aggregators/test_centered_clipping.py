"""Centred clipping, of all vectors at once and of buckets one after the other."""

import numpy as np
import pytest
import torch

from benchmark.aggregators import CenteredClipping, Context, SequentialClipping, Updates
from benchmark.aggregators.state import packed, unpacked
from benchmark.testing.rule_inputs import draw
from tests import reference
from tests.helpers.vectors import dealing
from tests.reference import gram


@pytest.mark.parametrize("tau", [0.05, 1.0, 100.0])
@pytest.mark.parametrize("iterations", [1, 4])
def test_centred_clipping_over_several_rounds(tau, iterations):
    rule, state, wanted = CenteredClipping(tau, iterations), None, np.zeros(20)
    state = rule.init()
    for round in range(5):
        x = 3 + draw(9, 20, round)
        x[round] *= 10.0 ** (4 * round)
        wanted = reference.centered_clipping(x, wanted, tau, iterations)
        updates = Updates(torch.from_numpy(x))
        vector, state, _ = rule.step(updates, 2, state, Context(round=round + 1))
        np.testing.assert_allclose(vector, wanted, rtol=1e-9, atol=1e-9)


def test_centred_clipping_by_hand():
    """From (3, 3) with tau = 1: (3, 4) is at distance 1 and counts in full, (0, 3) is pulled to
    (-1, 0); half their sum is (-0.5, 0.5). From 0, (3, 4) becomes (0.6, 0.8)."""
    x = torch.tensor([[3.0, 4], [0, 3]], dtype=torch.float64)
    vector, state, report = CenteredClipping(1.0).step(
        Updates(x), 0, torch.tensor([3.0, 3], dtype=torch.float64), Context()
    )
    np.testing.assert_allclose(vector, [2.5, 3.5])
    assert torch.equal(vector, state)
    np.testing.assert_allclose(report.share(np.array([0, 1])), [0.75, 0.25])  # 1/2 and 1/6
    np.testing.assert_allclose(CenteredClipping(1.0)(x), [0.3, 0.9])


@pytest.mark.parametrize("clip", ["clients", "mean"])
@pytest.mark.parametrize("tau", [0.05, 1.0, 100.0])
@pytest.mark.parametrize("s", [1, 4, 20])
def test_sequential_clipping_over_several_rounds(tau, s, clip):
    """Other clients and other orders every round; the state goes through a checkpoint."""
    rule = SequentialClipping(tau, s, clip)
    state, wanted = rule.init(), np.zeros(20)
    for round in range(5):
        n = 9 - round % 2
        x = 3 + draw(n, 20, round)
        x[round] *= 10.0 ** (4 * round)
        order = np.random.default_rng(100 + round).permutation(n)
        wanted = gram.sequential_clipping(x, wanted, tau, s, order, clip)
        updates = Updates(torch.from_numpy(x), ids=np.arange(n) * 7 + round)
        state = unpacked(*packed(state))
        rule.step(Updates(torch.from_numpy(x[::-1].copy())), 2, state, Context())  # only asked
        vector, state, _ = rule.step(updates, 2, state, dealing(order))
        np.testing.assert_allclose(vector, wanted, rtol=1e-9, atol=1e-9)


def test_a_single_bucket_is_centred_clipping():
    from benchmark.aggregators import CenteredClipping

    x = draw(8, 5)
    result = SequentialClipping(0.7, s=8)(x, f=2)
    np.testing.assert_allclose(result, CenteredClipping(0.7)(x, f=2), rtol=1e-12)
    assert abs(SequentialClipping(0.7, s=2)(x, f=2) - result).max() > 1e-3


def test_sequential_clipping_by_hand():
    """tau = 2. One by one 1 2 90: 0 -> 1 -> 2 -> 4. In pairs 1 2 | 90 3: (1 + 2) / 2, from there
    (2 + 1.5) / 2; or the pairs' means 1.5 and 46.5: 1.5, then 2. 90 first: 2, then -1 and 0."""
    line = torch.tensor([[1.0], [2], [90]], dtype=torch.float64)
    pairs = torch.tensor([[1.0], [2], [90], [3]], dtype=torch.float64)

    def step(x, order, **settings):
        updates = Updates(x)
        return SequentialClipping(2.0, **settings).step(updates, 0, None, dealing(order))[0].item()

    assert step(line, [0, 1, 2], s=1) == pytest.approx(4)
    assert step(line, [2, 0, 1], s=1) == pytest.approx(2)
    assert step(line, [0, 1, 2], s=3) == pytest.approx(5 / 3)
    assert step(line, [0, 1, 2], s=50) == pytest.approx(5 / 3)
    assert step(line, [0, 1, 2], s=2) == pytest.approx(5 / 3)  # one bucket of three
    assert step(pairs, [0, 1, 2, 3], s=2) == pytest.approx(3.25)
    assert step(pairs, [0, 1, 2, 3], s=2, clip="mean") == pytest.approx(3.5)
    vector, state, report = SequentialClipping(2.0, s=1).step(
        Updates(line), 0, torch.tensor([100.0], dtype=torch.float64), dealing([2, 0, 1])
    )
    assert vector.item() == state.item() == pytest.approx(100 - 6)
    # 90 is 10 away: 2/10 of it. From 98 to 1: 2/97. From 96 to 2: 2/94, and 92/94 of the others.
    last = 92 / 94
    sizes = np.array([2 / 97 * last, 2 / 94, 0.2 * 95 / 97 * last])
    np.testing.assert_allclose(report.share(np.arange(3)), sizes / sizes.sum())

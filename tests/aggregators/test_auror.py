"""Auror: indicative coordinates, and two means of each."""

import numpy as np
import pytest
import torch
from hypothesis import given

from benchmark.aggregators import Auror, Context, Updates
from benchmark.aggregators.auror import _two_means
from benchmark.aggregators.state import packed, unpacked
from tests.helpers.properties import SEEDS, examples
from tests.helpers.rounds import rounds_of_others
from tests.helpers.vectors import kept, small
from tests.reference import clustering


def test_auror_by_hand():
    """0 0.1 0.2 5 splits before 5: centres 0.1 and 5 are 4.9 apart, and 5 is alone. In the second
    coordinate 7 is alone, in the third nobody is (two and two), the fourth is not indicative."""
    x = np.array([[0.0, 7, 1, 0], [0.1, 0, 1, 0], [0.2, 0, 9, 0], [5, 0, 9, 0.001]])
    assert Auror()(x[:, :1], f=1).tolist() == pytest.approx([0.1])
    assert Auror(alpha=5.0)(x[:, :1], f=1).tolist() == pytest.approx([5.3 / 4])
    gap, few = _two_means(x)
    assert gap.tolist() == pytest.approx([4.9, 7, 8, 0.001])
    assert few.astype(int).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
    assert kept(Auror(), x, 1) == [0, 1, 2, 3]  # one of three each: no more than half
    assert kept(Auror(tau=0.3), x, 1) == [1, 2]


@examples(25)
@given(seed=SEEDS)
def test_two_means_of_a_line_are_exact(seed):
    """As good as the best split found by trying all; long values do not disturb short ones."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(int(rng.integers(1, 12)), 7))
    values[rng.random(values.shape) < 0.2] *= 10.0 ** rng.uniform(0, 12)
    values[:, 5] = np.round(values[:, 5] / np.abs(values[:, 5]).max(), 1)
    values[:, 6] = 0.3
    gap, few = _two_means(values)
    for j in range(6 if len(values) > 2 else 0):
        wanted, rows = clustering.two_means(values[:, j])
        if j < 5:  # of equally good splits of round numbers rounding decides
            assert np.flatnonzero(few[:, j]).tolist() == sorted(rows)
        assert float(gap[j]) == pytest.approx(wanted, rel=1e-9) or j == 5
    assert gap[6] == 0 and not few[:, 6].any()


@pytest.mark.parametrize("warmup", [0, 1, 3, 10])
def test_auror_over_several_rounds(warmup):
    rule = Auror(alpha=4.5, warmup=warmup)
    state, indicative, counted = rule.init(), None, []
    for number, (x, ids) in enumerate(rounds_of_others()):
        choosing = warmup == 0 or number < warmup
        stays, chosen = clustering.auror(x, 4.5, 0.5, indicative, choosing)
        updates = Updates(torch.from_numpy(x), ids=ids)
        before = packed(state)
        vector, new, _ = rule.step(updates, 2, state, Context())
        np.testing.assert_allclose(vector, x[stays].mean(0), rtol=1e-9)
        again, _, _ = rule.step(updates, 2, unpacked(*before), Context())
        assert torch.equal(vector, again)
        if warmup:
            indicative = chosen
            assert new[0] == min(number + 1, warmup) and new[1].tolist() == chosen
        else:
            assert new is None
        state = new
        counted.append(sum(chosen))
    if warmup == 3:
        assert counted[0] > counted[2] > 0 and counted[2:] == [counted[2]] * 4


def test_auror_without_indicative_coordinates_keeps_all():
    x = 1e-5 * small(9, 20)
    np.testing.assert_allclose(Auror()(x, f=2), x.mean(0))
    # Running means of equal values differ by rounding, here by more than alpha.
    assert kept(Auror(), np.full((9, 4), 0.3e30), 2) == list(range(9))

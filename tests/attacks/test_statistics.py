"""A Little Is Enough, inner products, ByzMean and shuffled signs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.aggregators import Krum
from benchmark.attacks import ALittleIsEnough, ByzMean, InnerProductManipulation, SignShuffle, z_max
from benchmark.kernels.moments import mean_and_std
from benchmark.testing.attack_inputs import draw
from tests import reference
from tests.helpers.basic_attacks import F, H, attacked, drawn, dtypes, numbers
from tests.helpers.properties import examples
from tests.reference import attacks_basic


def test_means_and_deviations_of_the_largest_numbers():
    x = np.array([[3e38, 1e19], [3e38, 3e19], [3e38, 2e19]], np.float32)
    sent = InnerProductManipulation(epsilon=1.0)(x, f=1)[0]
    np.testing.assert_allclose(sent, [-3e38, -2e19], rtol=1e-6)
    sent = ALittleIsEnough(z=2.0)(x, f=1)[0]
    np.testing.assert_allclose(sent, [3e38, 0.0], rtol=1e-6, atol=1e13)
    y = np.array([[1.7e308], [-1.7e308], [1.7e308], [-1.7e308]])
    mean, std = mean_and_std(torch.from_numpy(y / 2))
    np.testing.assert_allclose(std, 0.85e308 * (4 / 3) ** 0.5, rtol=1e-12)
    assert mean == 0


@examples(25)
@given(n=st.integers(2, 200), data=st.data())
def test_z_max(n, data):
    """The paper's formula, floored at zero; it grows with f, up to f = n/2."""
    f = data.draw(st.integers(0, n // 2))
    assert z_max(n, f) == pytest.approx(reference.z_max(n, f), abs=1e-12)
    assert 0 <= z_max(n, f) <= z_max(n, n // 2) < 5


def test_z_max_stays_finite_where_the_byzantine_are_most():
    """As may happen among the clients that are sampled in a round."""
    assert all(np.isfinite(z_max(n, f)) for n in range(2, 30) for f in range(n))


@pytest.mark.parametrize(("f", "wanted"), [(1, 0.0), (5, 0.08), (12, 0.34), (24, 1.43), (25, 1.75)])
def test_z_max_of_fifty_clients(f, wanted):
    """s = 26 - f supporters: f = 1: Phi^-1(24/49) < 0; 5: Phi^-1(24/45); 12: Phi^-1(24/38);
    24: Phi^-1(24/26); 25: Phi^-1(24/25)."""
    assert z_max(50, f) == pytest.approx(wanted, abs=0.005)
    if not wanted:
        return
    honest = np.array([[-1.0], [1.0]] * ((50 - f) // 2) + [[0.0]] * (f % 2))
    sent = ALittleIsEnough()(honest, f=f)
    np.testing.assert_allclose(sent, -z_max(50, f) * honest.std(ddof=1), atol=1e-12)


def test_a_small_epsilon_deceives_krum():
    """Xie, Koyejo, Gupta, UAI 2019: -epsilon mean, repeated, is closer to its like than the honest
    are to each other; a large epsilon is not even needed."""
    honest = 0.1 + draw(12, 200)
    sent = InnerProductManipulation(epsilon=0.1)(honest, f=4)
    chosen = Krum()(np.vstack([honest, sent]), f=4)
    assert chosen @ honest.mean(axis=0) < 0


@dtypes
@pytest.mark.parametrize("knowledge", ["honest", "byzantine"])
def test_sign_shuffle(knowledge, dtype):
    honest, own = drawn(dtype=dtype), drawn(F, seed=1, offset=-0.3, dtype=dtype)
    honest[:, :5], own[:, :7] = 0, 0
    known = honest if knowledge == "honest" else own
    attack = SignShuffle(knowledge=knowledge, scale=2.0)
    sent, _ = attacked(attack, honest, own, seed=1)
    order = attacks_basic.shuffled_places(numbers("common_uniform", 1, dtype))
    wanted = attacks_basic.sign_shuffle(known, numbers("uniform", 1, dtype), order, 2.0)
    np.testing.assert_allclose(sent, wanted, rtol=1e-6, atol=1e-12)
    counts = [(np.sign(known.mean(0)) == sign).sum() for sign in (-1, 0, 1)]
    for row in sent:
        assert [(np.sign(row) == sign).sum() for sign in (-1, 0, 1)] == counts
    assert np.abs(sent).max() <= 2


def test_sign_shuffle_as_long_as_the_mean():
    honest = drawn(d=5000, spread=1e-3, offset=1e-3)
    sent = SignShuffle(scale=None)(honest, f=2)
    wanted = np.linalg.norm(honest.mean(0))
    np.testing.assert_allclose(np.linalg.norm(sent, axis=1), wanted, rtol=0.05)


@dtypes
@pytest.mark.parametrize("f", [1, 2, 5])
@pytest.mark.parametrize("knowledge", ["honest", "byzantine"])
def test_byzmean(f, knowledge, dtype):
    honest, own = drawn(dtype=dtype), drawn(f, seed=1, dtype=dtype)
    if knowledge == "byzantine" and f == 1:
        return
    sent, _ = attacked(ByzMean(knowledge=knowledge), honest, own)
    known = (honest if knowledge == "honest" else own).astype(np.float64)
    wanted = attacks_basic.byzmean(known, H + f, f, 0.5)
    np.testing.assert_allclose(sent, wanted, rtol=2e-5, atol=2e-5)
    if knowledge == "honest":
        inside = ALittleIsEnough(z=0.5)(honest, f=1)[0]
        np.testing.assert_allclose(np.vstack([honest, sent]).mean(0), inside, rtol=1e-4, atol=1e-5)


def test_byzmean_by_hand():
    """Means 2, 0; deviations 2, 1; v = 2 - 0.5 * 2, -0.5; the sum of the honest is 6, 0."""
    honest = np.array([[0.0, 1], [2, 0], [4, -1]])
    sent = ByzMean()(honest, f=3)  # n = 6: one sends v, two attacked (5 v - sum) / 2
    np.testing.assert_allclose(sent, [[1, -0.5], [-0.5, -1.25], [-0.5, -1.25]])

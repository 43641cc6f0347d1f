"""Min-Max, Min-Sum and anti-CGE: as far as a bound allows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import attacks
from benchmark.aggregators import CGE
from benchmark.attacks import AntiCGE, MinMax, MinSum
from tests.helpers.basic_attacks import WIDTH, F, H, attacked, directions, drawn, dtypes, places
from tests.reference import attacks_basic as reference


@pytest.mark.parametrize(
    ("attack", "spread"),
    [
        (attacks.MinMax(direction="unit"), 1e-2),
        (attacks.MinMax(direction="sign"), 1e-2),
        (attacks.MinSum(), 1e-3),
    ],
)
def test_where_rounding_matters_the_vector_shrinks_until_it_fits(attack, spread):
    """None of the honest vectors is sent, which would be no attack; the bound holds."""
    x = (1e4 + np.random.default_rng(0).normal(size=(8, 200)) * spread).astype(np.float32)
    sent, wide = attack(x, f=2)[0].astype(float), x.astype(float)
    assert not (x == sent).all(1).any()
    squares = ((wide[:, None] - wide) ** 2).sum(2)
    to_sent = ((wide - sent) ** 2).sum(1)
    if isinstance(attack, attacks.MinMax):
        assert to_sent.max() <= squares.max()
    else:
        assert to_sent.sum() <= squares.sum(1).max() * (1 + 1e-9)


@dtypes
@directions
@places
def test_min_max(direction, offset, spread, dtype):
    honest = drawn(offset=offset, spread=spread, dtype=dtype)
    sent = MinMax(direction=direction)(honest, f=3).astype(np.float64)
    exact = honest.astype(np.float64)
    assert np.array_equal(sent[0], sent[1])
    bound = reference.min_max_bound(exact)
    assert max(reference.distance(sent[0], row) for row in exact) <= bound
    wanted = reference.min_max(exact, direction)
    blur = np.finfo(dtype).eps * abs(exact).max() * WIDTH**0.5  # rounding of what is sent
    np.testing.assert_allclose(sent[0], wanted, rtol=0, atol=1e-5 * bound + 20 * blur)
    if blur < 1e-6 * bound:
        farther = exact.mean(0) + 1.001 * (sent[0] - exact.mean(0))
        assert max(reference.distance(farther, row) for row in exact) > bound


@dtypes
@directions
@places
@pytest.mark.parametrize("bound", ["max", "min"])
def test_min_sum(direction, bound, offset, spread, dtype):
    honest = drawn(offset=offset, spread=spread, dtype=dtype)
    sent = MinSum(direction=direction, bound=bound)(honest, f=3).astype(np.float64)
    exact = honest.astype(np.float64)
    limit = reference.min_sum_bound(exact, bound)
    total = sum(reference.distance(sent[0], row) ** 2 for row in exact)
    assert total <= limit
    wanted = reference.min_sum(exact, direction, bound)
    blur = np.finfo(dtype).eps * abs(exact).max() * WIDTH**0.5
    np.testing.assert_allclose(sent[0], wanted, rtol=0, atol=1e-4 * limit**0.5 + 20 * blur)
    if blur < 1e-6 * limit**0.5:
        farther = exact.mean(0) + 1.001 * (sent[0] - exact.mean(0))
        assert sum(reference.distance(farther, row) ** 2 for row in exact) > limit


@settings(max_examples=15, deadline=None)
@given(
    h=st.integers(2, 20),
    d=st.integers(1, 500),
    offset=st.sampled_from([0.0, 1.0, 100.0, 1e4]),
    direction=st.sampled_from(["std", "sign", "unit"]),
    seed=st.integers(0, 10**6),
)
def test_bounds_hold_for_what_is_sent(h, d, offset, direction, seed):
    honest = drawn(h, d, seed, offset=offset, dtype=np.float32)
    exact = honest.astype(np.float64)
    between = ((exact[:, None] - exact[None]) ** 2).sum(2)
    sent = MinMax(direction=direction)(honest, f=1)[0].astype(np.float64)
    assert ((exact - sent) ** 2).sum(1).max() <= between.max()
    sent = MinSum(direction=direction)(honest, f=1)[0].astype(np.float64)
    assert ((exact - sent) ** 2).sum() <= between.sum(1).max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attack", [MinMax(), MinSum(), MinSum(direction="unit")], ids=str)
def test_bounds_hold_in_half_precision(attack, dtype):
    """Where rounding is coarser than the distances, too: then an honest vector is sent."""
    for offset in (0.0, 3.0, 100.0):
        honest = torch.as_tensor(drawn(offset=offset)).to(dtype)
        exact, sent = honest.double(), attack(honest, f=2)[0].double()
        between = (exact[:, None] - exact[None]).square().sum(2)
        apart = (exact - sent).square().sum(1)
        if isinstance(attack, MinMax):
            assert apart.max() <= between.max()
        else:
            assert apart.sum() <= between.sum(1).max()


def test_partial_knowledge_bounds_by_what_is_known():
    for cls in (MinMax, MinSum):
        own = drawn(F, seed=1)
        one, _ = attacked(cls(knowledge="byzantine"), None, own)
        np.testing.assert_array_equal(one, cls()(own, f=F))


@pytest.mark.parametrize(
    ("attack", "wanted"),
    [
        # 0, 2, 4: mean 2, deviation 2, farthest 4: |2 - 2 gamma - 4| = 4
        (MinMax(), -0.0),
        (MinMax(direction="sign"), 0.0),
        (MinMax(direction="unit"), 0.0),
        # sums of squares 20, 8, 20; 3 x^2 + 8 = 20 at x = 2; 8 at 0
        (MinSum(), 0.0),
        (MinSum(direction="sign"), 0.0),
        (MinSum(bound="min"), 2.0),
    ],
    ids=str,
)
def test_bounds_by_hand(attack, wanted):
    sent = attack(np.array([[0.0], [2], [4]]), f=2)
    np.testing.assert_allclose(sent, [[wanted]] * 2, atol=1e-5)


def test_min_max_by_hand_in_the_plane():
    """(0, 0), (6, 0): mean (3, 0), p = -(sqrt 18, 0): |(3, 0) + x - (6, 0)| = 6 at the origin. With
    (3, 4) besides: mean (3, 4/3), sign (-1, -1), the farthest are 6 apart; from (3 - g, 4/3 - g)
    (3, 4) is g^2 + (g + 8/3)^2 away, (6, 0) (3 + g)^2 + (4/3 - g)^2: 36 at 2 g^2 + 10/3 g = 25.22,
    g = 2.8145; the other at 2 g^2 + 16/3 g = 28.89, g = 2.6939."""
    line = np.array([[0.0, 0], [6, 0]])
    np.testing.assert_allclose(MinMax()(line, f=1), [[0, 0]], atol=1e-5)
    plane = np.array([[0.0, 0], [6, 0], [3, 4]])
    gamma = (-16 / 3 + ((16 / 3) ** 2 + 8 * (36 - 64 / 9)) ** 0.5) / 4
    assert gamma == pytest.approx(2.694, abs=1e-3)
    sent = MinMax(direction="sign")(plane, f=1)
    np.testing.assert_allclose(sent, [[3 - gamma, 4 / 3 - gamma]], rtol=1e-5)


@dtypes
@places
def test_anti_cge(offset, spread, dtype):
    honest = drawn(offset=offset, spread=spread, dtype=dtype)
    sent = AntiCGE()(honest, f=F).astype(np.float64)
    direction, limit = reference.anti_cge(honest.astype(np.float64), F)
    lengths = [reference.length(row) for row in sent]
    assert max(lengths) < limit and min(lengths) > 0.9999 * limit
    wanted = direction / reference.length(direction)
    np.testing.assert_allclose(sent[0] / lengths[0], wanted, rtol=0, atol=1e-5)
    if offset < 1000:
        kept = CGE()(np.vstack([honest, sent.astype(dtype)]), f=F)
        short = sorted(honest.astype(np.float64), key=reference.length)[: H - F]
        scale = abs(honest).max()
        np.testing.assert_allclose(kept, np.vstack([short, sent]).mean(0), atol=1e-5 * scale)


def test_anti_cge_by_hand():
    """Lengths 5, 1, 2: the shortest two would be kept of n = 4; (0, 1) + (2, 0), just shorter than
    5. With f = 3 of 6 none of the honest would be: shorter than 1."""
    honest = np.array([[3.0, 4], [0, 1], [2, 0]])
    sent = AntiCGE()(honest, f=1)
    np.testing.assert_allclose(sent, [np.array([-2, -1]) * 5**0.5], rtol=2e-5)
    np.testing.assert_allclose(AntiCGE()(honest, f=3), [[0, -1]] * 3, rtol=2e-5)
    balanced = np.array([[1.0, 0], [-1, 0], [9, 9]])
    assert not AntiCGE()(balanced, f=1).any()


def test_anti_cge_partial():
    """Half of the honest would be kept (n = 15, f = 5): of the own five, the two shortest."""
    own = np.diag([5.0, 1, 2, 3, 4])
    sent, _ = attacked(AntiCGE(knowledge="byzantine"), np.zeros((10, 5)), own)
    np.testing.assert_allclose(sent[0], [0, -3 / 5**0.5, -6 / 5**0.5, 0, 0], rtol=2e-5)

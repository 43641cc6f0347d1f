"""FoolsGold: clients whose past is alike count for less."""

import numpy as np
import pytest
import torch

from benchmark.aggregators import Context, FoolsGold, Updates
from benchmark.aggregators.context import layers_of
from benchmark.testing.rule_inputs import STYLES
from tests.helpers.rounds import context, play, styled, updates_of, world
from tests.reference import history as reference


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("rule", [FoolsGold(), FoolsGold(0.5), FoolsGold(normalise=False)], ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_foolsgold(rule, sampled, dtype):
    moved = 0
    for seed in range(6):
        rounds, _ = world(seed, sampled=sampled, f=6, drift=3.0, spread=1.5)
        vectors, _ = play(rule, rounds, dtype=dtype)
        for t, vector in enumerate(vectors):
            wanted, weights = reference.foolsgold(rounds[: t + 1], rule.confidence, rule.normalise)
            tolerance = 1e-9 if dtype == np.float64 else 1e-3
            np.testing.assert_allclose(vector, wanted, rtol=tolerance, atol=tolerance)
            moved += 0 < min(weights.values()) < max(weights.values())
            moved += any(0 < w < max(weights.values()) for w in weights.values())
    assert moved > 10


@pytest.mark.parametrize("factor", [2.0**-600, 2.0**600, 2.0**1000])
def test_foolsgold_whatever_the_length_of_one(factor):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((7, 5)))
    plain, scaled = x, torch.cat([x[:1] * factor, x[1:]])
    rule = FoolsGold()
    shares = [
        rule.step(Updates(rows, ids=np.arange(7)), 1, rule.init(), Context())[2].coefficients
        for rows in (plain, scaled)
    ]
    assert 0 < shares[0][0] < max(shares[0])
    np.testing.assert_array_equal(*shares)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("rule", [FoolsGold(), FoolsGold(2.0, normalise=False)], ids=str)
def test_foolsgold_of_what_an_attacker_sends(rule, style):
    for n, f, d in [(5, 1, 3), (11, 3, 6), (2, 0, 4), (8, 7, 5)]:
        rounds = styled(style, n=n, f=f, d=d)
        vectors, _ = play(rule, rounds)
        for t, vector in enumerate(vectors):
            wanted, _ = reference.foolsgold(rounds[: t + 1], rule.confidence, rule.normalise)
            # 1 - cosine of vectors near 1000 is about 1e-10, of which rounding is a part in 1e5
            tolerance = 1e-4 if style.startswith("near") else 1e-8
            np.testing.assert_allclose(
                vector, wanted, rtol=tolerance, atol=tolerance * abs(wanted).max()
            )


def test_foolsgold_is_precise_where_a_tight_cluster_meets_a_short_vector():
    """Cosines of histories: of a cluster 1 - 1e-4, with a vector 1e-6 as long 0.6 exactly."""
    rng = np.random.default_rng(0)
    rounds = [{i: np.eye(4)[0] + 0.01 * rng.normal(size=4) for i in range(8)}]
    rounds[0][8] = 1e-6 * np.array([0.6, 0.8, 0, 0])
    rounds[0][9] = -np.eye(4)[0]
    wanted, weights = reference.foolsgold(rounds)
    updates = updates_of(rounds[0], np.float32)
    vector, _, report = FoolsGold().step(updates, 0, None, context(d=4))
    np.testing.assert_allclose(vector, wanted, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(report.share(np.arange(10)), list(weights.values()), atol=1e-4)
    assert weights[8] > 0.3


def test_foolsgold_by_hand():
    """Cosines of (1, 0), (3, 4), (0, -1): 0.6, 0 and -0.8. v = 0.6, 0.6, 0; a = 0.4, 0.4, 1.
    ln(0.4 / 0.6) + 1/2 = 0.0945349; the third is the best and counts as 1."""
    x = np.array([[1.0, 0], [3, 4], [0, -1]])
    low = 0.0945349
    wanted = np.array([4 * low, 4 * low - 1])
    np.testing.assert_allclose(FoolsGold(normalise=False)(x), wanted, rtol=1e-6)
    np.testing.assert_allclose(FoolsGold()(x), wanted / (1 + 2 * low), rtol=1e-6)
    wanted = np.array([8 * low, 8 * low - 1]) / (1 + 4 * low)
    np.testing.assert_allclose(FoolsGold(confidence=2.0)(x), wanted, rtol=1e-6)


def test_foolsgold_pardons_by_hand():
    """Two sybils along e1, one client with cosine 0.75 to them, one across. v = 1, 1, 0.75, 0. The
    third is pardoned: 0.75 * 0.75 / 1 = 0.5625, so a = 0.4375, and ln(0.4375 / 0.5625) + 1/2 =
    0.2486856. Unpardoned a would be 0.25: ln(1/3) + 1/2 < 0."""
    x = np.array([[1.0, 0, 0], [2, 0, 0], [0.75, 0.4375**0.5, 0], [0, 0, 1]])
    _, _, report = FoolsGold().step(Updates(torch.from_numpy(x)), 0, None, Context())
    wanted = np.array([0, 0, 0.2486856, 1]) / 1.2486856
    np.testing.assert_allclose(report.share(np.arange(4)), wanted, atol=1e-7)


def test_foolsgold_trusts_nobody_if_all_are_one():
    """Also if the copies are scaled, so that every number is rounded anew; and if but one is not,
    only that one."""
    row = np.random.default_rng(0).normal(size=50)
    for dtype in (np.float64, np.float32, np.float16):
        x = np.outer([1.0, 1.0, 0.3, 7.0, 1 / 3], row).astype(dtype)
        assert not FoolsGold()(x).any()
        x[3] = np.roll(x[3], 1)
        assert np.array_equal(FoolsGold()(x), x[3])
    assert not FoolsGold()(np.zeros((4, 3))).any()
    assert FoolsGold()(np.ones((1, 3))).tolist() == [1, 1, 1]


def test_foolsgold_looks_at_the_whole_past():
    """Now all send different things; but the first two sent the same for four rounds."""
    alike = {0: np.array([9.0, 0]), 1: np.array([9.0, 0]), 2: np.array([0, -9.0])}
    now = {0: np.array([1.0, 0]), 1: np.array([0, 1.0]), 2: np.array([-1.0, 0])}
    vectors, _ = play(FoolsGold(), [alike] * 4 + [now])
    np.testing.assert_allclose(vectors[-1], [-1, 0])
    fresh, _ = play(FoolsGold(), [now])
    assert abs(fresh[0] - vectors[-1]).max() > 0.5


def test_foolsgold_on_the_output_layer():
    """Clients 0 and 1 agree on the last four columns only, 2 and 3 on the first three only."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4, 7))
    x[1, 3:], x[3, :3] = x[0, 3:], x[2, :3]
    layers = layers_of([(3,), (1, 3), (1,)])
    rule = FoolsGold(features="output")
    updates = Updates(torch.from_numpy(x))
    vector, state, report = rule.step(updates, 0, None, context(d=7, layers=layers))
    share = report.share(np.arange(4))
    assert share[0] == share[1] == 0 and share[2:].min() > 0.1
    assert state.rows.shape == (4, 4)
    np.testing.assert_allclose(vector, share @ x)
    assert rule.needs == {"clients", "layers"} and FoolsGold().needs == {"clients"}

"""Rules that look at the directions of most variance: CAF, FilterL2 and DnC."""

import numpy as np
import pytest
import torch
from hypothesis import given

from benchmark.aggregators import (
    ARC,
    CAF,
    SMEA,
    Chain,
    Context,
    DnC,
    FilterL2,
    Krum,
    Median,
    Updates,
)
from benchmark.aggregators.spectral import top_direction
from benchmark.testing.rule_inputs import draw, sample
from tests.helpers.properties import SEEDS, examples
from tests.helpers.vectors import dealing
from tests.reference import gram


def test_spectral_rules_with_vectors_of_any_length():
    """Squares of squared lengths are out of range from 1e77 on, inner products from 1e150."""
    for far in (1e30, 1e76, 1e100, 1e140):
        x = [[0.0], [1.0], [2.0], [far], [far]]
        for rule in (CAF(), FilterL2(), DnC(), SMEA()):
            assert rule(x, f=2)[0] == 1.0
        x = [[0.0], [1.0], [2.0], [3.0], [far], [2 * far], [4 * far]]
        assert Krum(distance="fourth")(x, f=2)[0] == 1.0
    for far in (1e160, 1e300):
        x = [[0.0], [1.0], [2.0], [far], [far]]
        for rule in (CAF(), FilterL2(), DnC(), SMEA()):
            with pytest.raises(ValueError, match=r"^updates are too long"):
                rule(x, f=2)
    variance, deviation = top_direction(np.diag([1e200, 1.0, 2.0]), np.array([0.0, 1.0, 1.0]))
    assert 0 < variance < 2 and deviation[0] == 0.0 and deviation[2] == 1.0


def test_caf_keeps_the_best_and_not_the_last():
    """Where the largest variance goes up again on the way: for these seeds in the last step."""
    last = 0
    for seed in (10, 18, 47, 93, 148):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(3, 14))
        f, x = (n - 1) // 2, rng.normal(size=(n, int(rng.integers(1, 6))))
        np.testing.assert_allclose(CAF()(x, f=f), gram.caf(x, f), atol=1e-9)
        c, variances = np.ones(n), []
        while c.sum() > n - 2 * f:
            variance, deviation = top_direction(x @ x.T, c)
            variances.append(variance)
            c = np.where(c > 0, c * (1 - np.minimum(deviation, 1)), 0)
        last += variances[-1] > min(variances)
    assert last >= 1


@pytest.mark.parametrize("b", [1, 5, 19])
@pytest.mark.parametrize("style", ["ordinary", "colluding", "duplicates", "one at 1e30, first"])
def test_dnc_on_random_coordinates(b, style):
    x = sample(style, 12, 3, 20)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        draws = [rng.choice(20, b, replace=False, shuffle=False) for _ in range(4)]
        context = Context(generator=lambda seed=seed: np.random.default_rng(seed))
        rule = DnC(b=b, iterations=4)
        kept = gram.dnc(x, 3, draws)
        np.testing.assert_array_equal(rule.filtered(x, f=3, context=context), kept)
        wanted = kept.mean(axis=0) if len(kept) else np.zeros(20)
        np.testing.assert_allclose(rule(x, f=3, context=context), wanted, atol=1e-12)


def test_dnc_looks_at_blocks_of_the_drawn_coordinates():
    """More coordinates than fit a block, behind a stage that mixes."""
    x = draw(9, 3000)
    x[4] += 3
    rows, _, _ = ARC().apply(Updates(torch.from_numpy(x)), 2, None, Context())
    mixed = rows.rows().numpy()
    draws = [np.random.default_rng(s).permutation(3000)[:2500] for s in range(2)]
    kept, _ = DnC(b=2500, iterations=2).accept(rows, 2, None, dealing(*draws))
    np.testing.assert_allclose(mixed[kept], gram.dnc(mixed, 2, draws), rtol=1e-12)
    assert 4 not in kept


def test_dnc_by_hand():
    """Of five vectors coordinate 0 throws out the first, coordinate 1 the third."""
    x = np.array([[9.0, 0], [1, 1], [0, 9], [1, 0], [0, 1]])
    rule = DnC(b=1, iterations=2)
    both, only = dealing([0], [1]), dealing([1], [1])
    assert rule.filtered(x, f=1, context=both).tolist() == [[1, 1], [1, 0], [0, 1]]
    np.testing.assert_allclose(rule(x, f=1, context=both), [2 / 3, 2 / 3])
    np.testing.assert_allclose(rule(x, f=1, context=only), [11 / 4, 2 / 4])
    _, left, _ = rule.apply(Updates(torch.from_numpy(x)), 1, None, both)
    assert left == 1
    # Every coordinate throws out another one: nobody is left, and the model stays.
    rule, context = DnC(b=1, iterations=3), dealing([2], [0], [1])
    assert rule(9 * np.eye(3), f=1, context=context).tolist() == [0, 0, 0]
    assert Chain([rule, Median()])(9 * np.eye(3), f=1, context=context).tolist() == [0, 0, 0]
    _, _, report = rule.step(Updates(9 * torch.eye(3)), 1, None, context)
    assert report.share(np.arange(3)).tolist() == [0, 0, 0]


def test_top_direction_by_hand():
    """(3, 0), (-3, 0), (0, 1), (0, -1): variance 18/4 along the first axis. With weights of 0 for
    the first two it is 1 along the second. In all directions alike: all deviations count."""
    x = np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    variance, tau = top_direction(x @ x.T, np.ones(4))
    assert variance == pytest.approx(4.5)
    np.testing.assert_allclose(tau, [1, 1, 0, 0], atol=1e-12)
    variance, tau = top_direction(x @ x.T, np.array([0.0, 0, 1, 1]))
    assert variance == pytest.approx(1)
    np.testing.assert_allclose(tau, [0, 0, 1, 1], atol=1e-12)
    square = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    variance, tau = top_direction(square @ square.T, np.ones(4))
    assert variance == pytest.approx(0.5)
    np.testing.assert_allclose(tau, [1, 1, 1, 1])
    assert top_direction(np.zeros((3, 3)), np.ones(3))[0] == 0


@examples(25)
@given(seed=SEEDS)
def test_dnc_drops_colluding_vectors(seed):
    """Up to c f <= f vectors far along one line are the ones that deviate most."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 14))
    f = int(rng.integers(1, (n + 1) // 2))
    x = rng.normal(size=(n, 60))
    where = rng.permutation(n)[:f]
    x[where] += 1e6 * rng.normal(size=60)
    honest = np.delete(np.arange(n), where)
    for rule in (DnC(), DnC(b=20)):
        kept, _ = rule.accept(Updates(torch.from_numpy(x)), f, None, Context())
        assert set(kept) <= set(honest.tolist())
        assert rule.b < 60 or len(kept) == n - f

"""Votes by signs, RLR, SignGuard and FedSECA."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given

from benchmark.aggregators import (
    RLR,
    Chain,
    Context,
    FedSECA,
    Krum,
    NormFilter,
    SignGuard,
    SignMajority,
    TrimmedMean,
    Updates,
)
from benchmark.testing.rule_inputs import STYLES, draw, sample
from tests import reference
from tests.helpers.properties import SEEDS, examples
from tests.helpers.vectors import SHAPES_OF_COORDINATES
from tests.reference import coordinates


@pytest.mark.parametrize("style", STYLES)
def test_signguard_as_a_stage_lets_the_vectors_go_as_they_are(style):
    for n, f, d in SHAPES_OF_COORDINATES:
        x = sample(style, n, f, d)
        kept = coordinates.signguard_kept(x, range(d))
        if kept:
            np.testing.assert_array_equal(SignGuard().filtered(x, f=f), x[kept])
            wanted = reference.trimmed_mean(x[kept], min(f, (len(kept) - 1) // 2))
            result = Chain([SignGuard(), TrimmedMean()])(x, f=f)
            np.testing.assert_allclose(result, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("round", [1, 2])
def test_signguard_draws_its_coordinates_from_the_servers_stream(round):
    x = draw(12, 3000, round)
    x[:3] = np.abs(x[:3])
    chosen = np.random.default_rng(round).choice(3000, 300, replace=False)
    context = Context(generator=lambda: np.random.default_rng(round))
    wanted = coordinates.signguard(x, chosen)
    np.testing.assert_allclose(SignGuard()(x, f=3, context=context), wanted, rtol=1e-9)
    assert len(coordinates.signguard_kept(x, chosen)) <= 9


def test_rlr_behind_a_filter_that_leaves_fewer_than_theta():
    """All nine that are left agree: nothing is reversed."""
    x = draw(15, 4) + 5
    x[:6] *= 100
    np.testing.assert_allclose(Chain([NormFilter(), RLR(theta=12)])(x, f=3), x[6:].mean(0))


def test_signguard_by_hand():
    """Norms 5, 5, 5, 50, 0.4, 5: the median is 5, so 50 and 0.4 are out. Signs: all are (+, +) but
    the last, which is (-, -): four of six coincide, the bandwidth is the mean of the distances to
    the third nearest, (5 * 0 + sqrt 2) / 6, and the five make the largest cluster."""
    x = np.array([[3, 4], [4, 3], [3, 4], [30, 40], [0.24, 0.32], [-3, -4.0]])
    np.testing.assert_array_equal(SignGuard().filtered(x, f=2), x[:3])
    np.testing.assert_allclose(SignGuard()(x, f=2), [10 / 3, 11 / 3])
    # with wider limits 50 passes too, but is clipped to 5: (3, 4)
    np.testing.assert_array_equal(SignGuard(upper=20.0).filtered(x, f=2), x[:4])
    np.testing.assert_allclose(SignGuard(upper=20.0)(x, f=2), [13 / 4, 15 / 4])


def test_signguard_without_anybody_left_gives_zero():
    """Norms 1, 2, 11, 12 have the median 6.5: nobody is within a tenth of it."""
    rule = SignGuard(lower=0.9, upper=1.1)
    x = np.array([[1.0], [2], [11], [12]])
    assert rule(x, f=1).tolist() == [0] and len(rule.filtered(x, f=1)) == 0
    assert Chain([rule, Krum()])(x, f=0).tolist() == [0]
    vector, _, report = rule.step(Updates(torch.from_numpy(x)), 1, None, Context())
    assert report.share(np.arange(4)).tolist() == [0, 0, 0, 0] and vector.tolist() == [0]


def test_signguard_where_all_coincide_but_two():
    """Norms 14, 28, 57, 1, 1: the median is 14, so 57, 1 and 1 are out; the first three have the
    same signs, and two others the same among themselves, which are fewer."""
    x = np.array([[10.0, 10], [20, 20], [40, 40], [-1, 0], [0, -1]])
    np.testing.assert_array_equal(SignGuard().filtered(x, f=1), x[:2])
    np.testing.assert_allclose(SignGuard()(x, f=1), x[0], rtol=1e-12)  # 28 is clipped to 14


def test_fedseca_by_hand():
    """Signs (+ + +), (+ + -), (+ - -), (- - -). Sums of products of signs:
    1-2: 1, 1-3: -1, 1-4: -3, 2-3: 1, 2-4: -1, 3-4: 1; so w sums to
    1: 1 + 1 - 1 - 1 = 0, 2: 1 + 1 + 1 - 1 = 2, 3: -1 + 1 + 1 + 1 = 2, 4: -1 - 1 + 1 + 1 = 0,
    rho = 0, 1/2, 1/2, 0. Elected: + (both), a tie: 0, - (both)."""
    x = np.array([[1, 2, 2], [2, 1, -2], [6, -6, -3], [-2, -2, -1.0]])
    # norms 3, 3, 9, 3, the median is 3: the third becomes (2, -2, -1). Magnitudes 1 2 2 2,
    # 2 1 2 2, 2 2 1 1 have medians 2, 2, 1.5; aligned: 1, 2, 2 and 1.5, 1, 1
    np.testing.assert_allclose(FedSECA(gamma=0.0)(x, f=1), [5 / 3, 0, -3.5 / 3], rtol=1e-12)
    # one of three left out, the smallest of each before clipping: of the first the 1, of the second
    # the 1, of the third the -3, of the fourth the -1
    np.testing.assert_allclose(FedSECA(gamma=0.4)(x, f=1), [2, 0, -1.5], rtol=1e-12)


@examples(15)
@given(seed=SEEDS)
def test_votes_do_not_care_for_lengths(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(7, 12))
    longer = x * 10.0 ** rng.uniform(-9, 9, size=x.shape)
    np.testing.assert_array_equal(SignMajority()(longer, f=2), SignMajority()(x, f=2))
    assert set(SignMajority()(x, f=2)) <= {-1.0, 1.0}


@examples(15)
@given(seed=SEEDS)
def test_rlr_reverses_what_f_clients_bring_alone(seed):
    """A coordinate that only the Byzantine clients touch moves the other way."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 15))
    f = int(rng.integers(1, (n + 1) // 2))
    x = np.zeros((n, 4))
    x[:, 0] = 1 + rng.random(n)
    x[:f, 3] = 1 + rng.random(f)
    result = RLR()(x, f=f)
    np.testing.assert_allclose(result[[0, 3]], [x[:, 0].mean(), -x[:, 3].mean()], rtol=1e-12)


def test_signguard_tests_norms_before_it_clips():
    """Clipped first, no norm would exceed the median, and the upper limit would do nothing."""
    x = np.abs(draw(9, 10)) + 1
    x[4] *= 100
    kept = SignGuard().filtered(x, f=2)
    np.testing.assert_array_equal(kept, np.delete(x, 4, axis=0))
    wanted = coordinates.signguard(x, range(10))
    np.testing.assert_allclose(SignGuard()(x, f=2), wanted, rtol=1e-9)
    assert np.linalg.norm(SignGuard()(x, f=2)) < 2 * np.median(np.linalg.norm(x, axis=1))


def test_signguard_keeps_everybody_where_all_are_alike():
    """Two clusters by force would always throw a minority out."""
    x = draw(10, 50)
    x[:, :40] = np.abs(x[:, :40])
    x[:, 40:] = -np.abs(x[:, 40:])
    np.testing.assert_array_equal(SignGuard().filtered(x, f=2), x)


def test_signguard_defines_every_set():
    """Neither all-different signs nor one vector nor zeros are an error or a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in range(1, 14):
            x = draw(n, 6, n)
            assert np.isfinite(SignGuard()(x, f=0)).all()
            steps = np.sign(np.arange(6) - np.arange(n)[:, None])  # all different shares
            assert np.isfinite(SignGuard()(steps, f=0)).all()
            assert not SignGuard()(np.zeros((n, 6)), f=0).any()


def test_signguard_looks_at_many_coordinates_where_there_are_many():
    """A tenth of 5000 coordinates tells who has reversed all signs."""
    x = np.abs(draw(12, 5000)) + 0.1
    x[3] *= -1
    np.testing.assert_array_equal(SignGuard().filtered(x, f=3), np.delete(x, 3, axis=0))


def test_fedseca_without_agreement_or_updates():
    """No sign elected, a zero vector, or opposite halves: zero, not NaN."""
    assert FedSECA()(np.array([[1.0, 2], [-1, -2]]), f=0).tolist() == [0, 0]
    x = draw(6, 5)
    x[2] = 0
    np.testing.assert_allclose(FedSECA(0.5)(x, f=1), coordinates.fedseca(x, 0.5), rtol=1e-9)
    assert not FedSECA()(np.zeros((5, 4)), f=2).any()


def test_flipped_signs_do_not_count_in_fedseca():
    """Four that point the other way have a concordance ratio of 0: the elected signs are those of
    the honest, whatever the lengths."""
    x = np.abs(draw(11, 30)) + 0.1
    x[:4] *= -1e6
    assert (FedSECA(0.0)(x, f=4) > 0).all()
    ratios = coordinates.concordance_ratios(x)
    assert not any(ratios[:4]) and all(ratios[4:])

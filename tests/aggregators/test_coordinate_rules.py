"""Rules on coordinates, signs, layers and groups: against their definitions, by hand, and against
the faults that other systems have."""

import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from benchmark.aggregators import (
    FABA,
    GAS,
    LASA,
    MDA,
    RLR,
    Bulyan,
    CenteredClipping,
    Chain,
    Context,
    FedSECA,
    FoundationFL,
    GeometricMedian,
    Infeasible,
    Krum,
    MeaMed,
    Mean,
    Median,
    MultiKrum,
    NormFilter,
    Phocas,
    SignGuard,
    SignMajority,
    TrimmedMean,
    Updates,
)
from benchmark.aggregators.context import layers_of
from benchmark.aggregators.contract import feasibility
from benchmark.aggregators.vectors import clipping_scale, thresholds
from benchmark.config.components import build
from benchmark.config.errors import ConfigError
from benchmark.config.loading import named_settings
from benchmark.testing.rule_inputs import STYLES, sample
from tests import reference
from tests.helpers.properties import SEEDS, examples
from tests.reference import coordinates

SHAPES = [
    (3, 0, 5),
    (1, 0, 4),
    (2, 0, 3),
    (7, 1, 1),
    (7, 1, 20),
    (11, 2, 6),
    (16, 3, 9),
    (9, 4, 40),
]


def draw(n, d, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


def tensor(rows):
    return torch.as_tensor(np.array(rows, dtype=float))


def halves(d):
    """Layers of about a half, a third and the rest of d columns."""
    sizes = [(d + 1) // 2, d // 3]
    return layers_of([(size,) for size in (*sizes, d - sum(sizes)) if size])


def with_layers(d):
    return Context(layers=halves(d))


def groups_of(d, p):
    return np.array_split(np.random.default_rng(0).permutation(d), min(p, d))


# --- definitions --------------------------------------------------------------------------------


def wanted_lasa(**keywords):
    return lambda x, f: coordinates.lasa(
        x, [(layer.start, layer.stop) for layer in halves(x.shape[1])], **keywords
    )


def wanted_gas(rule, p):
    return lambda x, f: coordinates.gas(x, f, groups_of(x.shape[1], p), rule)


REFERENCES = [
    (MeaMed(), coordinates.meamed),
    (Phocas(), coordinates.phocas),
    (FoundationFL(), coordinates.foundationfl),
    (FoundationFL(Median()), lambda x, f: coordinates.foundationfl(x, f, "median")),
    (FoundationFL(Median(), 5), lambda x, f: coordinates.foundationfl(x, f, "median", 5)),
    (FoundationFL(m=0), lambda x, f: coordinates.foundationfl(x, f, m=0)),
    (SignMajority(), lambda x, f: coordinates.sign_majority(x)),
    (SignMajority(0.25), lambda x, f: coordinates.sign_majority(x, 0.25)),
    (RLR(), coordinates.rlr),
    (RLR(theta=1), lambda x, f: coordinates.rlr(x, f, 1)),
    (RLR(theta=4), lambda x, f: coordinates.rlr(x, f, 4)),
    (SignGuard(), lambda x, f: coordinates.signguard(x, range(x.shape[1]))),
    (SignGuard(0.7, 1.2, 1.0), lambda x, f: coordinates.signguard(x, range(x.shape[1]), 0.7, 1.2)),
    (FedSECA(), lambda x, f: coordinates.fedseca(x)),
    (FedSECA(0.5), lambda x, f: coordinates.fedseca(x, 0.5)),
    (FedSECA(0.0), lambda x, f: coordinates.fedseca(x, 0.0)),
    (LASA(), wanted_lasa()),
    (LASA(0.0, 1.0, 1.0), wanted_lasa(sparsity=0.0, norm_bound=1.0)),
    (LASA(0.7, 1.0, 2.0), wanted_lasa(sparsity=0.7, norm_bound=1.0, sign_bound=2.0)),
    (GAS(), wanted_gas(reference.krum, 1000)),
    (GAS(MultiKrum(), 3), wanted_gas(reference.multi_krum, 3)),
    (GAS(Median(), 4), wanted_gas(lambda x, f: reference.median(x), 4)),
    (GAS(TrimmedMean(), 1), wanted_gas(reference.trimmed_mean, 1)),
    (GAS(Bulyan(), 2), wanted_gas(reference.bulyan, 2)),
    (GAS(MeaMed(), 3), wanted_gas(coordinates.meamed, 3)),
    (GAS(Phocas(), 3), wanted_gas(coordinates.phocas, 3)),
    (GAS(FABA(), 3), wanted_gas(reference.faba, 3)),
    (GAS(Krum(distance="plain"), 3), wanted_gas(lambda x, f: reference.krum(x, f, "plain"), 3)),
]  # fmt: skip


def undecided(x):
    """Whether two different vectors are equally far from the extremes, up to rounding."""
    scores = np.array(coordinates.foundation_scores(x))
    close = np.flatnonzero(scores >= scores.max() * (1 - 1e-12))
    return len(np.unique(x[close], axis=0)) > 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("rule", "wanted"), REFERENCES, ids=[str(rule) for rule, _ in REFERENCES])
def test_rule_does_what_its_definition_says(rule, wanted, style, dtype):
    if (
        style.startswith("near 1000")
        and dtype == np.float32
        and isinstance(rule, MeaMed | Phocas | GAS)
    ):
        pytest.skip("values on a grid of 6e-5: rounding makes some equally near")
    compared = 0
    for n, f, d in SHAPES:
        if feasibility(rule, n, f) is not None:
            continue
        x = sample(style, n, f, d).astype(dtype)
        if isinstance(rule, FoundationFL) and undecided(x.astype(np.float64)):
            continue
        expected = wanted(x.astype(np.float64), f)
        result = rule(x, f=f, context=with_layers(d))
        assert result.dtype == dtype and result.shape == expected.shape
        tolerance = (8e-7 if dtype == np.float32 else 1e-9) * max(1, np.abs(expected).max())
        np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)
        compared += 1
    assert compared >= 2


@pytest.mark.parametrize("style", STYLES)
def test_signguard_as_a_stage_lets_the_vectors_go_as_they_are(style):
    for n, f, d in SHAPES:
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


def test_gas_draws_its_groups_from_the_servers_stream():
    x, rule = draw(9, 60), GAS(Median(), p=7)
    results = set()
    for seed in range(20):
        context = Context(generator=lambda seed=seed: np.random.default_rng(seed))
        groups = np.array_split(np.random.default_rng(seed).permutation(60), 7)
        wanted = coordinates.gas(x, 2, groups, lambda rows, f: reference.median(rows))
        result = rule(x, f=2, context=context)
        np.testing.assert_allclose(result, wanted, rtol=1e-9)
        results.add(result.tobytes())
    assert len(results) > 1


def test_rlr_behind_a_filter_that_leaves_fewer_than_theta():
    """All nine that are left agree: nothing is reversed."""
    x = draw(15, 4) + 5
    x[:6] *= 100
    np.testing.assert_allclose(Chain([NormFilter(), RLR(theta=12)])(x, f=3), x[6:].mean(0))


@pytest.mark.parametrize(
    "rule",
    [
        *(Krum(), MultiKrum(), Bulyan(), Median(), TrimmedMean(), MeaMed(), Phocas(), FABA()),
        *(GeometricMedian(), MDA()),
    ],
    ids=str,
)
def test_gas_with_every_rule_leaves_out_who_is_far_in_all_groups(rule):
    x = 0.1 * draw(11, 30) + 1
    x[[2, 7]] += 5
    wanted = reference.mean(np.delete(x, [2, 7], axis=0))
    np.testing.assert_allclose(GAS(rule, p=6)(x, f=2), wanted, rtol=1e-9)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.999999])
@pytest.mark.parametrize("mixed", [False, True])
def test_thresholds(sparsity, mixed):
    """The magnitude of the number that floor(sparsity d) others are below."""
    for n, d in [(1, 1), (3, 10), (25, 997)]:
        x = torch.from_numpy(draw(n, d))
        mixing = draw(n, n, 1) if mixed else None
        rows = (x if mixing is None else torch.from_numpy(mixing) @ x).numpy()
        wanted = np.sort(np.abs(rows), axis=1)[:, int(sparsity * d + 1e-9)]
        result = thresholds(Updates(x, mixing), sparsity)
        np.testing.assert_allclose(result.numpy()[:, 0], wanted, rtol=1e-12, atol=1e-14)


def test_norms_are_precise_whatever_the_others_are():
    for rows in ([[3.0, 4.0], [1e30, 0.0]], [[1e30, 0.0], [3.0, 4.0]]):
        for dtype in (torch.float32, torch.float64):
            found = Updates(torch.tensor(rows, dtype=dtype)).norms
            np.testing.assert_allclose(sorted(found), [5, 1e30], rtol=1e-7)
    with pytest.raises(ValueError, match="too long"):
        _ = Updates(torch.full((2, 2), 1e300, dtype=torch.float64)).norms
    scale = clipping_scale(np.array([0.0, 1.0, 2.0, 4.0, 3.0]), 2.0)
    np.testing.assert_array_equal(scale, [1, 1, 1, 0.5, 2 / 3])
    assert clipping_scale(np.array([0.0, 5.0]), 0.0)[1] == 0


# --- by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "column", "f", "wanted"),
    [
        # median 4; distances 0 2 3 4 7 8 17: the five nearest are 4, 6, 1, 0, 11
        (MeaMed(), [0, 1, 4, 6, 11, 12, -13], 2, (4 + 6 + 1 + 0 + 11) / 5),
        (MeaMed(), [0, 0, 0, 9], 1, 0),  # median 0
        (MeaMed(), [0, 1, 2, 3], 1, 1),  # median 1.5: 1, 2, and of 0 and 3, as near, the lower
        (MeaMed(), [5], 0, 5),
        # without 0 and 20 the mean is 22 / 3 = 7.33; nearest to it 8, 10, 4 and then 0 (20 is
        # farther): 22 / 4
        (Phocas(), [0, 4, 8, 10, 20], 1, 5.5),
        # without 0, 1 and 30, 31 the mean is 20; nearest 20, 30, 31, and last 1 (19 away)
        (Phocas(), [0, 1, 20, 30, 31], 2, (20 + 30 + 31) / 3),
        (Phocas(), [1, 2, 6], 0, 3),  # f = 0: all of them
        (Phocas(), [0, 2, 4], 1, 1),  # 2, and of 0 and 4 the lower
        # extremes 0 and 10; scores 0, 1, 4, 3, 0: two copies of 4; of 0 1 4 4 4 7 10 the middle
        (FoundationFL(Median()), [0, 1, 4, 7, 10], 1, 4),
        (FoundationFL(), [0, 1, 4, 7, 10], 1, (1 + 4 + 4 + 4 + 7) / 5),
        (FoundationFL(m=0), [0, 1, 4, 7, 10], 1, 4),
        (FoundationFL(Median(), m=1), [0, 1, 3, 8], 1, 3),  # 3 has score 3: 0 1 3 3 8
        (FoundationFL(), [0, 10], 0, 10 / 3),  # scores 0 and 0: the first, once
        (SignMajority(), [1e-9, 5, -1e30], 1, 1),
        (SignMajority(), [3, -4, 0], 1, 0),
        (SignMajority(0.01), [-1, -2, -3], 1, -0.01),
        (RLR(), [1, 2, 3, -2], 1, 1),  # votes 3 : 1, a lead of 2 >= f + 1
        (RLR(theta=3), [1, 2, 3, -2], 1, -1),
        (RLR(theta=4), [1, 2, 3, 2], 1, 2),
        (RLR(), [4, 0, 0, 0], 1, -1),  # zeros do not vote: a lead of 1 < 2
    ],
    ids=str,
)
def test_by_hand(rule, column, f, wanted):
    result = rule(np.array(column, float)[:, None], f=f)
    np.testing.assert_allclose(result, [wanted], rtol=1e-12, atol=1e-300)


def test_foundationfl_measures_lengths_not_single_coordinates():
    """Extremes (4, 3) and (0, 0). Scores: (0, 0): 0; (4, 0): min(3, 4) = 3; (0, 3): min(4, 3) = 3;
    (2, 1): min(sqrt 8, sqrt 5) = 2.2; (4, 3): 0. The first of the two best is copied twice."""
    x = np.array([[0, 0], [4, 0], [0, 3], [2, 1], [4, 3.0]])
    np.testing.assert_allclose(
        FoundationFL().scores(Updates(torch.from_numpy(x))), [0, 3, 3, 5**0.5, 0]
    )
    # 0 0 2 4 4 4 4 and 0 0 0 0 1 3 3
    assert FoundationFL(Median())(x, f=1).tolist() == [4, 0]
    np.testing.assert_allclose(FoundationFL()(x, f=1), [(0 + 2 + 4 + 4 + 4) / 5, 4 / 5])


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


def test_lasa_by_hand():
    """Two layers of two. All norms are 5 but the fourth's, 50, which is clipped to (3, 4, 0, 0).
    Sparsity 0: the layers' norms are 5 5 5 5 0 and 0 0 0 0 5: medians 5 and 0, standard deviations
    2: scores 0 0 0 0 2.5 in both. Positive shares: 1 1 1/2 1 1/2 (nothing) and 1/2 1/2 1/2 1/2 1:
    medians 1 and 1/2, deviations .245 and .2: scores 0 0 2.04 0 2.04 and 0 0 0 0 2.5."""
    x = np.array([[3, 4, 0, 0], [4, 3, 0, 0], [-3, 4, 0, 0], [30, 40, 0, 0], [0, 0, 3, 4.0]])
    context = Context(layers=layers_of([(1, 2), (2,)]))
    rule = LASA(sparsity=0.0, norm_bound=2.0, sign_bound=2.0)
    np.testing.assert_allclose(rule(x, f=1, context=context), [10 / 3, 11 / 3, 0, 0], rtol=1e-12)
    # the third's direction passes at 2.1; nothing else changes
    lax = LASA(sparsity=0.0, norm_bound=2.0, sign_bound=2.1)
    np.testing.assert_allclose(lax(x, f=1, context=context), [7 / 4, 15 / 4, 0, 0], rtol=1e-12)
    # all pass
    lax = LASA(sparsity=0.0, norm_bound=3.0, sign_bound=3.0)
    wanted = [7 / 5, 15 / 5, 3 / 5, 4 / 5]
    np.testing.assert_allclose(lax(x, f=1, context=context), wanted, rtol=1e-12)


def test_lasa_judges_what_is_left_and_averages_the_whole():
    """Half of each vector is left out, so the layer that is small everywhere has norm 0 and no
    direction for everybody: all are usual there, and its mean is of the numbers as they were."""
    x = np.array([[9, 9, 1, 2], [9, 9, 3, -4], [9, 9, -5, 0.0]])
    context = Context(layers=layers_of([(2,), (2,)]))
    wanted = reference.mean(coordinates._clipped(x))
    np.testing.assert_allclose(LASA(sparsity=0.5)(x, f=0, context=context), wanted, rtol=1e-12)


def test_lasa_leaves_a_layer_as_it_is_where_nobody_is_usual():
    """Norms of the only layer 5 each; positive shares 1, 1, 1/2, 0, 0 with median 1/2 and deviation
    .447: a sign bound of 1 leaves the third; norms after clipping are equal. With lengths that
    single out the third, none is left."""
    x = np.array([[3, 4], [4, 3], [0.3, -0.4], [-3, -4], [-4, -3.0]])
    context = Context(layers=layers_of([(2,)]))
    result = LASA(sparsity=0.0, norm_bound=1.0, sign_bound=1.0)(x, f=0, context=context)
    assert result.tolist() == [0, 0]


def test_gas_by_hand():
    """Each coordinate is a group of its own, its result the median: (1, 2, 1). Scores: 1 + 0 + 1,
    0 + 0 + 0, 1 + 7 + 0; f = 1 leaves out the last."""
    x = np.array([[0, 2, 2], [1, 2, 1], [2, 9, 1.0]])
    np.testing.assert_allclose(GAS(Median())(x, f=1), [0.5, 2, 1.5], rtol=1e-12)


def test_multi_krum_of_n_minus_f():
    """Squares of distances on the line 0 1 2 4 50, f = 1, two neighbours: 1 + 4, 1 + 1, 1 + 4,
    4 + 9, ...: the four best are all but 50."""
    x = np.array([[0], [1], [2], [4], [50.0]])
    assert MultiKrum(m="n-f")(x, f=1).tolist() == [7 / 4]
    assert MultiKrum(m=4)(x, f=1).tolist() == [7 / 4]
    assert MultiKrum()(x, f=1).tolist() == [0.5]  # n - f - 2 = 2: 1, then 0, the first of two
    for n, f, d in SHAPES[3:-1]:
        y = sample("ordinary", n, f, d)
        np.testing.assert_allclose(
            MultiKrum(m="n-f", neighbours="n-f-1", strict=False)(y, f=f),
            reference.multi_krum(y, f, n - f, neighbours="n-f-1"),
            rtol=1e-9,
        )


def test_shares_by_hand():
    def shares(rule, rows, f=0, **given):
        updates = Updates(tensor(rows))
        _, _, report = rule.step(updates, f, None, Context(**given))
        return report.share(np.arange(len(rows)))

    # the first coordinate is decided by 1 and 2, the second by all three, the third is even
    votes = [[1, 1, 1], [1, 1, -1], [-1, 1, 0]]
    np.testing.assert_allclose(shares(SignMajority(), votes), [5 / 12, 5 / 12, 1 / 6])
    np.testing.assert_allclose(shares(RLR(), votes), [1 / 3] * 3)
    # of 0 1 4 4 4 7 10 the middle: three of the same value, all of it the third's
    line = [[0], [1], [4], [7], [10]]
    np.testing.assert_allclose(shares(FoundationFL(Median()), line, 1), [0, 0, 1, 0, 0])
    np.testing.assert_allclose(shares(MeaMed(), line, 2), [0, 1 / 3, 1 / 3, 1 / 3, 0])
    # the example of test_fedseca_by_hand: in the first coordinate the first three, in the third
    # the last three; the second has no sign
    x = [[1, 2, 2], [2, 1, -2], [6, -6, -3], [-2, -2, -1.0]]
    np.testing.assert_allclose(shares(FedSECA(gamma=0.0), x, 1), [1 / 6, 1 / 3, 1 / 3, 1 / 6])
    # the example of test_lasa_by_hand: 1, 2 and 4 share the first layer, 1 to 4 the second, but
    # the fourth is clipped to a tenth
    x = [[3, 4, 0, 0], [4, 3, 0, 0], [-3, 4, 0, 0], [30, 40, 0, 0], [0, 0, 3, 4.0]]
    parts = np.array([7 / 12, 7 / 12, 1 / 4, 7 / 120, 0])
    rule = LASA(sparsity=0.0, norm_bound=2.0, sign_bound=2.0)
    given = {"layers": layers_of([(2,), (2,)])}
    np.testing.assert_allclose(shares(rule, x, 1, **given), parts / parts.sum())


def test_shares_of_buckets_go_to_their_clients():
    """Three vectors, each the mean of two clients'; the first and second decide everything."""
    mixing = np.kron(np.eye(3), [[0.5, 0.5]])
    updates = Updates(tensor([[1], [1], [1], [3], [-1], [-1]]), mixing)
    _, _, report = SignMajority().step(updates, 1, None, Context())
    np.testing.assert_allclose(report.share(np.arange(6)), [1 / 4] * 4 + [0, 0])


# --- what theory promises -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "feasible", "infeasible"),
    [
        (MeaMed(), [(1, 0), (3, 1), (9, 4)], [(2, 1), (8, 4)]),
        (Phocas(), [(1, 0), (3, 1), (9, 4)], [(2, 1), (8, 4)]),
        (FoundationFL(), [(1, 0), (3, 1), (9, 4)], [(2, 1), (8, 4)]),
        (SignMajority(), [(1, 0), (3, 1), (9, 4)], [(2, 1), (8, 4)]),
        (RLR(), [(1, 0), (3, 1), (9, 4)], [(2, 1), (8, 4)]),
        (RLR(theta=4), [(4, 0), (9, 4)], [(3, 0), (8, 4)]),
        (SignGuard(), [(1, 0), (3, 1), (9, 4)], [(2, 1), (8, 4)]),
        (FedSECA(), [(1, 0), (3, 1), (9, 4)], [(2, 1), (8, 4)]),
        (LASA(), [(1, 0), (3, 1), (9, 4)], [(2, 1), (8, 4)]),
        (GAS(), [(3, 0), (5, 1), (11, 4)], [(2, 0), (4, 1), (10, 4)]),
        (GAS(Bulyan()), [(3, 0), (7, 1)], [(6, 1)]),
        (GAS(Median()), [(1, 0), (3, 1)], [(2, 1)]),
        (GAS(Krum(strict=False)), [(4, 1), (2, 0)], [(1, 0)]),
        (MultiKrum(m="n-f"), [(3, 0), (5, 1)], [(2, 0), (4, 1)]),
        (MultiKrum(m=6), [(6, 1)], [(5, 1)]),
    ],
    ids=str,
)  # fmt: skip
def test_feasibility(rule, feasible, infeasible):
    for n, f in feasible:
        assert rule.check(n, f) is None
        assert np.isfinite(rule(draw(n, 4), f=f, context=with_layers(4))).all()
    for n, f in infeasible:
        with pytest.raises(Infeasible, match=f"n={n}") as error:
            rule(draw(n, 4), f=f, context=with_layers(4))
        assert f"f={f}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: FoundationFL("mean"), "rule"),
        (lambda: FoundationFL(m=-1), "m"),
        (lambda: SignMajority(0.0), "scale"),
        (lambda: SignMajority(float("nan")), "scale"),
        (lambda: RLR(theta=0), "theta"),
        (lambda: SignGuard(lower=-0.1), "lower"),
        (lambda: SignGuard(lower=1.5), "lower"),
        (lambda: SignGuard(upper=0.5), "upper"),
        (lambda: SignGuard(fraction=0.0), "fraction"),
        (lambda: SignGuard(fraction=1.1), "fraction"),
        (lambda: FedSECA(1.0), "gamma"),
        (lambda: FedSECA(-0.1), "gamma"),
        (lambda: LASA(sparsity=1.0), "sparsity"),
        (lambda: LASA(norm_bound=0.0), "norm_bound"),
        (lambda: LASA(sign_bound=-1.0), "sign_bound"),
        (lambda: GAS("mean of means"), "rule"),
        (lambda: GAS(Krum), "rule"),
        (lambda: GAS(LASA()), "rule"),
        (lambda: GAS(p=0), "p"),
        (lambda: MultiKrum(m="n-2f"), "m"),
        (lambda: MultiKrum(m=0), "m"),
    ],
)
def test_impossible_settings_are_an_error_of_one_line(make, setting):
    with pytest.raises(ValueError, match=rf"^{setting} must") as error:
        make()
    assert "\n" not in str(error.value)


def test_lasa_wants_the_layers_of_these_updates():
    with pytest.raises(ValueError, match="LASA needs 'layers'"):
        LASA()(draw(5, 6), f=1)
    with pytest.raises(ValueError, match=r"context\.layers have 4 parameters, the updates 6"):
        LASA()(draw(5, 6), f=1, context=with_layers(4))


def config(name, **settings):
    return OmegaConf.create({"_target_": f"benchmark.aggregators.{name}", **settings})


def test_settings_from_a_configuration():
    assert build(config("MultiKrum", m="n-f"), "aggregator").value == MultiKrum(m="n-f")
    assert build(config("MultiKrum", m=3), "aggregator").value == MultiKrum(m=3)
    assert build(config("MultiKrum", m=None), "aggregator").value == MultiKrum()
    built = build(config("GAS", rule="bulyan", p=10), "aggregator", named_settings)
    assert built.value == GAS(Bulyan(), 10)
    assert built.config["rule"] == build(config("Bulyan"), "aggregator").config
    assert build(config("RLR", theta=4), "aggregator").value == RLR(theta=4)
    with pytest.raises(ConfigError):
        build(config("MultiKrum", m=[1]), "aggregator")
    with pytest.raises(ValueError, match=r"^rule must be a Rule, got 3$"):
        build(config("GAS", rule=3), "aggregator")


def sizes(rule, rng):
    feasible = [(n, f) for n in range(1, 13) for f in range(n) if not feasibility(rule, n, f)]
    return feasible[rng.integers(len(feasible))]


MOVED = [MeaMed(), Phocas(), FoundationFL(Median()), FoundationFL(), GAS(p=3), GAS(Median(), 2)]


@pytest.mark.parametrize("rule", MOVED, ids=str)
@examples(15)
@given(seed=SEEDS)
def test_shifting_and_stretching(rule, seed):
    """F(s X + t) = s F(X) + t for s > 0."""
    rng = np.random.default_rng(seed)
    n, f = sizes(rule, rng)
    x = rng.normal(size=(n, int(rng.integers(1, 9))))
    s, t = 10.0 ** rng.uniform(-2, 2), rng.normal(size=x.shape[1])
    if n < 3 and not isinstance(rule, MeaMed | Phocas):
        return  # two vectors are equally far from everything
    np.testing.assert_allclose(rule(s * x + t, f=f), s * rule(x, f=f) + t, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", [SignGuard(), FedSECA(), FedSECA(0.5), LASA(), RLR()], ids=str)
@examples(15)
@given(seed=SEEDS)
def test_stretching_and_turning_round(rule, seed):
    """F(s X) = s F(X), for negative s too: what is positive and what is negative is alike."""
    rng = np.random.default_rng(seed)
    n, f = sizes(rule, rng)
    x = rng.normal(size=(n, int(rng.integers(1, 9))))
    x[rng.random(size=x.shape) < 0.2] = 0
    s = 2.0 ** rng.integers(-20, 20)  # exact, so that no bound is crossed by rounding
    s = s if isinstance(rule, SignGuard) else s * rng.choice([-1, 1])
    context = with_layers(x.shape[1])
    result = rule(s * x, f=f, context=context)
    np.testing.assert_allclose(result, s * rule(x, f=f, context=context), rtol=1e-9)


@examples(15)
@given(seed=SEEDS)
def test_votes_do_not_care_for_lengths(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(7, 12))
    longer = x * 10.0 ** rng.uniform(-9, 9, size=x.shape)
    np.testing.assert_array_equal(SignMajority()(longer, f=2), SignMajority()(x, f=2))
    assert set(SignMajority()(x, f=2)) <= {-1.0, 1.0}


@pytest.mark.parametrize("rule", [MeaMed(), Phocas(), FedSECA(), FedSECA(0.0), LASA(), SignGuard(),
                                  GAS(TrimmedMean(), 4), GAS(p=4)], ids=str)  # fmt: skip
@examples(15)
@given(seed=SEEDS)
def test_the_order_of_clients_does_not_matter(rule, seed):
    rng = np.random.default_rng(seed)
    n, f = sizes(rule, rng)
    x = rng.normal(size=(n, int(rng.integers(2, 40))))
    if isinstance(rule, SignGuard):
        x = np.vstack([x, x[:1] * rng.uniform(0.5, 2, size=(n + 1, 1))])  # no tie of clusters
    order, context = rng.permutation(len(x)), with_layers(x.shape[1])
    result = rule(x[order], f=f, context=context)
    np.testing.assert_allclose(result, rule(x, f=f, context=context), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "rule", [GAS(), GAS(Median(), 3), GAS(Bulyan(), 3), GAS(FABA(), 2)], ids=str
)
@examples(15)
@given(seed=SEEDS)
def test_gas_is_a_mean_of_n_minus_f_vectors(rule, seed):
    rng = np.random.default_rng(seed)
    n, f = sizes(rule, rng)
    x = rng.normal(size=(n, 7))
    updates = Updates(torch.from_numpy(x))
    vector, _, report = rule.step(updates, f, None, Context())
    share = report.share(np.arange(n))
    assert np.count_nonzero(share) == n - f
    np.testing.assert_allclose(share[share > 0], 1 / (n - f))
    np.testing.assert_allclose(vector, share @ x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "rule", [MeaMed(), Phocas(), GAS(), GAS(Median(), 2), GAS(Bulyan(), 2)], ids=str
)
@examples(15)
@given(seed=SEEDS, length=st.sampled_from([1e9, 1e30]))
def test_f_vectors_cannot_carry_the_aggregate_away(rule, seed, length):
    """It stays near the honest, in every coordinate, for every feasible f."""
    rng = np.random.default_rng(seed)
    n, f = sizes(rule, rng)
    x = rng.normal(size=(n, 5))
    far = rng.permutation(n)[:f]
    x[far] = length * rng.choice([-1, 1], size=(f, 5)) * rng.uniform(0.5, 1, size=(f, 5))
    honest = np.delete(x, far, axis=0)
    result = rule(x, f=f)
    assert np.all(honest.min(axis=0) - 1e-6 <= result)
    assert np.all(result <= honest.max(axis=0) + 1e-6)


@pytest.mark.parametrize("rule", [SignGuard(), FedSECA(), FedSECA(0.3), LASA()], ids=str)
@examples(15)
@given(seed=SEEDS)
def test_what_is_clipped_to_the_median_cannot_be_longer(rule, seed):
    """Fewer than half of the vectors cannot make the aggregate longer than the longest honest;
    FedSECA, which clips coordinates, not longer than sqrt(d) times it."""
    rng = np.random.default_rng(seed)
    n, f = sizes(rule, rng)
    d = int(rng.integers(1, 20))
    x = rng.normal(size=(n, d))
    far = rng.permutation(n)[:f]
    x[far] *= 10.0 ** rng.uniform(3, 30, size=(f, 1))
    longest = np.linalg.norm(np.delete(x, far, axis=0), axis=1).max()
    bound = longest * (d**0.5 if isinstance(rule, FedSECA) else 1)
    result = rule(x, f=f, context=with_layers(d))
    assert np.linalg.norm(result) <= bound * (1 + 1e-9) * (d**0.5 if isinstance(rule, LASA) else 1)


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


def test_without_byzantine_clients():
    x = draw(8, 12)
    for rule in (MeaMed(), Phocas(), FoundationFL(m=0), GAS(), GAS(Bulyan(), 4)):
        np.testing.assert_allclose(rule(x, f=0), Mean()(x), rtol=1e-9)
    context = with_layers(12)
    everybody = LASA(sparsity=0.0, norm_bound=100.0, sign_bound=100.0)
    wanted = reference.mean(coordinates._clipped(x))
    np.testing.assert_allclose(everybody(x, f=0, context=context), wanted, rtol=1e-9)


# --- faults of other systems --------------------------------------------------------------------


def test_meamed_takes_the_mean_of_two_middle_values():
    """Of 0 2 8 9 the median is 5, the three nearest are 2, 8, 9; of the lower middle value, 2, they
    would be 2, 0, 8. And f >= n / 2 is refused."""
    assert MeaMed()(np.array([[0.0], [2], [8], [9]]), f=1)[0] == pytest.approx(19 / 3)
    with pytest.raises(Infeasible):
        MeaMed()(draw(4, 2), f=3)


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


def test_lasa_does_not_write_into_the_updates_and_sparsity_zero_is_no_mask():
    """A mask instead of the update would give ones; equal vectors have no spread, and no NaN."""
    row = np.array([5.0, -3, 0.5, 2])
    x = np.repeat(row[None], 4, axis=0)
    x.flags.writeable = False
    for sparsity in (0.0, 0.5):
        result = LASA(sparsity=sparsity)(x, f=1, context=with_layers(4))
        np.testing.assert_allclose(result, row, rtol=1e-12)


def test_lasa_does_not_take_rounding_for_spread():
    """One vector, rounded in nine ways: nobody is unusual, however narrow the bounds."""
    row = draw(1, 1000, 3, np.float32)
    factors = np.linspace(1, 2, 9, dtype=np.float32)[:, None]
    x = (row * factors) / factors
    assert np.ptp(np.linalg.norm(x.astype(float), axis=1)) > 0
    rule = LASA(norm_bound=1e-3, sign_bound=1e-3)
    updates, context = Updates(torch.from_numpy(x)), with_layers(1000)
    _, _, report = rule.step(updates, 1, None, context)
    np.testing.assert_allclose(report.share(np.arange(9)), 1 / 9, rtol=1e-6)


def test_gas_bulyan_averages_values_not_distances():
    """Where all vectors lie at 100, a result made of distances would be near 0, and the scores
    would prefer the vector at 90, nearest to 0."""
    x = 100 + 0.1 * draw(8, 12)
    x[5] = 90
    result = GAS(Bulyan(), p=3)(x, f=1)
    np.testing.assert_allclose(result, np.delete(x, 5, axis=0).mean(0), rtol=1e-12)


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


def test_foundationfl_may_copy_a_byzantine_vector():
    """No breakdown point: one long vector of mixed signs stretches both extremes and is as far
    from them as the honest, so that it may win; one of a single sign never does."""
    x = draw(8, 6)
    x[0] = 1e9
    assert np.argmax(FoundationFL().scores(Updates(torch.from_numpy(x)))) != 0
    assert np.abs(FoundationFL(Median())(x, f=1)).max() < 10
    x[0] = 1e9 * np.array([1, -1, 1, -1, 1, -1])
    scores = FoundationFL().scores(Updates(torch.from_numpy(x)))
    assert scores[0] > 0.5 * scores.max() > 1e8


def test_half_precision_counts_and_adds_in_single():
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.from_numpy(draw(300, 3)).to(dtype)  # 300 votes are no half-precision integers
        votes = torch.sign(x.double()).sum(0)
        assert SignMajority()(x, f=5).tolist() == torch.sign(votes).tolist()
        assert SignMajority()(x, f=5).dtype == dtype
        clear = RLR(theta=int(votes.abs().max()))(x, f=5)
        assert (clear.double() * x.double().mean(0) > 0).tolist() == (
            votes.abs() >= votes.abs().max()
        ).tolist()
        for rule in (MeaMed(), Phocas(), FoundationFL(), FedSECA(), LASA(), GAS(), SignGuard()):
            y, context = x[:9], with_layers(3)
            result = rule(y, f=2, context=context)
            exact = rule(y.double(), f=2, context=context)
            assert result.dtype == dtype
            torch.testing.assert_close(result.double(), exact, rtol=0.02, atol=0.02)


def test_no_second_copy_of_the_updates():
    """NumPy's own allocations; torch's are the blocks."""
    x = torch.zeros(40, 200_000)
    x += torch.arange(40)[:, None]
    for rule in (FoundationFL(), SignGuard(), FedSECA(), LASA()):
        tracemalloc.start()
        rule(x, f=5, context=Context(layers=layers_of([(200_000,)])))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.2 * x.numel() * 4


def test_rules_are_values():
    for rule in (GAS(), GAS(Krum()), LASA(), RLR(theta=3)):
        assert replace(rule) == rule and hash(replace(rule)) == hash(rule)
    assert GAS(CenteredClipping(1.0)).check(3, 1) is None
    assert GeometricMedian() in {GAS(GeometricMedian()).rule} and Median() == Median()

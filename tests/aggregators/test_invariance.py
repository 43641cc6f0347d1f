"""What moving, turning, stretching and reordering the vectors does to the result."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given

from benchmark.aggregators import (
    ARC,
    CAF,
    CGE,
    FABA,
    FLAME,
    GAS,
    LASA,
    MDA,
    NNM,
    RLR,
    SMEA,
    Aksel,
    Auror,
    AutoGM,
    Bucketing,
    Bulyan,
    CenteredClipping,
    Chain,
    ClippedClustering,
    Clipping,
    Clustering,
    DBSCANClustering,
    DnC,
    FedSECA,
    FilterL2,
    FoundationFL,
    GeometricMedian,
    Huber,
    Krum,
    MeaMed,
    Mean,
    Median,
    MedianDistance,
    MedianOfMeans,
    MoNNA,
    MultiKrum,
    NormClipping,
    NormFilter,
    Phocas,
    SequentialClipping,
    SignGuard,
    SignMajority,
    TrimmedMean,
    WeightsRule,
)
from benchmark.testing.rule_inputs import STYLES, draw, sample
from tests.helpers.labels import label
from tests.helpers.properties import SEEDS, examples
from tests.helpers.vectors import feasible_sizes, sizes, with_layers

EQUIVARIANT = [
    Mean(),
    Krum(),
    Krum(distance="plain"),
    MultiKrum(),
    Bulyan(),
    Bulyan("oneshot", "trimmed"),
    TrimmedMean(),
    TrimmedMean(0.2),
    Median(),
    GeometricMedian(),
    FABA(),
    Chain([NNM(), TrimmedMean()]),
    Chain([Bucketing(), Median()]),
    Chain([MedianDistance(1.0), Krum()]),
]


@pytest.mark.parametrize("rule", EQUIVARIANT, ids=str)
@examples(25)
@given(seed=SEEDS)
@example(seed=290593)  # a geometric median within nu of a vector
def test_shifting_and_stretching(rule, seed):
    """F(s X + t) = s F(X) + t, for negative s too."""
    rng = np.random.default_rng(seed)
    n, f = feasible_sizes(rule)[rng.integers(len(feasible_sizes(rule)))]
    x = rng.normal(size=(n, int(rng.integers(3, 9))))
    if f:
        x[rng.integers(n)] *= 10.0 ** rng.uniform(0, 6)
    s, t = 10.0 ** rng.uniform(-2, 2), 100 * rng.normal(size=x.shape[1])
    if not (isinstance(rule, Bulyan) and rule.second == "nearest"):  # its ties go to the lower
        s *= rng.choice([-1, 1])
    wanted = s * rule(x, f=f) + t
    if isinstance(rule, GeometricMedian):  # its smoothing is in units of the vectors
        rule = replace(rule, nu=rule.nu * abs(s))
    np.testing.assert_allclose(rule(s * x + t, f=f), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e18])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", EQUIVARIANT, ids=str)
def test_tiny_and_huge_updates(rule, scale, dtype):
    """Nothing under- or overflows between the vectors and the result."""
    x = draw(11, 20, dtype=dtype)
    f = max(f for n, f in feasible_sizes(rule) if n == 11)
    wanted = rule(x, f=f)
    if isinstance(rule, GeometricMedian):
        rule = GeometricMedian(nu=1e-6 * scale)  # it is in units of the vectors
    result = rule(x * dtype(scale), f=f) / dtype(scale)
    np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", EQUIVARIANT, ids=str)
@examples(25)
@given(seed=SEEDS)
def test_the_aggregate_lies_among_the_vectors(rule, seed):
    """In their range in every coordinate; a combination of them with weights that are not negative
    and sum to 1."""
    rng = np.random.default_rng(seed)
    sizes = feasible_sizes(rule)
    n, f = sizes[rng.integers(len(sizes))]
    style = STYLES[rng.integers(len(STYLES))]
    x = sample(style, n, f, int(rng.integers(1, 9)))
    low, high = x.min(axis=0), x.max(axis=0)
    result = rule(x, f=f)
    margin = 1e-9 * np.maximum(1, np.maximum(abs(low), abs(high)))
    assert np.all(low - margin <= result) and np.all(result <= high + margin)
    if isinstance(rule, WeightsRule):
        weights = rule.weights(x, f=f)
        assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
        np.testing.assert_allclose(weights @ x, result, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", [CAF(), SMEA(), FilterL2(0.1), DnC(), MedianOfMeans()], ids=label)
def test_nobody_uses_global_randomness(rule):
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    rule(draw(11, 6), f=3)
    assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


EQUIVARIANT_PRODUCTS = [
    MDA(),
    SMEA(),
    CAF(),
    DnC(),
    MoNNA(),
    Aksel(),
    Aksel("n-f"),
    AutoGM(0.5, relative=True),
    MedianOfMeans(),
    Huber(),
]
AROUND_ZERO = [
    FilterL2(0.5),
    CGE(),
    NormClipping(1.0),
    ARC(),
    SequentialClipping(0.5),
    AutoGM(),
]


@pytest.mark.parametrize("rule", EQUIVARIANT_PRODUCTS, ids=label)
@examples(25)
@given(seed=SEEDS)
def test_shifting_and_stretching_rules_of_products(rule, seed):
    """F(s X + t) = s F(X) + t."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 12))
    f = int(rng.integers(0, (n + 1) // 2))
    x = rng.normal(size=(n, int(rng.integers(3, 9))))
    if f:
        x[rng.integers(n)] *= 10.0 ** rng.uniform(0, 4)
    s, t = -(10.0 ** rng.uniform(-2, 2)), 100 * rng.normal(size=x.shape[1])
    wanted = s * rule(x, f=f) + t
    if isinstance(rule, AutoGM | MedianOfMeans):  # the smoothing is in units of the vectors
        rule = type(rule)(**{**vars(rule), "nu": rule.nu * abs(s)})
    np.testing.assert_allclose(rule(s * x + t, f=f), wanted, rtol=1e-5, atol=1e-5 * abs(s))


TURNED = [
    Krum(),
    MultiKrum(),
    GeometricMedian(T=3),
    FABA(),
    CenteredClipping(0.5, 3),
    NNM(),
    Clipping(1.0),
    # Equal mixtures tie: neither Krum nor a start from the nearest half after NNM.
    Chain([Clipping(2.0), NNM(), GeometricMedian(T=3, start="mean")]),
]
TURNED_PRODUCTS = [r for r in EQUIVARIANT_PRODUCTS if not isinstance(r, Aksel)] + AROUND_ZERO


@pytest.mark.parametrize(
    ("thing", "tolerance"),
    [pytest.param(thing, 1e-6, id=str(thing)) for thing in TURNED]
    + [pytest.param(thing, 1e-5, id=f"{label(thing)}, of products") for thing in TURNED_PRODUCTS],
)
@examples(25)
@given(seed=SEEDS)
def test_turning(thing, tolerance, seed):
    """Rules that live on inner products do not care for the axes: F(X Q) = F(X) Q."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(9, 6)) * 10.0 ** rng.uniform(0, 2, size=(9, 1))
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    result, wanted = thing(x @ turn, f=2), thing(x, f=2) @ turn
    np.testing.assert_allclose(result, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scale", [1e-20, 1e18])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", [*EQUIVARIANT_PRODUCTS, CGE(), Chain([ARC(), Mean()])], ids=label)
def test_tiny_and_huge_updates_of_rules_of_products(rule, scale, dtype):
    x = draw(11, 20).astype(dtype)
    wanted = rule(x, f=3)
    if isinstance(rule, AutoGM | MedianOfMeans):
        rule = type(rule)(**{**vars(rule), "nu": rule.nu * scale})
    result = rule(x * dtype(scale), f=3) / dtype(scale)
    np.testing.assert_allclose(result, wanted, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize("rule", [FABA(), Krum(), MultiKrum(), MDA(), GeometricMedian()], ids=label)
def test_distances_behind_clipping_are_as_good_as_before_it(rule):
    """Near 1000 with spread 0.01, one vector long enough to be clipped."""
    x = (1000 + 0.01 * draw(15, 1000, 2)).astype(np.float32)
    x[12:14] += 0.2
    x[14] *= 3
    result = Chain([Clipping(5e4), rule])(x, f=3)
    wanted = Chain([Clipping(5e4), rule])(x.astype(np.float64), f=3)
    np.testing.assert_allclose(result, wanted, rtol=0, atol=2e-3)


MOVED = [MeaMed(), Phocas(), FoundationFL(Median()), FoundationFL(), GAS(p=3), GAS(Median(), 2)]


@pytest.mark.parametrize("rule", MOVED, ids=str)
@examples(15)
@given(seed=SEEDS)
def test_shifting_and_stretching_rules_of_coordinates(rule, seed):
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


@pytest.mark.parametrize(
    "rule",
    [
        Clustering(),
        ClippedClustering(),
        DBSCANClustering(),
        DBSCANClustering("euclidean"),
        FLAME(0.0, "updates"),
        NormFilter(),
    ],
    ids=label,
)
@examples(25)
@given(seed=SEEDS)
def test_turning_and_stretching_rules_of_clusters(rule, seed):
    """F(s X Q) = s F(X) Q for a rotation Q and any s but 0."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 13))
    f = int(rng.integers(0, (n + 1) // 2))
    x = rng.normal(size=(n, 6)) + rng.normal(size=6)
    x[:f] *= -(10.0 ** rng.uniform(0, 2))
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    s = rng.choice([-1, 1]) * 10.0 ** rng.uniform(-3, 3)
    np.testing.assert_allclose(rule(s * x @ turn, f=f) / s, rule(x, f=f) @ turn, atol=1e-8)


@pytest.mark.parametrize("rule", [DBSCANClustering("euclidean"), Auror(alpha=0.3)], ids=label)
@examples(25)
@given(seed=SEEDS)
def test_shifting_rules_of_clusters(rule, seed):
    rng = np.random.default_rng(seed)
    x, t = rng.normal(size=(11, 5)), 100 * rng.normal(size=5)
    x[:3] += 3
    np.testing.assert_allclose(rule(x + t, f=3), rule(x, f=3) + t, rtol=1e-9, atol=1e-9)

"""Rules and stages against their definitions in tests/reference, on vectors of every kind.

Those that remember the clients are compared with theirs in the tests of their own modules.
"""

from functools import partial

import numpy as np
import pytest
import torch

from benchmark.aggregators import (
    ARC,
    CAF,
    CGE,
    CRFL,
    FABA,
    FLAME,
    GAS,
    LASA,
    NNM,
    RLR,
    Aksel,
    Auror,
    AutoGM,
    Bucketing,
    Bulyan,
    CenteredClipping,
    ClippedClustering,
    Clipping,
    Clustering,
    CosineFilter,
    DBSCANClustering,
    DnC,
    FedSECA,
    FilterL2,
    FLTrust,
    FoundationFL,
    GeometricMedian,
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
    Zeno,
    ZenoPlusPlus,
)
from benchmark.aggregators.contract import feasibility
from benchmark.testing.rule_inputs import STYLES, call, knowledge, sample
from tests import reference
from tests.helpers.labels import label
from tests.helpers.vectors import (
    SHAPES_OF_COORDINATES,
    SHAPES_OF_PRODUCTS,
    halves,
    small,
    with_layers,
)
from tests.reference import clustering, coordinates, gram, mean, trust


def referenced(rule, function, **keywords):
    return pytest.param(rule, lambda x, f: function(x, f, **keywords), id=str(rule))


def from_nearest_half(x, T=100):
    return gram.geometric_median(x, np.ones(len(x)), gram.nearest_half(x)[1], T=T)


REFERENCES = [
    referenced(Mean(), lambda x, f: reference.mean(x)),
    referenced(Krum(), reference.krum),
    referenced(Krum(distance="plain"), reference.krum, distance="plain"),
    referenced(Krum(distance="fourth"), reference.krum, distance="fourth"),
    referenced(Krum(neighbours="n-f-1"), reference.krum, neighbours="n-f-1"),
    referenced(MultiKrum(), reference.multi_krum),
    referenced(MultiKrum(m=3), reference.multi_krum, m=3),
    referenced(
        MultiKrum(distance="plain", neighbours="n-f-1"),
        reference.multi_krum,
        distance="plain",
        neighbours="n-f-1",
    ),
    referenced(Bulyan(), reference.bulyan),
    referenced(Bulyan(distance="plain"), reference.bulyan, distance="plain"),
    referenced(Bulyan(selection="oneshot"), reference.bulyan, selection="oneshot"),
    referenced(Bulyan(second="trimmed"), reference.bulyan, second="trimmed"),
    referenced(
        Bulyan("oneshot", "trimmed", 0.1, "fourth"),
        reference.bulyan,
        selection="oneshot",
        second="trimmed",
        ratio=0.1,
        distance="fourth",
    ),
    referenced(TrimmedMean(), reference.trimmed_mean),
    referenced(TrimmedMean(ratio=0.3), reference.trimmed_mean, ratio=0.3),
    referenced(Median(), lambda x, f: reference.median(x)),
    referenced(Median(even="lower"), lambda x, f: reference.median(x, "lower")),
    referenced(Median(even="upper"), lambda x, f: reference.median(x, "upper")),
    referenced(GeometricMedian(), lambda x, f: from_nearest_half(x)),
    referenced(GeometricMedian(T=3), lambda x, f: from_nearest_half(x, T=3)),
    referenced(GeometricMedian(start="mean"), lambda x, f: reference.geometric_median(x)),
    referenced(GeometricMedian(T=3, start="mean"), lambda x, f: reference.geometric_median(x, T=3)),
    referenced(
        GeometricMedian(nu=0.5, T=4, start="zero"),
        lambda x, f: reference.geometric_median(x, nu=0.5, T=4, start="zero"),
    ),
    referenced(FABA(), reference.faba),
    referenced(
        CenteredClipping(tau=0.5, iterations=4),
        lambda x, f: reference.centered_clipping(x, 0 * x[0], 0.5, 4),
    ),
    referenced(NNM(), reference.nnm),
    referenced(Clipping(1.5), lambda x, f: reference.clipping(x, 1.5)),
    referenced(MedianDistance(), lambda x, f: reference.median_distance(x, f, 3.0)[0].mean(0)),
    referenced(MedianDistance(1.0), lambda x, f: reference.median_distance(x, f, 1.0)[0].mean(0)),
    referenced(
        Bucketing(3),
        lambda x, f: reference.bucketing(x, 3, np.random.default_rng(0).permutation(len(x))),
    ),
]
SHAPES = [(3, 0, 5), (7, 1, 1), (7, 1, 20), (11, 2, 6), (16, 3, 9)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("rule", "wanted"), REFERENCES)
def test_rule_does_what_its_definition_says(rule, wanted, style, dtype):
    coarse = style.startswith("near 1000") and dtype == np.float32
    if coarse and isinstance(rule, Bulyan) and rule.second == "nearest":
        pytest.skip("values on a grid of 6e-5: rounding makes some equally near the median")
    compared = 0
    for n, f, d in SHAPES:
        if feasibility(rule, n, f) is not None:
            continue
        if d == 1 and getattr(rule, "distance", "") == "plain":
            continue  # on a line the two middle points have equal sums: rounding decides
        x = sample(style, n, f, d).astype(dtype)
        expected = wanted(x.astype(np.float64), f)
        result = rule(x, f=f)
        assert result.dtype == dtype and result.shape == expected.shape
        tolerance = (8e-7 if dtype == np.float32 else 1e-9) * max(1, np.abs(expected).max())
        np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)
        compared += 1
    assert compared >= 3


def permutation(n):
    """That of the default context."""
    return np.random.default_rng(0).permutation(n)


def compared(rule, wanted, **tolerance):
    return pytest.param(rule, wanted, tolerance, id=str(rule))


PRODUCTS = [
    compared(CAF(), gram.caf, coarse=1e-4),
    compared(FilterL2(), lambda x, f: gram.filter_l2(x, f, 1.0), coarse=1e-4),
    compared(FilterL2(0.2, 2.0), lambda x, f: gram.filter_l2(x, f, 0.2, 2.0), coarse=1e-4),
    compared(DnC(), lambda x, f: gram.dnc(x, f, [slice(None)]).mean(axis=0)),
    compared(DnC(c=1.4), lambda x, f: gram.dnc(x, f, [slice(None)], 1.4).mean(axis=0)),
    compared(MoNNA(), lambda x, f: gram.monna(x, f, 0)),
    compared(MoNNA(pivot=2), lambda x, f: gram.monna(x, f, 2)),
    compared(Aksel(), lambda x, f: gram.aksel(x, f, "mid")),
    compared(Aksel("n-f"), lambda x, f: gram.aksel(x, f, "n-f")),
    compared(CGE(), gram.cge),
    compared(NormClipping(1.5), lambda x, f: gram.norm_clipping(x, 1.5)),
    compared(ARC(), gram.arc),
    compared(
        SequentialClipping(0.5),
        lambda x, f: gram.sequential_clipping(x, 0 * x[0], 0.5, 3, permutation(len(x)), "clients"),
    ),
    compared(
        SequentialClipping(0.5, 2, "mean"),
        lambda x, f: gram.sequential_clipping(x, 0 * x[0], 0.5, 2, permutation(len(x)), "mean"),
    ),
    compared(
        AutoGM(T=20, rounds=5),
        lambda x, f: gram.autogm(x, T=20, rounds=5),
        fine=1e-7,
        coarse=1e-5,
    ),
    compared(
        AutoGM(0.3, relative=True, T=20, rounds=5),
        lambda x, f: gram.autogm(x, 0.3, True, 20, 5),
        fine=1e-7,
        coarse=1e-5,
    ),
    compared(MedianOfMeans(), lambda x, f: gram.median_of_means(x, 2 * f + 1, permutation(len(x)))),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("rule", "wanted", "tolerance"), PRODUCTS)
def test_rule_of_products_does_what_its_definition_says(rule, wanted, tolerance, style, dtype):
    compared = 0
    for n, f, d in SHAPES_OF_PRODUCTS:
        x = sample(style, n, f, d).astype(dtype)
        expected = wanted(x.astype(np.float64), f)
        result = rule(x, f=f)
        assert result.dtype == dtype and result.shape == expected.shape
        margin = (
            tolerance.get("coarse", 8e-7) if dtype == np.float32 else tolerance.get("fine", 1e-9)
        )
        margin *= max(1, np.abs(expected).max())
        np.testing.assert_allclose(result, expected, rtol=0, atol=margin)
        compared += 1
    assert compared == len(SHAPES_OF_PRODUCTS)


def groups_of(d, p):
    return np.array_split(np.random.default_rng(0).permutation(d), min(p, d))


def wanted_lasa(**keywords):
    return lambda x, f: coordinates.lasa(
        x, [(layer.start, layer.stop) for layer in halves(x.shape[1])], **keywords
    )


def wanted_gas(rule, p):
    return lambda x, f: coordinates.gas(x, f, groups_of(x.shape[1], p), rule)


COORDINATES = [
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
@pytest.mark.parametrize(("rule", "wanted"), COORDINATES, ids=map(str, dict(COORDINATES)))
def test_rule_of_coordinates_does_what_its_definition_says(rule, wanted, style, dtype):
    if (
        style.startswith("near 1000")
        and dtype == np.float32
        and isinstance(rule, MeaMed | Phocas | GAS)
    ):
        pytest.skip("values on a grid of 6e-5: rounding makes some equally near")
    compared = 0
    for n, f, d in SHAPES_OF_COORDINATES:
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


SHAPES_OF_CLUSTERS = [(1, 0, 4), (3, 0, 5), (7, 1, 1), (7, 2, 20), (11, 2, 6), (13, 3, 30)]


def flame(x, f, compare="models", noise=0.0):
    context, models = knowledge(x), x
    if compare == "models":
        models = context.model.numpy() + context.server_step * x
    drawn = context.generator().standard_normal(x.shape[1]) if noise else None
    return clustering.flame(x, models, None if drawn is None else noise * drawn)


def filtered(function, **keywords):
    return lambda x, f: mean(function(x, **keywords)) if len(function(x, **keywords)) else 0 * x[0]


def auror(x, f, **keywords):
    return mean(x[clustering.auror(x, **keywords)[0]])


CLUSTERS = [
    (Clustering(), clustering.clustering),
    (Clustering(gamma_max=0.75), partial(clustering.clustering, gamma_max=0.75)),
    (Clustering(gamma_max=0.1), partial(clustering.clustering, gamma_max=0.1)),
    (ClippedClustering(), clustering.clipped_clustering),
    (ClippedClustering(tau_max=0.5), partial(clustering.clipped_clustering, tau_max=0.5)),
    (DBSCANClustering(), clustering.dbscan_clustering),
    (DBSCANClustering(eps=0.6), partial(clustering.dbscan_clustering, eps=0.6)),
    (
        DBSCANClustering("euclidean", min_samples=4),
        partial(clustering.dbscan_clustering, metric="euclidean", min_samples=4),
    ),
    (
        DBSCANClustering("euclidean", eps=3.0),
        partial(clustering.dbscan_clustering, metric="euclidean", eps=3.0),
    ),
    (FLAME(noise=0.0), flame),
    (FLAME(noise=0.0, compare="updates"), partial(flame, compare="updates")),
    (Auror(), auror),
    (Auror(alpha=1.2, tau=0.3, warmup=0), partial(auror, alpha=1.2, tau=0.3)),
    (NormFilter(), filtered(clustering.norm_filter)),
    (NormFilter(0.7, 1.2), filtered(clustering.norm_filter, lower=0.7, upper=1.2)),
    (CosineFilter(), filtered(clustering.cosine_filter)),
    (CosineFilter(0.3), filtered(clustering.cosine_filter, threshold=0.3)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("rule", "wanted"), CLUSTERS, ids=lambda value: label(value)[:40])
def test_rule_of_clusters_does_what_its_definition_says(rule, wanted, style, dtype):
    for n, f, d in SHAPES_OF_CLUSTERS:
        x = sample(style, n, f, d).astype(dtype)
        expected = wanted(x.astype(np.float64), f)
        result = call(rule, x, f)
        assert result.dtype == dtype
        scale = max(1.0, np.abs(expected).max())
        tolerance = (1e-6 if dtype == np.float32 else 1e-9) * scale
        np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)


def test_flame_adds_the_noise_of_the_round():
    x = small()
    np.testing.assert_allclose(call(FLAME(noise=0.3), x), flame(x, 0, noise=0.3), rtol=1e-9)


SHAPES_OF_ROOT_DATA = [(1, 0, 4), (3, 0, 5), (7, 1, 1), (7, 2, 20), (11, 5, 6), (16, 9, 30)]


def root_of(x):
    return knowledge(x).root_update().numpy()


def fltrust(x, f):
    return trust.fltrust(x, root_of(x))


def zeno_plus_plus(x, f, **keywords):
    return trust.zeno_plus_plus(x, root_of(x), **keywords)


def zeno(x, f, **keywords):
    context = knowledge(x)

    def loss(model):
        return float(context.root_loss(torch.from_numpy(model)[None])[0])

    model = context.model.numpy()
    return trust.zeno(x, f, model, context.server_step, loss, **keywords)


def crfl(x, f, rho, sigma=0.0):
    context = knowledge(x)
    noise = sigma * context.generator().standard_normal(x.shape[1]) if sigma else 0.0
    return trust.crfl(x, context.model.numpy(), context.server_step, rho, noise)


ROOT_DATA = [
    (FLTrust(), fltrust),
    (Zeno(), zeno),
    (Zeno(rho=0.5), partial(zeno, rho=0.5)),
    (Zeno(b=9, rho=0.0), partial(zeno, b=9, rho=0.0)),
    (ZenoPlusPlus(), zeno_plus_plus),
    (
        ZenoPlusPlus(gamma=0.5, rho=0.1, epsilon=0.7),
        partial(zeno_plus_plus, gamma=0.5, rho=0.1, epsilon=0.7),
    ),
    (CRFL(sigma=0.0), partial(crfl, rho=15.0)),
    (CRFL(rho=0.8, sigma=0.0), partial(crfl, rho=0.8)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("rule", "wanted"), ROOT_DATA, ids=lambda value: label(value)[:40])
def test_rule_of_root_data_does_what_its_definition_says(rule, wanted, style, dtype):
    compared = 0
    for n, f, d in SHAPES_OF_ROOT_DATA:
        if rule.check(n, f) is not None:
            continue
        x = sample(style, n, f, d).astype(dtype)
        expected = wanted(x.astype(np.float64), f)
        result = call(rule, x, f)
        assert result.dtype == dtype
        scale = max(1.0, np.abs(expected).max())
        if isinstance(rule, CRFL):  # sums of terms that cancel
            scale = max(scale, np.abs(mean(x.astype(float))).max())
        tolerance = (2e-6 if dtype == np.float32 else 1e-9) * scale
        np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)
        compared += 1
    assert compared >= 2


def test_crfl_adds_the_noise_of_the_round():
    x = small()
    np.testing.assert_allclose(call(CRFL(0.8, 0.3), x), crfl(x, 0, 0.8, 0.3), rtol=1e-9)

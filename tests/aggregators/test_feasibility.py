"""For which n and f rules are defined, and where nobody is Byzantine or all are equal."""

import numpy as np
import pytest

from benchmark.aggregators import (
    ARC,
    CAF,
    CGE,
    FABA,
    FLANDERS,
    GAS,
    LASA,
    MDA,
    NNM,
    RLR,
    SMEA,
    Aksel,
    AutoGM,
    Bucketing,
    Bulyan,
    ByzantineSGD,
    CenteredClipping,
    Chain,
    Clipping,
    DnC,
    FedSECA,
    FilterL2,
    FLDetector,
    FoolsGold,
    FoundationFL,
    GeometricMedian,
    Huber,
    Infeasible,
    Krum,
    MeaMed,
    Mean,
    Median,
    MedianDistance,
    MedianOfMeans,
    MoNNA,
    MultiKrum,
    NormClipping,
    Phocas,
    Safeguard,
    SequentialClipping,
    SignGuard,
    SignMajority,
    TrimmedMean,
)
from benchmark.testing.rule_inputs import draw
from tests import reference
from tests.helpers.labels import label, one_line
from tests.helpers.rounds import context
from tests.helpers.vectors import with_layers
from tests.reference import coordinates


@pytest.mark.parametrize(
    ("thing", "feasible", "infeasible", "need"),
    [
        (Mean(), [(1, 0), (5, 4)], [], ""),
        (Krum(), [(3, 0), (7, 2), (11, 4)], [(1, 0), (2, 0), (6, 2), (10, 4)], "n >= 2f + 3"),
        (Krum(strict=False), [(2, 0), (2, 1), (6, 5)], [(1, 0)], "two vectors or more"),
        (MultiKrum(), [(3, 0), (7, 2)], [(6, 2)], "n >= 2f + 3"),
        (MultiKrum(m=5), [(5, 1)], [(4, 0)], "m <= n, got m=5"),
        (Bulyan(), [(3, 0), (7, 1), (11, 2)], [(2, 0), (6, 1), (10, 2)], "n >= 4f + 3"),
        (Bulyan("oneshot", "trimmed"), [(7, 1)], [(6, 1)], "n >= 4f + 3"),
        (TrimmedMean(), [(1, 0), (3, 1), (5, 2)], [(2, 1), (4, 2)], "n > 2f"),
        (TrimmedMean(ratio=0.1), [(2, 1), (4, 3)], [], ""),
        (Median(), [(1, 0), (3, 1)], [(2, 1), (4, 2)], "n > 2f"),
        (GeometricMedian(), [(1, 0), (3, 1)], [(2, 1), (4, 2)], "n > 2f"),
        (FABA(), [(1, 0), (3, 1)], [(2, 1), (4, 2)], "n > 2f"),
        (CenteredClipping(), [(1, 0), (3, 1)], [(2, 1), (4, 2)], "n > 2f"),
        (NNM(), [(1, 0), (3, 1)], [(2, 1), (4, 2)], "n > 2f"),
        (Clipping(), [(1, 0), (2, 1)], [], ""),
        (MedianDistance(), [(1, 0), (3, 1)], [(2, 1), (4, 2)], "n > 2f"),
        (Bucketing(), [(1, 0), (5, 1), (9, 2)], [(4, 1), (8, 2)], "ceil(n/s) > 2f"),
        (Bucketing(s=3), [(7, 1)], [(6, 1)], "ceil(n/s) > 2f"),
        (Chain([NNM(), Krum()]), [(7, 2)], [(6, 2)], "Krum needs n >= 2f + 3, got n=6, f=2"),
        (
            Chain([Bucketing(), Krum()]),
            [(9, 1), (13, 2)],
            [(7, 1), (8, 1)],
            "Krum needs n >= 2f + 3, got n=4, f=1",
        ),
    ],
)
def test_feasibility(thing, feasible, infeasible, need):
    for n, f in feasible:
        thing(draw(n, 2), f=f)
    for n, f in infeasible:
        with pytest.raises(Infeasible) as error:
            thing(draw(n, 2), f=f)
        assert need in str(error.value) and one_line(error)


@pytest.mark.parametrize(
    "rule",
    [
        Mean(),
        Bulyan(),
        TrimmedMean(),
        FABA(),
        CenteredClipping(),
        MedianDistance(1.0),
        Chain([NNM(), TrimmedMean()]),
    ],
    ids=str,
)
def test_without_byzantine_clients_nothing_is_left_out(rule):
    x = draw(9, 4) / 10
    np.testing.assert_allclose(rule(x, f=0), x.mean(axis=0), rtol=1e-12)


def test_stages_without_byzantine_clients():
    x = draw(9, 4) / 10
    np.testing.assert_allclose(NNM()(x), np.repeat(x.mean(axis=0)[None], 9, axis=0), rtol=1e-12)
    assert np.array_equal(Clipping(2.0)(x), x)
    assert np.array_equal(MedianDistance(1.0).filtered(x), x)


ODD = [(1, 0), (3, 1), (5, 2)]
EVEN = [(2, 1), (4, 2), (6, 3)]


@pytest.mark.parametrize(
    ("thing", "feasible", "infeasible", "need"),
    [
        *[
            (rule, ODD, EVEN, "n > 2f")
            for rule in (
                MDA(),
                SMEA(),
                CAF(),
                FilterL2(),
                DnC(),
                MoNNA(),
                Aksel(),
                CGE(),
                SequentialClipping(),
                AutoGM(),
                MedianOfMeans(),
                Huber(),
            )
        ],
        (NormClipping(), [(1, 0), (2, 1), (5, 4)], [], ""),
        (ARC(), [(1, 0), (2, 1), (5, 4)], [], ""),
        (DnC(c=2.0), [(5, 2), (3, 1)], [], ""),
        (DnC(c=3.0), [(4, 1), (7, 2)], [(3, 1), (6, 2)], "n > c f"),
        (MedianOfMeans(groups=5), [(5, 2), (9, 2)], [(9, 3)], "2f < groups"),
        (MedianOfMeans(groups=5), [(5, 1)], [(4, 1)], "groups <= n"),
        # 11 over 4 is 330, times 7^2 = 16170.
        (SMEA(max_steps=16170), [(10, 3)], [(10, 4), (11, 3)], "max_steps"),
        (Chain([Bucketing(), MoNNA()]), [], [(9, 1)], "MoNNA follows single clients"),
    ],
)
def test_feasibility_of_rules_of_products(thing, feasible, infeasible, need):
    for n, f in feasible:
        assert np.isfinite(thing(draw(n, 2), f=f)).all()
    for n, f in infeasible:
        with pytest.raises(Infeasible) as error:
            thing(draw(n, 2), f=f)
        assert need in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("rule", [CAF(), SMEA(), FilterL2(), MDA(), DnC()], ids=label)
def test_equal_vectors_and_no_byzantine_ones(rule):
    """Others return nothing, NaN or a TypeError."""
    x = np.repeat(draw(1, 6), 9, axis=0)
    for f in (0, 4):
        np.testing.assert_allclose(rule(x, f=f), x[0], rtol=1e-12)
        assert not rule(0 * x, f=f).any()
    x = draw(9, 6)
    np.testing.assert_allclose(rule(x, f=0), x.mean(axis=0), rtol=1e-12)


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
def test_feasibility_of_rules_of_coordinates(rule, feasible, infeasible):
    for n, f in feasible:
        assert rule.check(n, f) is None
        assert np.isfinite(rule(draw(n, 4), f=f, context=with_layers(4))).all()
    for n, f in infeasible:
        with pytest.raises(Infeasible, match=f"n={n}") as error:
            rule(draw(n, 4), f=f, context=with_layers(4))
        assert f"f={f}" in str(error.value) and "\n" not in str(error.value)


def test_rules_of_coordinates_without_byzantine_clients():
    x = draw(8, 12)
    for rule in (MeaMed(), Phocas(), FoundationFL(m=0), GAS(), GAS(Bulyan(), 4)):
        np.testing.assert_allclose(rule(x, f=0), Mean()(x), rtol=1e-9)
    context = with_layers(12)
    everybody = LASA(sparsity=0.0, norm_bound=100.0, sign_bound=100.0)
    wanted = reference.mean(coordinates._clipped(x))
    np.testing.assert_allclose(everybody(x, f=0, context=context), wanted, rtol=1e-9)


@pytest.mark.parametrize(
    ("rule", "feasible", "infeasible"),
    [
        (FoolsGold(), [(1, 0), (2, 1), (9, 8)], []),
        (FLDetector(), [(1, 0), (2, 1), (9, 8)], []),
        (FLANDERS(), [(1, 0), (2, 1), (9, 8)], []),
        (FLANDERS(keep=3), [(3, 1), (9, 8)], [(2, 0)]),
        (ByzantineSGD(), [(1, 0), (3, 1), (9, 4)], [(2, 1), (8, 4)]),
        (Safeguard(), [(1, 0), (3, 1), (9, 4)], [(2, 1), (8, 4)]),
    ],
    ids=str,
)
def test_limits(rule, feasible, infeasible):
    for n, f in feasible:
        assert rule.check(n, f) is None
        for x in (np.ones((n, 1)), np.zeros((n, 2))):
            assert np.isfinite(rule(x, f=f, context=context(d=x.shape[1]))).all()
    for n, f in infeasible:
        with pytest.raises(Infeasible) as error:
            rule(np.ones((n, 2)), f=f, context=context(d=2))
        assert f"n={n}, f={f}" in str(error.value) and "\n" not in str(error.value)

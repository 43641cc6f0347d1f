"""Settings of rules and stages: which are refused, and what a configuration makes of them."""

from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf

from benchmark.aggregators import (
    CRFL,
    FLAME,
    FLANDERS,
    GAS,
    LASA,
    NNM,
    RLR,
    SMEA,
    Aksel,
    Auror,
    AutoGM,
    Bucketing,
    Bulyan,
    ByzantineSGD,
    CenteredClipping,
    Chain,
    ClippedClustering,
    Clipping,
    Clustering,
    CosineFilter,
    DBSCANClustering,
    DeepSight,
    DnC,
    FedSECA,
    FilterL2,
    FLDetector,
    FLTrust,
    FoolsGold,
    FoundationFL,
    GeometricMedian,
    Huber,
    Krum,
    Mean,
    Median,
    MedianDistance,
    MedianOfMeans,
    MoNNA,
    MultiKrum,
    NormClipping,
    NormFilter,
    Safeguard,
    SequentialClipping,
    SignGuard,
    SignMajority,
    TrimmedMean,
    Zeno,
    ZenoPlusPlus,
)
from benchmark.config.components import build
from benchmark.config.errors import ConfigError
from benchmark.config.loading import named_settings
from tests.helpers.labels import one_line


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: Krum(distance="cosine"), "distance"),
        (lambda: Krum(neighbours="all"), "neighbours"),
        (lambda: MultiKrum(m=0), "m"),
        (lambda: Bulyan(selection="twice"), "selection"),
        (lambda: Bulyan(second="mean"), "second"),
        (lambda: Bulyan(ratio=0.5), "ratio"),
        (lambda: Bulyan(distance=""), "distance"),
        (lambda: TrimmedMean(ratio=0.5), "ratio"),
        (lambda: TrimmedMean(ratio=-0.1), "ratio"),
        (lambda: TrimmedMean(ratio=float("nan")), "ratio"),
        (lambda: Median(even="middle"), "even"),
        (lambda: GeometricMedian(nu=0), "nu"),
        (lambda: GeometricMedian(T=0), "T"),
        (lambda: GeometricMedian(start="median"), "start"),
        (lambda: CenteredClipping(tau=0), "tau"),
        (lambda: CenteredClipping(tau=float("nan")), "tau"),
        (lambda: CenteredClipping(iterations=0), "iterations"),
        (lambda: Bucketing(s=0), "s"),
        (lambda: Clipping(max_norm=-1), "max_norm"),
        (lambda: MedianDistance(threshold=0), "threshold"),
        (lambda: SMEA(max_steps=0), "max_steps"),
        (lambda: FilterL2(sigma=0), "sigma"),
        (lambda: FilterL2(expansion=-1), "expansion"),
        (lambda: FilterL2(sigma=float("nan")), "sigma"),
        (lambda: DnC(b=0), "b"),
        (lambda: DnC(iterations=0), "iterations"),
        (lambda: DnC(c=0), "c"),
        (lambda: MoNNA(pivot=-1), "pivot"),
        (lambda: Aksel(mode="all"), "mode"),
        (lambda: NormClipping(max_norm=0), "max_norm"),
        (lambda: NormClipping(noise=-1), "noise"),
        (lambda: NormClipping(noise=float("nan")), "noise"),
        (lambda: SequentialClipping(tau=0), "tau"),
        (lambda: SequentialClipping(s=0), "s"),
        (lambda: SequentialClipping(clip="none"), "clip"),
        (lambda: AutoGM(penalty=0), "penalty"),
        (lambda: AutoGM(nu=0), "nu"),
        (lambda: AutoGM(T=0), "T"),
        (lambda: AutoGM(rounds=0), "rounds"),
        (lambda: MedianOfMeans(groups=0), "groups"),
        (lambda: MedianOfMeans(nu=0), "nu"),
        (lambda: MedianOfMeans(T=0), "T"),
        (lambda: Huber(threshold=0), "threshold"),
        (lambda: Huber(iterations=0), "iterations"),
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
        (lambda: Clustering(gamma_max=0.0), "gamma_max"),
        (lambda: Clustering(gamma_max=1.1), "gamma_max"),
        (lambda: ClippedClustering(window=0), "window"),
        (lambda: ClippedClustering(tau_max=0.0), "tau_max"),
        (lambda: DBSCANClustering("manhattan"), "metric"),
        (lambda: DBSCANClustering(eps=-1.0), "eps"),
        (lambda: DBSCANClustering(min_samples=0), "min_samples"),
        (lambda: FLAME(noise=-1.0), "noise"),
        (lambda: FLAME(noise=float("nan")), "noise"),
        (lambda: FLAME(compare="layers"), "compare"),
        (lambda: DeepSight(tau=0.0), "tau"),
        (lambda: DeepSight(seeds=0), "seeds"),
        (lambda: DeepSight(samples=0), "samples"),
        (lambda: DeepSight(min_cluster_size=1), "min_cluster_size"),
        (lambda: DeepSight(min_samples=0), "min_samples"),
        (lambda: Auror(alpha=0.0), "alpha"),
        (lambda: Auror(tau=1.0), "tau"),
        (lambda: Auror(warmup=-1), "warmup"),
        (lambda: NormFilter(lower=1.1), "lower"),
        (lambda: NormFilter(upper=0.9), "upper"),
        (lambda: NormFilter(upper=float("inf")), "upper"),
        (lambda: CosineFilter(1.0), "threshold"),
        (lambda: CosineFilter(float("nan")), "threshold"),
        (lambda: FLTrust(root_examples=0), "root_examples"),
        (lambda: Zeno(root_examples=0), "root_examples"),
        (lambda: Zeno(b=-1), "b"),
        (lambda: Zeno(rho=-0.1), "rho"),
        (lambda: Zeno(rho=float("inf")), "rho"),
        (lambda: ZenoPlusPlus(root_examples=0), "root_examples"),
        (lambda: ZenoPlusPlus(gamma=0.0), "gamma"),
        (lambda: ZenoPlusPlus(rho=-1.0), "rho"),
        (lambda: ZenoPlusPlus(epsilon=-1.0), "epsilon"),
        (lambda: ZenoPlusPlus(epsilon=float("nan")), "epsilon"),
        (lambda: CRFL(rho=0.0), "rho"),
        (lambda: CRFL(sigma=-1.0), "sigma"),
        (lambda: CRFL(sigma=float("nan")), "sigma"),
        (lambda: FoolsGold(confidence=0), "confidence"),
        (lambda: FoolsGold(features="last"), "features"),
        (lambda: FLDetector(window=0), "window"),
        (lambda: FLDetector(references=0), "references"),
        (lambda: ByzantineSGD(V=0), "V"),
        (lambda: ByzantineSGD(slack=-1), "slack"),
        (lambda: ByzantineSGD(threshold_a=0), "threshold_a"),
        (lambda: ByzantineSGD(threshold_b=float("nan")), "threshold_b"),
        (lambda: ByzantineSGD(delta=1.0), "delta"),
        (lambda: Safeguard(T0=0), "T0"),
        (lambda: Safeguard(T0=5, T1=4), "T1"),
        (lambda: Safeguard(threshold0=-1), "threshold0"),
        (lambda: Safeguard(threshold1=0), "threshold1"),
        (lambda: Safeguard(slack=0), "slack"),
        (lambda: FLANDERS(window=1), "window"),
        (lambda: FLANDERS(samples=0), "samples"),
        (lambda: FLANDERS(keep=0), "keep"),
        (lambda: FLANDERS(iterations=0), "iterations"),
        (lambda: FLANDERS(ridge=0), "ridge"),
    ],
)
def test_impossible_settings_are_an_error_of_one_line(make, setting):
    with pytest.raises(ValueError, match=rf"^{setting} must") as error:
        make()
    assert one_line(error)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Chain([]), "must end with a rule"),
        (lambda: Chain([NNM()]), "must end with a rule"),
        (lambda: Chain([Mean(), Krum()]), "Mean is no pre-aggregator"),
    ],
)
def test_impossible_chains_are_an_error_of_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert one_line(error)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NormClipping(max_norm=np.inf),
        lambda: Clipping(np.inf),
        lambda: Huber(np.inf),
        lambda: AutoGM(np.inf),
        lambda: GeometricMedian(nu=np.inf),
        lambda: MedianOfMeans(nu=np.inf),
    ],
)
def test_no_setting_is_infinite(make):
    with pytest.raises(ValueError, match="finite"):
        make()


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


def test_rules_are_values():
    for rule in (GAS(), GAS(Krum()), LASA(), RLR(theta=3)):
        assert replace(rule) == rule and hash(replace(rule)) == hash(rule)
    assert GAS(CenteredClipping(1.0)).check(3, 1) is None
    assert GeometricMedian() in {GAS(GeometricMedian()).rule} and Median() == Median()

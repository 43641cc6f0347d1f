"""All rules and stages, and what each of them does not promise.

The contract of test_rules.py holds for every line; a new rule or stage adds one.
"""

from dataclasses import dataclass

import numpy as np
import torch

from benchmark.aggregators import (
    ARC,
    CAF,
    CGE,
    CRFL,
    FABA,
    FLAME,
    FLANDERS,
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
    ByzantineSGD,
    CenteredClipping,
    Chain,
    ClippedClustering,
    Clipping,
    Clustering,
    Context,
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
    Rule,
    Safeguard,
    SequentialClipping,
    SignGuard,
    SignMajority,
    Stage,
    TrimmedMean,
    Zeno,
    ZenoPlusPlus,
)
from benchmark.aggregators.context import layers_of
from benchmark.aggregators.contract import Detector

N, F, D = 15, 3, 37  # all of the table is feasible, and no two Krum scores are equal by necessity

EXEMPTIONS = {
    "order": "which client is which matters: it draws by place, or trusts a certain client",
    "mean": "equal vectors need not give that vector: it adds noise, takes signs, clips, reverses",
    "majority": "f vectors away from all others, which are equal, still pull a little",
    "zero": "zero vectors need not give zero",
    "range": "the aggregate may leave the range of the vectors in a coordinate",
    "scale": "a setting, the model or root data are in units of the updates",
    "coordinates": "the number of coordinates matters: it draws some, or looks at the layers",
}


@dataclass(frozen=True)
class Entry:
    """A component, and the promises of the contract that it does not make."""

    name: str
    thing: Rule | Stage
    exempt: frozenset = frozenset()

    def __post_init__(self):
        assert self.exempt <= EXEMPTIONS.keys()


def entry(name, thing, *exempt):
    return Entry(name, thing, frozenset(exempt))


TABLE = [
    entry("mean", Mean(), "majority"),
    entry("mean, weighted", Mean(weighted=True), "majority"),
    entry("krum", Krum()),
    entry("krum, plain", Krum(distance="plain")),
    entry("krum, fourth", Krum(distance="fourth")),
    entry("krum, n-f-1", Krum(neighbours="n-f-1")),
    entry("krum, tutorial", Krum(distance="plain", strict=False)),
    entry("multi_krum", MultiKrum()),
    entry("multi_krum, m=2", MultiKrum(m=2)),
    entry("multi_krum, lax", MultiKrum(strict=False)),
    entry("bulyan", Bulyan()),
    entry("bulyan, oneshot", Bulyan(selection="oneshot")),
    entry("bulyan, tutorial", Bulyan("oneshot", "trimmed", distance="plain")),
    entry("trimmed_mean", TrimmedMean()),
    entry("trimmed_mean, ratio", TrimmedMean(ratio=0.2)),
    entry("trimmed_mean, flpoison", TrimmedMean(ratio=0.1, untrimmed="zero"), "majority"),
    entry("median", Median()),
    entry("median, lower", Median(even="lower")),
    entry("median, upper", Median(even="upper")),
    entry("geometric_median", GeometricMedian(), "scale"),
    entry("geometric_median, rfa", GeometricMedian(T=3, start="mean"), "majority", "scale"),
    entry(
        "geometric_median, zero", GeometricMedian(T=3, nu=0.1, start="zero"), "majority", "scale"
    ),
    entry("geometric_median, weighted", GeometricMedian(weighted=True), "scale"),
    entry("faba", FABA()),
    entry("centered_clipping", CenteredClipping(), "majority", "scale"),
    entry("centered_clipping, L=3", CenteredClipping(tau=0.7, iterations=3), "majority", "scale"),
    entry("nnm", NNM()),
    entry("bucketing", Bucketing(), "order"),
    entry("bucketing, s=1", Bucketing(s=1), "order"),
    entry("clipping", Clipping(max_norm=2.0), "scale"),
    entry("median_distance", MedianDistance(threshold=1.0)),
    entry("nnm + trimmed_mean", Chain([NNM(), TrimmedMean()])),
    entry("nnm + krum", Chain([NNM(), Krum()])),
    entry(
        "clipping + nnm + geometric_median",
        Chain([Clipping(2.0), NNM(), GeometricMedian()]),
        "scale",
    ),
    entry(
        "clipping + centered_clipping",
        Chain([Clipping(2.0), CenteredClipping(0.7, 2)]),
        "majority",
        "scale",
    ),
    entry("bucketing + median", Chain([Bucketing(), Median()]), "order"),
    entry("median_distance + bulyan", Chain([MedianDistance(1.0), Bulyan()])),
    entry("median_distance + faba", Chain([MedianDistance(1.0), FABA()])),
    entry("clustering", Clustering()),
    entry("clustering, opposed", Clustering(gamma_max=0.7), "majority"),
    entry("clipped_clustering", ClippedClustering(), "majority", "range"),
    entry("dbscan_clustering", DBSCANClustering()),
    entry("dbscan_clustering, euclidean", DBSCANClustering("euclidean")),
    entry("flame", FLAME(), "mean", "majority", "range", "coordinates", "scale"),
    entry("flame, updates", FLAME(0.0, "updates"), "range"),
    entry("deepsight", DeepSight(samples=16), "majority", "range", "coordinates", "scale"),
    entry("auror", Auror(), "majority", "scale"),
    entry("auror, warmup=0", Auror(alpha=0.5, warmup=0), "majority", "scale"),
    entry("fltrust", FLTrust(), "mean", "majority", "range", "coordinates", "scale"),
    entry("zeno", Zeno(), "majority", "scale"),
    entry("zeno_plus_plus", ZenoPlusPlus(), "mean", "majority", "range", "coordinates", "scale"),
    entry("crfl", CRFL(rho=1.0), "mean", "majority", "zero", "range", "coordinates", "scale"),
    entry("norm_filter", NormFilter()),
    entry("cosine_filter", CosineFilter(), "majority"),
    entry("clipped_clustering + median", Chain([ClippedClustering(), Median()]), "majority"),
    entry("foolsgold", FoolsGold(), "mean", "majority", "range"),
    entry("foolsgold, sum", FoolsGold(normalise=False), "mean", "majority", "range"),
    entry(
        "foolsgold, output",
        FoolsGold(features="output"),
        "mean",
        "majority",
        "range",
        "coordinates",
    ),
    entry("fldetector", FLDetector(), "majority"),
    entry("byzantine_sgd", ByzantineSGD()),
    entry(
        "byzantine_sgd, V",
        ByzantineSGD(V=30.0, threshold_a=99.0, threshold_b=99.0),
        "majority",
        "scale",
    ),
    entry("safeguard", Safeguard()),
    entry("safeguard, single", Safeguard(T0=3, T1=None, threshold0=9.0), "majority", "scale"),
    entry("flanders", FLANDERS(), "majority", "scale"),
    entry("safeguard + median", Chain([Safeguard(), Median()])),
    entry("multi_krum, m=n-f", MultiKrum(m="n-f")),
    entry("meamed", MeaMed()),
    entry("phocas", Phocas()),
    entry("foundationfl", FoundationFL(), "majority"),
    entry("foundationfl, median", FoundationFL(Median(), m=3)),
    entry("sign_majority", SignMajority(), "mean", "majority", "range", "scale"),
    entry("rlr", RLR(), "majority", "range"),
    entry("rlr, theta=3", RLR(theta=3), "majority", "range"),
    entry("signguard", SignGuard()),
    entry("signguard + trimmed_mean", Chain([SignGuard(), TrimmedMean()])),
    entry("fedseca", FedSECA(), "mean", "majority"),
    entry("fedseca, dense", FedSECA(gamma=0.0), "majority"),
    entry("lasa", LASA(), "majority", "coordinates"),
    entry("lasa, strict", LASA(sparsity=0.0, norm_bound=1.0), "coordinates"),
    entry("gas", GAS()),
    entry("gas, median", GAS(Median(), p=5), "coordinates"),
    entry("gas, bulyan", GAS(Bulyan(), p=3), "coordinates"),
    entry("mda", MDA()),
    entry("smea", SMEA()),
    entry("caf", CAF()),
    entry("filter_l2", FilterL2(), "majority", "scale"),
    entry("filter_l2, sigma=0.01", FilterL2(sigma=0.01), "scale"),
    entry("dnc", DnC()),
    entry("dnc, b=10", DnC(b=10, iterations=3, c=1.5), "coordinates"),
    entry("monna", MoNNA(pivot=1), "order"),
    entry("aksel", Aksel()),
    entry("aksel, n-f", Aksel(mode="n-f")),
    entry("cge", CGE()),
    entry("norm_clipping", NormClipping(), "majority", "scale"),
    entry(
        "norm_clipping, noise",
        NormClipping(0.7, 0.1),
        "mean",
        "majority",
        "zero",
        "range",
        "coordinates",
        "scale",
    ),
    entry("sequential_clipping", SequentialClipping(), "order", "majority", "scale"),
    entry(
        "sequential_clipping, mean",
        SequentialClipping(0.7, 4, "mean"),
        "order",
        "majority",
        "scale",
    ),
    entry("autogm", AutoGM(), "scale"),
    entry("autogm, relative", AutoGM(0.5, relative=True), "scale"),
    entry("median_of_means", MedianOfMeans(), "order", "scale"),
    entry("median_of_means, groups=9", MedianOfMeans(groups=9), "order", "scale"),
    entry("huber", Huber()),
    entry("huber, absolute", Huber(2.0, relative=False), "majority", "scale"),
    entry("arc", ARC()),
    entry("arc + nnm + caf", Chain([ARC(), NNM(), CAF()])),
    entry("dnc + median", Chain([DnC(), Median()])),
]
NAMES = [line.name for line in TABLE]


def same_kind(x):
    """A tensor, the rows of whatever x is."""
    if isinstance(x, torch.Tensor):
        return x.detach()
    rows = [row.detach().numpy() if isinstance(row, torch.Tensor) else row for row in x]
    return torch.as_tensor(np.array(rows))


def knowledge(x, **given):
    """A context with everything that a rule may need, for vectors like x (n, d): a model, layers,
    root data whose loss is the squared distance of a model to a target, a linear classifier."""
    d = same_kind(x).shape[1]
    classes = 3 if d >= 13 else 1
    inputs = 3 if d >= 13 else d - 1
    shapes = [(d - 12,), (3, 3), (3,)] if d >= 13 else [(1, d - 1), (1,)]
    model = torch.linspace(-1, 1, d, dtype=torch.float64)
    target = torch.linspace(1, 0.5, d, dtype=torch.float64)

    def logits(models, examples):
        output = models[:, -classes * (inputs + 1) :].to(examples)
        weights = output[:, :-classes].reshape(len(models), classes, inputs)
        return examples @ weights.mT + output[:, None, -classes:]

    known = {
        "model": model,
        "server_step": -0.1,
        "layers": layers_of(shapes),
        "root_update": lambda: model - target,
        "root_loss": lambda models: (
            ((models[:, :1000].double() - target[:1000]) ** 2).mean(1).numpy()
        ),
        "logits": logits,
        "input_shape": (inputs,),
    }
    return Context(**(known | given))


def call(thing, x, f=0, **given):
    """The rule or stage on x, with a context that has everything."""
    if not thing.needs - {"clients"}:
        return thing(x, f=f)
    return thing(x, f=f, context=knowledge(x, **given))


def behind(stage, x, f=0):
    """The vectors that go on behind a stage, detectors among them."""
    given = stage.filtered if isinstance(stage, Detector) else stage
    return given(x, f=f, context=knowledge(x)) if stage.needs - {"clients"} else given(x, f=f)


def sample(style, n, f, d):
    """(n, d) vectors, ordinary or such as an attacker may send."""
    rng = np.random.default_rng([n, f, d])
    x = rng.normal(size=(n, d))
    if style == "one at 1e30, first":
        x[0] *= 1e30
    if style == "one at 1e30, last":
        x[-1] *= 1e30
    if style == "long rows of many magnitudes":
        x[:f] *= 10.0 ** rng.uniform(1, 12, size=(f, 1))
    if style == "near 1000 with spread 0.01":
        x = 1000 + 0.01 * x
    if style == "duplicates":
        x[rng.permutation(n)[: n // 2]] = x[0]
    if style == "colluding":
        x[:f] = x[f:].mean(0) - x[f:].std(0)
    if style == "many zeros":
        x[rng.random(size=x.shape) < 0.6] = 0
    return x


STYLES = [
    "ordinary",
    "one at 1e30, first",
    "one at 1e30, last",
    "long rows of many magnitudes",
    "near 1000 with spread 0.01",
    "duplicates",
    "colluding",
    "many zeros",
]

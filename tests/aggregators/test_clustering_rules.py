"""Rules that cluster: each against its definition, by hand, and against what they promise."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given

from benchmark.aggregators import (
    FLAME,
    NNM,
    Auror,
    Chain,
    ClippedClustering,
    Clustering,
    Context,
    CosineFilter,
    DBSCANClustering,
    DeepSight,
    Infeasible,
    Mean,
    NormFilter,
    Updates,
)
from benchmark.aggregators.auror import _two_means
from benchmark.aggregators.context import layers_of
from benchmark.aggregators.state import packed, unpacked
from benchmark.aggregators.vectors import angles
from benchmark.testing.rule_inputs import STYLES, call, knowledge, sample
from tests.helpers.labels import label
from tests.helpers.properties import SEEDS, examples
from tests.reference import clustering as reference
from tests.reference import mean

SHAPES = [(1, 0, 4), (3, 0, 5), (7, 1, 1), (7, 2, 20), (11, 2, 6), (13, 3, 30)]


def draw(n=9, d=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def kept(rule, x, f=0, state=None, context=None):
    state = rule.init() if state is None else state
    rows, _ = rule.accept(Updates(torch.as_tensor(x)), f, state, context or knowledge(x))
    return rows.tolist()


# --- against the definitions --------------------------------------------------------------------


def flame(x, f, compare="models", noise=0.0):
    context, models = knowledge(x), x
    if compare == "models":
        models = context.model.numpy() + context.server_step * x
    drawn = context.generator().standard_normal(x.shape[1]) if noise else None
    return reference.flame(x, models, None if drawn is None else noise * drawn)


def filtered(function, **keywords):
    return lambda x, f: mean(function(x, **keywords)) if len(function(x, **keywords)) else 0 * x[0]


def auror(x, f, **keywords):
    return mean(x[reference.auror(x, **keywords)[0]])


REFERENCES = [
    (Clustering(), reference.clustering),
    (Clustering(gamma_max=0.75), partial(reference.clustering, gamma_max=0.75)),
    (Clustering(gamma_max=0.1), partial(reference.clustering, gamma_max=0.1)),
    (ClippedClustering(), reference.clipped_clustering),
    (ClippedClustering(tau_max=0.5), partial(reference.clipped_clustering, tau_max=0.5)),
    (DBSCANClustering(), reference.dbscan_clustering),
    (DBSCANClustering(eps=0.6), partial(reference.dbscan_clustering, eps=0.6)),
    (
        DBSCANClustering("euclidean", min_samples=4),
        partial(reference.dbscan_clustering, metric="euclidean", min_samples=4),
    ),
    (
        DBSCANClustering("euclidean", eps=3.0),
        partial(reference.dbscan_clustering, metric="euclidean", eps=3.0),
    ),
    (FLAME(noise=0.0), flame),
    (FLAME(noise=0.0, compare="updates"), partial(flame, compare="updates")),
    (Auror(), auror),
    (Auror(alpha=1.2, tau=0.3, warmup=0), partial(auror, alpha=1.2, tau=0.3)),
    (NormFilter(), filtered(reference.norm_filter)),
    (NormFilter(0.7, 1.2), filtered(reference.norm_filter, lower=0.7, upper=1.2)),
    (CosineFilter(), filtered(reference.cosine_filter)),
    (CosineFilter(0.3), filtered(reference.cosine_filter, threshold=0.3)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("rule", "wanted"), REFERENCES, ids=lambda value: label(value)[:40])
def test_rule_does_what_its_definition_says(rule, wanted, style, dtype):
    for n, f, d in SHAPES:
        x = sample(style, n, f, d).astype(dtype)
        expected = wanted(x.astype(np.float64), f)
        result = call(rule, x, f)
        assert result.dtype == dtype
        scale = max(1.0, np.abs(expected).max())
        tolerance = (1e-6 if dtype == np.float32 else 1e-9) * scale
        np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)


def test_flame_adds_the_noise_of_the_round():
    x = draw()
    np.testing.assert_allclose(call(FLAME(noise=0.3), x), flame(x, 0, noise=0.3), rtol=1e-9)


def deepsight(x, rule):
    """The rows that stay by the reference, for the linear classifier of `knowledge`."""
    context = knowledge(x)
    model = context.model.numpy()
    weights, bias = context.layers[-2:]
    classes = bias.stop - bias.start
    shape = (rule.seeds, rule.samples, *context.input_shape)
    inputs = context.generator().random(shape, dtype=np.float32).astype(float)

    def scores(w):
        matrix = w[weights.start : weights.stop].reshape(classes, -1)
        return inputs @ matrix.T + w[bias.start : bias.stop]

    moved = np.stack([scores(model + context.server_step * row) for row in x], axis=1)
    return reference.deepsight_kept(
        x[:, weights.start : weights.stop].reshape(len(x), classes, -1),
        x[:, bias.start : bias.stop],
        moved, scores(model), rule.tau, rule.min_cluster_size, rule.min_samples,
    )  # fmt: skip


@pytest.mark.parametrize("rule", [DeepSight(), DeepSight(0.9, 2, 40, 2, 2)], ids=label)
def test_deepsight_does_what_its_definition_says(rule):
    dropped = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 20))
        x = rng.normal(size=(n, 25))
        narrow = rng.random(n) < 0.4
        x[narrow, -12:] *= np.repeat([[0.1, 4, 0.1]], 4, axis=0).T.ravel()[
            [0, 1, 2, 4, 5, 6, 8, 9, 10, 3, 7, 11]
        ]
        x[rng.random(n) < 0.3] *= 3
        stays = deepsight(x, rule)
        assert kept(rule, x) == stays
        wanted = reference.clipped_mean(x, stays, np.median(np.linalg.norm(x, axis=1)))
        np.testing.assert_allclose(call(rule, x), wanted, rtol=1e-9, atol=1e-12)
        dropped += n - len(stays)
    assert dropped > 5


@pytest.mark.parametrize("offset", [0.0, 1000.0, 1e6])
def test_cosine_distances_of_vectors_that_point_almost_the_same_way(offset):
    """There 1 - cos is 1e-13 and less, and the difference of two numbers near 1 is rounding."""
    x = offset + draw(6, 40)
    x[4] = x[1] * 1.001
    got = angles(Updates(torch.from_numpy(x)))
    np.testing.assert_allclose(got, reference.cosine_distances(x), rtol=1e-4, atol=1e-18)
    assert got[1, 4] == 0 and np.array_equal(got, got.T)


def test_cosine_distances_with_zero_and_huge_vectors():
    x = draw(5, 4)
    x[0] *= 1e30
    x[2] = 0
    x[3] = -1e25 * x[1]
    got = angles(Updates(torch.from_numpy(x)))
    np.testing.assert_allclose(got, reference.cosine_distances(x), atol=1e-12)
    assert got[2].tolist() == [1, 1, 0, 1, 1]


# --- by hand ------------------------------------------------------------------------------------


def test_clustering_by_hand():
    """(4, 3) has cosine 0.8 with the first two; (0, -5) has -0.6 with it and 0 with them. The split
    {0, 1, 2} | {3} has the largest cosine 0 < 1 - 2 / 4. gamma_max = 0.8 asks for less than
    1 - 2 * 0.64 = -0.28: no split."""
    x = np.array([[1.0, 0], [2, 0], [4, 3], [0, -5]])
    np.testing.assert_allclose(Clustering()(x, f=1), [7 / 3, 1])
    np.testing.assert_allclose(Clustering(gamma_max=0.8)(x, f=1), [7 / 4, -1 / 2])
    np.testing.assert_allclose(Clustering()(x), [7 / 4, -1 / 2])  # f = 0: nobody may go
    # Again and again: (0, -5) and (-3, 0) are apart from each other too.
    both = np.vstack([x, [[-3.0, 0], [1, 0]]])
    assert kept(Clustering(), both, 2) == [0, 1, 2, 5]
    assert len(kept(Clustering(), both, 1)) == 5


def test_clipped_clustering_by_hand():
    """Norms 1 2 3 10: tau = 2.5, and -10 is opposed to the others: (1 + 2 + 2.5) / 3. Then
    20 20 20 -20: the median of 1 2 3 10 20 20 20 20 is 15; of the second round alone, 20."""
    first = torch.tensor([[1.0], [2], [3], [-10]])
    second = torch.tensor([[20.0], [20], [20], [-20]])
    for window, wanted in ((2, 15), (1, 20)):
        rule = ClippedClustering(window=window)
        vector, state, report = rule.step(Updates(first), 1, rule.init(), Context())
        assert vector.tolist() == pytest.approx([5.5 / 3])
        assert report.share(np.arange(4)) == pytest.approx(np.array([1, 1, 2.5 / 3, 0]) / (17 / 6))
        assert rule.step(Updates(second), 1, state, Context())[0].tolist() == [wanted]
    assert ClippedClustering(tau_max=2.0)(first, f=1).tolist() == pytest.approx([5 / 3])
    assert ClippedClustering()(first).tolist() == pytest.approx([(1 + 2 + 2.5 - 2.5) / 4])


def test_average_linkage_by_hand():
    """Directions at 0, 40, 70, 108 degrees. 1 - cos: 0.234 for 40 apart, 0.134 for 30, 0.212 for
    38, 0.658 for 70, 0.625 for 68. So 40 and 70 merge; 0 is (0.234 + 0.658) / 2 = 0.446 from them,
    108 is (0.625 + 0.212) / 2 = 0.419: it joins them."""
    turns = np.deg2rad([0, 40, 70, 108])
    x = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    assert kept(ClippedClustering(), x, 1) == [1, 2, 3]
    # Of two clusters of the same size the first.
    assert kept(ClippedClustering(), np.array([[-1.0], [1], [1], [-1]]), 1) == [0, 3]


def test_dbscan_by_hand():
    """0 1 2 10: with eps 1.5 the first three. By default with f = 1 the distance to the second
    nearest counts: 2 1 2 9, whose median is 2. With 0.5 all is noise. Two clusters of two: the
    first."""
    x = np.array([[0.0], [1], [2], [10]])
    assert DBSCANClustering("euclidean", eps=1.5)(x, f=1).tolist() == [1]
    assert DBSCANClustering("euclidean")(x, f=1).tolist() == [1]
    rule = DBSCANClustering("euclidean", eps=0.5)
    assert rule(x, f=1).tolist() == [0]
    assert len(rule.filtered(x, f=1)) == 0
    assert Chain([rule, Mean()])(x, f=1).tolist() == [0]
    assert DBSCANClustering("euclidean", eps=0.5, min_samples=1)(x, f=1).tolist() == [0]
    assert kept(DBSCANClustering("euclidean", eps=1.0), [[9.0], [10], [0], [1]], 1) == [0, 1]
    # Cosines: the third is at 90 degrees, distance 1.
    angles = np.array([[1.0, 0], [5, 0.1], [0, 1], [2, 0]])
    assert kept(DBSCANClustering(eps=0.9), angles, 1) == [0, 1, 3]
    assert kept(DBSCANClustering(eps=1.0), angles, 1) == [0, 1, 2, 3]


def test_flame_by_hand():
    """Updates: three along (1, 0); the median of the norms 1 2 3 9 is 2.5: (1 + 2 + 2.5) / 3.
    Models 1 + x of -0.5 0.5 1 -3 are 0.5 1.5 2 -2: the last is opposed. Median norm 0.75."""
    x = np.array([[1.0, 0], [2, 0], [3, 0], [0, 9]])
    np.testing.assert_allclose(FLAME(0.0, "updates")(x, f=1), [5.5 / 3, 0])
    y = torch.tensor([[-0.5], [0.5], [1], [-3]])
    context = Context(model=torch.tensor([1.0]), server_step=1.0)
    assert FLAME(0.0)(y, f=1, context=context).tolist() == pytest.approx([0.25])
    # Gradients, step -0.1: models 1.05 0.95 0.9 1.3, all alike; (-0.5 + 0.5 + 0.75 - 0.75) / 4.
    context = Context(model=torch.tensor([1.0]), server_step=-0.1)
    assert FLAME(0.0)(y, f=1, context=context).tolist() == pytest.approx([0.0])
    assert kept(FLAME(0.0), y, 1, context=context) == [0, 1, 2, 3]


def test_auror_by_hand():
    """0 0.1 0.2 5 splits before 5: centres 0.1 and 5 are 4.9 apart, and 5 is alone. In the second
    coordinate 7 is alone, in the third nobody is (two and two), the fourth is not indicative."""
    x = np.array([[0.0, 7, 1, 0], [0.1, 0, 1, 0], [0.2, 0, 9, 0], [5, 0, 9, 0.001]])
    assert Auror()(x[:, :1], f=1).tolist() == pytest.approx([0.1])
    assert Auror(alpha=5.0)(x[:, :1], f=1).tolist() == pytest.approx([5.3 / 4])
    gap, few = _two_means(x)
    assert gap.tolist() == pytest.approx([4.9, 7, 8, 0.001])
    assert few.astype(int).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
    assert kept(Auror(), x, 1) == [0, 1, 2, 3]  # one of three each: no more than half
    assert kept(Auror(tau=0.3), x, 1) == [1, 2]


def test_filters_by_hand():
    """Norms 0.1 1 3 2 100, median 2: within [0.2, 6]. Median of the rows (1, 0): cosines 1, 0,
    -1, 0.6, 1."""
    x = np.array([[0.1], [1], [-3], [2], [100]])
    assert NormFilter().filtered(x, f=1).ravel().tolist() == [1, -3, 2]
    assert NormFilter()(x, f=1).tolist() == pytest.approx([0])
    assert NormFilter(0.05, 1.0).filtered(x, f=1).ravel().tolist() == [0.1, 1, 2]
    y = np.array([[1.0, 0], [0, 2], [-9, 0], [3, 4], [5, 0], [2, -4]])
    assert np.median(y, axis=0).tolist() == [1.5, 0]
    assert kept(CosineFilter(), y, 1) == [0, 1, 3, 4, 5]
    assert kept(CosineFilter(0.5), y, 1) == [0, 3, 4]
    assert kept(CosineFilter(-1.0), y, 1) == list(range(6))


def linear(classes=4, features=2):
    """A linear classifier of zeros, as `DeepSight` sees it."""
    d = classes * (features + 1)

    def logits(models, examples):
        weights = models[:, : classes * features].reshape(-1, classes, features)
        return examples @ weights.mT + models[:, None, classes * features :]

    return Context(
        model=torch.zeros(d, dtype=torch.float64),
        server_step=1.0,
        layers=layers_of([(classes, features), (classes,)]),
        logits=logits,
        input_shape=(features,),
    )


def test_deepsight_finds_clients_that_train_one_class():
    """All classes alike: every NEUP is 1/4, four exceed 1/4 of 1/4. One class alone: one exceeds,
    no more than half of the median, 4; and they form a cluster in all respects."""
    rng = np.random.default_rng(0)
    x = np.ones((15, 12)) + 0.01 * rng.normal(size=(15, 12))
    narrow = [1, 4, 7, 9, 12]
    x[narrow] = 0.01 * rng.normal(size=(5, 12))
    x[narrow, 4:6] = x[narrow, 10:11] = 3
    rule = DeepSight()
    stays = [i for i in range(15) if i not in narrow]
    assert kept(rule, x, 5, context=linear()) == stays
    bound = np.median(np.linalg.norm(x, axis=1))
    wanted = reference.clipped_mean(x, stays, bound)
    np.testing.assert_allclose(rule(x, f=5, context=linear()), wanted, rtol=1e-12)


def test_deepsight_tau_is_the_share_from_which_a_cluster_goes():
    """A cluster of six with two that trained one class: two sixths are suspicious, a third."""

    class Fixed(DeepSight):
        def _clusters(self, distances):
            return np.array([0] * 6 + [1] * 5)

    x = np.ones((11, 12))
    x[:2, :4] = x[:2, 6:10] = x[:2, 11:] = 0
    assert kept(Fixed(), x, 2, context=linear()) == list(range(6, 11))
    assert kept(Fixed(tau=0.34), x, 2, context=linear()) == list(range(11))


# --- settings, feasibility ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "setting"),
    [
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
    ],
)
def test_impossible_settings_are_an_error_of_one_line(make, setting):
    with pytest.raises(ValueError, match=f"^{setting} ") as error:
        make()
    assert "\n" not in str(error.value)


ALL = [
    Clustering(),
    ClippedClustering(),
    DBSCANClustering(),
    FLAME(),
    DeepSight(samples=8),
    Auror(),
    NormFilter(),
    CosineFilter(),
]


@pytest.mark.parametrize("rule", ALL, ids=label)
def test_a_majority_must_be_honest(rule):
    for n, f in ((1, 0), (2, 0), (3, 1), (5, 2), (11, 5)):
        assert np.isfinite(call(rule, draw(n), f)).all()
    for n, f in ((2, 1), (4, 2), (10, 5)):
        with pytest.raises(Infeasible, match=rf"needs n > 2f, got n={n}, f={f}$"):
            call(rule, draw(n), f)


def test_a_stage_that_splits_needs_the_model_only_where_it_compares_models():
    assert (
        FLAME().needs == {"model", "server_step"} and FLAME(compare="updates").needs == frozenset()
    )
    assert Chain([FLAME(), NNM(), Mean()]).needs == {"model", "server_step"}
    with pytest.raises(ValueError, match="FLAME needs 'model'"):
        FLAME()(draw())


# --- what the rules promise ---------------------------------------------------------------------


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
def test_turning_and_stretching(rule, seed):
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
def test_shifting(rule, seed):
    rng = np.random.default_rng(seed)
    x, t = rng.normal(size=(11, 5)), 100 * rng.normal(size=5)
    x[:3] += 3
    np.testing.assert_allclose(rule(x + t, f=3), rule(x, f=3) + t, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", ALL, ids=label)
@examples(25)
@given(seed=SEEDS)
def test_a_filter_before_the_mean_is_the_mean_of_what_it_keeps(rule, seed):
    """The rows that stay are ascending, and no row is changed; with norms all alike and no noise
    the rule itself gives nothing else."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 14))
    f = int(rng.integers(0, (n + 1) // 2))
    x = rng.normal(size=(n, 17)) + 1
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    context = knowledge(x)
    stays = kept(rule, x, f)
    assert stays == sorted(set(stays)) and set(stays) <= set(range(n))
    assert np.array_equal(rule.filtered(x, f=f, context=context), x[stays])
    wanted = x[stays].mean(0) if stays else 0 * x[0]
    chain = Chain([rule, Mean()])
    np.testing.assert_allclose(chain(x, f=f, context=context), wanted, rtol=1e-9, atol=1e-12)
    if isinstance(rule, FLAME):
        rule = FLAME(noise=0.0)
    np.testing.assert_allclose(rule(x, f=f, context=context), wanted, rtol=1e-9, atol=1e-12)


def attacked(n, f, rng, together):
    """Honest vectors along one direction with some spread, and f of length 1e9 against it."""
    direction = rng.normal(size=8)
    direction /= np.linalg.norm(direction)
    x = direction + 0.1 * rng.normal(size=(n, 8))
    byzantine = rng.permutation(n)[:f]
    spread = 0.0 if together else 0.1
    x[byzantine] = -1e9 * (direction + spread * rng.normal(size=(f, 8)))
    return x, np.delete(x, byzantine, axis=0)


@pytest.mark.parametrize(
    "rule",
    [
        Clustering(),
        ClippedClustering(),
        DBSCANClustering(),
        DBSCANClustering("euclidean"),
        FLAME(0.0),
        FLAME(0.0, "updates"),
        Auror(),
        NormFilter(),
        CosineFilter(),
    ],
    ids=label,
)
@pytest.mark.parametrize("together", [True, False])
@examples(25)
@given(seed=SEEDS)
def test_f_opposed_vectors_cannot_carry_the_aggregate_away(rule, together, seed):
    """It stays in the range of the honest, 0 included where vectors are clipped; for every f. In a
    single coordinate two long vectors can hide each other: then Auror is no defence."""
    rng = np.random.default_rng(seed)
    together = together or isinstance(rule, Auror)
    n = int(rng.integers(3, 16))
    f = int(rng.integers(1, (n + 1) // 2))
    x, honest = attacked(n, f, rng, together)
    if isinstance(rule, FLAME):
        context = Context(model=torch.zeros(8), server_step=-0.1)
        result = rule(x, f=f, context=context.only(rule) if not rule.needs else context)
    else:
        result = rule(x, f=f)
    low, high = honest.min(0), honest.max(0)
    if isinstance(rule, FLAME | ClippedClustering):
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    assert np.all(low - 1e-9 <= result) and np.all(result <= high + 1e-9)
    assert np.abs(Mean()(x, f=f)).max() > 1e6


@examples(25)
@given(seed=SEEDS)
def test_two_means_of_a_line_are_exact(seed):
    """As good as the best split found by trying all; long values do not disturb short ones."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(int(rng.integers(1, 12)), 7))
    values[rng.random(values.shape) < 0.2] *= 10.0 ** rng.uniform(0, 12)
    values[:, 5] = np.round(values[:, 5] / np.abs(values[:, 5]).max(), 1)
    values[:, 6] = 0.3
    gap, few = _two_means(values)
    for j in range(6 if len(values) > 2 else 0):
        wanted, rows = reference.two_means(values[:, j])
        if j < 5:  # of equally good splits of round numbers rounding decides
            assert np.flatnonzero(few[:, j]).tolist() == sorted(rows)
        assert float(gap[j]) == pytest.approx(wanted, rel=1e-9) or j == 5
    assert gap[6] == 0 and not few[:, 6].any()


# --- state --------------------------------------------------------------------------------------


def rounds(count=6, d=9):
    """Rounds of other clients every time, two of which are opposed to the rest."""
    for number in range(count):
        rng = np.random.default_rng(number)
        ids = rng.permutation(14)[: rng.integers(5, 12)]
        x = [3, 2, 1, 4, 1, 2][number] * (1 + 0.5 * rng.normal(size=(len(ids), d)))
        x[:2] *= -3
        yield x, ids


@pytest.mark.parametrize("window", [1, 3, 1000])
def test_clipped_clustering_over_several_rounds(window):
    rule, norms = ClippedClustering(window=window), []
    state = rule.init()
    for x, ids in rounds():
        earlier = [norm for past in norms[max(0, len(norms) - window + 1) :] for norm in past]
        updates = Updates(torch.from_numpy(x), ids=ids)
        vector, new, _ = rule.step(updates, 2, state, Context())
        np.testing.assert_allclose(vector, reference.clipped_clustering(x, 2, earlier), rtol=1e-9)
        again, _, _ = rule.step(updates, 2, unpacked(*packed(state)), Context())
        assert torch.equal(vector, again)
        norms.append(np.linalg.norm(x, axis=1))
        state = new
        assert len(state["norms"]) == sum(map(len, norms[-window:]))  # it does not grow for ever
        assert len(state["counts"]) == min(window, len(norms))


@pytest.mark.parametrize("warmup", [0, 1, 3, 10])
def test_auror_over_several_rounds(warmup):
    rule = Auror(alpha=4.5, warmup=warmup)
    state, indicative, counted = rule.init(), None, []
    for number, (x, ids) in enumerate(rounds()):
        choosing = warmup == 0 or number < warmup
        stays, chosen = reference.auror(x, 4.5, 0.5, indicative, choosing)
        updates = Updates(torch.from_numpy(x), ids=ids)
        before = packed(state)
        vector, new, _ = rule.step(updates, 2, state, Context())
        np.testing.assert_allclose(vector, x[stays].mean(0), rtol=1e-9)
        again, _, _ = rule.step(updates, 2, unpacked(*before), Context())
        assert torch.equal(vector, again)
        if warmup:
            indicative = chosen
            assert new[0] == min(number + 1, warmup) and new[1].tolist() == chosen
        else:
            assert new is None
        state = new
        counted.append(sum(chosen))
    if warmup == 3:
        assert counted[0] > counted[2] > 0 and counted[2:] == [counted[2]] * 4


# --- faults that others have --------------------------------------------------------------------


def test_nobody_is_split_off_where_nobody_attacks():
    """Blades makes two clusters whatever comes and drops one of them."""
    x = 1 + 0.5 * draw(12, 30)
    for rule in (Clustering(), ClippedClustering(), DBSCANClustering()):
        assert kept(rule, x) == list(range(12))
    assert kept(Clustering(), x, 3) == list(range(12))  # their cosines are high
    assert len(kept(Clustering(), draw(12, 30), 3)) == 9  # at most f, however wild they are


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clients_that_all_point_the_same_way_are_not_split(dtype):
    """Two clusters of them would be drawn at random, also where rounding tells them apart."""
    for x in (
        1000 + 0.01 * draw(7, 1),
        np.outer(1 + np.arange(7), draw(1, 30)[0]),
        np.ones((7, 9)),
    ):
        assert kept(ClippedClustering(), x.astype(dtype), 2) == list(range(7))


def test_clipping_happens_in_no_ones_memory():
    """Blades clips the callers' tensors in place."""
    x = torch.from_numpy(draw(9, 20))
    x[3] *= 100
    before = x.clone()
    for rule in (ClippedClustering(), FLAME(), DeepSight(samples=8)):
        call(rule, x, 2)
        assert torch.equal(x, before)


@pytest.mark.parametrize("n", range(1, 13))
def test_flame_always_finds_its_cluster(n):
    """Others take label 0 only, and NaN, the mean of nobody, where all is noise."""
    for x in (draw(n), np.zeros((n, 6)), np.ones((n, 6)), np.round(draw(n)), np.eye(n, 6)):
        for compare in ("models", "updates"):
            stays = kept(FLAME(compare=compare), x)
            assert n // 2 < len(stays) <= n
            assert np.isfinite(call(FLAME(compare=compare), x)).all()


def test_flame_noise_has_the_size_of_the_median_norm():
    """Not of the spread of a layer's parameters; the same when asked twice, new in every round."""
    d = 40_000
    x = np.ones((5, d)) * np.array([[1.0], [2], [3], [4], [50]]) / np.sqrt(d)  # norms 1 .. 50
    quiet = FLAME(0.0, "updates")(x)
    noise = FLAME(0.1, "updates")(x) - quiet
    assert noise.std() == pytest.approx(0.3, rel=0.02) and abs(noise.mean()) < 0.01
    assert np.array_equal(FLAME(0.1, "updates")(x) - quiet, noise)
    other = Context(generator=lambda: np.random.default_rng(1))
    assert not np.allclose(FLAME(0.1, "updates")(x, context=other) - quiet, noise)


def test_flame_is_the_same_whatever_the_server_does_with_its_aggregate():
    """Model deltas and step 1, or gradients and step -0.1: the models decide, not the units."""
    x, model = draw(9, 5), torch.from_numpy(draw(1, 5, 7)[0])
    delta = FLAME()(x, f=2, context=Context(model=model, server_step=1.0))
    gradient = FLAME()(-10 * x, f=2, context=Context(model=model, server_step=-0.1))
    quiet = FLAME(0.0)(x, f=2, context=Context(model=model, server_step=1.0))
    np.testing.assert_allclose(gradient + 10 * quiet, 10 * (delta - quiet), rtol=1e-6)


def test_flame_sees_models_that_hardly_differ():
    """After a small step all models have cosine 1 - 1e-14; still two opposed clients stand out."""
    model = torch.from_numpy(draw(1, 50, 7)[0]).float()
    x = (1 + 0.1 * draw(9, 50)).astype(np.float32)
    x[[2, 5]] *= -1
    context = Context(model=model, server_step=-1e-6)
    assert kept(FLAME(), x, 2, context=context) == reference.flame_kept(
        reference.cosine_distances(model.double().numpy() - 1e-6 * x.astype(float))
    )
    assert not {2, 5} & set(kept(FLAME(), x, 2, context=context))


def test_deepsight_leaves_the_filters_of_warnings_alone():
    x = draw(9, 25)
    before = list(warnings.filters)
    call(DeepSight(samples=8), x, 2)
    assert warnings.filters == before


def test_deepsight_with_models_that_overflow():
    """A huge update makes infinite scores; a server that is sure makes probabilities of 0."""
    x = draw(9, 25).astype(np.float32)
    x[0] *= 1e36
    assert np.isfinite(call(DeepSight(samples=8), x, 2)).all()
    sure = torch.full((25,), 1e4)
    assert np.isfinite(call(DeepSight(samples=8), x, 2, model=sure)).all()


def test_deepsight_handles_one_model_at_a_time():
    sizes = []

    def logits(models, examples):
        sizes.append(len(models))
        return examples[None, :, :1] * models[:, None, :3]

    call(DeepSight(seeds=2, samples=8), draw(9, 25), 2, logits=logits)
    assert sizes == [1] * (2 * (9 + 1))


def test_auror_without_indicative_coordinates_keeps_all():
    x = 1e-5 * draw(9, 20)
    np.testing.assert_allclose(Auror()(x, f=2), x.mean(0))
    # Running means of equal values differ by rounding, here by more than alpha.
    assert kept(Auror(), np.full((9, 4), 0.3e30), 2) == list(range(9))

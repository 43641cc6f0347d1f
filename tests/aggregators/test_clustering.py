"""Rules that cluster the vectors, FLAME among them."""

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
from benchmark.aggregators.state import packed, unpacked
from benchmark.testing.rule_inputs import call, knowledge
from tests.helpers.labels import label
from tests.helpers.properties import SEEDS, examples
from tests.helpers.rounds import rounds_of_others
from tests.helpers.vectors import kept, small
from tests.reference import clustering


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
        assert np.isfinite(call(rule, small(n), f)).all()
    for n, f in ((2, 1), (4, 2), (10, 5)):
        with pytest.raises(Infeasible, match=rf"needs n > 2f, got n={n}, f={f}$"):
            call(rule, small(n), f)


def test_a_stage_that_splits_needs_the_model_only_where_it_compares_models():
    assert (
        FLAME().needs == {"model", "server_step"} and FLAME(compare="updates").needs == frozenset()
    )
    assert Chain([FLAME(), NNM(), Mean()]).needs == {"model", "server_step"}
    with pytest.raises(ValueError, match="FLAME needs 'model'"):
        FLAME()(small())


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


@pytest.mark.parametrize("window", [1, 3, 1000])
def test_clipped_clustering_over_several_rounds(window):
    rule, norms = ClippedClustering(window=window), []
    state = rule.init()
    for x, ids in rounds_of_others():
        earlier = [norm for past in norms[max(0, len(norms) - window + 1) :] for norm in past]
        updates = Updates(torch.from_numpy(x), ids=ids)
        vector, new, _ = rule.step(updates, 2, state, Context())
        np.testing.assert_allclose(vector, clustering.clipped_clustering(x, 2, earlier), rtol=1e-9)
        again, _, _ = rule.step(updates, 2, unpacked(*packed(state)), Context())
        assert torch.equal(vector, again)
        norms.append(np.linalg.norm(x, axis=1))
        state = new
        assert len(state["norms"]) == sum(map(len, norms[-window:]))  # it does not grow for ever
        assert len(state["counts"]) == min(window, len(norms))


def test_nobody_is_split_off_where_nobody_attacks():
    """Blades makes two clusters whatever comes and drops one of them."""
    x = 1 + 0.5 * small(12, 30)
    for rule in (Clustering(), ClippedClustering(), DBSCANClustering()):
        assert kept(rule, x) == list(range(12))
    assert kept(Clustering(), x, 3) == list(range(12))  # their cosines are high
    assert len(kept(Clustering(), small(12, 30), 3)) == 9  # at most f, however wild they are


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clients_that_all_point_the_same_way_are_not_split(dtype):
    """Two clusters of them would be drawn at random, also where rounding tells them apart."""
    for x in (
        1000 + 0.01 * small(7, 1),
        np.outer(1 + np.arange(7), small(1, 30)[0]),
        np.ones((7, 9)),
    ):
        assert kept(ClippedClustering(), x.astype(dtype), 2) == list(range(7))


def test_clipping_happens_in_no_ones_memory():
    """Blades clips the callers' tensors in place."""
    x = torch.from_numpy(small(9, 20))
    x[3] *= 100
    before = x.clone()
    for rule in (ClippedClustering(), FLAME(), DeepSight(samples=8)):
        call(rule, x, 2)
        assert torch.equal(x, before)


@pytest.mark.parametrize("n", range(1, 13))
def test_flame_always_finds_its_cluster(n):
    """Others take label 0 only, and NaN, the mean of nobody, where all is noise."""
    for x in (small(n), np.zeros((n, 6)), np.ones((n, 6)), np.round(small(n)), np.eye(n, 6)):
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
    x, model = small(9, 5), torch.from_numpy(small(1, 5, 7)[0])
    delta = FLAME()(x, f=2, context=Context(model=model, server_step=1.0))
    gradient = FLAME()(-10 * x, f=2, context=Context(model=model, server_step=-0.1))
    quiet = FLAME(0.0)(x, f=2, context=Context(model=model, server_step=1.0))
    np.testing.assert_allclose(gradient + 10 * quiet, 10 * (delta - quiet), rtol=1e-6)


def test_flame_sees_models_that_hardly_differ():
    """After a small step all models have cosine 1 - 1e-14; still two opposed clients stand out."""
    model = torch.from_numpy(small(1, 50, 7)[0]).float()
    x = (1 + 0.1 * small(9, 50)).astype(np.float32)
    x[[2, 5]] *= -1
    context = Context(model=model, server_step=-1e-6)
    assert kept(FLAME(), x, 2, context=context) == clustering.flame_kept(
        clustering.cosine_distances(model.double().numpy() - 1e-6 * x.astype(float))
    )
    assert not {2, 5} & set(kept(FLAME(), x, 2, context=context))

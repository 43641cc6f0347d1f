"""Anti-clustering and HIDRA."""

import numpy as np
import pytest

from benchmark.aggregators import CAF, ClippedClustering, Clustering, FilterL2, Mean
from benchmark.attacks import HIDRA, ALittleIsEnough, AntiClustering, SignFlip
from tests.helpers.published_attacks import draw, dtypes, knowledges, matches
from tests.reference import attacks_published as reference


@dtypes
@knowledges
@pytest.mark.parametrize("settings", [
    {}, {"linkage": "single"}, {"margin": 0.0, "scale": 3.0},
    {"linkage": "single", "margin": 0.3},
])  # fmt: skip
@pytest.mark.parametrize(("h", "f"), [(9, 4), (13, 3), (5, 5)])
def test_anti_clustering(dtype, knowledge, settings, h, f):
    attack = AntiClustering(knowledge=knowledge, **settings)
    define = lambda x, n, f: reference.anti_clustering(x, n, f, **settings)  # noqa: E731
    matches(attack, define, dtype, h, f)


@dtypes
@knowledges
@pytest.mark.parametrize("settings", [
    {}, {"chunk": None}, {"chunk": 7}, {"chunk": 40, "expansion": 3.0},
    {"chunk": 16, "threshold": 200.0}, {"chunk": 16, "threshold": 1.0}, {"chunk": 1},
])  # fmt: skip
@pytest.mark.parametrize(("h", "f"), [(9, 4), (20, 3), (5, 5)])
def test_hidra(dtype, knowledge, settings, h, f):
    attack = HIDRA(knowledge=knowledge, **settings)
    own = knowledge == "byzantine"
    define = lambda x, n, f: reference.hidra(x, n, f, own, **settings)  # noqa: E731
    matches(attack, define, dtype, h, f, share=2.0)


def test_anti_clustering_by_hand():
    """Two vectors at right angles, the mean between them: x* = (1, 0), 45 degrees from it. Chain:
    the gap is 90 degrees, half of it a step. Alike: beyond 135 degrees the two are closer."""
    honest, half = np.eye(2), 0.5**0.5
    chain = AntiClustering(linkage="single", margin=0.5)(honest, f=4)
    np.testing.assert_allclose(
        chain, [[half, -half], [0, -1], [-half, -half], [-half, -half]], atol=1e-9
    )
    same = AntiClustering(margin=0.0, scale=3.0)(honest, f=1)
    np.testing.assert_allclose(same, [[0, -3]], atol=3e-3)


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_anti_clustering_stays_in_the_cluster(spread, seed):
    """Where a sign flip is thrown out; the bias is larger."""
    honest = draw(40, 300, seed, 1.0, spread)
    own = draw(10, 300, seed, 1.0, spread)
    for rule, linkage in ((ClippedClustering(), "average"), (Clustering(), "single")):
        attack = AntiClustering(linkage=linkage)
        turned, flipped = (
            np.vstack([honest, a(honest, f=10, own=own)]) for a in (attack, SignFlip())
        )
        assert (rule.weights(turned, f=10)[40:] > 0).all()
        assert not (rule.weights(flipped, f=10)[40:] > 0).all()
        bias, least = (np.linalg.norm(rule(x, f=10) - honest.mean(0)) for x in (turned, flipped))
        assert bias > 3 * least


@knowledges
@pytest.mark.parametrize("offset", [0.03, 0.1, 0.5])
def test_hidra_passes_filters_that_bound_the_variance(knowledge, offset):
    """In 1000 dimensions: nobody is filtered out, and the bias is larger than that of ALIE. An
    attacker that has to estimate the variance keeps away from it."""
    h, f, d = 40, 10, 1000
    for seed in range(3):
        everybody = draw(h + f, d, seed, offset, 0.3)
        honest, own = everybody[:h], everybody[h:]
        honest_mean, bias = honest.mean(0), {}
        share = 1.0 if knowledge == "honest" else 0.9
        for attack in (HIDRA(knowledge=knowledge, expansion=share), ALittleIsEnough()):
            rows = np.vstack([honest, attack(honest, f=f, own=own)])
            top, all_top = (np.linalg.eigvalsh(x @ x.T / len(x))[-1]
                            for x in (honest - honest_mean, rows - rows.mean(0)))  # fmt: skip
            rules = (FilterL2(sigma=(1.05 * top) ** 0.5, expansion=1.0), CAF(), Mean())
            bias[attack.title] = [np.linalg.norm(rule(rows, f=f) - honest_mean) for rule in rules]
            if attack.title == "HIDRA":
                near = 1e-5 if knowledge == "honest" else 0.1
                assert all_top == pytest.approx(0.999 * share * top, rel=near)
        assert min(bias["HIDRA"][:2]) > 0.999 * bias["HIDRA"][2]
        assert (np.array(bias["HIDRA"]) > 1.2 * np.array(bias["ALittleIsEnough"])).all()


def test_hidra_in_chunks_moves_more_than_at_once():
    """For filters that look at chunks: each of them lets as much pass as all together would."""
    honest = draw(40, 5000, 0, 0.1, 1.0)
    sizes = {}
    for size in (50, 500, None):
        sent = HIDRA(chunk=size)(honest, f=10)[0]
        sizes[size] = np.linalg.norm(sent - honest.mean(0))
    assert sizes[50] > sizes[500] > sizes[None]
    for start in (0, 500, 4500):
        part = np.vstack([honest, HIDRA(chunk=500)(honest, f=10)])[:, start : start + 500]
        top = [np.linalg.eigvalsh(np.cov(x, bias=True))[-1]
               for x in ((part[:40] - part[:40].mean(0)).T, (part - part.mean(0)).T)]  # fmt: skip
        assert top[1] <= top[0] * (1 + 1e-6)

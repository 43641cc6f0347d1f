"""Rules that trust root data: FLTrust, Zeno and Zeno++."""

import numpy as np
import pytest
import torch
from hypothesis import given

from benchmark.aggregators import (
    CRFL,
    NNM,
    Chain,
    Clipping,
    Context,
    FLTrust,
    Infeasible,
    Mean,
    Median,
    Updates,
    Zeno,
    ZenoPlusPlus,
)
from benchmark.testing.rule_inputs import call, knowledge
from tests.helpers.labels import label
from tests.helpers.properties import SEEDS, examples
from tests.helpers.vectors import small


def rooted(*root):
    """A context with this root update."""
    return Context(root_update=lambda: torch.tensor(root, dtype=torch.float64), root_loss=len)


@pytest.mark.parametrize("rule", [FLTrust(), Zeno(), ZenoPlusPlus(), CRFL(0.8, 0.1)], ids=label)
def test_behind_stages_that_mix(rule):
    """The rule sees what the stages made of the vectors."""
    x = small(11, 20)
    context = knowledge(x)
    by_hand = rule(NNM()(Clipping(3.0)(x, f=3), f=3), f=3, context=context)
    chain = Chain([Clipping(3.0), NNM(), rule])
    np.testing.assert_allclose(chain(x, f=3, context=context), by_hand, rtol=1e-9, atol=1e-12)


def test_fltrust_by_hand():
    """Root (2, 0). (3, 4): cosine 0.6, brought to (1.2, 1.6). (0, 5): 0. (-1, 0): less than 0.
    (10, 0): 1, brought to (2, 0). (0.6 (1.2, 1.6) + (2, 0)) / 1.6."""
    x = torch.tensor([[3.0, 4], [0, 5], [-1, 0], [10, 0], [0, 0]], dtype=torch.float64)
    vector, _, report = FLTrust().step(Updates(x), 0, None, rooted(2.0, 0.0))
    np.testing.assert_allclose(vector, [1.7, 0.6])
    weights = np.array([0.6 * 2 / 5, 0, 0, 2 / 10, 0]) / 1.6
    np.testing.assert_allclose(report.share(np.arange(5)), weights / weights.sum())


def quadratic(step, target=3.0):
    """A model of one number, 0, whose loss is the squared distance from the target."""
    return Context(
        model=torch.zeros(1, dtype=torch.float64),
        server_step=step,
        root_update=lambda: None,
        root_loss=lambda models: ((models[:, 0] - target) ** 2).numpy(),
    )


def test_zeno_by_hand():
    """Gradients -1 -3 -9 2, step -1: models 1 3 9 -2, losses 4 0 36 25. The worst, -9, goes; two,
    then 2 as well. With rho 10 the penalised ones are 14 90 846 65."""
    x = np.array([[-1.0], [-3], [-9], [2]])
    assert Zeno()(x, f=1, context=quadratic(-1.0)).tolist() == pytest.approx([-2 / 3])
    assert Zeno()(x, f=2, context=quadratic(-1.0)).tolist() == [-2]
    assert Zeno(b=2)(x, f=1, context=quadratic(-1.0)).tolist() == [-2]
    assert Zeno(rho=10.0)(x, f=2, context=quadratic(-1.0)).tolist() == [0.5]
    # As deltas, step 1, they are to be judged the other way round: -9 and then -3 are the worst.
    assert Zeno()(x, f=2, context=quadratic(1.0)).tolist() == [0.5]
    # Of equally good ones the first stay.
    assert Zeno()(np.array([[2.0], [4], [2]]), f=2, context=quadratic(1.0)).tolist() == [2]
    assert Zeno().filtered(x, f=1, context=quadratic(-1.0)).ravel().tolist() == [-1, -3, 2]


def test_zeno_plus_plus_by_hand():
    """v = (2, 0). (3, 4) becomes (1.2, 1.6): 2.4 - 0.5 * 4 = 0.4. (10, 0) becomes (2, 0): 4 - 2.
    (0, 1) becomes (0, 2): -2. (-1, 0) becomes (-2, 0): -6."""
    x = np.array([[3.0, 4], [10, 0], [0, 1], [-1, 0]])
    rule = ZenoPlusPlus(gamma=1.0, rho=0.5)
    np.testing.assert_allclose(rule(x, context=rooted(2.0, 0.0)), [1.6, 0.8])
    more = ZenoPlusPlus(gamma=1.0, rho=0.5, epsilon=2.0)
    np.testing.assert_allclose(more(x, context=rooted(2.0, 0.0)), [3.2 / 3, 3.6 / 3])
    half = ZenoPlusPlus(gamma=0.5, rho=0.5)  # 1.2 - 2 < 0
    np.testing.assert_allclose(half(x, context=rooted(2.0, 0.0)), [2, 0])


@pytest.mark.parametrize("rule", [FLTrust(), Zeno(), ZenoPlusPlus(), CRFL()], ids=label)
def test_a_majority_may_be_byzantine(rule):
    for n, f in ((1, 0), (2, 1), (5, 4)):
        assert np.isfinite(call(rule, small(n), f)).all()


def test_zeno_leaves_out_as_many_as_are_byzantine_at_least():
    for n, f in ((4, 0), (4, 3), (9, 3)):
        assert np.isfinite(call(Zeno(b=3), small(n), f)).all()
    for n, f in ((3, 0), (3, 2), (5, 4)):
        with pytest.raises(Infeasible, match=rf"needs f <= b < n, got b=3, n={n}, f={f}$"):
            call(Zeno(b=3), small(n), f)


def test_needs():
    assert FLTrust(root_examples=7).root_examples == 7
    assert Chain([NNM(), Zeno(root_examples=30)]).root_examples == 30
    for rule, need in ((FLTrust(), "root"), (Zeno(), "root_loss"), (ZenoPlusPlus(), "root")):
        with pytest.raises(ValueError, match=f"needs '{need}'"):
            rule(small(), context=Context(model=torch.zeros(6), server_step=1.0))
    for rule in (Zeno(), CRFL()):
        with pytest.raises(ValueError, match="needs 'model'"):
            rule(small(), context=rooted(*range(6)))


@pytest.mark.parametrize("rule", [FLTrust(), ZenoPlusPlus()], ids=label)
@examples(25)
@given(seed=SEEDS)
def test_only_directions_count(rule, seed):
    """A client cannot gain by the length of its vector; the aggregate is no longer than the root
    update, and no rotation matters."""
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(1, 12)), int(rng.integers(2, 9))
    x, root = rng.normal(size=(n, d)), rng.normal(size=d)
    result = rule(x, context=rooted(*root))
    assert np.linalg.norm(result) <= np.linalg.norm(root) * (1 + 1e-9)
    longer = x * 10.0 ** rng.uniform(-9, 9, size=(n, 1))
    np.testing.assert_allclose(rule(longer, context=rooted(*root)), result, rtol=1e-6, atol=1e-9)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    turned = rule(x @ turn, context=rooted(*root @ turn))
    np.testing.assert_allclose(turned, result @ turn, rtol=1e-6, atol=1e-9)
    twice = rule(x, context=rooted(*2 * root))
    np.testing.assert_allclose(twice, 2 * result, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", [FLTrust(), ZenoPlusPlus()], ids=label)
def test_if_nobody_is_trusted_the_model_stays(rule):
    """Others fall back to equal weights."""
    for x in (-np.ones((4, 3)), np.zeros((4, 3)), 1e30 * -np.ones((4, 3))):
        vector, _, report = rule.step(Updates(torch.from_numpy(x)), 1, None, rooted(1.0, 2.0, 3.0))
        assert vector.tolist() == [0, 0, 0]
        if x.any():
            assert report.share(np.arange(4)).tolist() == [0, 0, 0, 0]
    assert rule(np.ones((4, 3)), context=rooted(0.0, 0.0, 0.0)).tolist() == [0, 0, 0]


def test_vectors_too_short_to_have_a_direction():
    """Bringing them to the length of the root update would overflow."""
    x = np.array([[1e-42, 0], [0.5, 0]], np.float32)
    assert FLTrust()(x, context=rooted(1.0, 0.0)).tolist() == [1, 0]
    # It counts as zero, which promises no ascent: accepted, and half of the mean.
    assert ZenoPlusPlus(rho=0.0)(x, context=rooted(1.0, 0.0)).tolist() == [0.5, 0]


@pytest.mark.parametrize("rule", [FLTrust(), ZenoPlusPlus(), Zeno()], ids=label)
def test_a_long_majority_does_not_blur_the_few_that_are_trusted(rule):
    """Inner products about a vector of length 1e12 would know nothing of vectors of length 1."""
    x = small(9, 40, 3)
    x[:2] = np.abs(x[:2])
    x[2:] = -1e12 * (1 + 0.01 * small(7, 40))
    context = Context(
        model=torch.zeros(40, dtype=torch.float64),
        server_step=-0.1,
        root_update=lambda: torch.ones(40, dtype=torch.float64),
        root_loss=lambda models: models.sum(1).numpy(),
    )
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-9)):
        result = rule(x.astype(dtype), f=7, context=context)
        np.testing.assert_allclose(result, rule(x[:2], f=0, context=context), rtol=tolerance)


def test_zeno_where_the_loss_is_not_finite():
    """A model that overflows has the worst score; if all do, the first stay."""

    def loss(models):
        return np.where(models[:, 0].numpy() > 5, np.inf, models[:, 0].numpy())

    context = Context(
        model=torch.zeros(1), server_step=1.0, root_update=lambda: None, root_loss=loss
    )
    x = np.array([[9.0], [8], [1], [2]])
    assert Zeno()(x, f=2, context=context).tolist() == [1.5]
    assert Zeno()(x[:2], f=1, context=context).tolist() == [9]

    def lost(models):
        return np.full(len(models), np.nan)

    context = Context(
        model=torch.zeros(1), server_step=1.0, root_update=lambda: None, root_loss=lost
    )
    assert Zeno()(x, f=2, context=context).tolist() == [8.5]


def test_zeno_evaluates_one_model_at_a_time():
    sizes = []

    def loss(models):
        sizes.append(len(models))
        return models.sum(1).numpy()

    call(Zeno(), small(9, 5), 2, root_loss=loss)
    assert sizes == [1] * 9


def test_the_root_update_is_not_a_client():
    """It weighs, but it is no part of the aggregate."""
    x = np.array([[1.0, 1], [1, 1]])
    result = FLTrust()(x, context=rooted(1.0, 0.0))
    np.testing.assert_allclose(result, np.array([1, 1]) / np.sqrt(2))
    assert Chain([NNM(), Median()])(x, f=0).tolist() == Mean()(x).tolist()

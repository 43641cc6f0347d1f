"""Rules that trust root data, and CRFL: against their definitions, by hand, and against what they
promise."""

from functools import partial

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
from benchmark.testing.rule_inputs import STYLES, call, knowledge, sample
from tests.helpers.labels import label
from tests.helpers.properties import SEEDS, examples
from tests.reference import mean
from tests.reference import trust as reference

SHAPES = [(1, 0, 4), (3, 0, 5), (7, 1, 1), (7, 2, 20), (11, 5, 6), (16, 9, 30)]


def draw(n=9, d=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def rooted(*root):
    """A context with this root update."""
    return Context(root_update=lambda: torch.tensor(root, dtype=torch.float64), root_loss=len)


# --- against the definitions --------------------------------------------------------------------


def root_of(x):
    return knowledge(x).root_update().numpy()


def fltrust(x, f):
    return reference.fltrust(x, root_of(x))


def zeno_plus_plus(x, f, **keywords):
    return reference.zeno_plus_plus(x, root_of(x), **keywords)


def zeno(x, f, **keywords):
    context = knowledge(x)

    def loss(model):
        return float(context.root_loss(torch.from_numpy(model)[None])[0])

    model = context.model.numpy()
    return reference.zeno(x, f, model, context.server_step, loss, **keywords)


def crfl(x, f, rho, sigma=0.0):
    context = knowledge(x)
    noise = sigma * context.generator().standard_normal(x.shape[1]) if sigma else 0.0
    return reference.crfl(x, context.model.numpy(), context.server_step, rho, noise)


REFERENCES = [
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
@pytest.mark.parametrize(("rule", "wanted"), REFERENCES, ids=lambda value: label(value)[:40])
def test_rule_does_what_its_definition_says(rule, wanted, style, dtype):
    compared = 0
    for n, f, d in SHAPES:
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
    x = draw()
    np.testing.assert_allclose(call(CRFL(0.8, 0.3), x), crfl(x, 0, 0.8, 0.3), rtol=1e-9)


@pytest.mark.parametrize("rule", [FLTrust(), Zeno(), ZenoPlusPlus(), CRFL(0.8, 0.1)], ids=label)
def test_behind_stages_that_mix(rule):
    """The rule sees what the stages made of the vectors."""
    x = draw(11, 20)
    context = knowledge(x)
    by_hand = rule(NNM()(Clipping(3.0)(x, f=3), f=3), f=3, context=context)
    chain = Chain([Clipping(3.0), NNM(), rule])
    np.testing.assert_allclose(chain(x, f=3, context=context), by_hand, rtol=1e-9, atol=1e-12)


# --- by hand ------------------------------------------------------------------------------------


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


def test_crfl_by_hand():
    """Model (3, 0), gradients of mean (0, -4), step -1: (3, 4), of norm 5. Shrunk to norm 1 it is
    (0.6, 0.8): ((0.6, 0.8) - (3, 0)) / -1. Of norm 5 it stays."""
    context = Context(model=torch.tensor([3.0, 0], dtype=torch.float64), server_step=-1.0)
    x = np.array([[-1.0, -2], [1, -6]])
    np.testing.assert_allclose(CRFL(1.0, 0.0)(x, context=context), [2.4, -0.8])
    assert CRFL(5.0, 0.0)(x, context=context).tolist() == [0, -4]


# --- settings, feasibility ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "setting"),
    [
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
    ],
)
def test_impossible_settings_are_an_error_of_one_line(make, setting):
    with pytest.raises(ValueError, match=f"^{setting} must") as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rule", [FLTrust(), Zeno(), ZenoPlusPlus(), CRFL()], ids=label)
def test_a_majority_may_be_byzantine(rule):
    for n, f in ((1, 0), (2, 1), (5, 4)):
        assert np.isfinite(call(rule, draw(n), f)).all()


def test_zeno_leaves_out_as_many_as_are_byzantine_at_least():
    for n, f in ((4, 0), (4, 3), (9, 3)):
        assert np.isfinite(call(Zeno(b=3), draw(n), f)).all()
    for n, f in ((3, 0), (3, 2), (5, 4)):
        with pytest.raises(Infeasible, match=rf"needs f <= b < n, got b=3, n={n}, f={f}$"):
            call(Zeno(b=3), draw(n), f)


def test_needs():
    assert FLTrust(root_examples=7).root_examples == 7
    assert Chain([NNM(), Zeno(root_examples=30)]).root_examples == 30
    for rule, need in ((FLTrust(), "root"), (Zeno(), "root_loss"), (ZenoPlusPlus(), "root")):
        with pytest.raises(ValueError, match=f"needs '{need}'"):
            rule(draw(), context=Context(model=torch.zeros(6), server_step=1.0))
    for rule in (Zeno(), CRFL()):
        with pytest.raises(ValueError, match="needs 'model'"):
            rule(draw(), context=rooted(*range(6)))


# --- what the rules promise ---------------------------------------------------------------------


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


@pytest.mark.parametrize("rule", [FLTrust(), Zeno(), ZenoPlusPlus()], ids=label)
@examples(25)
@given(seed=SEEDS)
def test_opposed_byzantine_clients_get_nothing(rule, seed):
    """However long and however many, up to all but one."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 12))
    f = int(rng.integers(1, n))
    x = np.ones((n, 5)) + 0.1 * rng.normal(size=(n, 5))
    byzantine = rng.permutation(n)[:f]
    x[byzantine] *= -(10.0 ** rng.uniform(0, 12, size=(f, 1)))
    context = Context(
        model=torch.zeros(5, dtype=torch.float64),
        server_step=-0.1,
        root_update=lambda: torch.ones(5, dtype=torch.float64),
        root_loss=lambda models: ((models + 1) ** 2).sum(1).numpy(),
    )
    _, _, report = rule.step(Updates(torch.from_numpy(x)), f, None, context)
    assert not report.share(byzantine).any()
    assert report.share(np.arange(n)).sum() == pytest.approx(1)


@examples(25)
@given(seed=SEEDS)
def test_crfl_bounds_the_model_whatever_comes(seed):
    """Its norm behind the step is rho or less; it is the model that is clipped, not the update."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(5, 6)) * 10.0 ** rng.uniform(-3, 9, size=(5, 1))
    model, step = rng.normal(size=6), rng.choice([-1, 1]) * 10.0 ** rng.uniform(-3, 1)
    context = Context(model=torch.from_numpy(model), server_step=step)
    behind = model + step * CRFL(2.0, 0.0)(x, context=context)
    assert np.linalg.norm(behind) <= 2 * (1 + 1e-6)
    moved = model + step * x.mean(0)
    if np.linalg.norm(moved) <= 2:
        np.testing.assert_allclose(behind, moved)


def test_crfl_noise_is_that_of_the_parameters():
    """Of standard deviation sigma on the model, sigma / |s| on the aggregate; new every round."""
    x = np.zeros((3, 40_000))
    context = Context(model=torch.zeros(40_000), server_step=-0.1)
    result = CRFL(sigma=0.05)(x, context=context)
    assert result.std() == pytest.approx(0.5, rel=0.02)
    assert np.array_equal(CRFL(sigma=0.05)(x, context=context), result)
    later = Context(
        model=torch.zeros(40_000), server_step=-0.1, generator=lambda: np.random.default_rng(1)
    )
    assert not np.allclose(CRFL(sigma=0.05)(x, context=later), result)


# --- faults that others have --------------------------------------------------------------------


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
    x = draw(9, 40, 3)
    x[:2] = np.abs(x[:2])
    x[2:] = -1e12 * (1 + 0.01 * draw(7, 40))
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

    call(Zeno(), draw(9, 5), 2, root_loss=loss)
    assert sizes == [1] * 9


def test_crfl_where_the_server_does_not_move():
    context = Context(model=torch.ones(2), server_step=0.0)
    assert CRFL()(np.array([[1.0, 2], [3, 4]]), context=context).tolist() == [2, 3]


def test_the_root_update_is_not_a_client():
    """It weighs, but it is no part of the aggregate."""
    x = np.array([[1.0, 1], [1, 1]])
    result = FLTrust()(x, context=rooted(1.0, 0.0))
    np.testing.assert_allclose(result, np.array([1, 1]) / np.sqrt(2))
    assert Chain([NNM(), Median()])(x, f=0).tolist() == Mean()(x).tolist()

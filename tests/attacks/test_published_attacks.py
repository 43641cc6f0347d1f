"""Attacks of recent papers: against their definitions, by hand, and what they promise."""

from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmark import attacks
from benchmark.aggregators import (
    CAF,
    LASA,
    CenteredClipping,
    ClippedClustering,
    Clustering,
    Context,
    FilterL2,
    Infeasible,
    Mean,
    Updates,
)
from benchmark.aggregators.context import layers_of
from benchmark.attacks import (
    HIDRA,
    ROP,
    ALittleIsEnough,
    AntiClustering,
    AntiLASA,
    Forbidden,
    HybridSparse,
    PoisonedFL,
    SignFlip,
    View,
)
from benchmark.config.loading import conf_dir
from benchmark.kernels import chunks, magnitudes
from tests.helpers.properties import SEEDS, examples
from tests.helpers.states import same, through_a_file
from tests.reference import attacks_published as reference

NAMES = {
    "anti_clustering": AntiClustering,
    "anti_lasa": AntiLASA,
    "hidra": HIDRA,
    "hybrid_sparse": HybridSparse,
    "poisonedfl": PoisonedFL,
    "rop": ROP,
}
INFORMED = [cls for cls in NAMES.values() if cls is not PoisonedFL]
H, F, D = 9, 4, 40
SHAPES = [(4, 6), (4,), (3, 4)]
LAYERS = layers_of(SHAPES)
SPANS = [(layer.start, layer.stop, len(layer.shape) > 1) for layer in LAYERS]
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
knowledges = pytest.mark.parametrize("knowledge", ["honest", "byzantine"])


def draw(rows=H, d=D, seed=0, offset=0.3, spread=1.0, dtype=np.float64):
    rng = np.random.default_rng([seed, rows, d])
    return (offset * rng.normal(size=d) + spread * rng.normal(size=(rows, d))).astype(dtype)


def view(attack, honest=None, own=None, round=1, layers=None, like=None, f=F, h=H, **held):
    """A round; arrays become tensors."""
    given = {"honest": honest, "own": own} | held
    given = {name: torch.as_tensor(x) if isinstance(x, np.ndarray) else x
             for name, x in given.items() if x is not None or name == "previous"}  # fmt: skip
    rows = next((given[name] for name in ("honest", "own") if name in given), like)
    f, h = (f if own is None else len(own)), (h if honest is None else len(honest))
    return View(
        h + f, f, rows[:0], attack.reads, lambda i: 1000 * round + i, round, layers, **given
    )


def close(sent, wanted, dtype, share=1.0):
    tolerance = share * (1e-3 if dtype == np.float32 else 1e-7) * np.abs(wanted).max()
    np.testing.assert_allclose(np.asarray(sent), wanted, rtol=0, atol=tolerance)


# ------------------------------------------------------------------------- against the definitions


def matches(attack, define, dtype, h=H, f=F, share=1.0, **held):
    """The attack sends what the definition says, whichever population it knows."""
    honest, own = draw(h, seed=1, dtype=dtype), draw(f, seed=2, dtype=dtype)
    sent = attack(honest, f=f, own=own, context=Context(layers=LAYERS), **held)
    known = (honest if attack.knowledge == "honest" else own).astype(np.float64)
    close(sent, define(known, h + f, f), dtype, share)


@dtypes
@knowledges
@pytest.mark.parametrize("settings", [
    {}, {"z": 3.0}, {"z": 0.5, "lamb": 0.2}, {"z": 2.0, "pi": 0.3, "angle": 200.0},
    {"z": 1.0, "angle": 90.0, "lamb": 1.0},
])  # fmt: skip
def test_rop(dtype, knowledge, settings):
    attack = ROP(knowledge=knowledge, **settings)
    last = draw(1, seed=3, dtype=dtype)[0]
    for previous in (last, None):
        wide = None if previous is None else previous.astype(np.float64)
        matches(attack, lambda x, n, f, last=wide: reference.rop(x, last, n, f, **settings),
                dtype, previous=previous)  # fmt: skip


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


@dtypes
@knowledges
@pytest.mark.parametrize("settings", [
    {"fraction": 0.1, "scale": 1.5}, {"fraction": 0.1, "scale": 5.0, "scope": "global", "z": 0.2},
    {"fraction": 1.0, "scale": -1.0}, {"fraction": 0.01, "scale": 4.0, "z": -1.0},
])  # fmt: skip
def test_hybrid_sparse(dtype, knowledge, settings):
    attack = HybridSparse(knowledge=knowledge, **settings)
    model = draw(1, seed=3, dtype=dtype)[0]
    wide = model.astype(np.float64)
    matches(
        attack, lambda x, n, f: reference.hybrid_sparse(x, wide, SPANS, n, f, **settings)[0],
        dtype, model=model,
    )  # fmt: skip


@dtypes
@knowledges
@pytest.mark.parametrize("settings", [
    {}, {"few": 0.1, "large": 4.0}, {"many": 1.0, "sparsity": 0.5, "z": 0.3},
    {"few": 0.9, "many": 0.5}, {"sparsity": 0.0, "few": 0.2},
])  # fmt: skip
def test_anti_lasa(dtype, knowledge, settings):
    attack = AntiLASA(knowledge=knowledge, **settings)
    matches(attack, lambda x, n, f: reference.anti_lasa(x, SPANS, n, f, **settings), dtype)


def trained(attack, rule, honest, step, rounds, d=30, seed=0):
    """Rounds under a rule: what was sent, models and moves; honest(model, rng) -> (h, d)."""
    rng = np.random.default_rng(seed)
    model, move, state = np.zeros(d), None, attack.init()
    sent, models, moves, memory = [], [], [], rule.init()
    for t in range(1, rounds + 1):
        updates = honest(model, rng)
        seen = view(attack, like=torch.from_numpy(updates), h=len(updates), round=t,
                    model=model, previous=move, server_step=step)  # fmt: skip
        rows, state = attack.step(seen, state)
        sent.append(rows[0].numpy().copy())
        models.append(model.copy())
        moves.append(move)
        everything = Updates(torch.cat([torch.from_numpy(updates), rows]))
        vector, memory, _ = rule.step(everything, F, memory, Context(round=t))
        move = vector.numpy().copy()
        model = model + step * move
    return np.array(sent), models, moves, state


def noisy(model, rng):
    """Gradients of |model - 1|^2 / 2 with noise."""
    return (model - 1.0) + 0.5 * rng.normal(size=(H, len(model)))


@pytest.mark.parametrize("step", [-0.1, 1.0])
@pytest.mark.parametrize("rule", [Mean(), CenteredClipping(tau=0.3)], ids=lambda r: r.title)
def test_poisonedfl(step, rule):
    attack = PoisonedFL(period=4, scale=1.5)
    toward = noisy if step < 0 else lambda model, rng: -noisy(model, rng)
    sent, models, moves, state = trained(attack, rule, toward, step, 14)
    wanted = reference.poisonedfl(state["signs"].numpy(), models, moves, step, scale=1.5, period=4)
    for mine, theirs in zip(sent, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6 * max(1.0, abs(theirs).max()))


# ------------------------------------------------------------------------------------------ by hand

SQUARE = np.array([[1.0, 10], [3, 10], [5, 40]])  # mean (3, 20), deviations 2 and 300^0.5
PAIR = np.array([[3.0, 4], [3, 4]])


@pytest.mark.parametrize(("attack", "honest", "held", "wanted"), [
    # u = (3, 4): ones less 7/25 u are (0.16, -0.12), of length 0.2; 270 degrees: -(0.8, -0.6)
    (ROP(z=2.0), PAIR, {"previous": [3.0, 4]}, [[1.4, 5.2]] * 2),
    (ROP(z=2.0), PAIR, {}, [[1.4, 5.2]] * 2),
    (ROP(z=2.0, lamb=0.0, pi=0.0), PAIR, {"previous": [9.0, -9]}, [[1.4, 5.2]] * 2),
    (ROP(z=2.0, lamb=0.0), PAIR, {"previous": [9.0, -9]}, [[7.4, -7.8]] * 2),
    (ROP(z=2.0, angle=180.0), PAIR, {}, [[1.8, 2.4]] * 2),
    # saliencies 10 * 3 and 1 * 20
    (HybridSparse(fraction=0.5, scale=2.0, z=1.0), SQUARE, {"model": [10.0, 1]},
     [[3 - 2 * 2, 20 - 300**0.5]] * 2),
    (HybridSparse(fraction=0.5, scale=2.0, z=1.0), SQUARE, {"model": [-1.0, 1]},
     [[3 - 2, 20 - 2 * 300**0.5]] * 2),
    # chunks of one coordinate: variances 1 and 9 of all, half of it there already; f / n = 1/2:
    # zeta = (0.499 / 0.25)^0.5 = 1.412799 standard deviations
    (HIDRA(chunk=1), np.array([[1.0, -5], [3, 1]]), {},
     [[2 - 1.412799, -2 + 3 * 1.412799]] * 2),
    (HIDRA(chunk=1, threshold=4.5 / 0.999), np.array([[1.0], [3]]), {}, [[2 - 4.0]] * 2),
    (HIDRA(chunk=1, threshold=0.4), np.array([[1.0], [3]]), {}, [[2.0]] * 2),  # no room: the mean
])  # fmt: skip
def test_by_hand(attack, honest, held, wanted):
    held = {name: np.array(value) for name, value in held.items()}
    np.testing.assert_allclose(attack(honest, f=2, **held), wanted, rtol=1e-6, atol=1e-9)


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


def test_anti_lasa_by_hand():
    """The smaller half of every vector are coordinates 1 and 3; the mean is (4, 0, -3, 2)."""
    honest = np.array([[4.0, 1, -3, 2], [4, -1, -3, 2]])
    attack = AntiLASA(sparsity=0.5, few=0.5, many=1.0, large=2.0, z=1.0)
    sent = attack(honest, f=1, context=Context(layers=layers_of([(2,), (2,)])))
    wanted = [-(17**0.5), 0, 2 * (13 / 5) ** 0.5, -((13 / 5) ** 0.5)]
    np.testing.assert_allclose(sent, [wanted], rtol=1e-6, atol=1e-9)


def test_poisonedfl_by_hand():
    attack, like = PoisonedFL(scale=2.0), torch.empty(0, 3, dtype=torch.float64)
    at = lambda t, step, move: view(attack, like=like, round=t, model=np.zeros(3),  # noqa: E731
                                    server_step=step, previous=move)  # fmt: skip
    sent, state = attack.step(at(1, 1.0, None), attack.init())
    assert sent.shape == (F, 3) and not sent.any()
    signs = state["signs"].numpy()
    sent, state = attack.step(at(2, 1.0, np.array([3.0, -4, 0])), state)
    np.testing.assert_allclose(sent, np.tile(2 * signs * [3, 4, 0], (F, 1)))
    # b, of length 10, cut to the move's 5 is signs * (3, 4, 0); left are (0, 8, 0), or more
    sent, state = attack.step(at(3, 1.0, signs * [3.0, -4, 0]), state)
    np.testing.assert_allclose(sent, np.tile(2 * signs * [0, 5, 0], (F, 1)), atol=1e-12)
    # the server takes b itself: nothing is left, so the magnitudes are those of b
    took, _ = attack.step(at(4, 1.0, signs * [0.0, 5, 0]), state)
    np.testing.assert_allclose(took, np.tile(2 * signs * [0, 5, 0], (F, 1)), atol=1e-12)
    # gradients: the model moves against them
    turned, _ = attack.step(
        at(3, -0.1, np.array([0.0, 0, 7])), attack.step(at(1, -0.1, None), None)[1]
    )
    np.testing.assert_allclose(turned, np.tile(-2 * signs * [0, 0, 7], (F, 1)))


# ------------------------------------------------------------------------------ what they promise


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


def test_rop_moves_centred_clipping_where_it_wants():
    """Clipping tighter than the honest noise, a quadratic loss: in the end it is more than twice
    what it is under vectors of the same length against the mean, which only slow it down. (With a
    wider radius, where hardly anything is clipped, those do more.)"""
    d, f, h, steps = 100, 5, 20, 80

    def final_loss(make):
        rng = np.random.default_rng(0)
        model = rng.normal(size=d)
        model *= 3.0 / np.linalg.norm(model)
        curvature = np.exp(rng.uniform(np.log(0.02), 0, size=d))
        rule, state, last, momentum = CenteredClipping(tau=0.03), None, None, None
        for t in range(steps):
            noise = 0.3 / d**0.5 * rng.normal(size=(h, d))
            gradients = curvature * model + noise
            momentum = gradients if momentum is None else 0.9 * momentum + 0.1 * gradients
            rows = torch.from_numpy(np.vstack([momentum, make(momentum, last)]))
            vector, state, _ = rule.step(Updates(rows), f, state, Context(round=t + 1))
            last = vector.numpy().copy()
            model = model - 0.2 * last
        return 0.5 * (curvature * model**2).sum()

    def beside(momentum, last):
        return ROP(z=0.3)(momentum, f=f, previous=last)

    def against(momentum, last):
        mean = momentum.mean(0)
        length = np.linalg.norm(beside(momentum, last)[0])
        return np.tile(-mean * length / np.linalg.norm(mean), (f, 1))

    assert final_loss(beside) > 2.5 * final_loss(against)


@examples(15)
@given(seed=SEEDS, angle=st.floats(0, 360), z=st.floats(0.01, 100))
def test_rop_keeps_its_length_and_angle(seed, angle, z):
    honest, last = draw(seed=seed), draw(1, seed=seed + 1)[0]
    sent = ROP(z=z, angle=angle, lamb=1.0)(honest, f=1, previous=last)[0] - last
    assert np.linalg.norm(sent) == pytest.approx(z, rel=1e-9)
    cosine = sent @ last / (z * np.linalg.norm(last))
    assert cosine == pytest.approx(np.cos(np.radians(angle)), abs=1e-9)


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


@knowledges
def test_anti_lasa_passes_lasa(knowledge):
    shapes = [(16, 1, 3, 3), (16,), (32, 16, 3, 3), (32,), (10, 128), (10,)]
    layers = layers_of(shapes)
    d = layers[-1].stop
    scale = np.concatenate([np.full(layer.stop - layer.start, 1.0 / (i + 1))
                            for i, layer in enumerate(layers)])  # fmt: skip
    context = Context(layers=layers)
    for seed in range(2):
        honest, own = (scale * draw(rows, d, seed, 0.1, 0.3) for rows in (40, 10))
        own = own + honest.mean(0) - own.mean(0) + 0.1 * scale * draw(1, d, seed, 0.0, 1.0)
        bias = []
        for attack in (AntiLASA(knowledge=knowledge), ALittleIsEnough()):
            rows = np.vstack([honest, attack(honest, f=10, own=own, context=context)])
            bias.append(np.linalg.norm(LASA()(rows, f=10, context=context) - honest.mean(0)))
        assert bias[0] > 4 * bias[1]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_hybrid_sparse_shifts_few_weights_far(scope):
    honest, model = draw(20), draw(1, seed=5)[0]
    attack = HybridSparse(fraction=0.1, scale=7.0, z=0.5, scope=scope)
    sent = attack(honest, f=F, model=model, context=Context(layers=LAYERS))[0]
    shift = (honest.mean(0) - sent) / honest.std(0, ddof=1)
    far = np.flatnonzero(np.isclose(shift, 7.0))
    assert np.isclose(np.delete(shift, far), 0.5).all()
    assert len(far) == {"layer": 3 + 2, "global": 4}[scope]
    assert not set(far) & set(range(24, 28))  # the bias


def test_hybrid_sparse_keeps_its_mask():
    for fixed in (True, False):
        attack, masks, state = HybridSparse(fraction=0.1, fixed=fixed), [], None
        for t in (1, 2):
            seen = view(attack, draw(seed=t), model=draw(1, seed=5 + t)[0], round=t, layers=LAYERS)
            _, state = attack.step(seen, state)
            masks.append(state.tolist())
        assert (masks[0] == masks[1]) == fixed


@pytest.mark.parametrize("step", [-0.05, 0.5])
def test_poisonedfl_drives_the_mean_along_its_signs(step):
    """More and more: what is sent grows with the move that it has brought about."""
    toward = noisy if step < 0 else lambda model, rng: -noisy(model, rng)
    _, models, _, state = trained(PoisonedFL(period=5), Mean(), toward, step, 16, d=200)
    signs, moved = state["signs"].numpy(), models[-1] - models[0]
    assert signs @ moved > 0.8 * np.linalg.norm(moved) * 200**0.5
    assert state["scale"] == 8.0  # so the test keeps the magnitude


def test_poisonedfl_grows_modest_where_it_is_ignored():
    class Ignoring(Mean):
        def step(self, updates, f, state, context):
            return updates.clients[:-f].mean(0), None, None

    attack = PoisonedFL(period=3, scale=2.0, least_scale=0.9)
    _, _, _, state = trained(attack, Ignoring(), noisy, -0.1, 20, d=200)
    assert state["scale"] == pytest.approx(2.0 * 0.7**2)  # 0.7^3 would be below the least


def test_states_are_explicit():
    """A state is not changed, can be stored, and goes on as it would have."""
    attack, like = PoisonedFL(period=1), torch.empty(0, 7)
    rng = np.random.default_rng(0)
    state = attack.init()
    for t in range(1, 5):
        move = None if t == 1 else rng.normal(size=7).astype(np.float32)
        model = rng.normal(size=7).astype(np.float32)
        seen = view(attack, like=like, round=t, model=model, previous=move, server_step=-0.1)
        stored = through_a_file(state)
        sent, after = attack.step(seen, state)
        again, later = attack.step(seen, stored)
        assert torch.equal(sent, again) and same(after, later) and same(state, stored)
        model += 1  # the server's memory, not the attacker's
        assert same(after, later)
        state = after
    assert state["sent"].dtype == torch.float32


# --------------------------------------------------------------------------------------- the edges


@knowledges
@pytest.mark.parametrize("cls", INFORMED)
@pytest.mark.parametrize(("h", "f"), [(2, 2), (30, 2), (3, 2), (1, 5), (0, 3), (5, 0)])
@pytest.mark.parametrize("d", [1, 5])
def test_any_sample_of_clients(cls, knowledge, h, f, d):
    """Also where the Byzantine are most, as may happen in a round of few."""
    attack = cls(knowledge=knowledge)
    honest, own = draw(h, d), draw(f, d, 1)
    seen = view(attack, honest, own, previous=draw(1, d, 2)[0], model=draw(1, d, 3)[0])
    sent, _ = attack.step(seen, attack.init())
    assert sent.shape == (f, d) and torch.isfinite(sent).all()


@pytest.mark.parametrize("cls", INFORMED)
@pytest.mark.parametrize("rows", [
    np.zeros((6, D)), np.ones((6, D)), np.vstack([np.eye(3, D), -np.eye(3, D)]),
    np.vstack([np.zeros((5, D)), np.ones((1, D))]), 1e-15 * draw(6), 1e15 * draw(6),
    1e4 + 1e-2 * draw(6), np.vstack([draw(3), -2.0 * draw(3)]),
], ids=["zero", "alike", "opposed", "one", "tiny", "huge", "far", "parallel"])  # fmt: skip
@dtypes
def test_degenerate_vectors(cls, rows, dtype):
    attack = cls()
    rows = rows.astype(dtype)
    sent = attack(rows, f=3, previous=rows[0], model=rows[1], context=Context(layers=LAYERS))
    assert sent.shape == (3, D) and np.isfinite(sent).all()
    assert np.abs(sent).max() <= 1e3 * max(1.0, np.abs(rows).max())


@pytest.mark.parametrize("cls", NAMES.values())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(cls, dtype):
    attack = cls()
    honest, one = torch.from_numpy(draw()).to(dtype), torch.from_numpy(draw(2, seed=3)).to(dtype)
    wanted = attack(honest.double(), f=F, previous=one[0].double(), model=one[1].double())
    sent = attack(honest, f=F, previous=one[0], model=one[1])
    assert sent.dtype == dtype
    # the sizes may differ where a ranking does
    gap = torch.linalg.vector_norm(sent.double() - wanted)
    assert gap <= 0.15 * torch.linalg.vector_norm(wanted)


@pytest.mark.parametrize(("make", "need"), [
    (lambda: AntiClustering(linkage="ward"), "linkage must be one of average, single"),
    (lambda: AntiClustering(margin=1.0), r"margin must lie in \[0, 1\), got 1.0"),
    (lambda: AntiClustering(scale=0.0), "scale must be"),
    (lambda: HIDRA(chunk=0), "chunk must be"),
    (lambda: HIDRA(threshold=-1.0), "threshold must be"),
    (lambda: HIDRA(expansion=0.0), "expansion must be"),
    (lambda: HybridSparse(fraction=0.0), r"fraction must lie in \(0, 1\], got 0.0"),
    (lambda: HybridSparse(scope="model"), "scope must be one of layer, global"),
    (lambda: AntiLASA(sparsity=1.0), r"sparsity must lie in \[0, 1\), got 1.0"),
    (lambda: AntiLASA(few=0.0), r"few must lie in \(0, 1\], got 0.0"),
    (lambda: AntiLASA(large=-1.0), "large must be"),
    (lambda: PoisonedFL(period=0), "period must be"),
    (lambda: PoisonedFL(decay=1.0), r"decay must lie in \(0, 1\), got 1.0"),
    (lambda: ROP(knowledge="all"), "knowledge must be one of honest, byzantine"),
])  # fmt: skip
def test_impossible_settings(make, need):
    with pytest.raises(ValueError, match=need) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("attack", [ROP(), HybridSparse()])
def test_z_max_needs_a_majority(attack):
    with pytest.raises(Infeasible, match=r"needs f <= n/2 for z_max, got n=5, f=3: set attack\.z"):
        attack(draw(2), f=3, model=draw(1)[0])
    assert type(attack)(z=1.0).check(5, 3) is None


def test_poisonedfl_knows_no_updates():
    attack = PoisonedFL()
    seen = view(attack, draw(), draw(F), model=np.zeros(D), previous=None, server_step=1.0)
    attack.step(seen, None)
    for name in ("honest", "own"):
        with pytest.raises(Forbidden):
            getattr(seen, name)


@pytest.mark.parametrize("name", NAMES)
def test_configurations_hold_every_default(name):
    written = yaml.safe_load((conf_dir() / "attack" / f"{name}.yaml").read_text())
    cls = NAMES[name]
    assert written.pop("_target_") == f"benchmark.attacks.{cls.__name__}"
    assert written == {field.name: field.default for field in fields(cls)}
    assert cls.__name__ in attacks.__all__ and cls.paper and cls.cost


# ----------------------------------------------------------------------------------------- kernels


@dtypes
@pytest.mark.parametrize(("n", "d", "size"), [
    (1, 1, 1), (3, 10, 3), (4, 10, 10), (7, 3000, 1000), (5, 40000, 17000), (6, 2500, 2),
])  # fmt: skip
@pytest.mark.parametrize("offset", [0.3, 1e3])
def test_products_in_chunks(dtype, n, d, size, offset, monkeypatch):
    x = torch.from_numpy(draw(n, d, offset=offset, dtype=dtype))
    centre = x.double().mean(0)
    wide = torch.cat([x.double() - centre, centre[None]]).numpy()
    wanted = [wide[:, a : a + size] @ wide[:, a : a + size].T for a in range(0, d, size)]
    for _ in range(2):
        found = chunks.chunk_products(x, size)
        assert found.shape == (-(-d // size), n + 1, n + 1)
        for mine, exact in zip(found, wanted, strict=True):
            lengths = np.sqrt(np.diagonal(exact))
            assert (np.abs(mine - exact) <= 1e-3 * np.outer(lengths, lengths) + 1e-9).all()
        monkeypatch.setattr(chunks, "supported_by_kernels", lambda x: False)


@pytest.mark.parametrize("n", [1, 2, 7, 20, 40, 90])
def test_largest_eigenvalues(n):
    x = np.stack([draw(n, 200, seed, seed) for seed in range(8)])
    matrices = np.concatenate([x @ x.transpose(0, 2, 1), np.ones((1, n, n)), np.zeros((1, n, n))])
    found, exact = chunks.top_eigenvalues(matrices, n), np.linalg.eigvalsh(matrices)[:, -1]
    assert (found <= exact * (1 + 1e-12) + 1e-12).all()
    np.testing.assert_allclose(found, exact, rtol=0.01 if n > 20 else 1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 9, 40])
def test_inverse_forms(n):
    x = np.stack([draw(n, 200, seed, seed) for seed in range(4)])
    matrices, vectors = x @ x.transpose(0, 2, 1), x[:, :, 0]
    shift, factor = 2 * np.linalg.norm(matrices, axis=(1, 2)), np.array([1.0, 0.5, 2.5, 0.0])
    inverse = np.linalg.inv(shift[:, None, None] * np.eye(n) - factor[:, None, None] * matrices)
    wanted = np.einsum("ci,cij,cj->c", vectors, inverse, vectors)
    found = chunks.inverse_forms(np.pad(matrices, ((0, 0), (0, 1), (0, 1))), vectors, shift, factor)
    definite = factor * np.linalg.eigvalsh(matrices)[:, -1] < shift
    np.testing.assert_allclose(found[definite], wanted[definite], rtol=1e-9)
    assert np.isnan(found[~definite]).all() and (~definite).any()


@dtypes
def test_counts_of_small_numbers(dtype, monkeypatch):
    x = torch.from_numpy(draw(5, 3000, dtype=dtype))
    starts, bounds = [0, 1, 700, 2999], torch.tensor([0.0, 0.1, 0.5, 1.0, 100.0])
    wide = x.numpy().astype(np.float64)
    small = (np.abs(wide) < bounds.numpy()[:, None]).sum(0)
    norms = [np.linalg.norm(wide[:, a:b], axis=1) for a, b in pairwise([*starts, 3000])]
    for _ in range(2):
        counts, lengths = magnitudes.small_counts(x, bounds, starts)
        assert np.array_equal(counts.numpy(), small)
        np.testing.assert_allclose(lengths, norms, rtol=1e-5)
        monkeypatch.setattr(magnitudes, "supported_by_kernels", lambda x: False)


def test_many_coordinates_are_sampled():
    """Beyond 8192 coordinates the bounds are estimates: few choices change."""
    honest = draw(6, 20000, 0, 1.0, 0.5)
    layers = layers_of([(100, 150), (5000,)])
    spans = [(layer.start, layer.stop, True) for layer in layers]
    sent = AntiLASA(few=0.2, large=5.0)(honest, f=2, context=Context(layers=layers))
    wanted = reference.anti_lasa(honest, spans, 8, 2, few=0.2, large=5.0)
    assert (np.abs(sent - wanted) < 1e-2 * np.abs(wanted).max()).mean() > 0.97

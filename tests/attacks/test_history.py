"""ROP and PoisonedFL, which follow the rounds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.aggregators import CenteredClipping, Context, Mean, Updates
from benchmark.attacks import ROP, Forbidden, PoisonedFL
from tests.helpers.properties import SEEDS, examples
from tests.helpers.published_attacks import D, F, H, draw, dtypes, knowledges, matches, view
from tests.reference import attacks_published as reference


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


def test_poisonedfl_knows_no_updates():
    attack = PoisonedFL()
    seen = view(attack, draw(), draw(F), model=np.zeros(D), previous=None, server_step=1.0)
    attack.step(seen, None)
    for name in ("honest", "own"):
        with pytest.raises(Forbidden):
            getattr(seen, name)

"""Attacks of recent papers by hand, and what all of them promise."""

import numpy as np
import pytest
import torch

from benchmark.aggregators import Context
from benchmark.attacks import HIDRA, ROP, HybridSparse, PoisonedFL
from tests.helpers.published_attacks import (
    INFORMED,
    LAYERS,
    RECENT,
    D,
    F,
    draw,
    dtypes,
    knowledges,
    view,
)
from tests.helpers.states import same, through_a_file

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


@pytest.mark.parametrize("cls", RECENT.values())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(cls, dtype):
    attack = cls()
    honest, one = (
        torch.from_numpy(draw()).to(dtype),
        torch.from_numpy(draw(2, seed=3)).to(dtype),
    )
    wanted = attack(honest.double(), f=F, previous=one[0].double(), model=one[1].double())
    sent = attack(honest, f=F, previous=one[0], model=one[1])
    assert sent.dtype == dtype
    # the sizes may differ where a ranking does
    gap = torch.linalg.vector_norm(sent.double() - wanted)
    assert gap <= 0.15 * torch.linalg.vector_norm(wanted)

"""Hybrid sparse and anti-LASA, which move few coordinates."""

import numpy as np
import pytest

from benchmark.aggregators import LASA, Context
from benchmark.aggregators.context import layers_of
from benchmark.attacks import ALittleIsEnough, AntiLASA, HybridSparse
from tests.helpers.published_attacks import (
    LAYERS,
    SPANS,
    F,
    draw,
    dtypes,
    knowledges,
    matches,
    view,
)
from tests.reference import attacks_published as reference


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


def test_anti_lasa_by_hand():
    """The smaller half of every vector are coordinates 1 and 3; the mean is (4, 0, -3, 2)."""
    honest = np.array([[4.0, 1, -3, 2], [4, -1, -3, 2]])
    attack = AntiLASA(sparsity=0.5, few=0.5, many=1.0, large=2.0, z=1.0)
    sent = attack(honest, f=1, context=Context(layers=layers_of([(2,), (2,)])))
    wanted = [-(17**0.5), 0, 2 * (13 / 5) ** 0.5, -((13 / 5) ** 0.5)]
    np.testing.assert_allclose(sent, [wanted], rtol=1e-6, atol=1e-9)


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

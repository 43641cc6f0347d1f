"""Rounds for attacks of recent papers, and their definitions."""

import numpy as np
import pytest
import torch

from benchmark.aggregators import Context
from benchmark.aggregators.context import layers_of
from benchmark.attacks import HIDRA, ROP, AntiClustering, AntiLASA, HybridSparse, PoisonedFL, View

RECENT = {
    "anti_clustering": AntiClustering,
    "anti_lasa": AntiLASA,
    "hidra": HIDRA,
    "hybrid_sparse": HybridSparse,
    "poisonedfl": PoisonedFL,
    "rop": ROP,
}
INFORMED = [cls for cls in RECENT.values() if cls is not PoisonedFL]
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


def matches(attack, define, dtype, h=H, f=F, share=1.0, **held):
    """The attack sends what the definition says, whichever population it knows."""
    honest, own = draw(h, seed=1, dtype=dtype), draw(f, seed=2, dtype=dtype)
    sent = attack(honest, f=f, own=own, context=Context(layers=LAYERS), **held)
    known = (honest if attack.knowledge == "honest" else own).astype(np.float64)
    close(sent, define(known, h + f, f), dtype, share)

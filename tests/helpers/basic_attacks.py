"""Rounds for attacks on what is sent."""

import numpy as np
import pytest
import torch

from benchmark.attacks import (
    AdditiveNoise,
    AntiCGE,
    ByzMean,
    FangKrum,
    FangTrimmedMean,
    Inf,
    Informed,
    Mimic,
    MimicHeuristic,
    MinMax,
    MinSum,
    Nan,
    Permutation,
    SignShuffle,
    Stale,
    View,
    Zero,
)

H, F, WIDTH = 11, 4, 37
NAMES = {
    "additive_noise": AdditiveNoise,
    "zero": Zero,
    "stale": Stale,
    "nan": Nan,
    "inf": Inf,
    "permutation": Permutation,
    "sign_shuffle": SignShuffle,
    "byzmean": ByzMean,
    "fang_trimmed_mean": FangTrimmedMean,
    "fang_krum": FangKrum,
    "min_max": MinMax,
    "min_sum": MinSum,
    "anti_cge": AntiCGE,
    "mimic": Mimic,
    "mimic_heuristic": MimicHeuristic,
}
INFORMED = [cls for cls in NAMES.values() if issubclass(cls, Informed)]
directions = pytest.mark.parametrize("direction", ["std", "sign", "unit"])
places = pytest.mark.parametrize(
    ("offset", "spread"), [(0.0, 1.0), (0.3, 1e-3), (1000.0, 0.01), (-2.0, 1e-8), (1e5, 1e3)]
)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def drawn(rows=H, d=WIDTH, seed=0, offset=0.3, spread=1.0, dtype=np.float64):
    rng = np.random.default_rng([seed, rows, d])
    return (offset + spread * rng.normal(size=(rows, d))).astype(dtype)


def view(attack, honest=None, own=None, seed=0, **held):
    """A round whose random numbers a second view of the same seed draws again."""
    known = [torch.as_tensor(x) for x in (honest, own) if x is not None]
    f = F if own is None else len(own)
    h = H if honest is None else len(honest)
    given = {"honest": honest, "own": own} | held
    if honest is not None:
        given.setdefault("honest_ids", np.arange(h))
    given = {name: torch.as_tensor(x) if isinstance(x, np.ndarray) and name != "honest_ids" else x
             for name, x in given.items() if x is not None or name == "previous"}  # fmt: skip
    like = known[0][:0] if known else torch.empty(0, WIDTH, dtype=torch.float64)
    return View(h + f, f, like, attack.reads, lambda i: 1000 * seed + 7 + i, **given)


def attacked(attack, *args, state=None, **held):
    seen = view(attack, *args, **held)
    sent, after = attack.step(seen, attack.init() if state is None else state)
    assert sent.shape == (seen.f, seen.like.shape[1]) and sent.dtype == seen.like.dtype
    return sent.numpy().copy(), after


def numbers(kind, seed=0, dtype=np.float64, f=F):
    """What `view` of the same seed hands out."""
    got = getattr(view(Zero(), own=np.zeros((f, WIDTH), dtype), seed=seed), kind)()
    return got.numpy().astype(np.float64)

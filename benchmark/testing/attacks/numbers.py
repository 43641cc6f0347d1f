"""What numbers the vectors may hold, and the unit that they are in."""

from typing import Any

import numpy as np
import torch

from benchmark.aggregators import FLTrust, Krum
from benchmark.attacks import Attack, Knowledge
from benchmark.testing.attack_inputs import (
    F,
    H,
    context,
    draw,
    honest_for,
    knowledge,
    vectors,
    width,
)


def what_is_sent_is_finite(attack: Attack) -> None:
    """What is sent is finite, and nothing if there is nobody to send."""
    honest, parts = honest_for(attack), knowledge(attack)
    assert np.isfinite(attack(honest, f=F, **parts)).all()
    for kind in (honest, torch.from_numpy(honest.astype(np.float32))):
        sent = attack(kind, f=0)
        assert sent.shape == (0, width(attack))
        assert sent.dtype == kind.dtype and type(sent) is type(kind)


def one_coordinate_is_enough(attack: Attack) -> None:
    """Vectors of one number are taken."""
    for dtype in (np.float32, np.float64):
        sent = attack(draw(H, 1, 0, dtype), f=F, **knowledge(attack, d=1, dtype=dtype))
        assert sent.shape == (F, 1) and sent.dtype == dtype


def _stretched(attack: Attack, factor: float, dtype: Any) -> np.ndarray:
    """Return what is sent where all vectors are longer by a factor; the rule is Krum or FLTrust."""
    d = width(attack)
    honest, own, model, previous, root = (
        (v * factor).astype(dtype) for v in vectors(H, F, d, np.float64)
    )
    told: dict[str, Any] = knowledge(attack)
    told |= {"own": own, "model": model[0], "previous": previous[0], "context": context(root, d)}
    told["rule"] = FLTrust() if Knowledge.ROOT in attack.reads else Krum()
    return np.asarray(attack(honest, f=F, **told))


def _is_stretched(attack: Attack, power: int, dtype: Any, tolerance: float) -> None:
    """Demand that vectors 2^power times as long give such as are 2^power times as long."""
    plain = _stretched(attack, 1.0, dtype)
    sent = _stretched(attack, 2.0**power, dtype)
    limit = tolerance * np.abs(plain).max()
    np.testing.assert_allclose(sent / 2.0**power, plain, rtol=0, atol=limit)


SINGLE, DOUBLE = (-100, -66, -64, 64, 66, 100), (-440, 440)  # 1e-30 to 1e30, 1e-132 to 1e132
BEYOND = (-990, -560, 600, 990)  # the squares are no float64


def very_long_and_short_vectors_are_held_in_single(attack: Attack) -> None:
    """From 1e-30 to 1e30 float32 vectors give finite ones."""
    for power in SINGLE:
        sent = _stretched(attack, 2.0**power, np.float32)
        assert sent.dtype == np.float32 and np.isfinite(sent).all()


def very_long_and_short_vectors_are_held_in_double(attack: Attack) -> None:
    """From 1e-132 to 1e132 float64 vectors give finite ones."""
    for power in DOUBLE:
        sent = _stretched(attack, 2.0**power, np.float64)
        assert sent.dtype == np.float64 and np.isfinite(sent).all()


def unit_of_single_vectors_does_not_matter(attack: Attack) -> None:
    """Float32 vectors 2^k times as long give such as are 2^k times as long."""
    for power in SINGLE:
        _is_stretched(attack, power, np.float32, 1e-5)


def unit_of_double_vectors_does_not_matter(attack: Attack) -> None:
    """Float64 vectors 2^k times as long give such as are 2^k times as long."""
    for power in DOUBLE:
        _is_stretched(attack, power, np.float64, 1e-10)


def squares_that_no_float_holds_are_refused(attack: Attack) -> None:
    """What needs squares of vectors that no float holds says so, the others give finite numbers."""
    for power in BEYOND:
        try:
            sent = _stretched(attack, 2.0**power, np.float64)
        except ValueError as error:
            wrong = (
                "short: their squared lengths must be a" if power < 0 else "long: their squared "
            )
            assert str(error).startswith(f"updates are too {wrong}")
        else:
            assert np.isfinite(sent).all()


def unit_beyond_squares_does_not_matter(attack: Attack) -> None:
    """Where squares of vectors are no float, those that are sent have the same unit."""
    for power in BEYOND:
        try:
            _is_stretched(attack, power, np.float64, 1e-10)
        except ValueError as error:
            assert str(error).startswith("updates are too ")


def equal_vectors_are_taken(attack: Attack) -> None:
    """Where all vectors are equal, or zero, what is sent is finite."""
    d = width(attack)
    cases: list[tuple[np.ndarray, dict[str, Any]]] = [
        (np.zeros((H, d)), {"previous": np.zeros(d), "model": np.zeros(d)}),
        (np.zeros((H, d)), {"previous": None}),
        (np.repeat(draw(1, d), H, axis=0), {}),
    ]
    for honest, more in cases:
        parts: dict[str, Any] = knowledge(attack)
        parts |= {"own": np.repeat(honest[:1], F, axis=0)} | more
        assert np.isfinite(attack(honest, f=F, **parts)).all()

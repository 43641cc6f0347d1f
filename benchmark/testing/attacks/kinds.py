"""What is sent is of the kind of the honest vectors, and the caller's own."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmark.attacks import Attack
from benchmark.testing.attack_inputs import F, honest_for, knowledge, width
from benchmark.testing.contract import same

KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "tensor": torch.from_numpy,
    "array": lambda x: x,
    "list of tensors": lambda x: [torch.from_numpy(row) for row in x],
    "list of arrays": list,
}


def _like_with_like(attack: Attack, kind: str, dtype: Any) -> np.ndarray:
    """Return what is sent, which must be of the kind and dtype of the honest vectors, and new."""
    honest, parts = honest_for(attack, dtype=dtype), knowledge(attack, dtype=dtype)
    before = copy.deepcopy((honest, parts["own"], parts["model"], parts["previous"]))
    make = KINDS[kind]
    sent = attack(make(honest), f=F, **(parts | {"own": make(parts["own"])}))
    assert type(sent) is (torch.Tensor if "tensor" in kind else np.ndarray)
    assert sent.shape == (F, width(attack))
    numbers = np.asarray(sent)
    assert numbers.dtype == dtype
    first = numbers[0].copy()
    sent[1:] = 7  # the rows are the caller's own, and each other's neighbours, not twins
    assert same(sent[0], first)
    sent[0] = 7
    after = honest, parts["own"], parts["model"], parts["previous"]
    assert all(map(np.array_equal, before, after))
    return numbers


def shape_and_kind_come_back(attack: Attack) -> None:
    """What is sent has the kind and dtype of the honest vectors, and no input is changed."""
    one, *others = (_like_with_like(attack, kind, np.float32) for kind in KINDS)
    assert all(same(one, other) for other in others)


def double_precision_is_taken(attack: Attack) -> None:
    """Vectors of double precision are taken like those of single precision."""
    single = _like_with_like(attack, "tensor", np.float32)
    double = _like_with_like(attack, "array", np.float64)
    assert np.isfinite(single).all() == np.isfinite(double).all()

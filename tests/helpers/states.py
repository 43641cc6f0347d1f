"""States of rules and attacks: whether two are equal, and the way to a file and back."""

import io
import json

import numpy as np
import torch

from benchmark.aggregators.state import Memory, packed, unpacked


def through_a_file(state):
    """As a checkpoint does: the structure by JSON, the arrays by npz, no pickle."""
    structure, arrays = packed(state)
    tensors = {name for name, value in arrays.items() if isinstance(value, torch.Tensor)}
    stream = io.BytesIO()
    np.savez(stream, **{name: np.asarray(value) for name, value in arrays.items()})
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as stored:
        back = {n: torch.from_numpy(stored[n]) if n in tensors else stored[n] for n in stored}
    return unpacked(json.loads(json.dumps(structure)), back)


def same(one, other):
    """Whether two states are equal, in their types too."""
    assert type(one) is type(other)
    if isinstance(one, Memory):
        return same(one.ids, other.ids) and same(one.rows, other.rows)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other

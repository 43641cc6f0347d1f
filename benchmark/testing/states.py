"""The state of a rule or an attack on its way through a file."""

import io
import json
from typing import Any

import numpy as np
import torch

from benchmark.aggregators.state import packed, unpacked
from benchmark.testing.contract import same


def stored(state: Any) -> Any:
    """Return a state after a way through JSON and a file of plain arrays."""
    structure, arrays = packed(state)
    file = io.BytesIO()
    kinds = {name: isinstance(array, torch.Tensor) for name, array in arrays.items()}
    plain: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez(file, **plain)
    file.seek(0)
    loaded = dict(np.load(file, allow_pickle=False))
    arrays = {k: torch.from_numpy(v) if kinds[k] else v for k, v in loaded.items()}
    return unpacked(json.loads(json.dumps(structure)), arrays)


def same_state(one: Any, other: Any) -> bool:
    """Return whether two states are equal, bit for bit."""
    (structure, arrays), (other_structure, other_arrays) = packed(one), packed(other)
    return structure == other_structure and all(
        same(array, other_arrays[name]) for name, array in arrays.items()
    )

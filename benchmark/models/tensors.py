"""What torch's stubs leave without a type: tensors of arrays, and lengths of vectors."""

import numpy as np
import torch
from torch import Tensor


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor on a device; on the CPU the two share their memory."""
    return torch.from_numpy(array).to(device)


def lengths(vectors: Tensor) -> Tensor:
    """Return the lengths (k, 1) of vectors (k, D)."""
    return torch.linalg.vector_norm(vectors, dim=1, keepdim=True)


def length(vector: Tensor) -> Tensor:
    """Return the length () of a vector (D,)."""
    return torch.linalg.vector_norm(vector)

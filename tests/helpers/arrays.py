"""Arrays for kernels: kinds of numbers, and how they lie in memory."""

import numpy as np
import torch
import torch.nn.functional as F

DTYPES = [np.float32, np.float64]


def draw(n, d, dtype, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


VIEWS = {
    "transposed": lambda x: torch.from_numpy(np.ascontiguousarray(x.T)).T,
    "padded rows": lambda x: F.pad(torch.from_numpy(x), (0, 5), value=1e9)[:, : x.shape[1]],
    "every other row": lambda x: torch.from_numpy(np.repeat(x, 2, axis=0))[::2],
    "every other column": lambda x: torch.from_numpy(np.repeat(x, 2, axis=1))[:, ::2],
    "last rows of a buffer": lambda x: F.pad(torch.from_numpy(x), (3, 0, 4, 0), value=1e9)[4:, 3:],
}


def true_distances(x):
    x = x.astype(np.float64)
    return np.array([((x - row) ** 2).sum(axis=1) for row in x])

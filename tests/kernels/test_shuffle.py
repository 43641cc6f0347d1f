"""Permutations that are functions of a key."""

import numpy as np
import torch

from benchmark.kernels.shuffle import permutation, permuted
from tests.reference import attacks_basic


def test_a_permutation_is_one_and_any():
    seen = set()
    for seed in range(60):
        uniform = np.random.default_rng(seed).random(3, np.float32)
        order = permutation(torch.as_tensor(uniform)).tolist()
        assert order == attacks_basic.shuffled_places(uniform)
        seen.add(tuple(order))
    assert len(seen) == 6
    edge = permutation(torch.tensor([0.0, 1 - 2**-24] * 50))
    assert sorted(edge.tolist()) == list(range(100))


def test_permuted():
    order = permutation(torch.rand(101, generator=torch.Generator().manual_seed(0)))
    for dtype in (torch.float32, torch.float64, torch.float16):
        x = torch.arange(606.0).reshape(6, 101).to(dtype)
        for rows in (x, x[1:4], x.repeat(1, 2)[:, 50:151]):
            assert torch.equal(permuted(rows, order), rows[:, order.long()])

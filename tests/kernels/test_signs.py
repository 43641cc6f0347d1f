"""Votes against sums of signs."""

from unittest import mock

import numpy as np
import pytest
import torch

from benchmark.kernels import blocks, signs
from benchmark.kernels.signs import votes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("d", [1, 511, 1300])
def test_votes(d, dtype):
    rng = np.random.default_rng(d)
    x = torch.from_numpy(rng.integers(-2, 3, (7, d))).to(dtype)
    mixing = rng.integers(-1, 2, (4, 7)).astype(float)
    picked = np.eye(7)[[3, 3, 0]]
    for matrix, rows in ((None, x), (mixing, torch.from_numpy(mixing).to(dtype) @ x),
                         (picked, x[[3, 3, 0]])):  # fmt: skip
        wanted = torch.sign(rows.double()).sum(0).int()
        assert torch.equal(votes(x, matrix), wanted)
        with (
            mock.patch.object(signs, "supported_by_kernels", lambda _: False),
            mock.patch.object(blocks, "supported_by_kernels", lambda _: False),
            mock.patch.object(blocks, "_PIECE_VALUES", 7 * 100),
        ):
            assert torch.equal(votes(x, matrix), wanted)

"""Differences from the first of many numbers."""

import numpy as np
import torch

from benchmark.kernels.offsets import exact_mean, offsets
from tests.helpers.basic_attacks import drawn, places


@places
def test_offsets(offset, spread):
    for dtype in (np.float32, np.float64, np.float16):
        with np.errstate(over="ignore"):
            x = drawn(7, 3001, offset=offset, spread=spread, dtype=dtype)
        if not np.isfinite(x).all():
            continue
        centre, p = x[2], drawn(1, 3001, dtype=np.float32)[0]
        padded = torch.zeros(9, 3010, dtype=torch.as_tensor(x).dtype)
        padded[1:8, :3001] = torch.as_tensor(x)
        kernel = p.astype(dtype) if dtype != np.float16 else p
        away = x.astype(np.float64) - centre.astype(np.float64)
        for rows in (torch.as_tensor(x), padded[1:8, :3001]):
            squared, along = offsets(rows, torch.as_tensor(centre), torch.as_tensor(p))
            np.testing.assert_allclose(squared, (away**2).sum(1), rtol=1e-12)
            wanted = away @ kernel.astype(np.float64)
            np.testing.assert_allclose(along, wanted, rtol=1e-9, atol=1e-12 * abs(wanted).max())
            assert np.array_equal(offsets(rows, torch.as_tensor(centre))[0], squared)
        assert squared[2] == 0
        fine = away.mean(0) + centre.astype(np.float64)
        np.testing.assert_allclose(exact_mean(rows), fine, rtol=1e-14, atol=1e-14 * abs(fine).max())
        squared, _ = offsets(rows, exact_mean(rows))
        np.testing.assert_allclose(squared, ((x.astype(np.float64) - fine) ** 2).sum(1), rtol=1e-6)

"""Products and eigenvalues of chunks of coordinates."""

import numpy as np
import pytest
import torch

from benchmark.kernels import chunks
from tests.helpers.published_attacks import draw, dtypes


@dtypes
@pytest.mark.parametrize(("n", "d", "size"), [
    (1, 1, 1), (3, 10, 3), (4, 10, 10), (7, 3000, 1000), (5, 40000, 17000), (6, 2500, 2),
])  # fmt: skip
@pytest.mark.parametrize("offset", [0.3, 1e3])
def test_products_in_chunks(dtype, n, d, size, offset, monkeypatch):
    x = torch.from_numpy(draw(n, d, offset=offset, dtype=dtype))
    centre = x.double().mean(0)
    wide = torch.cat([x.double() - centre, centre[None]]).numpy()
    wanted = [wide[:, a : a + size] @ wide[:, a : a + size].T for a in range(0, d, size)]
    for _ in range(2):
        found = chunks.chunk_products(x, size)
        assert found.shape == (-(-d // size), n + 1, n + 1)
        for mine, exact in zip(found, wanted, strict=True):
            lengths = np.sqrt(np.diagonal(exact))
            assert (np.abs(mine - exact) <= 1e-3 * np.outer(lengths, lengths) + 1e-9).all()
        monkeypatch.setattr(chunks, "supported_by_kernels", lambda x: False)


@pytest.mark.parametrize("n", [1, 2, 7, 20, 40, 90])
def test_largest_eigenvalues(n):
    x = np.stack([draw(n, 200, seed, seed) for seed in range(8)])
    matrices = np.concatenate([x @ x.transpose(0, 2, 1), np.ones((1, n, n)), np.zeros((1, n, n))])
    found, exact = chunks.top_eigenvalues(matrices, n), np.linalg.eigvalsh(matrices)[:, -1]
    assert (found <= exact * (1 + 1e-12) + 1e-12).all()
    np.testing.assert_allclose(found, exact, rtol=0.01 if n > 20 else 1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 9, 40])
def test_inverse_forms(n):
    x = np.stack([draw(n, 200, seed, seed) for seed in range(4)])
    matrices, vectors = x @ x.transpose(0, 2, 1), x[:, :, 0]
    shift, factor = 2 * np.linalg.norm(matrices, axis=(1, 2)), np.array([1.0, 0.5, 2.5, 0.0])
    inverse = np.linalg.inv(shift[:, None, None] * np.eye(n) - factor[:, None, None] * matrices)
    wanted = np.einsum("ci,cij,cj->c", vectors, inverse, vectors)
    found = chunks.inverse_forms(np.pad(matrices, ((0, 0), (0, 1), (0, 1))), vectors, shift, factor)
    definite = factor * np.linalg.eigvalsh(matrices)[:, -1] < shift
    np.testing.assert_allclose(found[definite], wanted[definite], rtol=1e-9)
    assert np.isnan(found[~definite]).all() and (~definite).any()

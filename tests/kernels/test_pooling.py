"""ReLU and pooling against torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmark.kernels.pooling import relu_pool, relu_pool_backward
from tests.helpers.arrays import DTYPES, draw


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 2, 2, 1), (3, 4, 6, 5), (2, 5, 7, 3), (2, 3, 2, 4), (4, 28, 28, 2), (1, 9, 8, 17)]
)
def test_relu_pool(shape, dtype):
    x = draw(int(np.prod(shape)), 1, dtype).reshape(shape)
    mine = torch.from_numpy(x.copy())
    pooled, place = relu_pool(mine)
    theirs = torch.from_numpy(x.copy()).permute(0, 3, 1, 2).requires_grad_()
    wanted = F.max_pool2d(F.relu(theirs), 2)
    assert torch.equal(pooled, wanted.detach().permute(0, 2, 3, 1))
    assert torch.equal(mine, torch.from_numpy(x))
    assert place.dtype == torch.uint8 and place.shape == pooled.shape
    assert torch.equal(place == 4, pooled == 0)
    grad = torch.from_numpy(draw(pooled.numel(), 1, dtype, 1).reshape(pooled.shape))
    wanted.backward(grad.permute(0, 3, 1, 2))
    back = relu_pool_backward(grad, place, shape)
    assert torch.equal(back, theirs.grad.permute(0, 2, 3, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relu_pool_of_ties_and_of_nothing_positive(dtype):
    """Windows (2 2 / 2 2), (-1 0 / -3 -2) and (0 1 / 1 0): the first of equal ones, or nowhere."""
    x = torch.tensor([[2, 2, -1, 0, 0, 1], [2, 2, -3, -2, 1, 0]], dtype=dtype)[None, :, :, None]
    pooled, place = relu_pool(x.contiguous())
    assert pooled.flatten().tolist() == [2, 0, 1]
    assert place.flatten().tolist() == [0, 4, 1]
    back = relu_pool_backward(torch.ones_like(pooled), place, tuple(x.shape))
    assert back[0, :, :, 0].tolist() == [[1, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relu_pool_backward_of_a_gradient_in_another_layout(dtype):
    x = torch.randn(2, 6, 4, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    pooled, place = relu_pool(x)
    grad = torch.randn(2, 3, 3, 2, dtype=dtype).permute(0, 3, 1, 2).permute(0, 2, 1, 3)
    assert grad.shape == pooled.shape and not grad.is_contiguous()
    assert torch.equal(
        relu_pool_backward(grad, place, tuple(x.shape)),
        relu_pool_backward(grad.contiguous(), place, tuple(x.shape)),
    )

"""Convolution, ReLU and pooling against torch."""

from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmark.kernels import convolution
from benchmark.kernels.pooling import relu_pool
from tests.helpers.arrays import DTYPES
from tests.helpers.cells import thinned


@pytest.mark.parametrize("branch", ["kernel", "torch"])
@pytest.mark.parametrize("dtype", [DTYPES[0], pytest.param(DTYPES[1], marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "clients, batch, size, inputs, outputs, kernel",
    thinned([(3, 2, (12, 9), 3, 7, 5), (1, 1, (2, 2), 1, 1, 1), (2, 3, (7, 6), 2, 5, 3),
             (4, 1, (12, 12), 20, 18, 5), (1, 4, (28, 28), 1, 20, 5)]),
)  # fmt: skip
def test_pooled_convolution(clients, batch, size, inputs, outputs, kernel, dtype, branch):
    m, rng = clients * batch, np.random.default_rng(0)
    shape = (m, *size, inputs)
    x = torch.from_numpy(rng.normal(size=shape).astype(dtype)).requires_grad_()
    filters = (outputs, kernel, kernel, inputs)
    weights = torch.from_numpy(rng.normal(size=filters).astype(dtype)).requires_grad_()
    bias = torch.from_numpy(rng.normal(size=outputs).astype(dtype)).requires_grad_()
    y = F.conv2d(x.permute(0, 3, 1, 2), weights.permute(0, 3, 1, 2), bias)
    pooled, place = relu_pool(y.detach().permute(0, 2, 3, 1).contiguous())
    grad = torch.from_numpy(rng.normal(size=pooled.shape).astype(dtype))
    results = F.max_pool2d(F.relu(y), 2) * grad.permute(0, 3, 1, 2)
    with mock.patch.object(convolution, "supported_by_kernels", lambda x: branch == "kernel"):
        dx = convolution.input_gradient(grad, place, weights.detach(), shape)
        dw, db = convolution.weight_gradient(grad, place, x.detach(), clients, kernel)
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)
    close(dx, torch.autograd.grad(results.sum(), x, retain_graph=True)[0])
    for client, part in enumerate(results.split(batch)):
        wanted = torch.autograd.grad(part.sum(), [weights, bias], retain_graph=True)
        close(dw[client], wanted[0])
        close(db[client], wanted[1])

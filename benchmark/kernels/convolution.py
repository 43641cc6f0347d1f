"""Gradients of a convolution that is followed by ReLU and 2 x 2 max-pooling.

Of the four values of a window pooling lets one through, and ReLU at most that one. So at least
three quarters of a dense convolution's backward pass multiply by zero. Here only the values that
were let through are used, four at a time. Images lie channels-last in memory.
"""

import numpy as np
import torch
from numba import njit, prange

from benchmark.kernels.arrays import supported_by_kernels
from benchmark.kernels.pooling import relu_pool_backward

_FAST = {"contract", "reassoc", "nsz"}


def weight_gradient(
    grad: torch.Tensor, place: torch.Tensor, x: torch.Tensor, clients: int, kernel: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of weights and bias, separately for each client's images.

    Args:
        grad: (m, h, w, outputs) gradient with respect to the output of `pooling.relu_pool`, images
            client by client.
        place: (m, h, w, outputs) from `pooling.relu_pool`.
        x: (m, height, width, inputs) images that were convolved, padding included.
        clients: a divisor of m.
        kernel: side of the filters.

    Returns:
        Of the weights (clients, outputs, kernel, kernel, inputs), of the bias (clients, outputs).
    """
    outputs, inputs = grad.shape[3], x.shape[3]
    shape = (clients, outputs, kernel, kernel, inputs)
    if supported_by_kernels(x):
        dw = torch.empty(clients, outputs, kernel * kernel * inputs, dtype=x.dtype)
        db = torch.empty(clients, outputs, dtype=x.dtype)
        arrays = grad.contiguous().numpy(), place.numpy(), x.contiguous().flatten(2).numpy()
        _weight_gradient(*arrays, kernel, inputs, dw.numpy(), db.numpy())
        return dw.view(shape), db
    dy = relu_pool_backward(grad, place, _convolved(x, kernel, outputs))
    like = x.new_empty(shape[1:])
    parts = [
        _backward(d, images, like, (False, True, True))[1:]
        for d, images in zip(dy.chunk(clients), x.chunk(clients), strict=True)
    ]
    return torch.stack([w.permute(0, 2, 3, 1) for w, _ in parts]), torch.stack(
        [b for _, b in parts]
    )


def input_gradient(
    grad: torch.Tensor, place: torch.Tensor, weights: torch.Tensor, shape: tuple[int, ...]
) -> torch.Tensor:
    """Return the gradient with respect to the images that were convolved, padding included.

    Args:
        grad, place: as for `weight_gradient`.
        weights: (outputs, kernel, kernel, inputs).
        shape: shape of the images, (m, height, width, inputs).
    """
    outputs, kernel, _, inputs = weights.shape
    if supported_by_kernels(grad):
        dx = torch.zeros(shape, dtype=grad.dtype)
        filters = weights.contiguous().flatten(2).numpy()
        arrays = grad.contiguous().numpy(), place.numpy(), filters
        _input_gradient(*arrays, inputs, dx.flatten(2).numpy())
        return dx
    x = grad.new_empty(shape)
    dy = relu_pool_backward(grad, place, _convolved(x, kernel, outputs))
    return _backward(dy, x, weights, (True, False, False))[0].permute(0, 2, 3, 1)


def _convolved(x: torch.Tensor, kernel: int, outputs: int) -> tuple[int, int, int, int]:
    """Return the shape of the convolved images, before pooling."""
    return (len(x), x.shape[1] - kernel + 1, x.shape[2] - kernel + 1, outputs)


def _backward(
    dy: torch.Tensor, x: torch.Tensor, weights: torch.Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return torch's gradients of images, weights and bias, channels first, those `wanted`."""
    tensors = (t.permute(0, 3, 1, 2) for t in (dy, x, weights))
    stride, padding, dilation, output_padding = [1, 1], [0, 0], [1, 1], [0, 0]
    form = [dy.shape[3]], stride, padding, dilation, False, output_padding, 1
    return torch.ops.aten.convolution_backward(*tensors, *form, wanted)


@njit(parallel=True, cache=True, fastmath=_FAST)
def _weight_gradient(
    grad: np.ndarray,
    place: np.ndarray,
    x: np.ndarray,
    kernel: int,
    inputs: int,
    dw: np.ndarray,
    db: np.ndarray,
) -> None:
    """Fill dw (clients, outputs, kernel * kernel * inputs) and db (clients, outputs).

    The images x are (m, height, width * inputs).
    """
    m, h, w, outputs = grad.shape
    clients, _, size = dw.shape
    batch, row, width = m // clients, kernel * inputs, 2 * w
    padded = (size + 15) // 16 * 16  # no remainder behind vector instructions
    for client in prange(clients):
        patches = np.zeros((4 * h * w, padded), x.dtype)  # what the filters saw at each position
        total = np.zeros((outputs, padded), x.dtype)
        bias = np.zeros(outputs, x.dtype)
        where = np.zeros(h * w + 3, np.int64)
        value = np.zeros(h * w + 3, x.dtype)
        for image in range(client * batch, (client + 1) * batch):
            for i in range(2 * h):
                for j in range(width):
                    patch = patches[i * width + j]
                    for k in range(kernel):
                        seen = x[image, i + k, j * inputs : j * inputs + row]
                        for t in range(row):
                            patch[k * row + t] = seen[t]
            for o in range(outputs):
                count = 0
                for i in range(h):
                    for j in range(w):
                        origin = place[image, i, j, o]
                        if origin < 4:
                            where[count] = (2 * i + origin // 2) * width + 2 * j + origin % 2
                            value[count] = grad[image, i, j, o]
                            bias[o] += value[count]
                            count += 1
                value[count : count + 3] = 0.0  # fills up the last four
                sum_o = total[o]
                for e in range(0, count, 4):
                    p0, p1 = patches[where[e]], patches[where[e + 1]]
                    p2, p3 = patches[where[e + 2]], patches[where[e + 3]]
                    g0, g1, g2, g3 = value[e], value[e + 1], value[e + 2], value[e + 3]
                    for t in range(padded):
                        sum_o[t] += g0 * p0[t] + g1 * p1[t] + g2 * p2[t] + g3 * p3[t]
        dw[client] = total[:, :size]
        db[client] = bias


@njit(parallel=True, cache=True, fastmath=_FAST)
def _input_gradient(
    grad: np.ndarray, place: np.ndarray, weights: np.ndarray, inputs: int, dx: np.ndarray
) -> None:
    """Add to dx (m, height, width * inputs), zeros; weights (outputs, kernel, kernel * inputs)."""
    m, h, w, outputs = grad.shape
    kernel, row = weights.shape[1], weights.shape[2]
    for image in prange(m):
        which = np.zeros((4, outputs + 3), np.int64)  # the outputs that came from each place
        value = np.zeros((4, outputs + 3), dx.dtype)
        count = np.empty(4, np.int64)
        for i in range(h):
            for j in range(w):
                count[:] = 0
                for o in range(outputs):
                    origin = place[image, i, j, o]
                    if origin < 4:
                        which[origin, count[origin]] = o
                        value[origin, count[origin]] = grad[image, i, j, o]
                        count[origin] += 1
                for origin in range(4):
                    chosen, factor = which[origin], value[origin]
                    factor[count[origin] : count[origin] + 3] = 0.0  # fills up the last four
                    y, start = 2 * i + origin // 2, (2 * j + origin % 2) * inputs
                    for e in range(0, count[origin], 4):
                        w0, w1 = weights[chosen[e]], weights[chosen[e + 1]]
                        w2, w3 = weights[chosen[e + 2]], weights[chosen[e + 3]]
                        g0, g1, g2, g3 = factor[e], factor[e + 1], factor[e + 2], factor[e + 3]
                        for k in range(kernel):
                            target = dx[image, y + k, start : start + row]
                            v0, v1, v2, v3 = w0[k], w1[k], w2[k], w3[k]
                            for t in range(row):
                                target[t] += g0 * v0[t] + g1 * v1[t] + g2 * v2[t] + g3 * v3[t]

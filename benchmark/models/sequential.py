"""Models whose parameters are one flat vector, and whose gradients come for many clients at once.

A model computes with P parameter vectors, each shared by Q clients: in one-step algorithms a cell's
clients all start from the same weights (P cells, Q clients each), in local training each has its
own (P pairs of cell and client, Q = 1). Forward and input gradients are products over all P * Q
batches; only the weight gradients are per client, and are accumulated straight into the rows of
the update matrices.

Shapes: P parameter vectors, Q clients each, B examples a client, D parameters (rows may be longer).
"""

import math
from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from benchmark.kernels import convolution
from benchmark.kernels.pooling import relu_pool
from benchmark.models.network import Network

_LOCKSTEP_WORK = 1 << 23  # multiplications; a few times what starting an operation costs


_SMALL_PRODUCT = 1 << 18


_NARROW = 16  # outputs of a layer


Views = tuple[Tensor, ...]  # of the parameter tensors of a layer


class ModelError(ValueError):
    """A model cannot be trained on the data; the message is one line."""


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a @ b + bias, (P, M, K) by (P, K, N); a single matrix takes the plain matrix product."""
    if bias is None:
        return (a[0] @ b[0])[None] if len(a) == 1 else torch.bmm(a, b)
    return torch.addmm(bias[0], a[0], b[0])[None] if len(a) == 1 else torch.baddbmm(bias, a, b)


def mix(out: Tensor, new: Tensor, beta: float, alpha: float) -> None:
    """Set out <- beta * out + alpha * new; with beta = 0 whatever was there is forgotten, NaN
    too."""
    if beta == 0:
        torch.mul(new, alpha, out=out)
    else:
        out.mul_(beta).add_(new, alpha=alpha)


class Linear:
    """x W' + b, with W of shape (outputs, inputs).

    The scores of a few outputs come column by column in memory: products with a narrow result are
    several times faster that way round, and so is the softmax over them.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.shapes = ((outputs, inputs), (outputs,))
        self.fan_in = inputs

    def forward(self, weights: Views, x: Tensor) -> tuple[Tensor, Tensor]:
        """(P, M, inputs) -> (P, M, outputs)"""
        w, b = weights
        x = x.flatten(2)
        if self.outputs > _NARROW:
            return product(x, w.mT, b[:, None]), x
        return product(w, x.mT, b[:, :, None]).mT, x

    def made(self, shape: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        """Of an example of this shape: how many numbers it makes and keeps, how many it makes on
        the way, and the shape of its result."""
        return self.outputs, 0, (self.outputs,)

    def input_gradient(self, weights: Views, x: Tensor, dy: Tensor) -> Tensor:
        """Gradient with respect to x."""
        return product(dy, weights[0])

    def accumulate(
        self, out: Views, examples: int, x: Tensor, dy: Tensor, beta: float, alpha: float
    ) -> None:
        """Set out <- beta * out + alpha * gradient of each client's examples.

        Args:
            out: (P', Q, *shape) for the first cells.
            examples: B.
            x: (P, M, inputs), Q * B examples and padding.
            dy: (P, M, outputs).
            beta, alpha: the factors.
        """
        dw, db = out
        taken = dw.shape[1] * examples
        if x.shape[1] == taken:  # no padding lies between the clients of two cells
            x, dy = (part.reshape(-1, examples, part.shape[2]) for part in (x, dy))
            self._accumulate(dw, db, x, dy, beta, alpha)
            return
        for cell in range(len(dw)):
            own = slice(cell, cell + 1)
            batch_x, batch_dy = (
                part[cell, :taken].unflatten(0, (-1, examples)) for part in (x, dy)
            )
            self._accumulate(dw[own], db[own], batch_x, batch_dy, beta, alpha)

    def _accumulate(
        self, dw: Tensor, db: Tensor, x: Tensor, dy: Tensor, beta: float, alpha: float
    ) -> None:
        """As `accumulate`, for x (P * Q, B, inputs) and dy (P * Q, B, outputs)."""
        (cells, clients), dy = dw.shape[:2], dy.mT
        mix(db, dy.sum(2).unflatten(0, (-1, clients))[:cells], beta, alpha)
        # Into rows of a larger matrix torch multiplies one by one: too slow for small ones.
        # The results, too, must start at multiples of 64 bytes: see `Sequential.lockstep`.
        size = self.inputs * self.outputs
        if size * x.shape[1] < _SMALL_PRODUCT and size % 16 == 0:
            mix(dw, torch.bmm(dy, x).unflatten(0, (-1, clients))[:cells], beta, alpha)
        elif clients == 1:
            dw[:, 0].baddbmm_(dy[:cells], x[:cells], beta=beta, alpha=alpha)
        else:
            for into, a, b in zip(dw, dy.split(clients), x.split(clients), strict=False):
                into.baddbmm_(a, b, beta=beta, alpha=alpha)


class ConvReLUPool:
    """Convolution with bias, ReLU, and 2 x 2 max-pooling, on images that lie channels-last:
    (P, M, height, width, channels)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, padding: int = 0) -> None:
        self.kernel, self.padding = kernel, padding
        self.shapes = ((outputs, kernel, kernel, inputs), (outputs,))
        self.fan_in = inputs * kernel * kernel

    def forward(self, weights: Views, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One convolution a parameter vector: on a CPU faster than a grouped one."""
        if self.padding:
            x = F.pad(x, (0, 0, *[self.padding] * 4))
        pooled, places = [], []
        for images, w, b in zip(x, *weights, strict=True):
            y = F.conv2d(images.permute(0, 3, 1, 2), w.permute(0, 3, 1, 2), b)
            y, place = relu_pool(y.permute(0, 2, 3, 1).contiguous())
            pooled.append(y)
            places.append(place)
        return _stacked(pooled), (x, _stacked(places))

    def made(self, shape: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        """See `Linear.made`; of what is pooled the places, too, are kept, a byte each."""
        height, width = (size + 2 * self.padding - self.kernel + 1 for size in shape[1:])
        pooled = self.shapes[1][0], height // 2, width // 2
        return prod(pooled) * 5 // 4, self.shapes[1][0] * height * width, pooled

    def input_gradient(self, weights: Views, kept: tuple[Tensor, Tensor], dy: Tensor) -> Tensor:
        """Gradient with respect to x."""
        x, place = kept
        dy = dy.reshape(place.shape)
        parts = zip(dy, place, weights[0], strict=True)
        dx = _stacked([convolution.input_gradient(*part, x.shape[1:]) for part in parts])
        inside = slice(self.padding, -self.padding or None)
        return dx[:, :, inside, inside]

    def accumulate(
        self,
        out: Views,
        examples: int,
        kept: tuple[Tensor, Tensor],
        dy: Tensor,
        beta: float,
        alpha: float,
    ) -> None:
        """As `Linear.accumulate`."""
        cells, clients = out[0].shape[:2]
        taken = clients * examples
        x, place = (part[:, :taken].flatten(0, 1) for part in kept)
        dy = dy.reshape(kept[1].shape)[:, :taken].flatten(0, 1)
        total = len(kept[0]) * clients
        gradients = convolution.weight_gradient(dy, place, x, total, self.kernel)
        for part, new in zip(out, gradients, strict=True):
            mix(part, new.unflatten(0, (-1, clients))[:cells], beta, alpha)


def _stacked(parts: list[Tensor]) -> Tensor:
    """torch.stack, without a copy of a single part."""
    return torch.stack(parts) if len(parts) > 1 else parts[0][None]


class ReLU:
    """max(0, x)"""

    shapes: tuple[tuple[int, ...], ...] = ()

    def forward(self, weights: Views, x: Tensor) -> tuple[Tensor, Tensor]:
        """In place; what is kept for the gradient is the result."""
        y = x.clamp_min_(0)
        return y, y

    def made(self, shape: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        """See `Linear.made`; it works in place."""
        return 0, 0, shape

    def input_gradient(self, weights: Views, y: Tensor, dy: Tensor) -> Tensor:
        """Gradient with respect to x."""
        return torch.ops.aten.threshold_backward(dy, y, 0)


class Sequential(Network):
    """Layers one after the other, with explicit gradients.

    Attributes:
        shapes: of the parameter tensors, in the order in which they lie in the flat vector.
        num_parameters: D.
        images: whether the input is (channels, height, width) images rather than plain features.
    """

    def __init__(self, layers: list[Any], images: bool = False) -> None:
        self.layers = layers
        self.images = images
        self.shapes = [shape for layer in layers for shape in layer.shapes]
        self.num_parameters = sum(map(prod, self.shapes))
        self._widths = [w for layer in layers if isinstance(layer, Linear) for w in layer.shapes[0]]

    def initial(self, generator: torch.Generator) -> Tensor:
        """(D,) weights and biases uniform in +-1 / sqrt(fan-in), as torch's layers have them."""
        parts = [
            (torch.rand(prod(shape), generator=generator) * 2 - 1) / layer.fan_in**0.5
            for layer in self.layers
            for shape in layer.shapes
        ]
        return torch.cat(parts)

    @override
    def lockstep(self, examples: int) -> bool:
        # Small products do, large ones fill the machine alone.
        return not self.images and examples * self.num_parameters < _LOCKSTEP_WORK

    def _filled(self, models: int, examples: int) -> int:
        """Return how many examples each of several parameter vectors is computed with.

        The last bits of MKL's products depend on whether a matrix starts at a multiple of 64 bytes.
        So there is padding after the examples, with which those of every vector do.
        """
        multiple = 16 // math.gcd(16, *self._widths) if models > 1 else 1
        return -(-examples // multiple) * multiple

    def activations(self, input_shape: tuple[int, ...]) -> tuple[int, int]:
        """How many numbers of an example, beside itself, there are at once: in a forward pass, and
        in one with gradients. These are as many as the results, and a layer's once more."""
        made, shape = [], input_shape
        for layer in self.layers:
            *numbers, shape = layer.made(shape)
            made.append(numbers)
        kept, passing = zip(*made, strict=True)
        forward = sum(kept) + max(passing)
        return forward, max(forward, 2 * sum(kept) + max(kept))

    @override
    def forward_bytes(self, input_shape: tuple[int, ...], examples: int) -> int:
        return 4 * examples * self.activations(input_shape)[0]

    @override
    def gradient_bytes(self, input_shape: tuple[int, ...], clients: int, examples: int) -> int:
        return 4 * clients * self._filled(clients, examples) * self.activations(input_shape)[1]

    @override
    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self._forward(self._views(parameters), x)[0]

    @override
    def accumulate_gradients(
        self,
        parameters: Tensor,
        x: Tensor,
        y: Tensor,
        sample_weights: Tensor,
        out: Tensor,
        beta: float,
        alpha: float,
        keys: Callable[[int], int] = int,
    ) -> Tensor:
        weights, gradients = self._views(parameters), self._views(out)
        clients, examples = y.shape[1:]
        filled = self._filled(len(parameters), clients * examples)
        x, y, sample_weights = (
            _padded(part.flatten(1, 2), filled) for part in (x, y, sample_weights)
        )
        scores, kept = self._forward(weights, x)
        losses, dy = self.task.gradients(scores, y, sample_weights)
        batch = filled if clients == 1 else examples
        for index in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[index]
            # The input gradient first: `out` may be the very weights that it needs.
            dx = layer.input_gradient(weights[index], kept[index], dy) if index else None
            if layer.shapes:
                layer.accumulate(gradients[index], batch, kept[index], dy, beta, alpha)
            dy = dx
        return losses[:, : clients * examples].unflatten(1, (clients, examples))

    def _forward(self, weights: list[Views], x: Tensor) -> tuple[Tensor, list[Any]]:
        if self.images:
            x = x.permute(0, 1, 3, 4, 2).contiguous()
        kept = []
        for layer, tensors in zip(self.layers, weights, strict=True):
            x, keep = layer.forward(tensors, x)
            kept.append(keep)
        return x, kept

    def _views(self, rows: Tensor) -> list[Views]:
        """Return the parameter tensors (..., *shape) in rows (..., >= D), layer by layer."""
        views, start = [], 0
        for layer in self.layers:
            tensors = []
            for shape in layer.shapes:
                tensors.append(rows[..., start : start + prod(shape)].unflatten(-1, shape))
                start += prod(shape)
            views.append(tuple(tensors))
        return views


def _padded(x: Tensor, length: int) -> Tensor:
    """Return x (P, M, ...) with zeros at the end of every row, up to a length."""
    missing = length - x.shape[1]
    return torch.cat([x, x.new_zeros(len(x), missing, *x.shape[2:])], 1) if missing else x

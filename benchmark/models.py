"""Models whose parameters are one flat vector, and whose gradients come for many clients at once.

A model computes with P parameter vectors, each shared by Q clients: in one-step algorithms a cell's
clients all start from the same weights (P = 1, Q clients), in local training each has its own
(P pairs of cell and client, Q = 1). Forward and input gradients are products over all P * Q
batches; only the weight gradients are per client, and are accumulated straight into the rows of
the update matrix.

Shapes: P parameter vectors, Q clients each, B examples a client, D parameters (rows may be longer).
"""

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.kernels.pooling import relu_pool, relu_pool_backward


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for (P, M, K) and (P, K, N); a single matrix takes the plain matrix product."""
    return (a[0] @ b[0])[None] if len(a) == 1 else torch.bmm(a, b)


def _mix(out: Tensor, new: Tensor, beta: float, alpha: float) -> None:
    """out <- beta * out + alpha * new; with beta = 0 whatever was there is forgotten, NaN too."""
    if beta == 0:
        torch.mul(new, alpha, out=out)
    else:
        out.mul_(beta).add_(new, alpha=alpha)


class Linear:
    """x W + b, with W stored as (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int):
        self.inputs, self.outputs = inputs, outputs
        self.shapes = ((inputs, outputs), (outputs,))
        self.fan_in = inputs

    def forward(self, weights, x):
        """(P, M, inputs) -> (P, M, outputs)"""
        w, b = weights
        x = x.flatten(2)
        if len(x) == 1:
            return torch.addmm(b[0], x[0], w[0])[None], x
        return torch.baddbmm(b[:, None], x, w), x

    def input_gradient(self, weights, x, dy):
        """Gradient with respect to x."""
        return product(dy, weights[0].mT)

    def accumulate(self, gradients, x, dy, beta, alpha):
        """gradients <- beta * gradients + alpha * gradient, for each client's examples."""
        dw, db = gradients
        clients = len(dw)
        dy = dy.reshape(clients, -1, self.outputs)
        dw.baddbmm_(x.reshape(clients, -1, self.inputs).mT, dy, beta=beta, alpha=alpha)
        _mix(db, dy.sum(1), beta, alpha)


class Conv2d:
    """Convolution with bias on images that lie channels-last: (P, M, height, width, channels)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, padding: int = 0):
        self.padding = padding
        self.shapes = ((outputs, kernel, kernel, inputs), (outputs,))
        self.fan_in = inputs * kernel * kernel

    def forward(self, weights, x):
        """One convolution a parameter vector: on a CPU faster than a grouped one."""
        y = [
            F.conv2d(_nchw(x[p]), _nchw(w), b, padding=self.padding)
            for p, (w, b) in enumerate(zip(*weights, strict=True))
        ]
        return torch.stack([v.permute(0, 2, 3, 1) for v in y]) if len(y) > 1 else _nhwc(y[0]), x

    def input_gradient(self, weights, x, dy):
        """Gradient with respect to x."""
        dx = [
            self._backward(dy[p], x[p], w, (True, False, False))[0]
            for p, w in enumerate(weights[0])
        ]
        return torch.stack([v.permute(0, 2, 3, 1) for v in dx]) if len(dx) > 1 else _nhwc(dx[0])

    def accumulate(self, gradients, x, dy, beta, alpha):
        """As `Linear.accumulate`, one convolution a client."""
        dw, db = gradients
        clients = len(dw)
        x = x.reshape(clients, -1, *x.shape[2:])
        dy = dy.reshape(clients, -1, *dy.shape[2:])
        for client in range(clients):
            _, w, b = self._backward(dy[client], x[client], dw[client], (False, True, True))
            _mix(dw[client], w.permute(0, 2, 3, 1), beta, alpha)
            _mix(db[client], b, beta, alpha)

    def _backward(self, dy, x, w, wanted):
        return torch.ops.aten.convolution_backward(
            _nchw(dy), _nchw(x), _nchw(w), [len(w)],
            [1, 1], [self.padding] * 2, [1, 1], False, [0, 0], 1, wanted,
        )  # fmt: skip


def _nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()[None]


class ReLU:
    """max(0, x)"""

    shapes = ()

    def forward(self, weights, x):
        """In place; what is kept for the gradient is the result."""
        y = x.clamp_min_(0)
        return y, y

    def input_gradient(self, weights, y, dy):
        """Gradient with respect to x."""
        return torch.ops.aten.threshold_backward(dy, y, 0)


class ReLUPool:
    """ReLU and 2 x 2 max-pooling."""

    shapes = ()

    def forward(self, weights, x):
        """(P, M, height, width, channels) -> half the height and width."""
        y, place = relu_pool(x.flatten(0, 1))
        return y.unflatten(0, x.shape[:2]), (place, x.shape)

    def input_gradient(self, weights, kept, dy):
        """Gradient with respect to x."""
        place, shape = kept
        dy = dy.reshape(place.shape)
        return relu_pool_backward(dy, place, (len(place), *shape[2:])).unflatten(0, shape[:2])


class Sequential:
    """Layers one after the other, with explicit gradients.

    Attributes:
        num_parameters: D.
        images: whether the input is (channels, height, width) images rather than plain features.
        widths: row widths of all products, for whoever has to align batches.
    """

    def __init__(self, layers: list, images: bool = False):
        self.layers = layers
        self.images = images
        self.num_parameters = sum(prod(shape) for layer in layers for shape in layer.shapes)
        self.widths = [w for layer in layers if isinstance(layer, Linear) for w in layer.shapes[0]]

    def initial(self, generator: torch.Generator) -> Tensor:
        """(D,) weights and biases uniform in +-1 / sqrt(fan-in), as torch's layers have them."""
        parts = [
            (torch.rand(prod(shape), generator=generator) * 2 - 1) / layer.fan_in**0.5
            for layer in self.layers
            for shape in layer.shapes
        ]
        return torch.cat(parts)

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Class scores.

        Args:
            parameters: (P, >= D).
            x: (P, M, *input shape).

        Returns:
            (P, M, classes).
        """
        return self._forward(parameters, x)[0]

    def accumulate_gradients(
        self,
        parameters: Tensor,
        x: Tensor,
        y: Tensor,
        sample_weights: Tensor,
        out: Tensor,
        beta: float,
        alpha: float,
    ) -> Tensor:
        """out <- beta * out + alpha * gradient of the clients' losses; returns the losses.

        The loss of a client is sum_b sample_weights[b] * cross-entropy(b).

        Args:
            parameters: (P, >= D); may be `out` itself if Q = 1 (a step of gradient descent).
            x: (P, Q * B, *input shape).
            y: (P, Q * B) class indices.
            sample_weights: (P, Q * B).
            out: (P * Q, >= D), changed in place.

        Returns:
            (P, Q * B) the weighted loss of every example.
        """
        scores, kept = self._forward(parameters, x)
        losses, dy = cross_entropy(scores, y, sample_weights)
        weights = self._split(parameters)
        gradients = self._split(out)
        for index in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[index]
            # The input gradient first: `gradients` may be the very weights that it needs.
            dx = layer.input_gradient(weights[index], kept[index], dy) if index else None
            if layer.shapes:
                layer.accumulate(gradients[index], kept[index], dy, beta, alpha)
            dy = dx
        return losses

    def _forward(self, parameters, x):
        if self.images:
            x = x.permute(0, 1, 3, 4, 2).contiguous()
        kept = []
        for layer, weights in zip(self.layers, self._split(parameters), strict=True):
            x, keep = layer.forward(weights, x)
            kept.append(keep)
        return x, kept

    def _split(self, rows: Tensor) -> list[tuple[Tensor, ...]]:
        """The parameter tensors of every layer as views of (R, >= D) rows, each (R, *shape)."""
        views, start = [], 0
        for layer in self.layers:
            tensors = []
            for shape in layer.shapes:
                tensors.append(rows[:, start : start + prod(shape)].unflatten(1, shape))
                start += prod(shape)
            views.append(tuple(tensors))
        return views


class TorchModel:
    """Any torch module without buffers, by batched forward passes and one backward pass.

    Several times slower than explicit gradients; the way in for a user's own model.
    """

    images = False
    widths = ()

    def __init__(self, module: torch.nn.Module):
        if any(True for _ in module.buffers()):
            raise ValueError(
                "model has buffers (BatchNorm statistics?), which cannot be aggregated: "
                "use GroupNorm or none"
            )
        self.module = module
        self.names = [name for name, _ in module.named_parameters()]
        self.shapes = [tuple(p.shape) for p in module.parameters()]
        self.num_parameters = sum(prod(shape) for shape in self.shapes)

    def initial(self, generator: torch.Generator) -> Tensor:
        """(D,) the module's own initialisation, repeated under the generator's seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            for part in self.module.modules():
                if hasattr(part, "reset_parameters"):
                    part.reset_parameters()
        return torch.cat([p.detach().flatten() for p in self.module.parameters()])

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        """See `Sequential.logits`."""
        sizes = [prod(shape) for shape in self.shapes]
        parts = parameters[:, : self.num_parameters].split(sizes, 1)
        tensors = {
            name: part.unflatten(1, shape) if shape else part[:, 0]
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }
        call = lambda p, v: torch.func.functional_call(self.module, p, (v,))  # noqa: E731
        return torch.vmap(call)(tensors, x)

    def accumulate_gradients(self, parameters, x, y, sample_weights, out, beta, alpha):
        """See `Sequential.accumulate_gradients`."""
        rows, shared = len(out), len(out) // len(parameters)
        weights = parameters[:, : self.num_parameters].repeat_interleave(shared, 0)
        weights = weights.detach().requires_grad_()
        with torch.enable_grad():
            scores = self.logits(weights, x.reshape(rows, -1, *x.shape[2:]))
            flat = scores.flatten(0, 1)
            losses = F.cross_entropy(flat, y.flatten(), reduction="none") * sample_weights.flatten()
            (gradient,) = torch.autograd.grad(losses.sum(), weights)
        _mix(out[:, : self.num_parameters], gradient, beta, alpha)
        return losses.detach().reshape(y.shape)


def cross_entropy(scores: Tensor, y: Tensor, sample_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy losses (P, M) of scores (P, M, K), and the gradient (P, M, K)."""
    log_probabilities = torch.log_softmax(scores, -1)
    index = y[..., None]
    losses = -log_probabilities.gather(-1, index)[..., 0] * sample_weights
    gradient = log_probabilities.exp_()
    gradient.scatter_add_(-1, index, gradient.new_full((), -1.0).expand(index.shape))
    return losses, gradient.mul_(sample_weights[..., None])


@dataclass(frozen=True)
class Logistic:
    """Multinomial logistic regression: one linear layer."""

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> Sequential:
        """The model for these data."""
        return Sequential([Linear(prod(input_shape), num_classes)])


@dataclass(frozen=True)
class MLP:
    """Fully connected layers with ReLU between them.

    Attributes:
        hidden: widths of the hidden layers.
    """

    hidden: list[int]

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> Sequential:
        """The model for these data."""
        widths = [prod(input_shape), *self.hidden, num_classes]
        layers = []
        for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
            layers += [Linear(inputs, outputs), ReLU()]
        return Sequential(layers[:-1])


@dataclass(frozen=True)
class CNN:
    """Convolutions of 20 and 50 channels, 5 x 5, each with ReLU and pooling, then a layer of 500.

    431,080 parameters on 28 x 28 grey images with ten classes.
    """

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> Sequential:
        """The model for these data."""
        channels, height, width = _image_shape(self, input_shape)
        flat = 50 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
        if flat <= 0:
            raise ValueError(f"model CNN needs images of 16 x 16 or more, got {height} x {width}")
        layers = [Conv2d(channels, 20, 5), ReLUPool(), Conv2d(20, 50, 5), ReLUPool()]
        layers += [Linear(flat, 500), ReLU(), Linear(500, num_classes)]
        return Sequential(layers, images=True)


@dataclass(frozen=True)
class LeNet:
    """LeNet-5 with ReLU and max-pooling: 6 and 16 channels, 5 x 5, then layers of 120 and 84.

    LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998.
    Images smaller than 32 x 32 are padded to that size by the first convolution.
    """

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> Sequential:
        """The model for these data."""
        channels, height, width = _image_shape(self, input_shape)
        padding = max(0, -(-(32 - min(height, width)) // 2))
        side = [((size + 2 * padding - 4) // 2 - 4) // 2 for size in (height, width)]
        layers = [Conv2d(channels, 6, 5, padding), ReLUPool(), Conv2d(6, 16, 5), ReLUPool()]
        layers += [Linear(16 * side[0] * side[1], 120), ReLU(), Linear(120, 84), ReLU()]
        return Sequential([*layers, Linear(84, num_classes)], images=True)


def _image_shape(model, input_shape):
    if len(input_shape) != 3:
        raise ValueError(f"model {type(model).__name__} needs images, got features {input_shape}")
    return input_shape


def build_model(architecture, input_shape: tuple[int, ...], num_classes: int):
    """The model of an architecture: one of ours, or a callable that returns a torch module.

    A user's `model._target_` may be a class or function that takes `input_shape` and `num_classes`
    and returns a `torch.nn.Module` without buffers.
    """
    built = architecture.build(input_shape, num_classes)
    return TorchModel(built) if isinstance(built, torch.nn.Module) else built

"""Architectures: frozen dataclasses that build a model for the shape of the data."""

from dataclasses import dataclass
from itertools import pairwise
from math import prod

from benchmark.models.sequential import ConvReLUPool, Linear, ModelError, ReLU, Sequential


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

    def __post_init__(self) -> None:
        if min(self.hidden, default=1) < 1:
            raise ValueError(f"hidden must be positive widths, got {self.hidden}")

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> Sequential:
        """The model for these data."""
        widths = [prod(input_shape), *self.hidden, num_classes]
        layers = []
        for inputs, outputs in pairwise(widths):
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
        if min(height, width) < 16:
            raise ModelError(f"model CNN needs images of 16 x 16 or more, got {height} x {width}")
        flat = 50 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
        layers = [ConvReLUPool(channels, 20, 5), ConvReLUPool(20, 50, 5)]
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
        layers = [ConvReLUPool(channels, 6, 5, padding), ConvReLUPool(6, 16, 5)]
        layers += [Linear(16 * side[0] * side[1], 120), ReLU(), Linear(120, 84), ReLU()]
        return Sequential([*layers, Linear(84, num_classes)], images=True)


def _image_shape(model: object, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(input_shape) != 3:
        raise ModelError(f"model {type(model).__name__} needs images, got features {input_shape}")
    return input_shape

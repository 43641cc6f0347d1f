"""LASA: filter and average layer by layer.

Xu, Zhang, Hu, "Achieving Byzantine-Resilient Federated Learning via Layer-Adaptive Sparsified Model
Aggregation", WACV 2025.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from benchmark.aggregators.base import Layer, Report, Rule, Updates, positive
from benchmark.aggregators.vectors import clipping_scale, thresholds
from benchmark.kernels.blocks import combination

_ROUNDING = 1e-6  # relative: smaller differences from the median, or from a bound, are none


@dataclass(frozen=True)
class LASA(Rule):
    """In every layer the mean of those vectors whose magnitude and direction there are usual.

    Vectors are clipped to the median M of their norms, y_i = x_i min(1, M / |x_i|). The layers are
    judged by what is left of y_i when the share `sparsity` of its smallest numbers, of the whole
    vector, is zero: by its norm in the layer, and by the share of positive ones among its numbers
    there that are not zero, (1 + sum sign / sum |sign|) / 2. Of both the score is the distance
    from the median of the vectors in standard deviations. A layer of the aggregate is the mean of
    that layer of those y_i, not sparsified, with scores of at most norm_bound and sign_bound.

    Ours: where nothing is left of a layer its share of positive numbers is 1/2; scores are 0
    where all are equal up to rounding; a layer in which nobody is usual is zero (the authors' code
    takes everybody). All parameters are sparsified, biases too.

    Requires n >= 2f + 1.

    Attributes:
        sparsity: share of the smallest numbers that is not looked at, in [0, 1).
        norm_bound, sign_bound: largest scores, in standard deviations.
    """

    paper: ClassVar[str] = "Xu, Zhang, Hu, WACV 2025"
    cost: ClassVar[str] = "n^2 d"
    sparsity: float = 0.3
    norm_bound: float = 2.0
    sign_bound: float = 1.0
    needs: ClassVar[frozenset] = frozenset({"layers"})

    def __post_init__(self):
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must lie in [0, 1), got {self.sparsity}")
        positive("norm_bound", self.norm_bound)
        positive("sign_bound", self.sign_bound)

    def step(self, updates, f, state, context):
        """See `Rule.step`."""
        layers = context.layers
        scale = clipping_scale(updates.norms, np.median(updates.norms))
        lengths, positives = self._statistics(updates, layers, scale)
        usual = _scores(lengths) <= self.norm_bound * (1 + _ROUNDING)
        usual &= _scores(positives) <= self.sign_bound * (1 + _ROUNDING)
        weights = usual * scale / np.maximum(1, usual.sum(1, keepdims=True))
        vector = torch.empty_like(updates.clients[0])
        for layer, columns, part in _by_layer(updates, layers):
            vector[columns] = combination(weights[layer], part).to(vector.dtype)
        sizes = np.array([layer.stop - layer.start for layer in layers])
        return vector, None, Report.of_shares(sizes @ weights, updates.mixing)

    def _statistics(
        self, updates: Updates, layers: tuple[Layer, ...], scale: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(L, m) norms of the layers of the sparsified vectors, and shares of positive numbers."""
        smallest = thresholds(updates, self.sparsity)
        squares, signs, counts = np.zeros((3, len(layers), len(updates)))
        for layer, _, part in _by_layer(updates, layers):
            part = torch.where(part.abs() >= smallest, part, 0.0).double()
            sign = torch.sign(part)
            part = part * torch.as_tensor(scale)[:, None].to(part)
            squares[layer] += part.square().sum(1).cpu().numpy()
            signs[layer] += sign.sum(1).cpu().numpy()
            counts[layer] += sign.abs().sum(1).cpu().numpy()
        return np.sqrt(squares), 0.5 * (1.0 + signs / np.maximum(1.0, counts))


def _by_layer(
    updates: Updates, layers: tuple[Layer, ...]
) -> Iterator[tuple[int, slice, torch.Tensor]]:
    """(layer, columns, part): the vectors, piece by piece, no piece of more than one layer."""
    for columns, part in updates.blocks():
        for number, layer in enumerate(layers):
            start, stop = max(layer.start, columns.start), min(layer.stop, columns.stop)
            if start < stop:
                within = slice(start - columns.start, stop - columns.start)
                yield number, slice(start, stop), part[:, within]


def _scores(values: np.ndarray) -> np.ndarray:
    """(L, m) distances from the median of the row in standard deviations."""
    median = np.median(values, axis=1, keepdims=True)
    deviation = np.abs(values - median)
    deviation[deviation <= _ROUNDING * median] = 0.0
    spread = values.std(axis=1, keepdims=True)
    return np.divide(deviation, spread, out=np.zeros_like(deviation), where=deviation > 0)

"""LASA: filter and average layer by layer.

Xu, Zhang, Hu, "Achieving Byzantine-Resilient Federated Learning via Layer-Adaptive Sparsified Model
Aggregation", WACV 2025.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import override

from benchmark.aggregators.context import Context, Layer, given
from benchmark.aggregators.contract import Rule, Stepped
from benchmark.aggregators.report import Report
from benchmark.aggregators.updates import Updates
from benchmark.aggregators.vectors import clipping_scale, thresholds
from benchmark.config.checks import positive
from benchmark.kernels.blocks import combination

_ROUNDING = 1e-6  # relative; smaller differences from the median or from a bound count as none


@dataclass(frozen=True)
class LASA(Rule):
    """In each layer the mean of the vectors whose norm and signs are usual there.

    Vectors are clipped to the median M of their norms, y_i = x_i min(1, M / |x_i|). They are
    sparsified: the share `sparsity` of the smallest numbers of the whole vector becomes zero. A
    layer is judged by two statistics of the sparsified y_i: its norm in the layer, and the share of
    positive ones among its numbers there that are not zero, (1 + sum sign / sum |sign|) / 2. The
    score of each is the distance from the median over the vectors, in standard deviations. A layer
    of the aggregate is the mean of that layer of those y_i, not sparsified, whose scores are at
    most norm_bound and sign_bound.

    Ours: where nothing is left of a layer, its share of positive numbers is 1/2. Scores are 0 where
    all are equal up to rounding. A layer in which no vector is usual is zero (the authors' code
    takes all). All parameters are sparsified, biases too.

    Requires n >= 2f + 1.

    Attributes:
        sparsity: share of the smallest numbers that is set to zero, in [0, 1).
        norm_bound, sign_bound: largest scores, in standard deviations.

    Example:
        >>> context = Context(layers=(Layer(0, 1, (1,)),))
        >>> LASA(sparsity=0.0)([[2.0], [2.0], [2.0], [2.0], [-90.0]], f=1, context=context)
        array([2.])
    """

    paper: ClassVar[str] = "Xu, Zhang, Hu, WACV 2025"
    cost: ClassVar[str] = "n^2 d"
    sparsity: float = 0.3
    norm_bound: float = 2.0
    sign_bound: float = 1.0
    needs = frozenset({"layers"})

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must lie in [0, 1), got {self.sparsity}")
        positive("norm_bound", self.norm_bound)
        positive("sign_bound", self.sign_bound)

    @override
    def step(self, updates: Updates, f: int, state: Any, context: Context) -> Stepped:
        layers = given(context.layers)
        scale = clipping_scale(updates.norms, np.median(updates.norms))
        lengths, positives = self._statistics(updates, layers, scale)
        usual = _scores(lengths) <= self.norm_bound * (1 + _ROUNDING)
        usual &= _scores(positives) <= self.sign_bound * (1 + _ROUNDING)
        weights = usual * scale / np.maximum(1, usual.sum(1, keepdims=True))
        vector = torch.empty_like(updates.clients[0])
        for layer, columns, part in _by_layer(updates, layers):
            vector[columns] = combination(weights[layer], part).to(vector.dtype)
        sizes = np.array([layer.stop - layer.start for layer in layers])
        return vector, None, Report.of_shares(updates.shares(sizes @ weights))

    def _statistics(
        self, updates: Updates, layers: tuple[Layer, ...], scale: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return two statistics of the sparsified vectors, (L, m): norms, and positive shares."""
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
    """Return the vectors piece by piece, no piece of more than one layer.

    Yields:
        The number of the layer, the columns, and the part (m, width).
    """
    for columns, part in updates.blocks():
        for number, layer in enumerate(layers):
            start, stop = max(layer.start, columns.start), min(layer.stop, columns.stop)
            if start < stop:
                within = slice(start - columns.start, stop - columns.start)
                yield number, slice(start, stop), part[:, within]


def _scores(values: np.ndarray) -> np.ndarray:
    """Return the distances (L, m) from the median of the row, in standard deviations."""
    median = np.median(values, axis=1, keepdims=True)
    deviation = np.abs(values - median)
    deviation[deviation <= _ROUNDING * median] = 0.0
    spread = values.std(axis=1, keepdims=True)
    return np.divide(deviation, spread, out=np.zeros_like(deviation), where=deviation > 0)

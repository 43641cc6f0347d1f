"""Regression: a number for every example."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from benchmark.tasks.base import Task


@dataclass(frozen=True)
class Regression(Task):
    """A number for every example: the squared error (s - y)^2 of the model's one output s.

    Metrics are `r2`, the part of the labels' variance that is explained, 1 - sum (s - y)^2 /
    sum (y - mean)^2, and `loss`, the mean squared error. A model that answers with the mean has
    r2 = 0, a worse one less; NaN where all labels are equal. A number that is none is infinitely
    wrong.

    Example:
        >>> import torch
        >>> y, task = torch.tensor([1.0, 3.0]), Regression()
        >>> task.metrics(task.tally(torch.tensor([[1.0], [2.0]]), y), y)
        {'r2': 0.5, 'loss': 0.5}
    """

    classes: ClassVar[bool] = False
    score: ClassVar[str | None] = "r2"

    @override
    def outputs(self, num_classes: int | None) -> int:
        return 1

    @override
    def losses(self, scores: Tensor, y: Tensor) -> Tensor:
        return (scores[..., 0] - y).square()

    @override
    def gradients(self, scores: Tensor, y: Tensor, sample_weights: Tensor) -> tuple[Tensor, Tensor]:
        errors = scores[..., 0] - y
        return errors.square() * sample_weights, (2 * errors * sample_weights)[..., None]

    @override
    def tally(self, scores: Tensor, y: Tensor) -> dict[str, float]:
        squares = (scores[:, 0].double() - y).square()
        return {"squares": float(squares.nan_to_num(nan=math.inf, posinf=math.inf).sum())}

    @override
    def metrics(self, tally: dict[str, float], y: Tensor) -> dict[str, float]:
        spread = float((y.double() - y.double().mean()).square().sum())
        r2 = 1 - tally["squares"] / spread if spread else math.nan
        return {"r2": r2, "loss": tally["squares"] / len(y)}
